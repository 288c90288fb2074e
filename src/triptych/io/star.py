"""STAR files as RELION and Warp write them: named blocks, each a table (``loop_``) or a list of pairs.

We parse them ourselves, because a row with a value too few or too many must be an error that names its line, a
tomogram called "0012" must not become the number 12, and every number must come back as it went in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.files import read_text
from triptych.io.outputs import output_file

Block: TypeAlias = pd.DataFrame | dict[str, Any]
"""A table, or the label: value pairs of a block without ``loop_``."""

_TOKEN = re.compile(r'"([^"]*)"(?=\s|$)|\'([^\']*)\'(?=\s|$)|(\S+)', re.ASCII)
_WHITE = " \t\r\v\f"
"""What separates values. Other spaces, such as the wide ones of Japanese names, are part of them, as for RELION."""
_LEADING_ZERO = re.compile(r"\n[+-]?0\d[^.\n]*(?!.)")  # a search soon finds the line breaks
_TEXT_LABELS = re.compile(r"(Name|File|Path|Image|Tomogram|Micrograph|Class|Mask|Density)$")
_NUMBER_LABELS = "triptychProbability"  # followed by the name of a class, which may end like a label of text
ROWS_AT_ONCE = 4096
"""Rows of a table that are read or made into text at a time: all of them would take several times the memory of the numbers."""
_MISSING = "<NA>"
"""What stands for nan besides what Python reads so itself."""
_LEAST_LONG = 1e14
"""Below this a whole number has fewer digits than may be lost in a float."""


def _split(line: str) -> list[str]:
    """The values of a line: separated by white space, in quotes where they contain some; # starts a comment."""
    if line.isascii() and not ('"' in line or "'" in line or "#" in line):
        return line.split()
    values = []
    for double, single, plain in _TOKEN.findall(line):
        if plain.startswith("#"):
            break
        values.append(double or single or plain)
    return values


def _is_text(label: str) -> bool:
    return _TEXT_LABELS.search(label) is not None and not label.startswith(_NUMBER_LABELS)


def _convert(label: str, text: str) -> pd.Series:
    """Numbers where every value is one and none would change by it, else the text as it is. Before each value of the text stands a line break."""
    values = text.split("\n")[1:]
    if _is_text(label) or _LEADING_ZERO.search(text):
        return pd.Series(values, dtype="str")
    plain = ["nan" if value == _MISSING else value for value in values] if _MISSING in text else values
    try:
        whole = list(map(int, plain))
        if "_" not in text and all(-(2**63) <= number < 2**63 for number in whole):
            return pd.Series(whole, dtype="int64")
    except ValueError:
        pass
    try:
        floats = np.array(list(map(float, plain)))
    except ValueError:
        return pd.Series(values, dtype="str")
    is_long = (np.abs(floats) >= _LEAST_LONG).any() and any(value.lstrip("+-").isdigit() and len(value) > 15 for value in plain)
    return pd.Series(values, dtype="str") if is_long or "_" in text else pd.Series(floats, dtype="float64")


def make_column(label: str, values: Sequence[str]) -> pd.Series:
    """Text of another table as a column, as `read_star` takes it; what is empty among numbers is nan."""
    if any("\n" in value for value in values):
        return pd.Series(list(values), dtype="str")
    column = _convert(label, "".join(f"\n{value or _MISSING}" for value in values))
    return column if pd.api.types.is_numeric_dtype(column) else pd.Series(list(values), dtype="str")


