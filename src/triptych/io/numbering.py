"""Names of tomograms as files, and names as numbers for the tables that hold numbers only: Dynamo's tables and motive lists.

Names that are numbers stay these numbers. Others are numbered from 1; the tomograms' names are kept in a small file beside the table
("1 TS_01" on each line, its name that of the table with ".doc"), which is Dynamo's table map.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.files import read_text
from triptych.io.mrc import bare_stem
from triptych.io.outputs import output_file
from triptych.io.tomogram_names import bare_tomogram_name

logger = logging.getLogger(__name__)

_WHOLE = re.compile(r"0|[1-9]\d{0,7}")
LONGEST_NAME = 200
"""Bytes of a name to which an ending may still be added."""
LARGEST = 2**24
"""Up to here a 4-byte float, of which motive lists are made, holds every whole number."""


def file_names(tomograms: Sequence[str]) -> dict[str, str]:
    """The file or folder in which to write what belongs to each tomogram: its name without folders and endings.

    Raises
    ------
    InputError
        Where two would be the same, or a name is none for a file: nothing is ever written outside the folder that was asked for.
    """
    files = {name: bare_tomogram_name(name) for name in dict.fromkeys(tomograms)}
    for name, file in files.items():
        check_file_name(name, file)
    if len({file.casefold() for file in files.values()}) < len(files):
        count = len(set(files.values()))
        raise InputError(f"{len(files)} tomograms would get {count} names of files, for they differ in folders and endings only: rename them")
    return files


def check_file_name(tomogram: str, file: str) -> None:
    """InputError where what belongs to a tomogram cannot be written to a file of that name."""
    if file.strip(". ") == "" or not file.isprintable() or set(file) & set("/\\") or len(file.encode()) > LONGEST_NAME:
        raise InputError(f"a tomogram is called {tomogram[:60]!r}, which cannot be the name of a file: rename it")


def are_numbers(names: Sequence[str]) -> bool:
    """Whether every name is a whole number, written as such, that a table can hold; one with nothing but 0 says that none is known."""
    return set(names) != {"0"} and all(_WHOLE.fullmatch(name) and int(name) <= LARGEST for name in names)


def number_names(names: Sequence[str]) -> dict[str, int]:
    """A number for each of the names, in the order of their first occurrence."""
    unique = list(dict.fromkeys(names))
    stay = are_numbers(unique)
    return {name: int(name) if stay else number for number, name in enumerate(unique, 1)}


def number_classes(
    names: Sequence[str] | None, count: int, *, keeps_names: bool = False, stated: Sequence[object] | None = None
) -> NDArray[np.int64]:
    """A number for each particle: the one stated, where it means the name, else by the names in alphabetical order; 0: not known.

    A warning where the names get lost by it.
    """
    if names is None:
        return np.zeros(count, dtype=np.int64)
    known = _stated_numbers(names, stated) or number_names(sorted(set(names)))
    if not are_numbers(list(known)) and not keeps_names:
        logger.warning("the classes became numbers: %s", ", ".join(f"{number} is {name}" for name, number in known.items()))
    return np.array([known[name] for name in names], dtype=np.int64)


def _stated_numbers(names: Sequence[str], stated: Sequence[object] | None) -> dict[str, int]:
    """The numbers of names, if each has one of its own; else none."""
    pairs = {(name, number) for name, number in zip(names, stated or (), strict=stated is not None) if isinstance(number, int) and number > 0}
    known = dict(sorted(pairs, key=itemgetter(1)))
    return known if len(pairs) == len(known) == len(set(known.values())) and set(known) == set(names) else {}


def class_names(numbers: NDArray[np.float64]) -> list[str] | None:
    """The numbers as names; None where all are 0."""
    return [name_number(number) for number in numbers] if numbers.any() else None


def name_number(number: float) -> str:
    """A number with all its digits, so that no two become one name."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


CROPPED_INDEX = "indices_column20.doc"


def index_path(path: Path) -> Path:
    """The file beside a table that names its tomograms."""
    return path.with_suffix(".doc")


def number_tomograms(path: Path, names: Sequence[str] | None, count: int) -> NDArray[np.int64]:
    """A number for each particle's tomogram (0: not known), with a file of names beside the table where they are no numbers."""
    if names is None:
        return np.zeros(count, dtype=np.int64)
    known = number_names(names)
    if not are_numbers(list(known)):
        index = index_path(path)
        text = "".join(f"{number} {name}\n" for name, number in known.items()).encode()
        if index.exists() and index.read_bytes() != text:  # the very same may be left of a try in which the table could not be written
            raise InputError(f"{index}, which is to name the tomograms of {path.name}, exists already: choose another name or delete it")
        with output_file(index) as part:
            part.write_bytes(text)
    elif (other := _find_index(path)) is not None:
        raise InputError(f"{other}, by which the tomograms of {path.name} would not keep the numbers that they are called, exists already: delete it")
    return np.array([known[name] for name in names], dtype=np.int64)


def _find_index(path: Path) -> Path | None:
    """The file that names a table's tomograms: that of its name, or the one that Dynamo lays into the folder of particles that it crops."""
    return next((file for file in (index_path(path), path.with_name(CROPPED_INDEX)) if file.is_file()), None)


def tomogram_names(path: Path, numbers: NDArray[np.float64]) -> list[str] | None:
    """Names of the tomograms of a table: from the file beside it, else their numbers; None where all are 0."""
    index = _find_index(path)
    names = {} if index is None else _read_index(index)
    if not numbers.any():
        return None
    missing = sorted({int(number) for number in numbers} - set(names)) if names else []
    if missing:
        raise InputError(f"{path} names the tomogram {missing[0]}, which is not in {index}: add it there")
    return [names.get(int(number), name_number(number)) for number in numbers]


def _read_index(path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for row, line in enumerate(read_text(path, "table map").splitlines(), 1):
        words = line.split(maxsplit=1)
        if not words:
            continue
        if len(words) != 2 or not words[0].isdigit():
            raise InputError(f'line {row} of {path} should be a number and the name of a tomogram, but is "{line[:60]}": correct it')
        names[int(words[0])] = bare_stem(words[1].strip()).removesuffix(".em")
    return names
