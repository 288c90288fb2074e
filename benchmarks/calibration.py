"""Whether stated probabilities are right: calibration error before and after the temperature, at SNRs within and beyond the training range.

    python benchmarks/calibration.py WORK [--size cpu|gpu] [--seeds 0 1 2] [--cells all_long class]

Judges the models that multitask.py left in WORK. Their temperature was fitted on held-out tomograms of the training set (SNR 0.02-0.5);
the tests are at 0.3, 0.1 and 0.03, and at 1 and 0.01, which no network saw. `best_temperature` is the one that each test would have asked for.
One JSON per model: benchmarks/results/calibration/CELL_SEED.json; one that exists is skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cells import TEST_SNRS, judge_trained, read_boxes

from triptych.io.files import to_plain
from triptych.io.store import Store
from triptych.judging import metrics
from triptych.recognition.model import Model
from triptych.recognition.temperature import Temperature, fit_constant

SNRS = (1.0, *TEST_SNRS, 0.01)
BATCH = 64


def run_test(model: Model, store: Store, _: int) -> dict[str, Any]:
    groups = np.array_split(np.arange(len(store)), -(-len(store) // BATCH))
    logits = torch.cat([logits for rows in groups if (logits := model.run(read_boxes(store, rows)).class_logits) is not None])
    label = torch.from_numpy(np.asarray(store["label"][:], np.int64))
    correct = (logits.argmax(1) == label).numpy()
    result: dict[str, Any] = {
        "particles": len(store),
        "accuracy": float(correct.mean()),
        "best_temperature": fit_constant(logits, label),
    }
    for name, temperature in (("before", Temperature()), ("after", model.card.temperature)):
        probability = temperature.scale(logits).softmax(1).max(1).values.numpy()
        result[name] = {
            "mean_probability": float(probability.mean()),
            "expected_calibration_error": metrics.expected_calibration_error(probability, correct),
            "reliability": to_plain(metrics.reliability_curve(probability, correct)._asdict()),
        }
    return result


if __name__ == "__main__":
    judge_trained("calibration", __doc__, SNRS, run_test)
