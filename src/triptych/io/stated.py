"""What STAR files say of tomograms, whose own headers may say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from triptych.errors import InputError
from triptych.io.particle_star import TOMOGRAMS
from triptych.io.relion import (
    RECONSTRUCTED,
    bare_tomogram_name,
    extreme_tilts,
    find_file,
    numbers,
    read_frames,
    read_tilts,
    search_folders,
    tomogram_table,
)
from triptych.io.star import Block, read_star

BINNING = "rlnTomoTomogramBinning"


@dataclass(frozen=True)
class StatedTomogram:
    """What a table says of a tomogram; None: nothing.

    Attributes
    ----------
    source : the table, for messages
    voxel_size : Å, of the tomogram, thus with its binning
    shape : (nz, ny, nx) of the tomogram
    tilts : lowest and highest, degrees
    """

    source: str
    voxel_size: float | None = None
    shape: tuple[int, int, int] | None = None
    tilts: tuple[float, float] | None = None


def find_stated(path: Path) -> StatedTomogram | None:
    """What a tomograms.star beside a tomogram, or one folder above it, says of it; None where there is none, or not this tomogram in it."""
    for folder in dict.fromkeys((path.absolute().parent, path.absolute().parent.parent)):
        file = folder / TOMOGRAMS
        try:
            blocks = read_star(file) if file.is_file() else {}
        except InputError:
            continue  # it is not the file that was asked about
        table = tomogram_table(blocks)
        for name in table["rlnTomoName"].astype(str) if table is not None else ():
            if is_called(path, name, table, file):
                return stated_tomograms(blocks, file)[name]
    return None


def is_called(path: Path, name: str, table: pd.DataFrame | None, file: Path) -> bool:
    """Whether a row of a table means this very file."""
    if table is not None and RECONSTRUCTED in table:
        found = find_file(str(table.loc[table["rlnTomoName"].astype(str) == name, RECONSTRUCTED].iloc[0]), search_folders(file))
        return found is not None and found.resolve() == path.resolve()
    stem = bare_tomogram_name(name)
    return bare_tomogram_name(path.name) in (stem, f"rec_{stem}")


def stated_tomograms(blocks: Mapping[str, Block], file: Path) -> dict[str, StatedTomogram]:
    """All that the blocks of a table of tomograms, read from that file, say, by the tomograms' names."""
    table = tomogram_table(blocks)
    if table is None:
        return {}
    frames = read_frames(table, file)
    binnings = numbers(table, BINNING, file) if BINNING in table else [None] * len(table)
    tilts = read_tilts(table, blocks, file)
    result = {}
    for name, binning in zip(table["rlnTomoName"].astype(str), binnings, strict=True):
        size = shape = None
        if (frame := frames.get(name)) is not None and binning is not None and binning > 0:
            size, shape = frame.voxel_size * binning, (round(frame.size[2] / binning), round(frame.size[1] / binning), round(frame.size[0] / binning))
        result[name] = StatedTomogram(file.name, size, shape, extreme_tilts(tilts[name], file) if name in tilts else None)
    return result
