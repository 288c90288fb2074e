"""What STAR files say of tomograms, whose own headers may say otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

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
from triptych.io.tomogram import tomogram_name

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


def find_stated(paths: Sequence[Path]) -> list[StatedTomogram | None]:
    """What a tomograms.star beside each tomogram, or one folder above it, says of it; None where there is none, or not this tomogram in it."""
    read = cache(_read_table)  # only once for all that it says

    def find(path: Path) -> StatedTomogram | None:
        near = dict.fromkeys((path.absolute().parent, path.absolute().parent.parent))
        found = (read(folder / TOMOGRAMS).about(path) for folder in near)
        return next((about for about in found if about is not None), None)

    return [find(path) for path in paths]


@dataclass(frozen=True)
class _Table:
    """The blocks of a table of tomograms, and its file."""

    blocks: dict[str, Block]
    file: Path

    def about(self, path: Path) -> StatedTomogram | None:
        """What it says of this very file."""
        name = self.names.get(os.path.realpath(path)) or self.names.get(bare_tomogram_name(tomogram_name(path)))
        return None if name is None else self.stated[name]

    @cached_property
    def names(self) -> dict[str, str]:
        """The tomograms' names, by where their files are, or by what these are called where it does not say where they are."""
        table = tomogram_table(self.blocks)
        if table is None:
            return {}
        names = table["rlnTomoName"].astype(str)
        if RECONSTRUCTED in table:
            places = [find_file(str(place), search_folders(self.file)) for place in table[RECONSTRUCTED]]
            return {os.path.realpath(place): name for name, place in zip(names, places, strict=True) if place is not None}
        return {prefix + bare_tomogram_name(name): name for prefix in ("rec_", "") for name in names}

    @cached_property
    def stated(self) -> dict[str, StatedTomogram]:
        return stated_tomograms(self.blocks, self.file)


def _read_table(file: Path) -> _Table:
    """The table of tomograms in a file, empty where that is none."""
    try:
        return _Table(read_star(file) if file.is_file() else {}, file)
    except InputError:  # it is not the file that was asked about
        return _Table({}, file)


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
