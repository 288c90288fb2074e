"""Whether the mask is better read from the recovered density, or from both, than from a head of its own.

    python benchmarks/masks.py WORK [--size cpu|gpu] [--seeds 0 1 2] [--cells all mask_density ...]

Judges the models with a mask and a density that multitask.py left in WORK on its test sets:

* head: the mask's own head
* density: where the recovered density is above a level
* both: where the head's probability and the density together are above a level
* truth: where the true density is above a level: what reading masks from a perfect density would reach

The level of each is the one with the best IoU on half of the particles; all are judged on the other half. One JSON per model:
benchmarks/results/masks/CELL_SEED.json; one that exists is skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cells import TEST_SNRS, judge_trained, read_boxes

from triptych.config import NONE_CLASS
from triptych.io.store import Store
from triptych.judging.metrics import intersection_over_union
from triptych.recognition.model import Model

BATCH = 64
LEVELS = np.arange(0.05, 0.8, 0.025)


def run_sources(model: Model, store: Store, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Maps (n, d, h, w) that are high where there is a particle."""
    parts: dict[str, list[np.ndarray]] = {"head": [], "density": [], "both": [], "truth": []}
    for batch in np.array_split(rows, -(-len(rows) // BATCH)):
        out = model.run(read_boxes(store, batch))
        assert out.mask_logits is not None
        assert out.density is not None
        head, density = out.mask_logits.sigmoid().numpy(), out.density.numpy()
        truth = store.read_rows("density", batch).astype(np.float32)
        for name, values in (("head", head), ("density", density), ("both", (head + density) / 2), ("truth", truth)):
            parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def run_test(model: Model, store: Store, seed: int) -> dict[str, Any]:
    particles = np.flatnonzero(np.asarray(store["label"][:]) != store.class_names.index(NONE_CLASS))
    truth = store.read_rows("mask", particles)
    result = {}
    for name, values in run_sources(model, store, particles).items():
        iou = np.stack([intersection_over_union(values > level, truth) for level in LEVELS])
        best = np.nanmean(iou[:, ::2], 1).argmax()
        result[name] = {"level": float(LEVELS[best]), "mean_iou": float(np.nanmean(iou[best, 1::2])), "particles": len(particles[1::2])}
    return result


if __name__ == "__main__":
    judge_trained("masks", __doc__, TEST_SNRS, run_test)
