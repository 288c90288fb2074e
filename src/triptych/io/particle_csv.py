"""Particles as a CSV file, for everything else: commas, a line of names, UTF-8.

x, y, z are Å from the centre of the first voxel. The rotation reference -> tomogram is r11 ... r33 (row, column; acting on columns
x, y, z), or RELION's angles rot, tilt, psi in degrees. tomogram, class, score and pixel_size (Å) may follow; every further column is kept.

Two other tables are known by their names: the motive list that cryoCAT saves as CSV (see `motive_list`), and the submissions of the CZII
challenge at Kaggle (experiment and particle_type for tomogram and class).
"""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.files import read_text
from triptych.io.motive_list import CRYOCAT, ROWS, particles_from_motives
from triptych.io.outputs import output_file
from triptych.io.relion import rotations_from_angles
from triptych.io.star import make_column, numbers
from triptych.particles import Particles

logger = logging.getLogger(__name__)

PLACE = ["x", "y", "z"]
MATRIX = [f"r{row}{column}" for row in "123" for column in "123"]
ANGLES = ["rot", "tilt", "psi"]
TEXT = ("tomogram", "class")
NOTHING = {"score": ["", "nan", "NaN", "NA"]}
OTHER_NAMES = {"experiment": "tomogram", "particle_type": "class"}
KNOWN = ("tomogram", "class", "score", *PLACE, *MATRIX, *ANGLES, "pixel_size")


def particles_from_csv(path: Path | str, voxel_size: float | None = None) -> Particles:
    """Particles of a CSV file; see above for its columns, of which x, y and z must be there. `voxel_size` is that of a motive list, in Å."""
    path = Path(path)
    table = read_table(path, as_star=True)
    motives = table.rename(columns=CRYOCAT)
    if set(ROWS) <= set(motives):
        return particles_from_motives(motives, path, voxel_size)
    if set(OTHER_NAMES) <= set(table) and not set(OTHER_NAMES.values()) & set(table):
        table = table.rename(columns=OTHER_NAMES)
    missing = [name for name in PLACE if name not in table]
    if missing or table.empty:
        raise InputError(f"{path} {f'lacks the column {missing[0]}' if missing else 'lists no particles'}: x, y, z in Å were expected")
    sizes, rotations = _finite(table, ["pixel_size"], path), _rotations(table, path)
    understood = set(KNOWN) if rotations is not None else set(KNOWN) - {*MATRIX, *ANGLES}
    return Particles(
        table[[name for name in table if name not in understood]],
        _finite(table, PLACE, path),
        rotations,
        tomograms=text_column(table, "tomogram", path),
        classes=text_column(table, "class", path),
        scores=np.asarray(pd.to_numeric(table["score"], errors="coerce"), dtype=np.float64) if "score" in table else None,
        pixel_sizes=None if sizes is None else sizes[:, 0],
        file=path,
    )


def read_table(path: Path, as_star: bool = False) -> pd.DataFrame:
    """The columns of a CSV file, each name once; those of `TEXT` are kept as text. `as_star`: further ones are what they would be in a STAR file."""
    text = read_text(path, "CSV file")
    if text.startswith("CCC,"):
        raise InputError(f"{path} is PEET's motive list, which does not say where particles are: give the IMOD model (.mod) that belongs to it")
    further = [name for name in _check_rows(text, path) if as_star and name not in (*KNOWN, *OTHER_NAMES, *ROWS, *CRYOCAT)]
    try:
        # names of tomograms and classes stay text: "0012" is not 12
        kinds = dict.fromkeys((*TEXT, *OTHER_NAMES, *further), "str")
        table = pd.read_csv(io.StringIO(text), dtype=kinds, keep_default_na=False, na_values=NOTHING, skipinitialspace=True)
        return table.assign(**{name: make_column(name, table[name].tolist()) for name in further})
    except ValueError as error:  # also the base of pandas' own
        raise InputError(f"{path} cannot be read as CSV ({' '.join(str(error).split())}): write it anew") from None


def _check_rows(text: str, path: Path) -> list[str]:
    """The names of the columns; pandas would take a column more for names of rows, and a name that occurs twice for another name."""
    rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if row]
    if not rows or len(set(rows[0])) < len(rows[0]):
        raise InputError(f"{path} {'names a column twice' if rows else 'is empty'}, but a CSV file with a line of different names was expected")
    wrong = next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if wrong is not None:
        raise InputError(f"row {wrong} of {path} holds {len(rows[wrong])} values, but there are {len(rows[0])} columns: the file is garbled")
    return rows[0]


def _finite(table: pd.DataFrame, names: list[str], path: Path) -> NDArray[np.float64] | None:
    return np.stack([numbers(table, name, path) for name in names], axis=1) if set(names) <= set(table) else None


def text_column(table: pd.DataFrame, name: str, path: Path) -> list[str] | None:
    """A column of names, none empty; None where it is not there."""
    if name not in table:
        return None
    names = [str(value).strip() for value in table[name]]
    if "" in names:
        raise InputError(f"the column {name} of {path} is empty in row {names.index('') + 1}: fill it, or leave out the column")
    return names


def _rotations(table: pd.DataFrame, path: Path) -> NDArray[np.float64] | None:
    matrices, angles = _finite(table, MATRIX, path), _finite(table, ANGLES, path)
    for names in (MATRIX, ANGLES):
        given, missing = ([name for name in names if (name in table) == there] for there in (True, False))
        if matrices is None and angles is None and given:
            logger.warning("%s has the columns %s, but not %s: no orientations are read from it", path, " and ".join(given), " and ".join(missing))
    if matrices is None:
        return None if angles is None else rotations_from_angles(angles)
    matrices = matrices.reshape(-1, 3, 3)
    wrong = (np.abs(matrices @ matrices.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2)) > 1e-3) | (np.linalg.det(matrices) < 0)
    if wrong.any():
        raise InputError(f"r11 ... r33 in row {int(np.argmax(wrong)) + 1} of {path} are no rotation: correct them")
    return matrices


def write_csv(path: Path | str, particles: Particles) -> None:
    """Write all that is known of the particles, and every column of their table."""
    assert particles.positions is not None
    columns: dict[str, object] = {}
    for name, values in (("tomogram", particles.tomograms), ("class", particles.classes), ("score", particles.scores)):
        if values is not None:
            columns[name] = values
    columns |= dict(zip(PLACE, particles.positions.T, strict=True))
    if particles.rotations is not None:
        columns |= dict(zip(MATRIX, particles.rotations.reshape(-1, 9).T, strict=True))
    if particles.unbinned_pixel_sizes is not None:
        columns["pixel_size"] = particles.unbinned_pixel_sizes
    columns |= {name: particles.table[name].to_numpy() for name in particles.table if name not in columns}
    with output_file(path) as part:
        pd.DataFrame(columns).to_csv(part, index=False, lineterminator="\n")
