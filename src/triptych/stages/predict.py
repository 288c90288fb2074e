"""Model + particles -> STAR with classes and probabilities, masks, densities, embedding.

Particles stream through in batches: what is kept in memory of each is its row of the table. A block of them is what is finished at once: a
killed run goes on there, and blocks may be spread over processes and machines.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.config import Contrast, PredictConfig
from triptych.contrast import CONTRAST_SAMPLE, choose_contrast, guess_contrast
from triptych.device import count_workers
from triptych.errors import InputError
from triptych.io.files import new_array
from triptych.io.manifest import Stage, is_made, recognise_input, write_manifest
from triptych.io.mrc import write_mrc
from triptych.io.output_names import CLASSES, EMBEDDING, PARTICLES, map_file
from triptych.io.outputs import check_apart
from triptych.io.particle_source import ParticleSource, voxel_sizes
from triptych.io.predictions import EMBEDDING_ROW, FIDELITY, MAP_COLUMNS, map_columns
from triptych.io.relion import class_table
from triptych.io.source import check_no_maps, open_particles
from triptych.io.star import probability_columns, write_star
from triptych.io.star_source import CONTRAST
from triptych.parallel import Progress, in_batches
from triptych.recognition.model import MASK_LEVEL, Model, Predictions, hash_model, join_predictions, load_model, locate_model
from triptych.volume import Volume
from triptych.workspace import Workspace, choose_items, open_workspace, reopen

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

STAGE: Stage = "predict"
BLOCK = 64
"""Particles that are finished at once, where a batch has no more."""
OF_A_MODEL = (
    "triptychProbability", "triptychNovelty", "triptychVerdict", FIDELITY, "triptychNetworkClass", "triptychStructureFit",
    "triptychAlignmentScore", "triptychPoseProbability", *MAP_COLUMNS.values(),
)  # fmt: skip
"""Beginnings of the columns that an earlier model, or the poses found by it, may have left in the table, and that this one may not have."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model and the particles that it is run on; another process is told their names, and opens them once."""

    particles: str
    folder: Path
    config: PredictConfig
    model: Model = field(repr=False)
    source: ParticleSource = field(repr=False)
    identity: tuple[str, ...]
    """Of the model: what its files are recognised by."""

    def __reduce__(self) -> tuple[Any, ...]:
        particles, folder = os.path.abspath(self.particles), self.folder.absolute()
        return reopen, (open_predictor, (particles, folder, self.config.from_anywhere()), self.config.workers, self.identity, self.input_hash)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the run can be repeated with."""
        return {"particles": self.particles, "model": self.folder}

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        """What the particles are recognised by."""
        return [recognise_input(path) for path in self.source.files]

    @cached_property
    def input_hash(self) -> str:
        return hashlib.sha256(json.dumps(self.inputs).encode()).hexdigest()

    @cached_property
    def blocks(self) -> list[range]:
        """The particles that are finished together."""
        return list(in_batches(range(len(self.source)), max(BLOCK, self.config.batch_size)))

    def size(self, number: int) -> int:
        return len(self.blocks[number])

    def show(self, row: int, volume: Volume) -> Volume:
        """A particle as the model is to see it."""
        return volume if self.source.ctf is None else self.source.ctf.deconvolve(row, volume)


def open_predictor(particles: str, folder: Path, config: PredictConfig) -> Predictor:
    """Open model and particles."""
    check_no_maps(Path(particles))
    model = load_model(folder, config.device, config.precision)
    if config.class_shares == "estimated" and "class" not in model.card.network.tasks:
        raise InputError(f"the model {folder} was trained without the class task, so it has no class shares to estimate: leave out class_shares")
    source = open_particles(particles, config, model.card.voxel_size * model.card.box_size)
    return Predictor(particles, folder, config, model, source, hash_model(folder))


def predict(
    particles: Path | str,
    out: Path | str,
    model: Path | str | None = None,
    config: PredictConfig | None = None,
    on_progress: Progress | None = None,
    part: tuple[int, int] | None = None,
    scheduler: str | None = None,
) -> Path:
    """Classify, segment and recover every particle.

    Finished particles are kept in a working folder beside `out`: the same call goes on after a kill. With `part`, `out` exists when the last
    part is done.

    Parameters
    ----------
    particles : a STAR file, an MRC file, a folder or a glob pattern of MRC files, or a dataset store
    out : folder to make, with particles.star, classes.star, masks/, densities/, embedding.npy and manifest.json
    model : model folder; default: the one that ships with triptych
    on_progress : called with (particles done, particles in all), first with those that an earlier run has finished
    part : (k, n) to do only the k-th of n parts (k from 1), each perhaps on a machine of its own that sees the same folders
    scheduler : address of a Dask scheduler whose workers predict instead of processes on this machine
    """
    config, out = config or PredictConfig(), Path(out)
    predictor = open_predictor(str(particles), locate_model(model), config)
    check_apart(out, predictor.source.files)
    wanted = choose_items(len(predictor.blocks), part)
    if part and is_made(out, STAGE, config, predictor.arguments):
        return out
    about = examine_input(predictor)
    contrast = about["contrast"]
    settings = {
        "particles": predictor.inputs,
        "model": list(predictor.identity),
        "particles in a block": predictor.size(0),
        **config.decisive(),
        "contrast": contrast,
    }
    workspace = open_workspace(out, settings, Path.mkdir)
    with workspace.until_finished(keep=part is not None):
        write = partial(write_block, workspace, predictor, contrast)
        workspace.fill(wanted, write, predictor.size, count_workers(config.workers, config.device), scheduler, on_progress)
        if len(workspace.done()) == len(predictor.blocks):
            workspace.finish(partial(finish_run, workspace, predictor, about))
    return out


def examine_input(predictor: Predictor) -> dict[str, Any]:
    """Voxel size in Å and contrast of the particles, as a sample of them shows; InputError where the model cannot take them."""
    sample = predictor.source.sample(CONTRAST_SAMPLE)
    sizes = voxel_sizes(predictor.source, sample[0])
    predictor.model.check_voxel_size(max(sizes), "the input")
    check_box(predictor.source.names[0], sample[0], predictor.model)
    contrast, warning = choose_contrast(guess_contrast(sample), predictor.config.contrast, predictor.source.contrast)
    return {"voxel_size": sizes[0], "contrast": contrast, "contrast_warning": warning}


def check_box(name: str, first: Volume, model: Model) -> None:
    """Warn if most of the first box lies beyond what the model looks at: it may be a whole tomogram; or if it shows little of that."""
    width, seen = max(first.shape) * first.voxel_size, model.card.box_size * model.card.voxel_size
    if min(first.shape) * first.voxel_size < seen / 2:
        text = "%s is %.0f Å wide, but the model looks at %.0f Å: what is missing is filled in, and means nothing; extract larger boxes"
        logger.warning(text, name, min(first.shape) * first.voxel_size, seen)
    if width > 2 * seen:
        text = "%s is %.0f Å wide, but the model looks at the %.0f Å in its middle only: a tomogram needs a list of particles"
        logger.warning(text, name, width, seen)


def write_block(workspace: Workspace, predictor: Predictor, contrast: Contrast, number: int) -> int:
    """Predict a block of particles, put their maps into the result, and keep the rest until all are there; return how many they are."""
    config, names, rows = predictor.config, predictor.source.names, predictor.blocks[number]
    started = time.monotonic()
    results, empty = [], []
    with workspace.desk() as desk:
        for batch in in_batches(rows, config.batch_size):
            volumes = [predictor.source.read(row) for row in batch]
            empty += [row for row, volume in zip(batch, volumes, strict=True) if not np.ptp(volume.data)]
            seen = [predictor.show(row, volume) for row, volume in zip(batch, volumes, strict=True)]
            result = predictor.model.predict_batch(seen, contrast, config.half_turns)
            write_maps(desk, [names[row] for row in batch], volumes, result, config)
            results.append(result)
        workspace.take_in(desk)
        joined = join_predictions(results)
        told = {"embedding": joined.embedding, "probabilities": joined.probabilities, "novelty": joined.novelty_by_class, "fidelity": joined.fidelity}
        found: dict[str, Any] = {name: values for name, values in told.items() if values is not None} | {"empty": np.array(empty, dtype=np.int64)}
        found |= {"seconds": time.monotonic() - started, "device": predictor.model.device_name, "precision": str(predictor.model.dtype)}
        workspace.keep(number, desk, **found)
    return len(rows)


def gather_blocks(workspace: Workspace, predictor: Predictor, folder: Path) -> tuple[Predictions, dict[str, Any]]:
    """What was found of all particles, the embedding as a file in a folder; and where and how fast."""
    source, model = predictor.source, predictor.model
    embedding = new_array(folder / EMBEDDING, np.float32, (len(source), model.card.network.embedding_size))
    told: dict[str, list[Array]] = {"probabilities": [], "novelty": [], "fidelity": []}
    empty, devices, precisions, seconds = [], set(), set(), 0.0
    for number, rows in enumerate(predictor.blocks):
        note = workspace.kept(number)
        embedding[rows.start : rows.stop] = note["embedding"]
        for name in told.keys() & note.keys():
            told[name].append(note[name])
        empty += note["empty"].tolist()
        devices.add(str(note["device"]))
        precisions.add(str(note["precision"]).removeprefix("torch."))
        seconds += float(note["seconds"])
    embedding.flush()
    warn_of_empty([source.names[row] for row in empty], len(source))
    probabilities, novelty, fidelity = (np.concatenate(parts) if parts else None for parts in told.values())
    speed = {
        "device": ", ".join(sorted(devices)),
        "precision": ", ".join(sorted(precisions)),
        "seconds": round(seconds, 2),
        "particles_per_second": round(len(source) / seconds, 2),
    }
    return Predictions(model.card.class_names, probabilities, None, None, embedding, novelty, fidelity), speed


def finish_run(workspace: Workspace, predictor: Predictor, about: dict[str, Any], folder: Path) -> None:
    """The table and the embedding of all particles, and the manifest."""
    source, model = predictor.source, predictor.model
    found, speed = gather_blocks(workspace, predictor, folder)
    shares = model.estimate_shares(found) if predictor.config.class_shares == "estimated" else None
    found = found if shares is None else model.reweigh(found, shares)
    table = fill_table(source.table_for(workspace.out), source.names, model, found, predictor.config)
    if source.kind == "coordinates":
        table[CONTRAST] = about["contrast"]
    write_star(folder / PARTICLES, source.blocks_with(table))
    if found.probabilities is not None:
        write_star(folder / CLASSES, {"classes": class_table(model.card.class_names)})
    described = {
        "class_shares": None if shares is None else dict(zip(model.card.class_names, shares.round(6).tolist(), strict=True)),
        "particles": {"path": os.path.abspath(predictor.particles), "kind": source.kind, "count": len(source), **about},
        "model": {**model.describe(), "name": predictor.folder.name, "sha256": predictor.identity[0]},
        **speed,
    }
    write_manifest(folder, STAGE, predictor.config, [*source.files, predictor.folder], None, described, predictor.arguments)


def warn_of_empty(names: Sequence[str], count: int) -> None:
    """Warn of particles without any contrast."""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        logger.warning("%s%s of %d: all values are the same, so what is said of them means nothing", names[0], more, count)


def write_maps(folder: Path, names: list[str], volumes: list[Volume], result: Predictions, config: PredictConfig) -> None:
    """Masks (0 and 1, uint8) and densities (float32) in the frame of the input."""
    for i, (name, volume) in enumerate(zip(names, volumes, strict=True)):
        if config.write_masks and result.masks is not None:
            mask = (result.masks[i] > MASK_LEVEL).astype(np.uint8)
            write_mrc(make_path(folder, "masks", name), volume.with_data(mask))  # type: ignore[arg-type]
        if config.write_densities and result.densities is not None:
            write_mrc(make_path(folder, "densities", name), volume.with_data(result.densities[i]))


def make_path(folder: Path, kind: str, name: str) -> Path:
    path = folder / map_file(kind, name)
    path.parent.mkdir(exist_ok=True)
    return path


def fill_table(table: pd.DataFrame, particles: list[str], model: Model, found: Predictions, config: PredictConfig) -> pd.DataFrame:
    """Every input column in its order, then what was found."""
    table = table.drop(columns=[name for name in table if name.startswith(OF_A_MODEL)])
    new: dict[str, Any] = {"triptychName": particles, EMBEDDING_ROW: np.arange(1, len(particles) + 1)}
    if found.probabilities is not None:
        new["triptychClass"] = found.classes
        new["triptychProbability"] = found.probabilities.max(1)
        if found.novelty is not None:
            new["triptychNovelty"] = found.novelty
            new["triptychVerdict"] = found.verdicts
        new.update(dict(zip(probability_columns(found.class_names), found.probabilities.T, strict=True)))
        if "rlnClassNumber" in table:
            given = table.pop("rlnClassNumber")
            new["triptychInputClassNumber"] = table.get("triptychInputClassNumber", given)
        new["rlnClassNumber"] = found.probabilities.argmax(1) + 1
    if found.fidelity is not None:
        new[FIDELITY] = found.fidelity
    written = {"masks": config.write_masks and "mask" in model.card.network.tasks}
    written["densities"] = config.write_densities and "density" in model.card.network.tasks
    new |= map_columns([kind for kind in written if written[kind]], particles)
    table = table.drop(columns=[name for name in new if name in table])
    return pd.concat([table, pd.DataFrame(new, index=table.index)], axis=1)
