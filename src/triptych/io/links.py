"""Files that a STAR file names: where its names lead, and by which they are found from another place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from triptych.io.files import way_to
from triptych.io.mrc import is_mrc_name

RECONSTRUCTED = "rlnTomoReconstructedTomogram"
CTF_VOLUME = "rlnCtfImage"
TILT_SERIES = "rlnTomoTiltSeriesStarFile"
BESIDE = ("triptychMask", "triptychDensity")
"""Columns of paths that start at the table's own folder; those of others may also start at one above it."""
PATHS = (
    *BESIDE,
    "rlnImageName",
    CTF_VOLUME,
    *(f"{RECONSTRUCTED}{kind}" for kind in ("", "Denoised", "Half1", "Half2")),
    TILT_SERIES,
    "rlnTomoTiltSeriesName",
    "rlnEtomoDirectiveFile",
    "rlnMtfFileName",
)
"""Columns of tables of particles and of tomograms that name files."""
NOTHING = ("", "None", "nan")
"""What a column of paths says where there is no file."""
_NUMBERED = re.compile(r"(\d+)@(.+)")


def find_file(name: str, folders: Sequence[Path]) -> Path | None:
    """The first of the folders under which a relative name exists; an absolute one counts as it is."""
    if "\0" in name or name in NOTHING:
        return None
    if Path(name).is_absolute():
        return Path(name) if os.path.exists(name) else None
    return next((folder / name for folder in folders if os.path.exists(folder / name)), None)  # False for what can be no name of a file


def find_mrc(name: str, folders: Sequence[Path]) -> Path | None:
    """What `find_file` finds, where that is an MRC file."""
    found = find_file(name, folders)
    return found if found is not None and found.is_file() and is_mrc_name(found) else None


def search_folders(path: Path) -> tuple[Path, ...]:
    """Where the relative names in a STAR file may start: its own folder, then each folder above it."""
    folder = path.absolute().parent
    return (path.parent, *folder.parents)


def split_number(name: str) -> tuple[int | None, str]:
    """The 3 and "stack.mrcs" of "3@stack.mrcs"; None and the name where there is no number."""
    match = _NUMBERED.fullmatch(name)
    return (int(match[1]), match[2]) if match else (None, name)


def name_from(folder: Path, folders: Sequence[Path], name: str, path: str) -> str:
    """The name under which a STAR file in `folder` finds an image: its own where that does, else the way there."""
    _, plain = split_number(name)
    found = None if ".." in Path(plain).parts else find_file(plain, folders)  # a way up is one from the folder itself
    if found is not None and os.path.samefile(found, path):
        return name
    return name.removesuffix(plain) + way_to(path, folder)


def project_of(star: Path, tables: Iterable[object]) -> Path | None:
    """The folder above a STAR file in which relative paths in its tables start, as RELION's do in that of its project; None where none do."""
    own, *above = search_folders(star)
    frames = [table for table in tables if isinstance(table, pd.DataFrame)]
    names = [split_number(str(table[column].iloc[0]))[1] for table in frames for column in PATHS if column in table and len(table)]
    for name in names:
        if name not in NOTHING and not Path(name).is_absolute() and ".." not in Path(name).parts and not os.path.exists(own / name):
            found = next((folder for folder in above if os.path.exists(folder / name)), None)
            if found is not None:
                return found
    return None


def lead_from(out: Path, table: pd.DataFrame, star: Path) -> pd.DataFrame:
    """The table of `star` with paths that lead from `out` to the same files; of files that are not there those stay that may start anywhere."""
    folder = Path(os.path.realpath(out.parent))  # however it is called: ".." is taken from where a link leads to
    moved = {}
    for column in PATHS:
        if column in table:
            before, after = (search_folders(path)[: 1 if column in BESIDE else None] for path in (star, folder / out.name))
            names = table[column].astype(str)
            plain = {name: split_number(name)[1] for name in names.unique()}
            found = {name: find_file(way, before) or (star.parent / way if way.startswith("../") else None) for name, way in plain.items()}
            moved[column] = names.map({name: name if path is None else name_from(folder, after, name, str(path)) for name, path in found.items()})
    return table.assign(**moved)
