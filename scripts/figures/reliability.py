"""docs/reliability.md: what goes wrong."""

from __future__ import annotations

from figures.markdown import table
from figures.results import NO_RESULTS, Content, find, source

FAULTS = {"full_disk": "full disk", "read_only": "read-only output", "lost_input": "input gone", "dead_worker": "a worker process killed"}


def kills() -> str:
    """Every stage killed at random and started again."""
    if not (content := find("faults")):
        return NO_RESULTS
    keys = ("kills", "matched", "kept_something", "items_lost", "steps", "steps_done_again")
    rows = [[name, *(str(figures[key]) for key in keys), f"{figures['seconds']:.1f}"] for name, figures in content["stages"].items()]
    header = ["stage", "kills", "same result", "went on from what was finished", "items lost", "steps of a run", "steps done again, in all"]
    header.append("seconds of a run")
    return f"{table(header, rows)}\n\n{source_of_stages(content)}"


def faults() -> str:
    """What else goes wrong: was it said, and did the same command afterwards give the same result?"""
    if not (content := find("faults")):
        return NO_RESULTS
    rows = [[name, *(told(found.get(key)) for key in FAULTS)] for name, found in content["faults"].items()]
    return f"{table(['stage', *FAULTS.values()], rows)}\n\n{source_of_stages(content)}"


def told(fault: Content | None) -> str:
    if fault is None or fault["sentence"] is None:
        return "–"
    said = "no harm" if fault["ended"] == "finished" else "yes" if fault["sentence"] else "no"
    return f"{said}, {'same' if fault['matched'] else 'other'} result"


def source_of_stages(content: Content) -> str:
    """Where the stages come from, also those that the last command did not name."""
    earlier = " Stages that it does not name are from the same command without `--stages`." if "--stages" in content["command"] else ""
    return source(content) + earlier


def fuzzing() -> str:
    """Spoiled files of every format."""
    if not (content := find("fuzz")):
        return NO_RESULTS
    keys = ("files", "read", "refused", "tracebacks", "hangs", "written_outside")
    tallies = content["formats"]
    rows = [[name, *(f"{tally[key]:,}" for key in keys), f"{tally['peak_mb']:.0f}"] for name, tally in tallies.items()]
    peak = max(tally["peak_mb"] for tally in tallies.values())
    rows.append(["**all**", *(f"**{sum(tally[key] for tally in tallies.values()):,}**" for key in keys), f"**{peak:.0f}**"])
    header = ["format", "files", "read", "refused with a sentence", "tracebacks and crashes", "hangs", "written outside", "peak MB"]
    limits = f"Limits: {content['memory_limit_mb']} MB more than at the start, {content['time_limit_s']:g} s for a file."
    return f"{table(header, rows)}\n\n{limits} {source(content)}"


TABLES = (kills, faults, fuzzing)
