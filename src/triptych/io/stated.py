"""What STAR files say of tomograms, whose own headers may say otherwise."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from triptych.errors import InputError
from triptych.io.links import NOTHING, RECONSTRUCTED, find_file, search_folders
from triptych.io.numbering import check_file_name
from triptych.io.output_names import TOMOGRAMS
from triptych.io.relion import BINNING, SET_FILES, UNBINNED_PIXEL_SIZES, agrees, optimisation_set, read_frames, tomogram_table
from triptych.io.star import Block, numbers, read_star
from triptych.io.tilts import TiltTable, extreme_tilts, has_phase_shift, mean_defocus, read_tilts
from triptych.io.tomogram import check_unique, find_tomograms, is_tomogram, stated_frame, tomogram_files
from triptych.io.tomogram_names import bare_tomogram_name, tomogram_name
from triptych.particles import Frame
from triptych.volume import check_voxel_sizes

logger = logging.getLogger(__name__)

DENOISED = f"{RECONSTRUCTED}Denoised"
HALVES = (f"{RECONSTRUCTED}Half1", f"{RECONSTRUCTED}Half2")
VOXEL_SIZE_TOLERANCE = 0.002


# ------------------------------------------------------------------------------------------------- tomograms to be read


@dataclass(frozen=True)
class NamedTomogram:
    """A tomogram to be read.

    Attributes
    ----------
    name : what it is called in tables and in names of files
    path : MRC file or OME-Zarr group
    voxel_size : Å, as a table states it of a file that does not; None: as the file says
    series : its box in the pixels of the tilt series, as a table states it; None: it counts its own voxels
    """

    name: str
    path: Path
    voxel_size: float | None = None
    series: Frame | None = None

    def frame(self, shape: tuple[int, int, int], voxel_size: float) -> Frame:
        """The box of the tomogram, an array (nz, ny, nx), in the pixels of its tilt series, if its table tells these and does not contradict."""
        own = Frame.of(shape, voxel_size)
        return own if self.series is None or not agrees(own, self.series.center) else self.series


def list_tomograms(inputs: Sequence[Path | str]) -> list[NamedTomogram]:
    """The tomograms that files, folders of files, OME-Zarr groups, tables of tomograms (STAR) and optimisation sets stand for.

    Raises
    ------
    InputError
        If there are none, one is not where a table says, or a name or a file comes twice, or a name is none for a file.
    """
    found: list[NamedTomogram] = []
    for item in map(Path, inputs):
        if item.suffix.lower() == ".star":
            found += _listed_tomograms(item)
        elif item.is_dir() and (item / TOMOGRAMS).is_file() and not is_tomogram(item) and not tomogram_files(item):
            raise InputError(f"the folder {item} holds no tomogram, but a table of tomograms: give that, {item / TOMOGRAMS}")
        else:
            found += [NamedTomogram(tomogram_name(path), path) for path in find_tomograms([item])]
    check_unique((tomogram.name, tomogram.path) for tomogram in found)
    return found


def read_tomogram_table(star: Path) -> tuple[Path, pd.DataFrame]:
    """A table of tomograms and its file, be that the one given or the one that an optimisation set names."""
    if star.is_dir():
        how = f"give that in it, {star / TOMOGRAMS}" if (star / TOMOGRAMS).is_file() else "give the file"
        raise InputError(f"{star} is a folder, but a table of tomograms (STAR) was expected: {how}")
    blocks = read_star(star)
    if (pairs := optimisation_set(blocks, star, "tomograms")) is not None:
        named = find_file(str(pairs[SET_FILES["tomograms"]]), search_folders(star))
        if named is None:
            raise InputError(f"{star} names the tomograms {pairs[SET_FILES['tomograms']]}, which do not exist: correct the name, or give that file")
        star, blocks = named, read_star(named)
    table = tomogram_table(blocks)
    if table is None or table.empty:
        raise InputError(f"{star} lists no tomograms (rlnTomoName): give their files, a STAR file that lists them, or an optimisation set")
    return star, table


def _listed_tomograms(star: Path) -> list[NamedTomogram]:
    """The tomograms of a table, or of an optimisation set that names one: as reconstructed, or denoised where only that is there."""
    star, table = read_tomogram_table(star)
    column = next((label for label in (RECONSTRUCTED, DENOISED) if label in table), None)
    whole = f"`triptych average-halves {star} WHOLE` makes whole ones, and WHOLE/tomograms.star names them"
    if column is None and HALVES[0] in table:
        raise InputError(f"{star} names tomograms in halves only ({', '.join(HALVES)}): {whole}")
    if column is None:
        raise InputError(f"{star} does not say where the reconstructed tomograms are ({RECONSTRUCTED}): reconstruct them, or give their files")
    if column == DENOISED:
        text = "%s names denoised tomograms only, which are taken: a network sees better what noise has not been guessed away from%s"
        logger.warning(text, star, f" ({whole})" if HALVES[0] in table else "")
    table = leave_out_unmade(table, column, star)
    frames = read_frames(table, star)
    rows = zip(table["rlnTomoName"].astype(str), table[column].astype(str), stated_voxel_sizes(table, star), strict=True)
    return [replace(locate_tomogram(name, way, size, star), series=frames.get(name) if size else None) for name, way, size in rows]


def leave_out_unmade(table: pd.DataFrame, column: str, star: Path) -> pd.DataFrame:
    """The rows of a table of tomograms whose column names a file, with a warning where others do not; InputError where none does."""
    there = ~table[column].astype(str).isin(NOTHING)
    if not there.any():
        raise InputError(f"{star} does not say where any reconstructed tomogram is ({column} is empty): reconstruct them, or give their files")
    if not there.all():
        text = "%d of %d tomograms of %s are not reconstructed yet (%s is empty): they are left out"
        logger.warning(text, (~there).sum(), len(table), star, column)
    return table[there]


def stated_voxel_sizes(table: pd.DataFrame, star: Path) -> list[float | None]:
    """Å per voxel of the tomograms, with their binning; None where the table does not tell: pixels of exactly 1 Å were never set."""
    labels = (UNBINNED_PIXEL_SIZES[0], BINNING)
    if not set(labels) <= set(table):
        return [None] * len(table)
    sizes = zip(*(numbers(table, label, star, may_lack=True).tolist() for label in labels), strict=True)
    stated = [pixel * binning if pixel > 0 and pixel != 1 and binning > 0 else None for pixel, binning in sizes]
    for name, size in zip(table["rlnTomoName"], stated, strict=True):
        if size is not None:
            check_voxel_sizes(size, f"{' times '.join(labels)} of {name} in {star}")
    return stated


def locate_tomogram(name: str, way: str, stated: float | None, star: Path) -> NamedTomogram:
    """The file of a tomogram that a table names, with the voxel size that the table states where the file has none."""
    check_file_name(name, name)
    path = find_file(way, search_folders(star))
    if path is None:
        where = f"neither under {star.absolute().parent} nor under a folder above it"
        raise InputError(f"{star} says that the tomogram {name} is {way}, which is {where}: copy it there, or correct the table")
    own = stated_frame(path)[1] if is_tomogram(path) else None
    if own is not None and stated is not None and abs(own / stated - 1) > VOXEL_SIZE_TOLERANCE:
        text = "%s is taken to have %g Å per voxel, as it says itself, but %s states %g Å (--set voxel_size= decides otherwise)"
        logger.warning(text, path, own, star, stated)
    return NamedTomogram(name, path, stated if own is None else None)


# ------------------------------------------------------------------------------------------------ what is said of a file


@dataclass(frozen=True, eq=False)
class TiltTables:
    """The tables of the tilts of all tomograms of a file, read when they are asked for: of many tomograms that takes a while."""

    tomograms: pd.DataFrame
    blocks: Mapping[str, Block]
    file: Path

    @cached_property
    def by_name(self) -> dict[str, TiltTable]:
        return read_tilts(self.tomograms, self.blocks, self.file)

    def files(self, name: str) -> list[Path]:
        """Those that have been read so far to tell something of a tomogram."""
        tilts = self.by_name.get(name) if "by_name" in vars(self) else None
        return [self.file, *([] if tilts is None else [tilts.file])]


@dataclass(frozen=True, eq=False)
class StatedTomogram:
    """What a table says of a tomogram; None: nothing.

    Attributes
    ----------
    voxel_size : Å, of the tomogram, thus with its binning
    shape : (nz, ny, nx) of the tomogram
    values : the numbers of its row, by the columns' labels
    """

    name: str
    tables: TiltTables = field(repr=False)
    voxel_size: float | None = None
    shape: tuple[int, int, int] | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The table, for messages."""
        return self.tables.file.name

    @cached_property
    def tilts(self) -> tuple[float, float] | None:
        """Lowest and highest, degrees."""
        own = self.tables.by_name.get(self.name)
        return None if own is None else extreme_tilts(own)

    @cached_property
    def defocus(self) -> float | None:
        """Å, the mean over its tilts."""
        own = self.tables.by_name.get(self.name)
        return None if own is None else mean_defocus(own)

    @cached_property
    def has_phase_shift(self) -> bool:
        """Whether its images are of a phase plate."""
        own = self.tables.by_name.get(self.name)
        return own is not None and has_phase_shift(own)


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
        """The tomograms' names, by where their files are, or by what these are called where that is not said, or no longer right."""
        table = tomogram_table(self.blocks)
        if table is None:
            return {}
        names = table["rlnTomoName"].astype(str)
        ways = table[RECONSTRUCTED].astype(str) if RECONSTRUCTED in table else [""] * len(table)
        places = [find_file(way, search_folders(self.file)) for way in ways]
        there = {os.path.realpath(place): name for name, place in zip(names, places, strict=True) if place is not None}
        elsewhere = [name for name, place in zip(names, places, strict=True) if place is None]
        return {prefix + bare_tomogram_name(name): name for prefix in ("rec_", "") for name in elsewhere} | there

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
    frames, tilts = read_frames(table, file), TiltTables(table, blocks, file)
    rows = table.apply(pd.to_numeric, errors="coerce").to_dict("records")
    result = {}
    for name, row in zip(table["rlnTomoName"].astype(str), rows, strict=True):
        size = shape = None
        binning = row.get(BINNING, 0)
        if (frame := frames.get(name)) is not None and binning > 0:
            size, shape = frame.voxel_size * binning, (round(frame.size[2] / binning), round(frame.size[1] / binning), round(frame.size[0] / binning))
        result[name] = StatedTomogram(name, tilts, size, shape, {str(label): value for label, value in row.items() if np.isfinite(value)})
    return result
