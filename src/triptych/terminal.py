"""What the command line shows: tables of results, errors, the log, and how far a run is. Nothing else in triptych prints."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from triptych.errors import START_OVER, counted
from triptych.io.output_names import CARD, CLASSES, GROUPS, METRICS, PAGE, PARTICLES

if TYPE_CHECKING:
    from triptych.describing.description import Description
    from triptych.io.compare import Comparison

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

SECONDS_BETWEEN_LINES = 30.0
GO_ON = "what is finished is kept; give the same command again to go on"


# ----------------------------------------------------------------------------------------------------- errors and the log


def say_error(message: str) -> None:
    err.print(Text.assemble(("error: ", "bold red"), " ".join(message.split())), soft_wrap=True)


class _ConsoleHandler(logging.Handler):
    """Log records on stderr, warnings loud; rich keeps them out of a progress bar's way."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "bold yellow" if record.levelno >= logging.WARNING else "dim"
        err.print(Text.assemble((f"{record.levelname.lower()}: ", style), record.getMessage()), soft_wrap=True)


def say_log(level: int) -> None:
    """Show what triptych logs. What other libraries warn of is for us to look at, in the tests, and not for a user."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("distributed.client").disabled = True  # a lost scheduler is said in our own sentence, not in its traceback
    logger = logging.getLogger("triptych")
    logger.setLevel(level)
    if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(_ConsoleHandler())


def device_name(device: str, scheduler: str | None = None) -> str:
    """What the device setting stands for on this machine; where a cluster computes, its address."""
    if scheduler is not None:
        return scheduler
    from triptych.device import choose_device, name_device

    return name_device(choose_device(device))


# -------------------------------------------------------------------------------------------------------------- progress


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {task.fields['unit']}/s")


@contextmanager
def show_progress(
    title: str, unit: str, device: str = "CPU", resumed: bool = False, again: str | None = None
) -> Iterator[Callable[[int, int], None]]:
    """Something to call with (done, total); a bar on a terminal, now and then a line elsewhere.

    A resumed run begins in the middle: what was done before its first call is no measure of its speed. Another total means that something else
    is being done, whose speed is measured anew.
    `again` is what Ctrl-C advises; default: that the same command goes on, where a run may be a resumed one, or starts over.
    """
    try:
        with _draw_progress(f"{title} on {device}" if device else title, unit, resumed) as update:
            yield update
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(again or (GO_ON if resumed else START_OVER)) from interrupt


@contextmanager
def _draw_progress(title: str, unit: str, resumed: bool) -> Iterator[Callable[[int, int], None]]:
    if not err.is_terminal:
        yield _line_writer(title, unit, resumed)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        task: TaskID = progress.add_task(title, total=None, unit=unit)
        known: int | None = None

        def update(done: int, total: int) -> None:
            nonlocal known
            if total != known and (resumed or known is not None):
                progress.reset(task, total=total, completed=done)
            known = total
            progress.update(task, completed=done, total=total)

        yield update


def _line_writer(title: str, unit: str, resumed: bool) -> Callable[[int, int], None]:
    start = last = time.monotonic()
    first = 0
    known: int | None = None

    def update(done: int, total: int) -> None:
        nonlocal first, known, last, start
        now = time.monotonic()
        if total != known and (resumed or known is not None):
            first, start = done, start if known is None else now
        known = total
        if done < total and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = (done - first) / max(now - start, 1e-9)
        err.print(f"{title}: {done} of {total} {unit}, {rate:,.1f} {unit}/s, {now - start:,.0f} s", soft_wrap=True)

    return update


# ---------------------------------------------------------------------------------------------------------------- tables


def print_calibration(folder: Path) -> None:
    """What was fitted, and on what."""
    from triptych.io.manifest import read_manifest

    figures = read_manifest(folder)["calibration"]
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    rule, temperature = card["novelty"], card["temperature"]
    if rule is not None:  # the model names classes
        before, after = (figures[when]["calibration_error"] for when in ("before", "after"))
        how = f"temperature {temperature['value']:.3f} (exponent of the spread of the logits {temperature['exponent']:.2f})"
        out.print(f"{how}; calibration error {before:.3f} before, {after:.3f} after", soft_wrap=True)
        rejected = "" if rule["rejected_withheld"] is None else f", rejects {rule['rejected_withheld']:.3f} of the particles of withheld structures"
        text = f"novelty by {rule['score']}, threshold chosen on {rule['chosen_on']}: accepts {rule['accepted_known']:.3f} of the known particles"
        out.print(text + rejected, soft_wrap=True)
    if card["fidelity"] is not None:
        error, particles = (card["fidelity"][name] for name in ("error", "particles"))
        out.print(f"fidelity of recovered densities: wrong by {error:.3f} (root mean square of {particles} particles)", soft_wrap=True)


def make_table(*columns: str, numbers: Sequence[int] = ()) -> Table:
    """An empty table; the columns whose index is in ``numbers`` are set flush right."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in numbers else "left", overflow="fold")
    return table


def print_path(what: str, path: Path) -> None:
    out.print(f"{what}: {escape(str(path))}", soft_wrap=True)


def print_simulated(what: str, path: Path, part: str | None, missing: int, total: int) -> None:
    """Where the output is, or how much of it other parts have still to do."""
    if missing:
        out.print(f"part {part} is done; {missing} of {total} tomograms are still missing")
    else:
        print_path(what, path)


def print_predicted(what: str, path: Path, part: str | None) -> None:
    """The classes and where they are, or that other parts have still something to do."""
    if not path.exists():
        out.print(f"part {part} is done; others are still missing")
        return
    print_classes(path)
    print_path(what, path)


