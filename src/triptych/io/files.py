"""Files that may not be there, or not be what they are said to be; and disks that are full."""

from __future__ import annotations

import errno
import json
import os
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.errors import InputError

_PROBE_BYTES = 4096
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def disk_errors(path: Path, kept: str = "nothing half-made is left") -> Iterator[None]:
    """InputError where an output `path` cannot be written for want of room or of rights; `kept` says what has become of it."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            what, how = "there is no room left", "make room there, or choose another place, and give the command again"
        elif error.errno in _NO_RIGHT and str(error.filename).startswith(str(path.parent)):
            what, how = "writing is not allowed", "choose a place that you may write to"
        else:
            raise
        raise InputError(f"{path} could not be written, for {what} ({error.strerror}): {how}; {kept}") from error


def reserve(path: Path) -> None:
    """Take the room of a file that is as long as it will be; where there is none, writing to a mapped file would end the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def new_array(path: Path, dtype: np.dtype[Any] | type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A NumPy file (.npy), mapped into memory, to be filled."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    reserve(path)
    return array


def read_bytes(path: Path, kind: str, limit: int = -1) -> bytes:
    """All of a file, or its first bytes; `kind` is what the messages call it, as in "STAR file"."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the name") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, but a {kind} was expected: give the file itself") from None
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error}): check the file and your rights to read it") from None


def read_text(path: Path, kind: str) -> str:
    """The text of a file in UTF-8."""
    if b"\0" in read_bytes(path, kind, _PROBE_BYTES):
        raise InputError(f"{path} is not a text file, but a {kind} was expected: check the name")
    try:
        return read_bytes(path, kind).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8, as {kind}s are: convert it, for example with iconv") from None


def read_json(path: Path, kind: str) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(read_text(path, kind))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as JSON ({error}), but a {kind} was expected: write it anew") from None


def to_plain(value: Any) -> Any:
    """Anything of ours as JSON: arrays become lists, NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def write_json(path: Path, value: Any) -> None:
    """A JSON file that any program reads: NaN and infinity are written as null."""
    path.write_text(json.dumps(to_plain(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def different_files(paths: Iterable[Path]) -> list[Path]:
    """Each file once, under the first of its names."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def way_to(path: Path | str, folder: Path | str) -> str:
    """A path as seen from a folder. Links to folders are followed first, since ".." leads up from where a link ends."""
    path = Path(path).absolute()
    return os.path.relpath(os.path.join(os.path.realpath(path.parent), path.name), os.path.realpath(folder))


def map_array(path: Path, how: str) -> NDArray[Any]:
    """A NumPy file (.npy) of numbers or truth values, mapped into memory; `how` is what to do where it is missing or damaged."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {how}") from None
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError, tokenize.TokenError):  # its header is Python text
        raise InputError(f"{path} is not a whole NumPy array of numbers; {how}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "bfiu":
        raise InputError(f"{path} is not a whole NumPy array of numbers; {how}")
    return array


def _number(word: str) -> float:
    """A number; of a complex one, as MATLAB writes what it did not round to a real one (0+1.2e-06i), the real part."""
    try:
        return float(word)
    except ValueError:
        return complex(word.replace("i", "j")).real


def read_numbers(path: Path, kind: str, names: Sequence[str]) -> list[list[float]]:
    """The rows of a table of numbers that white space separates, all of one length; `names` are those of its columns, for messages."""
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path, kind).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        row: list[float] = []
        try:
            row.extend(map(_number, words))
        except ValueError:
            column = f"column {len(row) + 1}{f' ({names[len(row)]})' if len(row) < len(names) else ''}"
            what = f'the text "{words[len(row)][:40]}" in {column}'
            raise InputError(f"line {number} of {path} holds {what}, but a {kind} holds numbers only: check the name, or write it anew") from None
        rows.append(row)
        if len(rows[-1]) != len(rows[0]):
            raise InputError(f"line {number} of {path} holds {len(words)} values, but the first {len(rows[0])}: the file is garbled, write it anew")
    if not rows:
        raise InputError(f"{path} is empty, but a {kind} with at least one particle was expected")
    return rows