class _Reader:
    """The lines of a file, one after another, without comments and blanks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = re.split("\r\n|\n|\r", read_text(path, "STAR file"))
        self.next = 0

    def peek(self) -> str | None:
        while self.next < len(self.lines):
            line = self.lines[self.next].strip(_WHITE)
            if line and not line.startswith("#"):
                return line
            self.next += 1
        return None

    def error(self, what: str) -> InputError:
        return InputError(f"line {self.next + 1} of {self.path} {what}: the STAR file is garbled or truncated, export it again")

    def blocks(self) -> Iterator[tuple[str, Block]]:
        while (line := self.peek()) is not None:
            if not line.startswith("data_"):
                raise self.error(f'is "{line[:40]}", but a line that starts a block ("data_...") was expected')
            self.next += 1
            following = self.peek()
            if following is not None and following.split()[0] == "loop_":
                self.next += 1
                yield line[5:].split("#")[0].strip(), self.loop()
            else:
                yield line[5:].split("#")[0].strip(), self.pairs()

    def pairs(self) -> dict[str, Any]:
        block: dict[str, Any] = {}
        while (line := self.peek()) is not None and line.startswith("_"):
            values = _split(line)
            label = values[0][1:]
            if len(values) != 2 or label in block:
                raise self.error(f'should hold one label and one value, but is "{line[:60]}"')
            block[label] = _convert(label, f"\n{values[1]}").tolist()[0]
            self.next += 1
        return block

    def loop(self) -> pd.DataFrame:
        labels: list[str] = []
        while (line := self.peek()) is not None and line.startswith("_") and (len(labels) < 2 or len(_split(line)) == 1):
            labels.append(_split(line)[0][1:])
            self.next += 1
        if not labels:
            raise self.error("follows a loop_ without labels")
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise self.error(f'ends a loop_ in which the label "_{twice[0]}" occurs twice')
        # Values are kept as the text of many rows, column by column: each as a string of its own they would take several times the memory.
        texts: list[list[str]] = [[] for _ in labels]
        rows = self.rows(len(labels))
        while some := list(islice(rows, ROWS_AT_ONCE)):
            for pieces, column in zip(texts, zip(*some, strict=True), strict=True):
                pieces.append("\n" + "\n".join(column))
        return pd.DataFrame({label: _convert(label, "".join(pieces)) for label, pieces in zip(labels, texts, strict=True)})

    def rows(self, width: int) -> Iterator[list[str]]:
        """The rows of a table, each of so many values."""
        while (line := self.peek()) is not None:
            values = _split(line)
            # "data_..." starts the next block, unless it is the first value of a full row (a path may begin so)
            if line.startswith("data_") and (len(values) != width or width == 1):
                break
            if len(values) != width:
                raise self.error(f"holds {len(values)} values, but its table has {width} columns")
            yield values
            self.next += 1


def read_star(path: Path | str) -> dict[str, Block]:
    """Read every block of a STAR file.

    Parameters
    ----------
    path : the file

    Returns
    -------
    Blocks by name, without "data_", in the file's order: tables as DataFrames, whose columns carry no leading
    underscore; a block without ``loop_`` as a dict. Columns are numbers where that loses nothing, else text.

    Raises
    ------
    InputError
        Missing or unreadable file, no block, rows of the wrong length, a block or label that occurs twice.
    """
    path = Path(path)
    blocks: dict[str, Block] = {}
    reader = _Reader(path)
    for name, block in reader.blocks():
        if name in blocks:
            raise InputError(f'{path} holds the block "data_{name}" twice: the STAR file is garbled, export it again')
        blocks[name] = block
    if not blocks:
        raise InputError(f"{path} is empty, but a STAR file with at least one block was expected")
    return blocks


def tables_with(blocks: Mapping[str, Block], *labels: str) -> dict[str, pd.DataFrame]:
    """Those of some blocks, by name, that are tables with these columns."""
    return {name: block for name, block in blocks.items() if isinstance(block, pd.DataFrame) and set(labels) <= set(block)}


def numbers(table: pd.DataFrame, label: str, path: Path, may_lack: bool = False) -> NDArray[np.float64]:
    """A column as numbers, all of them finite; with `may_lack`, nan where nothing is stated."""
    column = table[label]
    if may_lack and not pd.api.types.is_numeric_dtype(column):
        column = column.replace("None", "nan")  # as programs in Python write it
    try:
        values = np.asarray(column.to_numpy(dtype=np.float64))
    except (ValueError, TypeError):
        row = next((row for row, value in enumerate(column) if not _is_number(value)), 0)
        text = str(table[label].iloc[row])[:60]
        raise InputError(f'{label} of {path} is "{text}" in row {table.index[row] + 1}, but a number was expected: export the file again') from None
    wrong = np.isinf(values) if may_lack else ~np.isfinite(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{label} of {path} is {values[row]} in row {table.index[row] + 1}, but finite numbers were expected: export the file again")
    return values


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def number_lists(texts: pd.Series | Mapping[int, object], label: str, path: Path, least: int = 1) -> NDArray[np.float64]:
    """A column of lists of numbers such as "[0.1,0,0.9,0]", (n, m), m being so many at least; `texts` by their rows, from 0."""
    lists = []
    for row, text in texts.items():
        words = str(text).strip("[] ").split(",")
        if not all(map(_is_number, words)):
            what = f'{label} of {path} is "{str(text)[:60]}" in row {int(row) + 1}'
            raise InputError(f"{what}, but a list of numbers such as [0,0,1,0] was expected: export the file again")
        lists.append([float(word) for word in words])
    if len(set(map(len, lists))) != 1 or len(lists[0]) < least or not np.isfinite(lists).all():
        raise InputError(f"{label} of {path} holds lists of different lengths, too short ones, or no finite numbers: export the file again")
    return np.array(lists)


def _quote(value: str, alone: bool) -> str:
    """A value as it can stand in a row; `alone`: as all of it, where "data_..." would start a block."""
    means_more = not value or value[0] in "\"'#_" or value == "loop_" or (alone and value.startswith("data_"))
    if not means_more and not any(character.isspace() for character in value):
        return value
    for mark in ('"', "'"):
        if mark not in value and "\n" not in value and "\r" not in value:
            return f"{mark}{value}{mark}"
    raise InputError(f"the text {value!r} cannot be written to a STAR file: it holds line breaks or both kinds of quotation marks")


def _format(value: Any, alone: bool = False) -> str:
    """Text of a value: the shortest that gives the same number back."""
    if isinstance(value, str):
        return _quote(value, alone)
    if value is None or value is pd.NA:
        return "nan"
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        # str of a float32 is its own shortest text, not that of the double it would become
        return str(value) if isinstance(value, np.floating) else repr(value)
    return _quote(str(value), alone)


def _format_column(column: pd.Series, alone: bool) -> list[str]:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind == "f":
        return [str(value) for value in column.to_numpy()]
    return [_format(value, alone) for value in column.tolist()]


def _lines(blocks: Mapping[str, Block]) -> Iterator[str]:
    yield "# written by triptych"
    for name, block in blocks.items():
        yield ""
        yield f"data_{name}"
        yield ""
        if isinstance(block, pd.DataFrame):
            yield "loop_"
            yield from (f"_{label} #{index}" for index, label in enumerate(block.columns, 1))
            for first in range(0, len(block), ROWS_AT_ONCE):
                rows = block.iloc[first : first + ROWS_AT_ONCE]
                columns = (_format_column(rows[label], alone=len(rows.columns) == 1) for label in rows.columns)
                yield from map("\t".join, zip(*columns, strict=True))
        else:
            yield from (f"_{label}\t{_format(value)}" for label, value in block.items())
        yield ""


def write_star(path: Path | str, blocks: Mapping[str, Block]) -> None:
    """Write blocks in the given order; columns keep theirs. The file appears under its name only when whole.

    Parameters
    ----------
    path : the file
    blocks : tables, or pairs, by block name without "data_"; labels without the leading underscore
    """
    with output_file(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in _lines(blocks))


def probability_columns(class_names: Sequence[str]) -> list[str]:
    """Columns of the probabilities of some classes; InputError where two would be the same."""
    columns = [probability_column(name) for name in class_names]
    for place, column in enumerate(columns):
        if column in columns[:place]:
            pair = f"{class_names[columns.index(column)]} and {class_names[place]}"
            raise InputError(f"the classes {pair} differ in punctuation or capitals only, so their STAR columns would be the same: rename one")
    return columns


def probability_column(class_name: str) -> str:
    """ribosome_70s -> triptychProbabilityRibosome70s; InputError if the name has no letter or digit."""
    words = re.findall(r"[A-Za-z0-9]+", class_name)
    if not words:
        raise InputError(f"the class name '{class_name}' has no letter or digit, so no STAR column can be named after it: rename the class")
    return "triptychProbability" + "".join(word[0].upper() + word[1:] for word in words)
