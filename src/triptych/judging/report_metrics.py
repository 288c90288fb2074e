"""The figures of a report: what goes into metrics.json and particles.csv."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.config import NONE_CLASS
from triptych.errors import counted
from triptych.io.manifest import installed_version
from triptych.io.predictions import Predicted
from triptych.io.relion import tomogram_names
from triptych.judging import metrics
from triptych.judging.scoring import Scores, Truth

THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


def collect_metrics(given: Predicted, truth: Truth | None, scores: Scores | None) -> dict[str, Any]:
    """Everything that goes into metrics.json (NaN still in it)."""
    result: dict[str, Any] = {
        "triptych": installed_version(),
        "predictions": str(given.folder),
        "truth": None if truth is None else str(truth.path),
        "particles": len(given),
        "class_names": list(given.class_names),
        "predicted": _predicted_metrics(given),
        "tomograms": describe_tomograms(given),
        "thresholds": _threshold_rows(given, truth),
    }
    if truth is not None and scores is not None:
        result |= _truth_metrics(given, truth, scores)
        result["definitions"] = metrics.DEFINITIONS
    return result


def _predicted_metrics(given: Predicted) -> dict[str, Any] | None:
    if given.label is None or given.probability is None:
        return None
    counts = count_by_class(given, np.ones(len(given), bool))
    return {
        "counts": counts,
        "median_probability": metrics.median(given.probability),
        "median_probability_by_class": {name: metrics.median(given.probability[given.label == k]) for k, name in enumerate(given.class_names)},
        "none_share": counts[NONE_CLASS] / len(given) if NONE_CLASS in counts else None,
        "unknown_share": None if given.verdicts is None else float(given.is_unknown.mean()),
        "unknown_by_class": None if given.verdicts is None else count_by_class(given, given.is_unknown),
    }


def count_by_class(given: Predicted, chosen: NDArray[np.bool_]) -> dict[str, int]:
    """How many of some of the particles were called each class."""
    assert given.label is not None
    count = np.bincount(given.label[chosen], minlength=len(given.class_names))
    return {name: int(n) for name, n in zip(given.class_names, count, strict=True)}


def describe_tomograms(given: Predicted) -> list[dict[str, Any]] | None:
    """What was predicted in each tomogram, that which stands out most first; None where the table does not name several.

    A bad tomogram has more particles than others that are called none or unknown, or whose probability is below the median of all. `stands_out` is
    the largest of these three excesses, in standard deviations of a random sample; that of a single particle is 1 at most.
    """
    tomograms = tomogram_names(given.table)
    if tomograms is None or given.label is None or given.probability is None:
        return None
    names, places = np.unique(tomograms, return_inverse=True)
    if len(names) < 2:
        return None
    none = given.called == NONE_CLASS
    counts = np.bincount(places)
    excesses = []
    for sign in (none, given.is_unknown, given.probability < np.median(given.probability)):
        share = sign.mean()
        excesses.append((np.bincount(places, sign) - counts * share) / np.sqrt(counts * share * (1 - share) + 1))
    stands_out = np.max(excesses, axis=0)
    rows = np.split(np.argsort(places, kind="stable"), np.cumsum(counts)[:-1])
    return [
        {
            "name": str(names[i]),
            "particles": len(rows[i]),
            "classes": dict(Counter(given.called[rows[i]].tolist()).most_common()),
            "none_share": float(none[rows[i]].mean()) if NONE_CLASS in given.class_names else None,
            "unknown_share": None if given.verdicts is None else float(given.is_unknown[rows[i]].mean()),
            "median_probability": metrics.median(given.probability[rows[i]]),
            "stands_out": float(stands_out[i]),
        }
        for i in np.argsort(-stands_out, kind="stable")
    ]


def _threshold_rows(given: Predicted, truth: Truth | None) -> list[dict[str, float]] | None:
    """Particles, neither "none" nor called unknown, that stay when a least probability is asked for, and how many of them are right."""
    if given.label is None or given.probability is None:
        return None
    named = (given.called != NONE_CLASS) & ~given.is_unknown
    rows = []
    for threshold in THRESHOLDS:
        kept = named & (given.probability >= threshold)
        row = {"probability": threshold, "kept": int(kept.sum()), "kept_share": float(kept.mean())}
        if truth is not None:
            row["precision"] = metrics.accuracy(truth.label[kept], given.label[kept])
        rows.append(row)
    return rows


def _truth_metrics(given: Predicted, truth: Truth, scores: Scores) -> dict[str, Any]:
    masks_and_densities = scores.iou, scores.correlation, scores.correlation_in_mask
    called = given.label, given.probability
    summary = metrics.summarise(truth.class_names, truth.label, *called, *masks_and_densities, truth.known_classes, truth.tomogram)
    result = asdict(summary)
    if given.verdicts is not None:
        result["called_unknown"] = count_unknown(given, truth)
    if given.label is not None and given.probability is not None:
        result["confusion_matrix"] = metrics.confusion_matrix(truth.label, given.label, len(truth.class_names))
        judged = truth.is_known
        result["reliability"] = metrics.reliability_curve(given.probability[judged], (given.label == truth.label)[judged])._asdict()
    if given.fidelity is not None and scores.correlation is not None:
        result["fidelity"] = metrics.judge_expectation(given.fidelity[truth.not_none], scores.correlation[truth.not_none])._asdict()
    if scores.frequency is not None and scores.shell_correlation is not None:
        result["fourier_shell_correlation"] = {"frequency_per_angstrom": scores.frequency, "mean": scores.shell_correlation}
    trends = snr_trends(given, truth, scores)
    if trends:
        result["snr"] = {title: trend._asdict() for title, trend in trends}
    return result


def count_unknown(given: Predicted, truth: Truth) -> dict[str, float]:
    """Share of the particles that are called unknown, of those of classes that the model does not know, and of those that it knows."""
    called = given.is_unknown
    return {"of_new_classes": metrics.mean(called[~truth.is_known]), "of_known_classes": metrics.mean(called[truth.is_known])}


def describe_new_classes(given: Predicted, truth: Truth) -> str:
    """A sentence about the particles of classes that the model does not know."""
    counts = [f"{name} {(truth.label == k).sum()}" for k, name in enumerate(truth.class_names) if k >= truth.known_classes]
    new = counted(int((~truth.is_known).sum()), "particle")
    text = f"The truth has {new} of classes that the model does not know ({', '.join(counts)}): accuracy, recall and "
    if given.verdicts is None:
        return f"{text}calibration leave them out, and what is new it cannot tell before `triptych calibrate` has shown it what is known."
    share = count_unknown(given, truth)
    others = f", and {100 * share['of_known_classes']:.1f} % of the others" if truth.is_known.any() else ""
    return f"{text}calibration leave them out; {100 * share['of_new_classes']:.1f} % of them were called unknown{others}."


def snr_trends(given: Predicted, truth: Truth, scores: Scores) -> list[tuple[str, metrics.Trend]]:
    """Accuracy, IoU and correlation against the SNR, of the particles that are not "none"; empty where the SNRs don't spread."""
    kept = truth.not_none
    if truth.snr is None or kept.sum() < 12:
        return []
    snr = truth.snr[kept]
    if not (snr > 0).all() or snr.max() < 1.2 * snr.min():
        return []
    bins = int(np.clip(kept.sum() // 20, 3, 8))
    values = {
        "accuracy": None if given.label is None else np.where(truth.is_known, given.label == truth.label, np.nan),
        "IoU": scores.iou,
        "density correlation": scores.correlation,
    }
    return [(title, metrics.trend(snr, value[kept], bins)) for title, value in values.items() if value is not None]


def particle_table(given: Predicted, truth: Truth | None, scores: Scores) -> pd.DataFrame:
    """One row per particle: what it was called, what it is, and how well it was segmented and recovered."""
    columns: dict[str, Any] = {"name": given.names}
    if given.label is not None:
        columns |= {"class": given.called, "probability": given.probability, "verdict": given.verdicts}
    if truth is not None:
        columns |= {"true_class": [truth.class_names[k] for k in truth.label], "snr": truth.snr}
    columns |= {"iou": scores.iou, "fidelity": given.fidelity}
    columns |= {"density_correlation": scores.correlation, "density_correlation_in_mask": scores.correlation_in_mask}
    return pd.DataFrame({name: values for name, values in columns.items() if values is not None})