def print_oriented(path: Path, part: str | None) -> None:
    """How many particles of each class have a pose, and how well they fit."""
    if not path.exists():
        out.print(f"part {part} is done; others are still missing")
        return
    from triptych.io.manifest import read_manifest
    from triptych.io.star import read_star

    columns = read_star(path / CLASSES)["classes"]
    titles = {"triptychAlignmentScore": "median score", "triptychPoseProbability": "median pose probability", "triptychResolution": "agrees to, Å"}
    shown = [name for name in titles if name in columns]
    table = make_table("class", "particles", *(titles[name] for name in shown), numbers=range(1, 2 + len(shown)))
    for name, particles, *found in zip(*(columns[name] for name in ("triptychClass", "triptychParticles", *shown)), strict=True):
        figures = (figure(value, 0 if title == "triptychResolution" else 2) for title, value in zip(shown, found, strict=True))
        table.add_row(escape(str(name)), str(particles), *figures)
    out.print(table)
    count = read_manifest(path)["particles"]
    if count["left_out"]:
        out.print(f"left out: {', '.join(f'{number:,} {reason}' for reason, number in count['left_out'].items())}")
    if count["renamed"]:
        out.print(f"{count['renamed']:,} of {count['oriented']:,} particles fit another class better than the one that the network had named")
    print_path("poses", path / PARTICLES)


def print_classes(predictions: Path) -> None:
    """How many particles were given each class, and how many of them are called unknown."""
    from triptych.config import UNKNOWN
    from triptych.io.star import read_star

    particles = read_star(predictions / PARTICLES)["particles"]
    if isinstance(particles, dict) or "triptychClass" not in particles:  # the model was trained without the class task
        return
    named = particles.assign(probability=particles["triptychProbability"].astype(float))
    named["unknown"] = named["triptychVerdict"] == UNKNOWN if "triptychVerdict" in named else 0
    of_class = named.groupby("triptychClass").agg(
        particles=("probability", "size"), probability=("probability", "mean"), unknown=("unknown", "sum")
    )  # fmt: skip
    table = make_table("class", "particles", "mean probability", "called unknown", numbers=(1, 2, 3))
    for name, row in of_class.sort_values("particles", ascending=False, kind="stable").iterrows():
        table.add_row(escape(str(name)), f"{row['particles']:.0f}", f"{row['probability']:.3f}", f"{row['unknown']:.0f}")
    out.print(table)


def figure(value: float, decimals: int) -> str:
    """A number for a table; a dash where there is none."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else "–"


def print_groups(folder: Path) -> None:
    """What was found in each group."""
    from triptych.alignment.identify import name_match
    from triptych.io.manifest import read_manifest
    from triptych.io.star import read_star

    table = make_table("group", "particles", "stability", "resolution,\nÅ", "best match", "correlation", numbers=(0, 1, 2, 3, 5))
    columns = read_star(folder / GROUPS)["groups"]
    names = ("Group", "Particles", "Stability", "Resolution", "MatchName", "MatchCorrelation", "MatchHand", "MatchResolution")
    for group, particles, stability, resolution, name, correlation, hand, detail in zip(*(columns[f"triptych{name}"] for name in names), strict=True):
        match = escape(name_match(str(name), str(hand)))
        fits = f"{figure(correlation, 2)} to {figure(detail, 0)} Å"
        table.add_row(str(group), str(particles), figure(stability, 2), figure(resolution, 0), match, fits)
    if table.row_count:
        out.print(table)
    else:
        out.print("no group was found; if the particles are all of one kind, say --set one_group=true", soft_wrap=True)
    about = read_manifest(folder)
    out.print(f"tilt range: {about['tilt_ranges_are']}; CTF: {about['ctf_is']}", soft_wrap=True)


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """How many files are the same, and each that is not."""
    equal, close = (sum(comparison.verdict == verdict for comparison in comparisons) for verdict in ("equal", "close"))
    out.print(f"{counted(len(comparisons), 'file')}: {equal} equal, {close} with close numbers, {len(comparisons) - equal - close} different")
    for comparison in comparisons:
        if not comparison.is_same:
            detail = f" ({comparison.detail})" if comparison.detail else ""
            out.print(f"  {comparison.verdict}: {escape(comparison.name + detail)}", soft_wrap=True)


def print_report(folder: Path) -> None:
    """The headline figures of a report, where there was truth to compare with, and where to look."""
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    if metrics.get("truth"):
        print_summary(metrics)
    print_path("report", folder / PAGE)


def print_summary(metrics: dict[str, Any]) -> None:
    """A row for each figure that there is; a task that was switched off has none."""
    table = make_table("measure", "value", "over", numbers=(1,))
    everything = counted(metrics["particles_of_known_classes"], "particle")
    true_particles = f"the {metrics['particles_not_none']:,} that are not background"
    figures = {**metrics, "fidelity_error": metrics.get("fidelity", {}).get("error")}
    for key, label, over in (
        ("accuracy", "accuracy", everything),
        ("mean_iou", "mean IoU of the masks", true_particles),
        ("mean_density_correlation", "mean density correlation", true_particles),
        ("fidelity_error", "error of the fidelity (root mean square)", true_particles),
    ):
        if figures.get(key) is not None:
            table.add_row(label, f"{figures[key]:.3f}", over)
    out.print(table)


def print_description(file: Path, description: Description) -> None:
    """Facts in two columns, then what is suspect."""
    out.print(Text.assemble((str(file), "bold"), ": ", description.kind), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in description.facts:
        table.add_row(escape(label), escape(text))
    out.print(table)
    for warning in description.warnings:
        out.print(Text.assemble(("warning: ", "bold yellow"), warning), soft_wrap=True)
