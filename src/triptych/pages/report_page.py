"""The page of a report: what was run, headlines, tables, plots and the gallery.

It is one file that needs no network and no script.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from triptych.config import NONE_CLASS, UNKNOWN, ReportConfig
from triptych.errors import counted
from triptych.io.files import to_plain
from triptych.io.manifest import manifest_entry
from triptych.io.predictions import Predicted
from triptych.judging import metrics
from triptych.judging.metrics import FloatArray, IntArray
from triptych.judging.report_metrics import describe_new_classes, snr_trends
from triptych.judging.scoring import Scores, Truth
from triptych.pages import figures
from triptych.pages.gallery import Gallery, choose_gallery
from triptych.pages.page import MAP_POINTS, render_page

KINDS = {"star": "subtomograms of a STAR file", "coordinates": "cut out of tomograms", "files": "MRC files", "store": "dataset of triptych simulate"}


TOMOGRAMS, KINDS_SHOWN = 25, 3
"""Tomograms that the page lists, and of each the commonest classes."""


def render(given: Predicted, truth: Truth | None, scores: Scores | None, result: dict[str, Any], config: ReportConfig) -> str:
    """The page. Everything that comes from files is escaped by the template."""
    gallery = Gallery(given, truth, scores)
    cards = [gallery.card(i, why) for i, why in choose_gallery(given, truth, scores, config)]
    return render_page(
        "report.html.jinja",
        name="/".join(Path(str(manifest_entry(given.manifest, "particles", "path") or given.folder)).parts[-2:]).lstrip("/"),
        done=[word for word, part in (("classified", given.label), ("segmented", given.masks), ("recovered", given.densities)) if part is not None],
        facts=run_facts(given, truth),
        settings=given.manifest.get("config") or {},
        warnings=page_warnings(given, truth),
        trouble=gallery.trouble,
        headlines=headlines(given, result),
        result=to_plain(result),
        confusion=confusion_rows(truth, result),
        bars=class_bars(given, truth),
        tomograms=(result["tomograms"] or [])[:TOMOGRAMS],
        kinds_shown=KINDS_SHOWN,
        plots=draw_plots(given, truth, scores, result, config),
        cards=cards,
        shows_input=gallery.source is not None,
        flipped=given.sign < 0,
        placed=given.placed,
        definitions=metrics.DEFINITIONS,
    )


def page_warnings(given: Predicted, truth: Truth | None) -> list[str]:
    contrast = manifest_entry(given.manifest, "particles", "contrast_warning")
    new_classes = None if truth is None or truth.is_known.all() else describe_new_classes(given, truth)
    return [str(text) for text in (contrast, None if truth is None else truth.doubt, new_classes) if text]


def run_facts(given: Predicted, truth: Truth | None) -> list[tuple[str, str]]:
    """What was run, in words; what the manifest does not say is left out."""
    particles, model = (manifest_entry(given.manifest, key) or {} for key in ("particles", "model"))
    kind, rate = particles.get("kind"), given.manifest.get("particles_per_second")
    seconds = given.manifest.get("seconds")
    facts = [
        ("Particles", f"{len(given):,} from {particles.get('path')}" + (f" ({KINDS.get(kind, kind)})" if kind else "")),
        ("Voxel size", f"{_angstroms(particles['voxel_size'])} Å" if particles.get("voxel_size") else ""),
        ("Contrast", f"protein {particles['contrast']} in the input" if particles.get("contrast") else ""),
        ("Model", " · ".join(_model_words(model))),
        ("Class shares", shares_words(given.manifest)),
        ("Masks and densities", "known structures in the poses that triptych orient found" if given.placed else ""),
        ("Truth", "" if truth is None else str(truth.path)),
        ("Device", ", ".join(str(given.manifest[key]) for key in ("device", "precision") if given.manifest.get(key))),
        ("Speed", f"{rate:,.1f} particles per second" + (f", {seconds:,.1f} s in all" if seconds else "") if rate else ""),
        *how_made("Predicted", given.manifest),
        *how_made("Oriented", given.oriented or {}),
    ]
    return [(title, text) for title, text in facts if text]


def how_made(title: str, manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """When and by which version something was made, and by which command."""
    command = [str(word) for word in manifest.get("command") or ()]
    version = manifest.get("triptych")
    when = " · ".join(str(text) for text in (manifest.get("created"), version and f"triptych {version}") if text)
    return [(title, when), ("Command", shlex.join([Path(command[0]).name, *command[1:]]) if command else "")]


def shares_words(manifest: dict[str, Any], most: int = 5) -> str:
    """The most frequent classes where their shares were estimated; nothing where they were not."""
    shares = manifest_entry(manifest, "class_shares") or {}
    frequent = sorted(shares.items(), key=lambda item: -item[1])[:most]
    if not frequent:
        return ""
    words = [*(f"{name} {100 * share:.0f} %" for name, share in frequent), f"others {100 * (1 - sum(share for _, share in frequent)):.0f} %"]
    return f"estimated from these particles and those of the training data: {', '.join(words)}"


def _angstroms(value: Any) -> str:
    """One voxel size, or several where the input has several."""
    return ", ".join(f"{size:g}" for size in (value if isinstance(value, list) else [value]))


def _model_words(model: dict[str, Any]) -> Iterator[str]:
    if model.get("name"):
        yield str(model["name"])
    if model.get("class_names"):
        yield counted(len(model["class_names"]), "class", "classes")
    if model.get("box_size") and model.get("voxel_size"):
        yield f"box {model['box_size']}³ at {model['voxel_size']:g} Å"
    if model.get("sha256"):
        yield f"weights {str(model['sha256'])[:12]}"


def headlines(given: Predicted, result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Title, value and remark of the cards on top."""
    if "accuracy" in result:
        return _truth_headlines(result)
    cards = [("Particles", f"{len(given):,}", "")]
    predicted = result["predicted"]
    if predicted is not None:
        name, count = max(predicted["counts"].items(), key=lambda item: item[1])
        occurring = sum(n > 0 for n in predicted["counts"].values())
        remark = f"{100 * count / len(given):.0f} % of the particles; " + ("the only class" if occurring == 1 else f"{occurring} classes occur")
        cards.append(("Most frequent class", name, remark))
        cards.append(("Median probability", f"{predicted['median_probability']:.2f}", "of the predicted class"))
        if predicted["none_share"] is not None:
            cards.append((f"Called \u201c{NONE_CLASS}\u201d", f"{100 * predicted['none_share']:.1f} %", "no particle of a known class"))
        if predicted["unknown_share"] is not None:
            remark = "unlike all that the model knows, whatever their class"
            cards.append((f"Called \u201c{UNKNOWN}\u201d", f"{100 * predicted['unknown_share']:.1f} %", remark))
    return cards


