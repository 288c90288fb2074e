"""Whether recovered densities can be believed: Fourier shell correlation with the truth, inside and outside the missing wedge.

    python benchmarks/recovery.py WORK [--size cpu|gpu] [--seeds 0 1 2] [--cells all_long density]

Judges the models that multitask.py left in WORK on its test sets, beside what needs no network or no image:

* input: the subtomogram itself
* wiener: the subtomogram times the factor of each shell that brings it nearest to the truth, found on half of the particles
* class_true_pose: the mean density of the class that the model named, in the true pose: what it would draw that knew class and pose
* class_random_pose: the same in a random pose: what is right by size and roundness alone

All are judged on the other half. A Fourier term is measured where the tilt range covers it, missing where it does not. One JSON per
model: benchmarks/results/recovery/CELL_SEED.json; one that exists is skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cells import TEST_SNRS, judge_trained, read_boxes, wedge
from scipy.spatial.transform import Rotation

from triptych.config import NONE_CLASS, SimulateConfig
from triptych.fourier import frequency_grid
from triptych.io.store import Store
from triptych.judging import metrics
from triptych.posing import pose
from triptych.recognition.model import Model
from triptych.simulation.scene import prepare_templates
from triptych.simulation.specimen import OVERSAMPLING

BATCH = 32
AXES = (-3, -2, -1)


def shell_matrix(n: int) -> np.ndarray:
    """(terms of rfftn, shells): 1 for a term in a shell, 2 where rfftn leaves out its mirror image; up to the Nyquist frequency."""
    shell = np.rint(frequency_grid((n, n, n), 1 / n)).astype(np.int64)
    twice = np.full(shell.shape, 2.0)
    twice[..., [0, -1]] = 1
    return np.asarray((shell.reshape(-1, 1) == np.arange(n // 2 + 1)) * twice.reshape(-1, 1))


def shell_correlations(a: np.ndarray, b: np.ndarray, kept: np.ndarray, shells: np.ndarray) -> np.ndarray:
    """FSC (particles, shells) of two sets of boxes over the Fourier terms that are kept; NaN in a shell that has none."""
    fa, fb = (np.fft.rfftn(x, axes=AXES) * kept for x in (a, b))
    cross, power_a, power_b = (x.reshape(len(a), -1) @ shells for x in ((fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2))
    return metrics.share(cross, np.sqrt(power_a * power_b))


def measured_terms(store: Store, rows: np.ndarray) -> np.ndarray:
    """1 where `rfftn` of each box has terms that its tilt range measures, 0 in the missing wedge."""
    limits = [(float(store["tilt_min"][int(row)]), float(store["tilt_max"][int(row)])) for row in rows]
    return np.stack([wedge(store.box_size, *limit).numpy() for limit in limits])


def fit_wiener(boxes: np.ndarray, truth: np.ndarray, shells: np.ndarray) -> np.ndarray:
    """The factor of each Fourier term, the same throughout a shell, with which boxes come nearest to the truth; none beyond Nyquist."""
    fa, fb = (np.fft.rfftn(x, axes=AXES) for x in (boxes, truth))
    factor = metrics.share((fa.conj() * fb).real.sum(0).ravel() @ shells, (np.abs(fa) ** 2).sum(0).ravel() @ shells)
    factor[0] = 0  # a standardised box has no mean
    return ((shells > 0) @ factor).reshape(fa.shape[1:])


def class_densities(store: Store, rows: np.ndarray, labels: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """The structures of the labels, placed as the particles are; with an rng, turned at random."""
    templates = prepare_templates(SimulateConfig.model_validate(store.attributes["config"]))
    boxes = []
    for row, label in zip(rows, labels, strict=True):
        rotation = np.asarray(store["rotation"][int(row)], np.float64) if rng is None else Rotation.random(rng=rng).as_matrix()
        shift = np.asarray(store["shift"][int(row)], np.float64) / store.voxel_size
        factor = float(store["voxel_size_factor"][int(row)])
        fine = templates[label].fine
        boxes.append(pose(fine, OVERSAMPLING, torch.from_numpy(rotation), torch.from_numpy(shift), store.box_size, factor).numpy())
    return np.stack(boxes)


def run_test(model: Model, store: Store, seed: int) -> dict[str, Any]:
    none = store.class_names.index(NONE_CLASS)
    particles = np.flatnonzero(np.asarray(store["label"][:]) != none)
    fitted, judged = particles[::2], particles[1::2]
    shells, rng = shell_matrix(store.box_size), np.random.default_rng(seed)
    wiener = fit_wiener(read_boxes(store, fitted), store.read_rows("density", fitted).astype(np.float32), shells)
    collected: dict[str, dict[str, list[np.ndarray]]] = {}
    for rows in np.array_split(judged, -(-len(judged) // BATCH)):
        boxes, truth = read_boxes(store, rows), store.read_rows("density", rows).astype(np.float32)
        out = model.run(boxes)
        assert out.density is not None
        sets = {
            "recovered": out.density.numpy(),
            "input": boxes,
            "wiener": np.fft.irfftn(np.fft.rfftn(boxes, axes=AXES) * wiener, s=boxes.shape[1:], axes=AXES),
        }
        if out.class_logits is not None:
            named = np.delete(out.class_logits.numpy(), none, axis=1).argmax(1)  # "none" is the last class
            sets["class_true_pose"] = class_densities(store, rows, named, None)
            sets["class_random_pose"] = class_densities(store, rows, named, rng)
        measured = measured_terms(store, rows)
        for name, densities in sets.items():
            kept = collected.setdefault(name, {"correlation": [], "measured": [], "missing": []})
            kept["correlation"].append(metrics.density_correlation(densities, truth))
            kept["measured"].append(shell_correlations(densities, truth, measured, shells))
            kept["missing"].append(shell_correlations(densities, truth, 1 - measured, shells))
    frequencies = np.arange(store.box_size // 2 + 1) / (store.box_size * store.voxel_size)
    return {name: {"particles": len(judged), **summarise(parts, frequencies)} for name, parts in collected.items()}


def summarise(parts: dict[str, list[np.ndarray]], frequencies: np.ndarray) -> dict[str, Any]:
    """Mean correlation; mean FSC of each shell, and where it first falls below one half (Å), apart for what is measured and what is missing."""
    result: dict[str, Any] = {"correlation": metrics.mean(np.concatenate(parts["correlation"])), "frequency_per_angstrom": frequencies.tolist()}
    for name in ("measured", "missing"):
        curves = np.concatenate(parts[name])
        mean = [metrics.mean(column) for column in curves.T]
        below = [f for f, value in zip(frequencies, mean, strict=True) if f > 0 and value < 0.5]
        result[name] = {
            "fsc": [None if np.isnan(value) else value for value in mean],
            "mean_fsc": metrics.mean(mean[1:]),
            "half_at_angstrom": 1 / below[0] if below else None,
        }
    return result


if __name__ == "__main__":
    judge_trained("recovery", __doc__, TEST_SNRS, run_test)
