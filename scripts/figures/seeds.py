"""Networks that were trained from several seeds: a cell of a table is a network, with a result file for each seed."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from figures.markdown import number, table
from figures.results import NO_RESULTS, ROOT, Content, is_there, read_all

SNRS = ("0.3", "0.1", "0.03")
SEEDS = (0, 1, 2)
MEASURES = {"accuracy": "accuracy", "mean_iou": "IoU", "mean_density_correlation": "correlation"}
AT_SNR = [f"{text} at SNR {' / '.join(SNRS)}" for text in MEASURES.values()]
Runs = dict[str, list[Content]]


def folder_of(benchmark: str, size: str) -> str:
    """The folder of the result files of a benchmark."""
    return benchmark if size == "cpu" else f"{size}/{benchmark}"


def read_runs(folder: str, cells: tuple[str, ...]) -> Runs:
    """The result files of each cell of a table, one per seed; none where it is still to be run."""
    return {cell: read_all(f"{folder}/{cell}_[0-9]*") for cell in cells}


def all_runs(runs: Runs) -> list[Content]:
    return [run for items in runs.values() for run in items]


def spread(values: list[float | None], form: str = ".3f", unit: str = "") -> str:
    """Mean over the seeds, and their standard deviation."""
    numbers = [value for value in values if value is not None]
    mean = statistics.mean(numbers) if numbers else None
    deviation = f" ± {statistics.stdev(numbers):{form}}" if len(numbers) > 1 else ""
    return number(mean, form, deviation + unit)


def over_snr(runs: list[Content]) -> list[str]:
    """A text per measure: means at each SNR, and the largest standard deviation over the seeds."""
    texts = []
    for key in MEASURES:
        columns = [[run["tests"][snr][key] for run in runs] for snr in SNRS]
        if None in columns[0]:
            texts.append("–")
            continue
        largest = f" (± {max(map(statistics.stdev, columns)):.3f})" if len(runs) > 1 else ""
        texts.append(" / ".join(f"{statistics.mean(column):.3f}" for column in columns) + largest)
    return texts


def row_of_cell(text: str, items: list[Content], figures: Callable[[list[Content]], list[str]]) -> list[str]:
    """A row of a table, also for a cell that is still to be run."""
    return [text, *(figures(items) if items else ["to run"])]


def with_places(rows: list[list[str]], header: list[str], runs: Runs) -> str:
    """The table, with a row for each cell that is still to be run; nothing as long as all are."""
    full = [[*row, *["–"] * (len(header) - len(row))] for row in rows]
    return f"{table(header, full)}\n\n" if any(runs.values()) else ""


def count_seeds(runs: Runs) -> str:
    """How many seeds the cells of a table have that were run: "3 seeds", or "1 to 3 seeds"."""
    counts = {len(items) for items in runs.values() if items}
    least = f"{min(counts)} to " if len(counts) > 1 else ""
    return f"{least}{max(counts)} seed{'s' * (max(counts) > 1)}"


def about(runs: Runs) -> str:
    """Where the figures of a table come from."""
    found = all_runs(runs)
    if not found:
        return NO_RESULTS
    counts = [f"{found[0][key]:,} {key.replace('_', ' ')}" for key in ("particles", "test_particles") if key in found[0]]
    seeds = count_seeds(runs)
    devices = ", ".join(sorted({run["device"] for run in found} - {"CPU"}) or ["CPU"])  # where there is no network, no threads are told
    return f"{', '.join(counts)} at each SNR, {seeds} (±: standard deviation), triptych {found[0]['triptych']}, {devices}."


def picture(benchmark: str, size: str = "cpu") -> str:
    """A drawing of benchmarks/draw.py, where it has been drawn."""
    file = f"{benchmark}.png" if size == "cpu" else f"{benchmark}_{size}.png"
    return f"\n\n![{benchmark}](images/{file})" if (ROOT / "docs" / "images" / file).exists() else ""


def still_to_run(benchmark: str, cells: Runs, size: str = "cpu", once: tuple[str, ...] = ()) -> str:
    """The commands of the cells that have no result file; those of `once` have no seed."""
    folder = folder_of(benchmark, size)
    lines = []
    for seed in SEEDS:
        missing = [cell for cell in cells if not is_there(f"{folder}/{cell}_{seed}") and not (seed and cell in once)]
        if missing:
            lines.append(f"    python benchmarks/{benchmark}.py work_{size} --size {size} --seeds {seed} --cells {' '.join(missing)}")
    return "\n\nStill to run:\n\n" + "\n".join(lines) if lines else ""