def _truth_headlines(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    low, high = summary["accuracy_interval"]
    kept, in_mask = counted(summary["particles_not_none"], "particle"), summary["mean_density_correlation_in_mask"]
    cards = [
        ("Accuracy", summary["accuracy"], f"95 % interval {low:.3f} – {high:.3f}; {counted(summary['particles_of_known_classes'], 'particle')}"),
        ("Mean IoU", summary["mean_iou"], f"median {summary['median_iou']:.3f}; {kept}"),
        ("Density correlation", summary["mean_density_correlation"], f"mean of {kept}; {in_mask:.3f} within the mask"),
        ("Calibration error", summary["expected_calibration_error"], "expected; 0 is ideal"),
    ]
    return [(title, f"{value:.3f}", remark) for title, value, remark in cards if np.isfinite(value)]


def confusion_rows(truth: Truth | None, result: dict[str, Any]) -> dict[str, Any] | None:
    """Rows of the true classes that occur, columns of the classes that occur or were called; each cell count and share of its row."""
    if truth is None or "confusion_matrix" not in result:
        return None
    counts: IntArray = result["confusion_matrix"]
    rows = np.flatnonzero(counts.sum(axis=1))
    columns = np.flatnonzero(counts.sum(axis=1) + counts.sum(axis=0))
    return {
        "columns": [truth.class_names[k] for k in columns],
        "rows": [
            {
                "name": truth.class_names[r],
                "count": int(counts[r].sum()),
                "cells": [{"count": int(counts[r, c]), "share": float(counts[r, c] / counts[r].sum()), "right": bool(r == c)} for c in columns],
            }
            for r in rows
        ],
    }


def class_bars(given: Predicted, truth: Truth | None) -> list[dict[str, Any]]:
    """Classes that occur, the most frequent first, with counts and median probability."""
    if given.label is None or given.probability is None:
        return []
    names = given.class_names if truth is None else truth.class_names
    predicted = np.bincount(given.label, minlength=len(names))
    true = np.zeros_like(predicted) if truth is None else np.bincount(truth.label, minlength=len(names))
    largest = max(int(predicted.max()), int(true.max()))
    return [
        {
            "name": names[k],
            "count": int(predicted[k]),
            "width": 100 * float(predicted[k]) / largest,
            "true": None if truth is None else int(true[k]),
            "true_width": None if truth is None else 100 * float(true[k]) / largest,
            "share": float(predicted[k]) / len(given),
            "unknown": None if given.verdicts is None else int(given.is_unknown[given.label == k].sum()),
            "median": metrics.median(given.probability[given.label == k]),
        }
        for k in np.argsort(-predicted, kind="stable")
        if predicted[k] or true[k]
    ]


def draw_plots(given: Predicted, truth: Truth | None, scores: Scores | None, result: dict[str, Any], config: ReportConfig) -> dict[str, str]:
    """SVG of each figure that there are data for."""
    plots: dict[str, str] = {}
    if given.label is not None and given.probability is not None:
        plots["probabilities"] = figures.draw_probabilities(given.probability, None if truth is None else given.label == truth.label)
    if given.fidelity is not None:
        plots["fidelity"] = draw_fidelity(given.fidelity, truth, scores)
    if given.embedding.shape[1]:
        plots["embedding"] = draw_embedding(given, np.random.default_rng(config.seed))
    if truth is None or scores is None:
        return plots
    if "reliability" in result and truth.is_known.any():
        plots["reliability"] = figures.draw_reliability(metrics.ReliabilityCurve(**result["reliability"]))
    kept = truth.not_none
    panels = [(title, values[kept]) for title, values in (("IoU", scores.iou), ("Density correlation", scores.correlation)) if values is not None]
    if panels and kept.any():
        plots["distributions"] = figures.draw_distributions(panels)
        present, index = np.unique(truth.label[kept], return_inverse=True)
        plots["by_class"] = figures.draw_by_class([truth.class_names[k] for k in present], index, panels)
    if scores.frequency is not None and scores.shell_correlation is not None:
        plots["shells"] = figures.draw_shell_correlation(scores.frequency, scores.shell_correlation)
    trends = snr_trends(given, truth, scores)
    if trends:
        plots["snr"] = figures.draw_trends(trends, "SNR")
    return plots


def draw_fidelity(expected: FloatArray, truth: Truth | None, scores: Scores | None) -> str:
    """Expected against found correlations of recovered densities; where nothing was found, how the expected ones are distributed."""
    if truth is not None and scores is not None and scores.correlation is not None:
        kept = truth.not_none & np.isfinite(scores.correlation)
        if kept.any():
            names = ("expected correlation (fidelity)", "correlation with the true density")
            return figures.draw_expectation(expected[kept], scores.correlation[kept], names)
    return figures.draw_probabilities(expected.clip(0), None, "expected correlation of the recovered density (fidelity)")


def draw_embedding(given: Predicted, rng: np.random.Generator) -> str:
    rows = np.arange(len(given)) if len(given) <= MAP_POINTS else np.sort(rng.choice(len(given), MAP_POINTS, replace=False))
    points, shares = metrics.principal_components(np.asarray(given.embedding[rows], np.float64))
    return figures.draw_embedding(points, None if given.label is None else given.label[rows], given.class_names, shares)
