"""Model + particles -> STAR with classes and probabilities, masks, densities, embedding.

Particles stream through in batches: what is kept of each is its row of the table.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.config import Contrast, PredictConfig
from triptych.contrast import CONTRAST_SAMPLE, choose_contrast, guess_contrast
from triptych.io.files import new_array
from triptych.io.manifest import hash_file, output_folder, write_manifest
from triptych.io.mrc import write_mrc
from triptych.io.source import ParticleSource, open_particles, voxel_sizes
from triptych.io.star import probability_columns, write_star
from triptych.model import BUILT_IN_MODEL, MASK_LEVEL, Model, Predictions, load_model
from triptych.novelty import give_verdicts
from triptych.volume import Volume

logger = logging.getLogger(__name__)

OF_A_MODEL = ("triptychProbability", "triptychNovelty", "triptychVerdict")
"""Beginnings of the columns that an earlier model may have left in the table, and that this one may not have."""


class Found(NamedTuple):
    """What was found out about n particles: probabilities (n, classes) and novelty (n,); None for what the model does not tell."""

    probabilities: NDArray[np.float32] | None
    novelty: NDArray[np.float32] | None


def predict(
    particles: Path | str,
    out: Path | str,
    model: Path | str | None = None,
    config: PredictConfig | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Classify, segment and recover every particle.

    Parameters
    ----------
    particles : a STAR file, an MRC file, a folder or a glob pattern of MRC files, or a dataset store
    out : folder to make, with particles.star, masks/, densities/, embedding.npy and manifest.json
    model : model folder; default: the one that ships with triptych
    on_progress : called with (particles done, particles in all)
    """
    config = config or PredictConfig()
    folder = Path(model or BUILT_IN_MODEL)
    network = load_model(folder, config.device, config.precision)
    source = open_particles(particles, config, network.card.voxel_size * network.card.box_size)
    sample = read_sample(source)
    sizes = voxel_sizes(source, sample[0])
    network.check_voxel_size(max(sizes), "the input")
    check_box(source.names[0], sample[0], network)
    contrast, warning = choose_contrast(guess_contrast(sample), config.contrast, source.contrast)
    started = time.monotonic()
    out = Path(out)
    with output_folder(out) as part:
        found = run_batches(source, network, contrast, config, part, on_progress)
        table = fill_table(source.table_for(out), source.names, network, found, config)
        write_star(part / "particles.star", source.blocks_with(table))
        seconds = time.monotonic() - started
        described = {
            "particles": {
                "path": os.path.abspath(particles),
                "kind": source.kind,
                "count": len(source),
                "voxel_size": sizes[0],
                "contrast": contrast,
                "contrast_warning": warning,
            },
            "model": {**network.describe(), "name": folder.name, "sha256": hash_file(folder / "weights.safetensors")},
            "device": network.device_name,
            "precision": str(network.dtype).removeprefix("torch."),
            "seconds": round(seconds, 2),
            "particles_per_second": round(len(source) / seconds, 2),
        }
        write_manifest(part, "predict", config, [*source.files, folder], None, described)
    return out


def read_sample(source: ParticleSource) -> list[Volume]:
    """Particles from all over the input, the first among them."""
    rows = np.unique(np.linspace(0, len(source) - 1, min(CONTRAST_SAMPLE, len(source))).astype(int))
    return [source.read(int(row)) for row in rows]


def check_box(name: str, first: Volume, model: Model) -> None:
    """Warn if most of the first box lies beyond what the model looks at: it may be a whole tomogram."""
    width, seen = max(first.shape) * first.voxel_size, model.card.box_size * model.card.voxel_size
    if width > 2 * seen:
        text = "%s is %.0f Å wide, but the model looks at the %.0f Å in its middle only: a tomogram needs a list of particles"
        logger.warning(text, name, width, seen)


def run_batches(
    source: ParticleSource, model: Model, contrast: Contrast, config: PredictConfig, folder: Path, on_progress: Callable[[int, int], None] | None
) -> Found:
    """Predict all particles, write their maps and embeddings into the folder, and return what the table says of them."""
    count = len(source)
    if on_progress:
        on_progress(0, count)
    probabilities: list[NDArray[np.float32]] = []
    novelty: list[NDArray[np.float32]] = []
    empty: list[str] = []
    embedding = None
    for first in range(0, count, config.batch_size):
        rows = range(first, min(first + config.batch_size, count))
        volumes = [source.read(row) for row in rows]
        empty += [source.names[row] for row, volume in zip(rows, volumes, strict=True) if not np.ptp(volume.data)]
        result = model.predict_batch(volumes, contrast, config.half_turns)
        if embedding is None:
            shape = (count, result.embedding.shape[1])
            embedding = new_array(folder / "embedding.npy", np.float32, shape)
        embedding[first : first + len(volumes)] = result.embedding
        if result.probabilities is not None:
            probabilities.append(result.probabilities)
        if result.novelty is not None:
            novelty.append(result.novelty)
        write_maps(folder, [source.names[row] for row in rows], volumes, result, config)
        if on_progress:
            on_progress(first + len(volumes), count)
    assert embedding is not None
    embedding.flush()
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        logger.warning("%s%s of %d: all values are the same, so what is said of them means nothing", empty[0], more, count)
    return Found(np.concatenate(probabilities) if probabilities else None, np.concatenate(novelty) if novelty else None)


def write_maps(folder: Path, names: list[str], volumes: list[Volume], result: Predictions, config: PredictConfig) -> None:
    """Masks (0 and 1, uint8) and densities (float32) in the frame of the input."""
    for i, (name, volume) in enumerate(zip(names, volumes, strict=True)):
        if config.write_masks and result.masks is not None:
            mask = (result.masks[i] > MASK_LEVEL).astype(np.uint8)
            write_mrc(make_path(folder, "masks", name), volume.with_data(mask))  # type: ignore[arg-type]
        if config.write_densities and result.densities is not None:
            write_mrc(make_path(folder, "densities", name), volume.with_data(result.densities[i]))


def make_path(folder: Path, kind: str, name: str) -> Path:
    (folder / kind).mkdir(exist_ok=True)
    return folder / kind / f"{name}.mrc"


def fill_table(table: pd.DataFrame, particles: list[str], model: Model, found: Found, config: PredictConfig) -> pd.DataFrame:
    """Every input column in its order, then what was found."""
    probabilities, novelty = found
    table = table.drop(columns=[name for name in table if name.startswith(OF_A_MODEL)])
    new: dict[str, Any] = {"triptychName": particles}
    if probabilities is not None:
        names = model.card.class_names
        best = probabilities.argmax(1)
        new["triptychClass"] = [names[i] for i in best]
        new["triptychProbability"] = probabilities.max(1)
        if novelty is not None:
            new["triptychNovelty"] = novelty
            new["triptychVerdict"] = give_verdicts(new["triptychClass"], novelty)
        new.update(dict(zip(probability_columns(names), probabilities.T, strict=True)))
        if "rlnClassNumber" in table:
            given = table.pop("rlnClassNumber")
            new["triptychInputClassNumber"] = table.get("triptychInputClassNumber", given)
        new["rlnClassNumber"] = best + 1
    if config.write_masks and "mask" in model.card.network.tasks:
        new["triptychMask"] = [f"masks/{name}.mrc" for name in particles]
    if config.write_densities and "density" in model.card.network.tasks:
        new["triptychDensity"] = [f"densities/{name}.mrc" for name in particles]
    table = table.drop(columns=[name for name in new if name in table])
    return pd.concat([table, pd.DataFrame(new, index=table.index)], axis=1)
