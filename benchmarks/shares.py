"""Class shares estimated from the particles themselves: what they bring where few kinds make up most of them, and cost where all are as frequent.

    python benchmarks/shares.py WORK --library FOLDER

Particles are drawn from fresh simulated ones (default settings, three SNRs) in mixtures of several kinds, and named with the shares of the training
data, with those that `predict --set class_shares=estimated` finds, and with the true ones, which nobody knows; and with estimates for which the
training data count for more or less. FOLDER holds the structures that the model knows. What the model says is kept in WORK. Writes
benchmarks/results/shares.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from cells import read_boxes, simulate_once
from numpy.typing import NDArray
from results import FOLDER, write_result

from triptych.config import SimulateConfig
from triptych.io.store import known_labels, open_store
from triptych.judging.metrics import expected_calibration_error
from triptych.recognition.class_shares import LEAST, PRIOR_PARTICLES, estimate_shares, reweigh
from triptych.recognition.model import Model, load_model, traits
from triptych.recognition.novelty import THRESHOLD, novelty_by_class

SNRS = (0.3, 0.1, 0.03)
PARTICLES = 1600
SEED = 2026
BATCH = 32
PRIORS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Particles of an average class that the training data count for."""
COUNTS = (20, 100, 500)
"""Particles of a mixture."""
DRAWS = 200
FloatArray = NDArray[np.float64]


def look(work: Path, snr: float, library: Path, model: Model) -> tuple[FloatArray, NDArray[np.bool_], NDArray[np.int64]]:
    """Of simulated particles: probabilities (n, classes), which of them are called unknown, and their labels."""
    kept = work / f"{snr:g}.npz"
    if not kept.exists():
        assert model.novelty is not None
        config = SimulateConfig(particles=PARTICLES, snr=(snr, snr), seed=SEED, structures=library)
        store = open_store(simulate_once(kept.with_suffix(".zarr"), config))
        probabilities, novelty = [], []
        for rows in np.array_split(np.arange(len(store)), -(-len(store) // BATCH)):
            found = model.run(read_boxes(store, rows))
            assert found.class_logits is not None
            probabilities.append(model.probabilities(found.class_logits))
            novelty.append(novelty_by_class(model.novelty, traits(found))[np.arange(len(rows)), probabilities[-1].argmax(1)])
        label = known_labels(store, model.card.class_names)
        np.savez(kept, probabilities=np.concatenate(probabilities), unknown=np.concatenate(novelty) >= THRESHOLD, label=label)
    with np.load(kept, allow_pickle=False) as found:
        return found["probabilities"].astype(np.float64), found["unknown"], found["label"]


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
    return shares / float(shares.sum())


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


def judge_mixtures(
    kind: str, count: int, probabilities: FloatArray, unknown: NDArray[np.bool_], label: NDArray[np.int64], trained: FloatArray
) -> dict[str, Any]:
    """Figures of many mixtures of a kind, named in several ways."""
    rng = np.random.default_rng((SEED, KINDS.index(kind), count))
    ways = ["trained", *(f"prior {prior:g}" for prior in PRIORS), "true"]
    named: dict[str, list[tuple[FloatArray, NDArray[np.int64]]]] = {way: [] for way in ways}
    for _ in range(DRAWS):
        true_shares = draw_shares(kind, len(trained), rng)
        rows = draw_particles(true_shares, label, count, rng)
        own, say = probabilities[rows], probabilities[rows][~unknown[rows]]  # those called unknown have no say, as in Model.estimate_shares
        found = [trained, *(estimate_shares(say, trained, prior) for prior in PRIORS), np.maximum(true_shares, LEAST)]
        for way, shares in zip(ways, found, strict=True):
            named[way].append((reweigh(own, trained, shares), label[rows]))
    figures = {way: judge(found) for way, found in named.items()}
    return {**figures, "estimated": figures[f"prior {PRIOR_PARTICLES:g}"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for stores and what the model says of them")
    parser.add_argument("--library", type=Path, required=True, help="structures that the model knows")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = load_model()
    tests: dict[str, Any] = {}
    for snr in SNRS:
        seen = look(arguments.work, snr, arguments.library, model)
        tests[f"{snr:g}"] = {kind: {str(n): judge_mixtures(kind, n, *seen, model.card.trained_shares) for n in COUNTS} for kind in KINDS}
    about = {"particles": PARTICLES, "draws": DRAWS, "priors": PRIORS, "trained_shares": list(model.card.trained_shares)}
    write_result("shares", SEED, {**about, "tests": tests}, model, arguments.results)


if __name__ == "__main__":
    main()
