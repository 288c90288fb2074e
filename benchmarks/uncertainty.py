"""How far the error of recovered densities can be foretold, voxel by voxel; writes benchmarks/results/uncertainty.json.

    python benchmarks/uncertainty.py [--model FOLDER] [--particles N] [--seed N] [--results FOLDER]

On fresh simulated particles of the built-in structures, at each SNR, the absolute error of the recovered density (averaged over half turns) is
compared by rank with what might foretell it:

* density: the recovered density's own distance from 0
* half_turns: standard deviation of the densities recovered in the four orientations that keep the missing wedge
* mask: p (1 - p) of the mask's probability
* fitted: the mean error of voxels that are alike in all of these, found on the other half of the particles

over whole boxes, most voxels of which are solvent, and inside: where the recovered or the true density is above a tenth. Given is the mean over the
particles of each one's rank correlation; nothing but "none" is left out.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import read_boxes
from numpy.typing import NDArray
from results import FOLDER, exists_already, write_result
from scipy.stats import spearmanr

from triptych.config import NONE_CLASS, SimulateConfig
from triptych.io.store import Store, open_store
from triptych.recognition.model import BUILT_IN_MODEL, Model, load_model
from triptych.recognition.network import HALF_TURNS, turn
from triptych.stages.simulate import simulate

Array = NDArray[np.float32]
SNRS = (0.3, 0.1, 0.03)
BATCH = 32
INSIDE = 0.1
BINS = 12
"""Of equally many voxels inside, for each of what the fitted error depends on."""


def recover(model: Model, boxes: Array) -> tuple[Array, dict[str, Array]]:
    """Recovered densities (n, d, h, w), and what may foretell their error, by name."""
    densities, masks = [], []
    for axes in HALF_TURNS:
        out = model.run(turn(torch.from_numpy(boxes), axes).numpy())
        assert out.density is not None
        assert out.mask_logits is not None
        densities.append(turn(out.density, axes).numpy())
        masks.append(turn(out.mask_logits, axes).sigmoid().numpy())
    mean, probability = np.mean(densities, axis=0), np.mean(masks, axis=0)
    return mean, {"density": np.abs(mean), "half_turns": np.std(densities, axis=0), "mask": probability * (1 - probability)}


def recover_all(model: Model, store: Store) -> tuple[dict[str, Array], Array, NDArray[np.bool_]]:
    """Of all particles: what may foretell the error, the error, and what is inside; each (n, voxels)."""
    rows = np.flatnonzero(np.asarray(store["label"][:]) != store.class_names.index(NONE_CLASS))
    told: dict[str, list[Array]] = {"density": [], "half_turns": [], "mask": []}
    errors, inside = [], []
    for batch in np.array_split(rows, -(-len(rows) // BATCH)):
        truth = store.read_rows("density", batch).astype(np.float32)
        found, signs = recover(model, read_boxes(store, batch))
        for name, values in signs.items():
            told[name].append(values.reshape(len(batch), -1))
        errors.append(np.abs(found - truth).reshape(len(batch), -1))
        inside.append(((found > INSIDE) | (truth > INSIDE)).reshape(len(batch), -1))
    return {name: np.concatenate(parts) for name, parts in told.items()}, np.concatenate(errors), np.concatenate(inside)


def fit_error(told: dict[str, Array], error: Array, inside: NDArray[np.bool_]) -> Array:
    """The error that voxels alike in everything have in the other half of the particles (n, voxels), even ones by odd ones and the reverse."""
    edges = [np.quantile(values[inside], np.linspace(0, 1, BINS + 1)[1:-1]) for values in told.values()]
    cell = np.zeros(error.shape, np.int64)
    for values, limits in zip(told.values(), edges, strict=True):
        cell = cell * BINS + np.searchsorted(limits, values)
    fitted = np.zeros_like(error)
    for half in (0, 1):
        learned = slice(1 - half, None, 2)
        sums = np.bincount(cell[learned].ravel(), error[learned].ravel(), minlength=BINS ** len(told))
        counts = np.bincount(cell[learned].ravel(), minlength=BINS ** len(told))
        means = np.where(counts, sums / np.maximum(counts, 1), error[learned].mean())
        fitted[half::2] = means[cell[half::2]]
    return fitted


def rank_correlation(told: Array, error: Array, inside: NDArray[np.bool_]) -> dict[str, float]:
    """Mean over the particles (n, voxels), of whole boxes and of what is inside."""
    whole = [spearmanr(a, b).statistic for a, b in zip(told, error, strict=True)]
    parts = [spearmanr(a[here], b[here]).statistic for a, b, here in zip(told, error, inside, strict=True) if here.sum() > 2]
    return {"whole_box": float(np.nanmean(whole)), "inside": float(np.nanmean(parts))}


def run_test(model: Model, particles: int, seed: int, snr: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        store = open_store(simulate(Path(name) / "data.zarr", SimulateConfig(particles=particles, snr=(snr, snr), seed=seed, tile_share=0)))
        told, error, inside = recover_all(model, store)
    told["fitted"] = fit_error(told, error, inside)
    figures = {name: rank_correlation(values, error, inside) for name, values in told.items()}
    return {"particles": len(error), "mean_error": {"whole_box": float(error.mean()), "inside": float(error[inside].mean())}, "signs": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUILT_IN_MODEL)
    parser.add_argument("--particles", type=int, default=240)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result file")
    arguments = parser.parse_args()
    if exists_already(arguments.results / "uncertainty.json"):
        return
    model = load_model(arguments.model)
    tests = {f"{snr:g}": run_test(model, arguments.particles, arguments.seed, snr) for snr in SNRS}
    write_result("uncertainty", arguments.seed, {"tests": tests}, model, arguments.results)


if __name__ == "__main__":
    main()
