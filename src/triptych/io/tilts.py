"""What tables say of the tilts of tomograms: their angles and their defocus, as RELION 4, RELION 5, Warp and triptych keep them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.links import TILT_SERIES, find_file, search_folders
from triptych.io.star import Block, number_lists, numbers, read_star, tables_with

TILTS, BEAM = ("rlnTomoYTilt", "rlnTomoNominalStageTiltAngle"), "rlnTomoProjZ"
"""Angle of a tilt about y, as it was refined or as the stage had it (RELION 5); else the beam, a row of its projection matrix (RELION 4, Warp)."""
MOST_ASKEW = 0.5
"""Of a beam's length, what lies along y at most where the tilts are about y: the specimen may lie a little askew."""
TILT_TABLE = "tilts.star"
DEFOCUS, PHASE_SHIFT = ("rlnDefocusU", "rlnDefocusV"), "rlnPhaseShift"
MOST_ASTIGMATIC = 1000
"""By what the larger of both is more than the smaller one at most: Å and µm differ by 10000."""


@dataclass(frozen=True, eq=False)
class TiltTable:
    """What a file says of the tilts of a tomogram, one in each row."""

    rows: pd.DataFrame
    file: Path

    def numbers(self, label: str, may_lack: bool = False) -> NDArray[np.float64]:
        """As `star.numbers`."""
        return numbers(self.rows, label, self.file, may_lack)

    def lists(self, label: str, least: int) -> NDArray[np.float64]:
        """As `star.number_lists`."""
        return number_lists(self.rows[label], label, self.file, least)


def read_tilts(tomograms: pd.DataFrame, blocks: Mapping[str, Block], file: Path) -> dict[str, TiltTable]:
    """The table of each tomogram's tilts: RELION 4 keeps it in a block of its own, RELION 5 in a file of its own, we in one for all.

    Parameters
    ----------
    tomograms, blocks, file : the table of tomograms, all blocks of its file, and that file
    """
    common = file.parent / TILT_TABLE
    beside = tables_with(read_star(common), "rlnTomoName").get("tilts") if common.is_file() else None
    of_all = () if beside is None else beside.groupby(beside["rlnTomoName"].astype(str))
    of_each = {str(name): table for name, table in of_all}
    found: dict[str, tuple[Block | None, Path]] = {}
    for _, row in tomograms.iterrows():
        name = str(row["rlnTomoName"])
        series = find_file(str(row[TILT_SERIES]), search_folders(file)) if TILT_SERIES in row else None
        if name in blocks:
            found[name] = blocks[name], file
        elif name in of_each:
            found[name] = of_each[name], common
        elif series is not None and series.is_file():
            found[name] = next(iter(tables_with(read_star(series)).values()), None), series
    return {name: TiltTable(table, place) for name, (table, place) in found.items() if isinstance(table, pd.DataFrame) and not table.empty}


def extreme_tilts(table: TiltTable) -> tuple[float, float] | None:
    """Lowest and highest angle of a table of tilts about y, degrees, nan left aside; None where it states no such tilts."""
    label = next((label for label in TILTS if label in table.rows), None)
    if label is not None:
        angles = table.numbers(label, may_lack=True)
        return _extremes(angles[~np.isnan(angles)]) if np.isfinite(angles).any() else None
    return extreme_beams(table.lists(BEAM, 3)[:, :3]) if BEAM in table.rows else None


def extreme_beams(beams: NDArray[np.float64]) -> tuple[float, float] | None:
    """Lowest and highest tilt about y, degrees, of beams (n, 3), the third rows of projection matrices; None where the tilts are about another axis.

    A matrix is Rz Ry(tilt), with a third row (-sin, 0, cos); one that RELION 4 made of IMOD's files may be mirrored in depth.
    """
    x, y, z = (beams / np.linalg.norm(beams, axis=1, keepdims=True)).T
    return None if np.abs(y).max() > MOST_ASKEW else _extremes(np.degrees(np.arctan2(-x * np.sign(z), np.abs(z))))


def _extremes(angles: NDArray[np.float64]) -> tuple[float, float] | None:
    low, high = float(angles.min()), float(angles.max())
    return (low, high) if low < high else None


def mean_defocus(tilts: TiltTable, may_be_given: bool = True) -> float | None:
    """Å, of the tilts of which the table says it: 0 was never set; None where there are none."""
    of_each = join_defoci(tilts.rows, f"{tilts.file}, row", may_be_given)
    told = of_each[np.isfinite(of_each)]
    return float(told.mean()) if told.size else None


def join_defoci(stated: pd.DataFrame, where: str, may_be_given: bool = True) -> NDArray[np.float64]:
    """The mean of rlnDefocusU and rlnDefocusV in each of n rows, (n,), or the one of them that is stated: 0 was never set; nan: neither is.

    InputError where they are in different units; `where` comes before the number of the row; `may_be_given`: defocus_um would count instead.
    """
    there = stated.reindex(columns=list(DEFOCUS)).apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    told = np.where(np.isfinite(there) & (there != 0), there, np.nan)
    smaller, larger = np.sort(np.abs(told), axis=1).T  # nan comes last
    apart = larger > MOST_ASTIGMATIC * smaller
    if apart.any():
        row = int(np.argmax(apart))
        what = f"{' and '.join(DEFOCUS)} of {where} {stated.index[row] + 1}, are {told[row, 0]:g} and {told[row, 1]:g}"
        how = "correct the file" + (", or give the defocus with --set defocus_um=" if may_be_given else "")
        raise InputError(f"{what}, but both were expected in Å: {how}")
    return np.where(np.isnan(told[:, 0]), told[:, 1], np.where(np.isnan(told[:, 1]), told[:, 0], told.mean(axis=1)))


def has_phase_shift(tilts: TiltTable) -> bool:
    """Whether the table states a phase shift of one of them, as images of a phase plate have."""
    return PHASE_SHIFT in tilts.rows and bool(pd.to_numeric(tilts.rows[PHASE_SHIFT], errors="coerce").fillna(0).any())
