"""Class shares estimated from the particles themselves: what they bring where few kinds make up most of them, and cost where all are as frequent.

    python benchmarks/shares.py WORK --library FOLDER

Particles are drawn from fresh simulated ones (default settings, three SNRs) in mixtures of several kinds, and named with the shares of the training
data, with those that `predict --set class_shares=estimated` finds, and with the true ones, which nobody knows. FOLDER holds the structures that the
model knows. The logits are kept in WORK, as `temperature.py` keeps them. Writes benchmarks/results/shares.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import write_result
from temperature import SEED, SNRS, configs, read_logits

from triptych.metrics import expected_calibration_error
from triptych.model import Model, load_model
from triptych.shares import LEAST, estimate_shares, reweigh

COUNTS = (20, 100, 500)
"""Particles of a mixture."""
DRAWS = 200
FloatArray = NDArray[np.float64]


def draw_shares(kind: str, classes: int, rng: np.random.Generator) -> FloatArray:
    """Shares of the classes in a mixture; the last class is "none"."""
    shares = np.ones(classes)
    if kind == "one class 60 %":
        shares[:] = 0.4 / (classes - 1)
        shares[rng.integers(classes - 1)] = 0.6
    elif kind == "five classes and none":
        shares[:-1] = 0
        shares[rng.choice(classes - 1, 5, replace=False)] = 1
    elif kind == "falling as 1, 1/2, 1/3, ...":
        shares = rng.permutation(1 / np.arange(1, classes + 1))
    elif kind == "half none":
        shares[-1] = classes - 1
    return shares / shares.sum()


KINDS = ("one class 60 %", "five classes and none", "falling as 1, 1/2, 1/3, ...", "half none", "all classes alike")


def draw_particles(shares: FloatArray, label: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of particles whose classes are as frequent as the shares."""
    classes = rng.choice(len(shares), count, p=shares)
    return np.array([rng.choice(np.flatnonzero(label == k)) for k in classes])


def judge(named: list[tuple[FloatArray, NDArray[np.int64]]]) -> dict[str, float]:
    """Accuracy, cross-entropy and calibration error over all draws; and the standard deviation of the accuracy of one."""
    probabilities, label = (np.concatenate(parts) for parts in zip(*named, strict=True))
    accuracies = [float((own.argmax(1) == true).mean()) for own, true in named]
    right = probabilities.argmax(1) == label
    return {
        "accuracy": float(right.mean()),
        "accuracy_sd": float(np.std(accuracies)),
        "cross_entropy": float(-np.log(np.maximum(probabilities[np.arange(len(label)), label], LEAST)).mean()),
        "calibration_error": expected_calibration_error(probabilities.max(1), right),
    }


def judge_mixtures(kind: str, count: int, probabilities: FloatArray, label: NDArray[np.int64], model: Model) -> dict[str, dict[str, float]]:
    """Figures of many mixtures of a kind, named in three ways."""
    rng = np.random.default_rng((SEED, KINDS.index(kind), count))
    trained = model.card.trained_shares
    named: dict[str, list[tuple[FloatArray, NDArray[np.int64]]]] = {"trained": [], "estimated": [], "true": []}
    for _ in range(DRAWS):
        shares = draw_shares(kind, len(trained), rng)
        rows = draw_particles(shares, label, count, rng)
        own, true = probabilities[rows], label[rows]
        named["trained"].append((own, true))
        named["estimated"].append((reweigh(own, trained, estimate_shares(own, trained)), true))
        named["true"].append((reweigh(own, trained, np.maximum(shares, LEAST)), true))
    return {way: judge(found) for way, found in named.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for stores and logits")
    parser.add_argument("--library", type=Path, required=True, help="structures that the model knows")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = load_model()
    tests: dict[str, Any] = {}
    for snr in SNRS:
        name = f"SNR {snr:g}"
        logits, label = read_logits(arguments.work, name, configs(arguments.library)[name], model)
        probabilities = np.asarray(model.probabilities(logits), np.float64)
        tests[f"{snr:g}"] = {kind: {str(n): judge_mixtures(kind, n, probabilities, label.numpy(), model) for n in COUNTS} for kind in KINDS}
    write_result("shares", SEED, {"draws": DRAWS, "trained_shares": list(model.card.trained_shares), "tests": tests}, model)


if __name__ == "__main__":
    main()
