"""Zarr groups and arrays that somebody else may have made, or damaged: whatever Zarr and its codecs raise about them becomes a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from triptych.errors import InputError, first_line

LARGEST_CHUNK = 1 << 30
"""Bytes; Zarr takes a whole chunk into memory, however large its metadata say that it is."""
METADATA = ("zarr.json", ".zarray")

# Zarr has no exception of its own for metadata that make no sense: its parsers, and the codecs written in C, raise these.
_REFUSALS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError, OSError, MemoryError, SystemError,
)  # fmt: skip


@contextmanager
def zarr_errors(what: str, how: str) -> Iterator[None]:
    """InputError for whatever Zarr raises; the sentence begins with `what` and ends with `how`."""
    try:
        yield
    except InputError:
        raise
    except _REFUSALS as error:
        raise InputError(f"{what} ({first_line(error)}); {how}") from error


@dataclass(frozen=True, eq=False)
class CheckedArray:
    """An array whose data are read with `zarr_errors`.

    Attributes
    ----------
    array : as Zarr opened it
    path : of its folder
    how : what to do when it is damaged
    complete : whether every chunk must have a file; Zarr reads zeros where one is missing
    """

    array: zarr.Array[Any]
    path: Path
    how: str
    complete: bool = False

    def __post_init__(self) -> None:
        size = math.prod(self.array.shards or self.array.chunks) * self.array.dtype.itemsize
        if size > LARGEST_CHUNK:
            raise InputError(f"{self.path} has chunks of {size:,} bytes, but at most {LARGEST_CHUNK:,} were expected; {self.how}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        with zarr_errors(f"{self.path} is damaged", self.how):
            values = np.asarray(self.array[key])
        self._check_there()
        return values

    def rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows, in the order asked for."""
        with zarr_errors(f"{self.path} is damaged", self.how):
            values = np.asarray(self.array.get_orthogonal_selection((np.asarray(rows, dtype=np.int64),)))
        self._check_there(*(self._chunk_file(int(number)) for number in np.unique(rows // self.array.chunks[0]) if self.complete))
        return values

    def _chunk_file(self, number: int) -> str:
        """Name of a chunk along the first axis."""
        return self.array.metadata.encode_chunk_key((number, *[0] * (self.ndim - 1)))

    def _check_there(self, *chunks: str) -> None:
        """Zarr reads zeros where files are missing, so also where they were removed after the array had been opened."""
        if not any((self.path / name).is_file() for name in METADATA) or not all((self.path / name).is_file() for name in chunks):
            raise InputError(f"{self.path} has disappeared, in part or as a whole, while it was being read; put it back and give the command again")

    def chunks_lost(self) -> int:
        """How many chunks have no file."""
        wanted = math.prod(-(-size // chunk) for size, chunk in zip(self.shape, self.array.shards or self.array.chunks, strict=True))
        present = sum(1 for file in (self.path / "c").rglob("*") if file.is_file() and file.suffix != ".partial")
        return max(0, wanted - present)
