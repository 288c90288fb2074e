"""Spoiled files of every format, read as a user would: nothing but success or a clear sentence is right.

    python benchmarks/fuzz.py WORK [--files 10800] [--seed 0] [--formats "MRC" ...] [--first 0] [--results FOLDER]

Every file is made from a valid one by mutations (mutations.py) that follow from the seed, the format and its number alone, and read through
each of the format's readers (fuzz_examples.py) in a child process, whose address space may grow by `MEMORY_LIMIT` only. A finding is any
exception but InputError, a crash, no answer within `TIME_LIMIT`, and any file that appears or changes outside the folder for output.
Writes fuzz.json; ends with 1 where there was a finding.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_examples import FORMATS_READ, Format
from mutations import Files, choose, mutate
from results import FOLDER, write_result

from triptych.errors import InputError

MEMORY_LIMIT = 512 << 20
"""Bytes by which the address space of a child may grow."""
TIME_LIMIT = 20.0
"""Seconds for one file."""
FORK = multiprocessing.get_context("fork")
"""So that torch is imported once."""


@dataclass
class Tally:
    """What became of the files of a format."""

    files: int = 0
    read: int = 0
    refused: int = 0
    peak_bytes: int = 0
    findings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        kinds = Counter(finding.split(":")[0] for finding in self.findings)
        hangs, outside = kinds.pop("hang", 0), kinds.pop("outside", 0)
        return {
            "files": self.files,
            "read": self.read,
            "refused": self.refused,
            "tracebacks": sum(kinds.values()),
            "hangs": hangs,
            "written_outside": outside,
            "peak_mb": round(self.peak_bytes / 2**20, 1),
        }


# ------------------------------------------------------------------------------------------------------- in the child


def load_examples(folder: Path) -> list[Files]:
    """Every example of a format, as its files' bytes by relative name."""
    return [
        {str(path.relative_to(example)): path.read_bytes() for path in sorted(example.rglob("*")) if path.is_file()}
        for example in sorted(folder.iterdir())
    ]


def spoil(kind: Format, examples: list[Files], seed: tuple[int, ...], escape: Path) -> Files:
    rng = np.random.default_rng(seed)
    files = mutate(rng, choose(rng, examples))
    files = {name: data.replace(b"{escape}", os.fsencode(escape)) for name, data in files.items()}
    return kind.repair(files) if rng.random() < 0.5 else files


def write_files(folder: Path, files: Files) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def entries(folder: Path, entry: str) -> list[Path]:
    return sorted(folder.iterdir()) if entry == "*" else [folder / entry]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*") if not path.is_dir()}


def read_all(kind: Format, place: Path) -> tuple[bool, list[str]]:
    """Whether any reader could read it, and what else went wrong."""
    was_read, findings = False, []
    source, out = place / "a/b/c/input", place / "a/b/c/output"
    before = listing(place)
    for reader in kind.readers:
        out.mkdir()
        for path in entries(source, kind.entry):
            try:
                reader(path, out)
                was_read = True
            except InputError as error:
                if "\n" in str(error).strip() or len(str(error)) < 20:
                    findings.append(f"no sentence: {reader.__name__}: {error}")
            except Exception as error:  # noqa: BLE001 (that is what is looked for)
                where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-4:]]
                findings.append(f"{type(error).__name__}: {reader.__name__}: {' > '.join(where)}: {str(error)[:200]}")
        shutil.rmtree(out)
    if listing(place) != before:
        findings.append(f"outside: {sorted(listing(place).items() ^ before.items())[:3]}")
    return was_read, findings


def memory(name: str) -> int:
    """A figure of this process from /proc, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def work(answers: Connection, kind: Format, examples: Path, scratch: Path, seeds: Sequence[tuple[int, ...]]) -> None:
    """Try files, and say of each what became of it."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    loaded = load_examples(examples)
    limit = memory("VmSize") + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for seed in seeds:
        shutil.rmtree(scratch, ignore_errors=True)
        write_files(scratch / "a/b/c/input", spoil(kind, loaded, seed, scratch / "escape"))
        Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
        start = memory("VmRSS")
        was_read, findings = read_all(kind, scratch)
        answers.send((was_read, findings, memory("VmHWM") - start))
    shutil.rmtree(scratch, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------ in the parent


def answers_of(kind: Format, examples: Path, scratch: Path, seeds: Sequence[tuple[int, ...]]) -> Iterator[tuple[bool, list[str], int]]:
    """What became of each file; a child that hangs or dies is replaced."""
    while seeds:
        ours, theirs = FORK.Pipe(duplex=False)
        child = FORK.Process(target=work, args=(theirs, kind, examples, scratch, seeds))
        child.start()
        theirs.close()
        done = 0
        while done < len(seeds):
            if not ours.poll(TIME_LIMIT):
                yield False, [f"hang: no answer within {TIME_LIMIT:g} s"], 0
            else:
                try:
                    yield ours.recv()
                    done += 1
                    continue
                except EOFError:
                    child.join()
                    yield False, [f"crash: the process ended with {child.exitcode}"], 0
            done += 1
            break
        child.kill()
        child.join()
        seeds = seeds[done:]


def try_format(name: str, work_folder: Path, seed: int, numbers: range) -> Tally:
    kind, examples, scratch = FORMATS_READ[name], work_folder / "examples", work_folder / "scratch"
    shutil.rmtree(examples, ignore_errors=True)
    maker = FORK.Process(target=kind.make, args=(examples,))  # in a child: Zarr's threads do not survive a fork
    maker.start()
    maker.join()
    tally, seeds = Tally(), [(seed, list(FORMATS_READ).index(name), number) for number in numbers]
    for number, (was_read, findings, peak) in zip(numbers, answers_of(kind, examples, scratch, seeds), strict=True):
        tally.files += 1
        tally.read += was_read and not findings
        tally.refused += not was_read and not findings
        tally.peak_bytes = max(tally.peak_bytes, peak)
        tally.findings += findings
        for finding in findings:
            print(f"{name}, number {number}: {finding}", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--files", type=int, default=600 * len(FORMATS_READ))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS_READ), default=list(FORMATS_READ))
    parser.add_argument("--first", type=int, default=0, help="number of the first file of each format")
    parser.add_argument("--results", type=Path, default=FOLDER)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    numbers = range(given.first, given.first + given.files // len(given.formats))
    tallies = {name: try_format(name, given.work.absolute(), given.seed, numbers) for name in given.formats}
    limits = {"memory_limit_mb": MEMORY_LIMIT >> 20, "time_limit_s": TIME_LIMIT}
    write_result("fuzz", given.seed, {**limits, "formats": {name: tally.to_json() for name, tally in tallies.items()}}, folder=given.results)
    sys.exit(any(tally.findings for tally in tallies.values()))


if __name__ == "__main__":
    main()
