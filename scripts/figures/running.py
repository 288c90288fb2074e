"""docs/benchmarks.md, at its end: what the scripts of benchmarks/ need, and how long they take."""

from __future__ import annotations

from typing import Any

from figures.markdown import table
from figures.results import read_all

NOTHING, LIBRARY, TRAINED = "nothing else", "a library of all classes", "what `multitask.py` left in WORK"
RIBOSOMES = "the real ribosomes"
SCRIPTS = {
    "demo": (NOTHING, "demo"),
    "shipped_model": (LIBRARY, "shipped_model"),
    "in_cells": (NOTHING, "in_cells"),
    "orient": (LIBRARY, "orient"),
    "multitask": (NOTHING, "multitask/*"),
    "published": (f"{NOTHING}; for triptych beside template matching, {TRAINED}", "published/*"),
    "recovery": (TRAINED, "recovery/*"),
    "calibration": (TRAINED, "calibration/*"),
    "masks": (TRAINED, "masks/*"),
    "uncertainty": (NOTHING, "uncertainty"),
    "fidelity": (f"PDB entries 6ZU5, 1AON, 4V8R, 3J9I and 6XLU, {RIBOSOMES}", "fidelity"),
    "temperature": (LIBRARY, "temperature"),
    "shares": (LIBRARY, "shares"),
    "novelty": (NOTHING, "novelty/*"),
    "ablation": (f"{NOTHING}; {RIBOSOMES} where they are at hand", "ablation/*"),
    "alignment": (NOTHING, "alignment/*"),
    "growth": (NOTHING, "growth/*"),
    "discovery": ("PDB entries 6ZU5, 1AON, 4V8R, 3J9I and 6XLU", "discovery_*"),
    "picking": (LIBRARY, "picking"),
    "real_ribosomes": (RIBOSOMES, "real_ribosomes"),
    "real_poses": (RIBOSOMES, "real_poses"),
    "real_hand": (f"{RIBOSOMES} and their tilt images", "real_hand"),
    "real_spectra": (f"{RIBOSOMES}, {LIBRARY}", "real_spectra"),
    "real_novel": (f"{RIBOSOMES}, what `novelty.py` left in WORK", "real_novel"),
    "real_tomograms": ("the real tomograms", "real_tomograms"),
    "labelled": ("the labelled tomograms", "labelled*"),
    "simulator": (LIBRARY, "simulator"),
    "memory": (NOTHING, "memory"),
    "spread": (NOTHING, "spread"),
    "rates": (NOTHING, "rates"),
    "faults": (NOTHING, "faults"),
    "fuzz": (NOTHING, "fuzz"),
}
UNTOLD = ("faults",)
"""Whose files have the time of one undisturbed run of many."""


def noted_seconds(content: Any) -> float:
    """The times in a result file, added up."""
    if not isinstance(content, dict):
        return sum(map(noted_seconds, content)) if isinstance(content, list) else 0
    total = 0.0
    for key, value in content.items():
        if key in ("seconds", "training_seconds", "seconds_of_predict"):
            total += sum(value.values()) if isinstance(value, dict) else value or 0
        else:
            total += noted_seconds(value)
    return total


def running() -> str:
    """What every script needs, and the time that stands in its result files."""
    rows = []
    for script, (needs, files) in SCRIPTS.items():
        contents = read_all(files)
        seconds = [] if script in UNTOLD else map(noted_seconds, contents)
        minutes = [value / 60 for value in seconds if value]
        span = dict.fromkeys(f"{value:.0f}" if value > 1.5 else f"{value:.1f}" for value in (min(minutes), max(minutes))) if minutes else ()
        rows.append([f"`{script}.py`", needs, str(len(contents) or "to run"), " to ".join(span) or "–"])
    return table(["script", "needs", "result files", "minutes noted, of a file"], rows)


TABLES = (running,)
