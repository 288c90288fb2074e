"""The drawings of docs/benchmarks.md, from the result files alone.

    python benchmarks/draw.py [--results FOLDER] [--images FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from results import FOLDER

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SNRS = ("0.3", "0.1", "0.03")
COLOURS = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
STYLES = [(colour, style) for style in ("o-", "s--") for colour in COLOURS]
Runs = dict[str, list[dict[str, Any]]]


def read_runs(folder: Path) -> Runs:
    """Result files by cell."""
    runs: Runs = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        runs.setdefault(content["cell"], []).append(content)
    return runs


def draw_multitask(runs: Runs) -> Figure:
    """Each measure against the SNR, a line per cell: the mean of the seeds, and their range."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    measures = {"accuracy": "accuracy", "mean_iou": "mean IoU", "mean_density_correlation": "mean density correlation"}
    for axis, (key, title) in zip(axes, measures.items(), strict=True):
        for (colour, style), (cell, items) in zip(STYLES, runs.items(), strict=False):
            if items[0]["tests"][SNRS[0]][key] is None:
                continue
            values = np.array([[item["tests"][snr][key] for snr in SNRS] for item in items])
            axis.plot([float(snr) for snr in SNRS], values.mean(0), style, color=colour, label=f"{cell.replace('_', ', ')} (n = {len(items)})")
            axis.fill_between([float(snr) for snr in SNRS], values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
        axis.set(xscale="log", xlabel="SNR", title=title)
        axis.set_xticks([float(snr) for snr in SNRS], SNRS)
        axis.set_xticks([], minor=True)
        axis.legend(frameon=False, fontsize=8)
    return figure


def draw_recovery(runs: Runs) -> Figure:
    """FSC against frequency at each SNR, of what is measured and of what is missing."""
    figure, axes = plt.subplots(2, len(SNRS), figsize=(13, 7), layout="constrained", sharex=True, sharey=True)
    items = runs["all_long"]
    for column, snr in zip(axes.T, SNRS, strict=True):
        for axis, where in zip(column, ("measured", "missing"), strict=True):
            for colour, name in zip(COLOURS, items[0]["tests"][snr], strict=False):
                parts = [item["tests"][snr][name] for item in items]
                curve = np.mean([np.array(part[where]["fsc"], float) for part in parts], 0)
                axis.plot(parts[0]["frequency_per_angstrom"][1:], curve[1:], color=colour, label=name.replace("_", " "))
            axis.axhline(0.5, color="#aaaaaa", lw=0.8)
            axis.set(title=f"SNR {snr}, {'measured' if where == 'measured' else 'missing wedge'}", ylim=(-0.1, 1))
        column[1].set_xlabel("spatial frequency, 1/Å")
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("FSC with the truth")
    return figure


def draw_calibration(runs: Runs) -> Figure:
    """Reliability curves before and after the temperature, a line per SNR; the first seed."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.3), layout="constrained", sharey=True)
    tests = runs["all_long"][0]["tests"]
    for axis, when in zip(axes, ("before", "after"), strict=True):
        axis.plot([0, 1], [0, 1], color="#aaaaaa", lw=0.8)
        for colour, (snr, test) in zip(COLOURS, tests.items(), strict=False):
            curve = test[when]["reliability"]
            kept = np.array(curve["particles"]) >= 10
            stated, observed = (np.array(curve[key], float)[kept] for key in ("probability", "accuracy"))
            error = test[when]["expected_calibration_error"]
            axis.plot(stated, observed, "o-", ms=3, color=colour, label=f"SNR {snr}, ECE {error:.3f}")
        axis.set(xlabel="stated probability", title=f"{when} the temperature")
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("share that is right")
    return figure


DRAWINGS: dict[str, tuple[str, Callable[[Runs], Figure]]] = {
    "multitask": ("multitask", draw_multitask),
    "multitask_gpu": ("gpu/multitask", draw_multitask),
    "recovery": ("recovery", draw_recovery),
    "calibration": ("calibration", draw_calibration),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--images", type=Path, default=IMAGES)
    arguments = parser.parse_args()
    arguments.images.mkdir(exist_ok=True)
    for name, (folder, draw) in DRAWINGS.items():
        runs = read_runs(arguments.results / folder)
        if runs:
            draw(runs).savefig(arguments.images / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
