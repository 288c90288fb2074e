"""docs/scaling.md: time and memory of large projects."""

from __future__ import annotations

from scaling_costs import costs_table

from figures.markdown import table, voxels
from figures.results import NO_RESULTS, find, is_there, source


def scaling() -> str:
    """What a project of a thousand tomograms costs."""
    files = "simulator, spread, picking, shipped_model, memory" + (", gpu/rates" if is_there("gpu/rates") else "")
    return f"{table(*costs_table())}\n\n(`scripts/scaling_costs.py`, from `benchmarks/results/`: {files})"


def spread_out() -> str:
    """What two workers gain on two cores."""
    if not (content := find("spread")):
        return NO_RESULTS
    rows = []
    for stage, ways in content["stages"].items():
        rows += [[stage, way, f"{w['seconds']:.1f} s", f"{w['speed_up']:.2f}", str(w["other_files"])] for way, w in ways.items()]
    for way, w in content["train"].items():
        losses = "–" if way == "one process" else f"losses within {w['largest_relative_difference_of_losses']:.0e}"
        rows.append(["train, float32", way, f"{w['seconds_per_update']:.2f} s per update", f"{w['speed_up']:.2f}", losses])
    return f"{table(['stage', 'way', 'time', 'speed-up', 'files that differ'], rows)}\n\n{source(content)}"


def memory() -> str:
    """Peak memory against the size of the input."""
    if not (content := find("memory")):
        return NO_RESULTS
    rows = []
    for network, found in (("shipped", content), ("narrow", content.get("narrow", {"predict": [], "pick": []}))):
        inputs = [(f"predict, {row['particles']:,} particles", row) for row in found["predict"]]
        inputs += [(f"pick, {voxels(row['shape'])}", row) for row in found["pick"]]
        rows += [[network, text, f"{row['own_gb']:.2f} GB", f"{row['peak_gb']:.2f} GB", f"{row['seconds']:,.0f} s"] for text, row in inputs]
    header = ["network", "input", "most memory of its own", "with what it keeps of mapped files", "time"]
    return f"{table(header, rows)}\n\n{source(content)}"


TABLES = (scaling, spread_out, memory)
