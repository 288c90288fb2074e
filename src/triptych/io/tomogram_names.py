"""What tomograms are called: by their files, by the programs that list particles in them, and by both of one and the same."""

from __future__ import annotations

import logging
import re
import sys
from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from triptych.errors import InputError
from triptych.io.mrc import bare_stem, is_mrc_name
from triptych.io.output_names import TOMOGRAMS

logger = logging.getLogger(__name__)

ZARR_SUFFIX = ".zarr"
TOMOSTAR = ".tomostar"
_WARP_PIXEL_SIZE = re.compile(r"(?<=.)_\d+(\.\d+)?Apx$")
"""With which Warp ends the names of its reconstructions: TS_1_10.00Apx.mrc is that of TS_1.tomostar."""
_NEXT_NUMBER = re.compile(r"[_-]\d+(?![A-Za-z0-9.])")

NamedFiles: TypeAlias = list[tuple[str, Path]]


def tomogram_name(path: Path) -> str:
    """File name without its endings."""
    return bare_stem(path.name.removesuffix(ZARR_SUFFIX).removesuffix(".ome"))


@lru_cache(maxsize=4096)  # a list names few tomograms, each of them many times
def bare_tomogram_name(name: str) -> str:
    """A tomogram's name without folders and endings, whether it is that of a file or of Warp's: what two programs' names of it share."""
    return _WARP_PIXEL_SIZE.sub("", bare_stem(name.removesuffix(TOMOSTAR)))


def shared_name(name: str) -> str:
    """A tomogram's bare name without the "rec_" of RELION 5's reconstructions: the tomogram TS_1 is the file rec_TS_1.mrc."""
    return bare_tomogram_name(name).removeprefix("rec_")


def is_warp_name(name: str) -> bool:
    """Whether a tomogram is called as Warp calls it: TS_1.tomostar, or (Warp 1) TS_1_10.00Apx.mrc."""
    return name.endswith(TOMOSTAR) or (is_mrc_name(name) and _WARP_PIXEL_SIZE.search(bare_stem(name)) is not None)


LOOK_ELSEWHERE = "give its folder with --set tomograms="


def point_to_table(folder: Path, otherwise: str = LOOK_ELSEWHERE) -> str:
    """What to do about a folder, as that of a RELION job, that lacks a tomogram: give the table of tomograms that is in it, if there is one."""
    table = folder / TOMOGRAMS
    return f"give the table of tomograms there, {table}" if table.is_file() else otherwise


def find_tomogram(name: str, files: NamedFiles, folder: Path, how: str = LOOK_ELSEWHERE) -> Path:
    """The file of a tomogram among those of a folder, as `called` finds it; InputError where there is none or several."""
    stem, found, folder = bare_tomogram_name(name), called(name, files), folder.absolute()
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"no tomogram called {stem} is in {folder} (.mrc, .rec or {stem}_*.mrc): {how}")
    some = ", ".join(sorted(file.name for file in found)[:3])
    halved = "make a whole one of its halves (`triptych average-halves tomograms.star WHOLE`) and name the table of these (WHOLE/tomograms.star)"
    how = halved if any(bare_stem(file).endswith("_half1") for file in found) else "leave only one there"
    raise InputError(f"{len(found)} files in {folder} could be the tomogram {stem} ({some}): {how}")


def warn_of_other_name(names: Iterable[str], file: Path) -> None:
    """Warn where a file that is said to be the tomogram of these names is called otherwise."""
    other = next((name for name in names if not called(name, by_name([file]))), None)
    if other is not None:
        text = "the particles are said to be in the tomogram %s, but are looked for in %s, as was asked: check that it is the same"
        logger.warning(text, other, file)


def by_name(files: Iterable[Path]) -> NamedFiles:
    """Files of tomograms with their names, by which they are sorted, so that `called` soon finds one among many."""
    return sorted((tomogram_name(file), file) for file in files)


def called(name: str, files: NamedFiles) -> list[Path]:
    """The files that a tomogram's name may mean: called as it is, or so with RELION's "rec_" before it, or else those that start so.

    The pixel size that Warp adds to a name counts only where several differ in nothing else. A number that follows belongs to the name, as it does
    where targets are numbered: Position_1_2.mrc is not of Position_1.
    """
    found: list[Path] = []
    for stem in (bare_stem(name.removesuffix(TOMOSTAR)), bare_tomogram_name(name)):
        keys = (stem, f"rec_{stem}")
        near = [(own, file, own[len(key) :]) for key in keys for own, file in _starting_with(key, files)]
        same = [file for own, file, _ in near if own in keys] or [file for own, file, _ in near if bare_tomogram_name(own) in keys]
        found = found or same or [file for _, file, rest in near if not _NEXT_NUMBER.match(rest)]
    return found


def _starting_with(key: str, files: NamedFiles) -> NamedFiles:
    first, last = (bisect_left(files, end, key=itemgetter(0)) for end in (key, key + chr(sys.maxunicode)))
    return [(own, file) for own, file in files[first:last] if not own[len(key) : len(key) + 1].isalnum()]
