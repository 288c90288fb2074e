"""Whether two outputs are the same: the bytes of their files, or else the numbers in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from triptych.errors import InputError
from triptych.io.files import map_array, read_text
from triptych.io.manifest import hash_file
from triptych.io.mrc import is_mrc_name, read_mrc
from triptych.io.output_names import MANIFEST

TOLERANCE = 1e-3
"""Numbers are close if they differ by at most this share of the largest of their kind: what another number of threads or another processor does."""
TEXTS = (".star", ".csv", ".json", ".html")
_WORDS = re.compile(r"[^\s,;:<>\[\]{}\"']+")
Verdict = Literal["equal", "close", "different", "missing", "new"]


@dataclass(frozen=True)
class Comparison:
    """What became of a file: equal in every byte, close in its numbers, different, missing in the second output, or new there."""

    name: str
    verdict: Verdict
    detail: str = ""

    @property
    def is_same(self) -> bool:
        return self.verdict in ("equal", "close")


def compare_folders(first: Path, second: Path) -> list[Comparison]:
    """Each file of two outputs but their manifests, which say when and where they were made."""
    before, after = (_files(folder) for folder in (first, second))
    return [
        Comparison(name, "missing" if name in before else "new")
        if name not in before or name not in after
        else compare_files(name, first / name, second / name)
        for name in sorted(before | after)
    ]


def compare_files(name: str, first: Path, second: Path) -> Comparison:
    """Two files of the same name."""
    if hash_file(first) == hash_file(second):
        return Comparison(name, "equal")
    try:
        before, after = (_content(path) for path in (first, second))
    except (InputError, SafetensorError, OSError) as error:
        return Comparison(name, "different", f"cannot be read: {error}")
    if before is None or after is None:
        return Comparison(name, "different", "other bytes")
    return _compare_arrays(name, before, after)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}


def _content(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of a file, by name; None where its kind is not known."""
    if is_mrc_name(path):
        return {"map": read_mrc(path).data}
    if path.suffix == ".npy":
        return {"array": map_array(path, "make it again")}
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    if path.suffix in TEXTS:
        return _split_text(read_text(path, "text"))
    return None


def _split_text(text: str) -> dict[str, NDArray[Any]]:
    """The words of a text, and apart from them its numbers."""
    words: list[str] = []
    numbers: list[float] = []
    for word in _WORDS.findall(text):
        try:
            numbers.append(float(word))
            words.append("#")
        except ValueError:
            words.append(word)
    return {"words": np.array(words), "numbers": np.array(numbers)}


def _compare_arrays(name: str, before: dict[str, NDArray[Any]], after: dict[str, NDArray[Any]]) -> Comparison:
    if {key: array.shape for key, array in before.items()} != {key: array.shape for key, array in after.items()}:
        return Comparison(name, "different", "other arrays or words")
    count = sum(_differing(before[key], after[key]) for key in before)
    if count == 0:
        return Comparison(name, "close")
    return Comparison(name, "different", f"{count} of {sum(array.size for array in before.values())} values")


def _differing(before: NDArray[Any], after: NDArray[Any]) -> int:
    """How many values are not close."""
    if before.dtype.kind not in "fiub":
        return int((before != after).sum())
    first, second = (np.asarray(array, dtype=np.float64) for array in (before, after))
    scale = np.abs(first[np.isfinite(first)]).max(initial=0.0)
    allowed = TOLERANCE * (np.abs(first) if before.ndim == 1 else scale)
    with np.errstate(invalid="ignore"):
        near = np.isfinite(first) & (np.abs(first - second) <= allowed + 1e-6)
    same = (first == second) | (np.isnan(first) & np.isnan(second))  # infinities too
    return int((~near & ~same).sum())
