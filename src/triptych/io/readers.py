"""Where a subtomogram's grey values come from, one particle at a time: MRC files, tomograms that it is cut out of, our Zarr store."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.mrc import MrcHeader, check_values, locate_volume, read_header, read_mrc, stated_voxel_size
from triptych.io.stated import VOXEL_SIZE_TOLERANCE
from triptych.io.tomogram import open_tomogram
from triptych.volume import MAX_BOX, Volume, clip_box

logger = logging.getLogger(__name__)

IntArray = NDArray[np.int64]

READS_PER_MAP = 16
"""Boxes cut out of a tomogram before it is mapped anew."""


class Reader(Protocol):
    """Reads one subtomogram."""

    def read(self, index: int) -> Volume:
        """The subtomogram of that row."""

    def take(self, rows: IntArray) -> Reader:
        """The reader of these rows only, in that order."""


@dataclass(frozen=True, eq=False)
class Images:
    """One MRC file, or one volume of a stack, per particle."""

    paths: list[str]
    numbers: list[int | None]
    voxel_sizes: NDArray[np.float64] | None

    def read(self, index: int) -> Volume:
        size = None if self.voxel_sizes is None else float(self.voxel_sizes[index])
        volume = read_mrc(self.paths[index], size, number=self.numbers[index])
        check_box(volume.shape, self.paths[index])
        return volume

    def take(self, rows: IntArray) -> Images:
        sizes = None if self.voxel_sizes is None else self.voxel_sizes[rows]
        return Images([self.paths[row] for row in rows], [self.numbers[row] for row in rows], sizes)


@dataclass(eq=False)
class Crops:
    """Cubes cut out of tomograms, of which one at a time is mapped into memory."""

    paths: list[Path]
    tomogram: NDArray[np.int64]
    voxel_sizes: list[float]
    centers: NDArray[np.int64]
    box_sizes: list[int]
    mapped: tuple[int, Volume] | None = field(default=None, repr=False)
    reads: int = 0

    def read(self, index: int) -> Volume:
        number = int(self.tomogram[index])
        mapped = self.mapped  # another thread may put another one there at any time
        # What was touched of a mapped file counts as our memory until it is unmapped
        if mapped is None or mapped[0] != number or self.reads >= READS_PER_MAP:
            self.mapped, self.reads, mapped = None, 0, None  # let go of one before taking the next
            mapped = self.mapped = number, open_tomogram(self.paths[number], self.voxel_sizes[number])
        self.reads += 1
        tomogram = mapped[1]
        cube = cut_box(tomogram.data, self.centers[index], (self.box_sizes[number],) * 3)
        check_values(cube, f"{self.paths[number]} around voxel {tuple(self.centers[index, ::-1].tolist())} (x, y, z)")
        low = (self.centers[index] - self.box_sizes[number] // 2)[::-1] * tomogram.voxel_size
        x, y, z = (float(place + start) for place, start in zip(tomogram.origin, low, strict=True))
        return Volume(cube, tomogram.voxel_size, (x, y, z))

    def take(self, rows: IntArray) -> Crops:
        return Crops(self.paths, self.tomogram[rows], self.voxel_sizes, self.centers[rows], self.box_sizes)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "mapped": None}  # a mapped file stays in its process


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a Zarr store."""

    store: Any  # a Store; Zarr only needs to be imported where there is one
    voxel_size: float
    rows: IntArray

    def read(self, index: int) -> Volume:
        row = self.rows[index]
        data = self.store.read_rows("subtomogram", np.array([row]))[0].astype(np.float32)
        check_values(data, f"subtomogram {row} of the dataset")
        return Volume(data, self.voxel_size)

    def take(self, rows: IntArray) -> Rows:
        return Rows(self.store, self.voxel_size, self.rows[rows])


def cut_box(data: NDArray[Any], center: NDArray[np.int64], shape: tuple[int, int, int], fill: float | None = None) -> NDArray[np.float32]:
    """A box around a voxel.

    Parameters
    ----------
    data : array (nz, ny, nx), may be mapped from a file
    center : z, y, x of the voxel that becomes index ``n // 2`` of each axis
    shape : of the box, voxels
    fill : value of what lies outside; None: the mean of what lies inside

    Returns
    -------
    float32 array of that shape
    """
    there, own = clip_box(np.asarray(center) - np.array(shape) // 2, shape, data.shape)
    if any(side.start == side.stop for side in there):
        size, sides = shape[0] if len(set(shape)) == 1 else shape[::-1], data.shape[::-1]
        raise InputError(f"a box of {size} voxels around voxel {tuple(int(c) for c in center[::-1])} lies outside a tomogram of {sides} (x, y, z)")
    with np.errstate(invalid="ignore"):  # NaN is the caller's to find, and is not to spread
        inside = np.array(data[there], dtype=np.float32)
        level = inside.mean(dtype=np.float64, where=np.isfinite(inside)) if fill is None else fill
        box = np.full(shape, level, dtype=np.float32)
    box[own] = inside
    return box


# -------------------------------------------------------------------------------------------------------------- checks


def check_box(shape: tuple[int, ...], path: str | Path) -> None:
    if len(set(shape)) != 1:
        sides = " x ".join(str(n) for n in reversed(shape))
        raise InputError(
            f"{path} has {sides} voxels (x, y, z), but a subtomogram is a cube: extract cubic boxes, "
            "or for a tomogram give a STAR file with coordinates"
        )
    if shape[0] > MAX_BOX:
        raise InputError(f"{path} is a cube of {shape[0]} voxels, but a subtomogram has at most {MAX_BOX}: give a STAR file with coordinates in it")


def _volume_shape(header: MrcHeader, number: int | None) -> tuple[int, ...]:
    """Shape of one volume; a stack of cubes that does not call itself one counts as a stack where a number asks for it."""
    depth, rows, columns = header.shape
    if header.volumes > 1:
        return depth // header.volumes, rows, columns
    if number is not None and rows == columns and depth % rows == 0:
        return rows, rows, columns
    return header.shape


def check_images(
    paths: list[str], counts: list[int | None], stated: NDArray[np.float64] | None, given: float | None, where: Callable[[int], str]
) -> None:
    """Check headers: of every file where they must give the voxel size, else of one file of each length.

    A truncated file has another length, so it is found; to look at a length is much cheaper than to open a file.
    """
    seen: set[tuple[object, ...]] = set()
    done: set[str] = set()
    disagreeing: list[tuple[str, float, float]] = []
    for index, path in enumerate(paths):
        if path in done and counts[index] is None:
            continue
        done.add(path)
        size = None if stated is None else float(stated[index])
        try:
            length = os.stat(path).st_size
        except OSError as error:
            raise InputError(f"{where(index)} is {path}, which cannot be read ({error.strerror}): check the file and your rights") from None
        key = (length, size, counts[index], path if counts[index] is not None else None)
        if key in seen and (size is not None or given is not None):
            continue
        seen.add(key)
        header = read_header(path)
        if header.image_stack and counts[index] is None:
            raise InputError(f"{path} is a stack of 2-D images, but a 3-D subtomogram was expected: export 3-D subtomograms")
        check_box(_volume_shape(header, counts[index]), path)
        locate_volume(header, counts[index], Path(path))
        own = stated_voxel_size(header)
        if size is None and given is None and own is None:
            read_mrc(path, number=counts[index])  # says what is wrong with the header's voxel size
        if size is not None and own is not None and abs(own / size - 1) > VOXEL_SIZE_TOLERANCE:
            disagreeing.append((path, own, size))
    if disagreeing:
        path, own, size = disagreeing[0]
        if given is not None:
            logger.warning("the header of %s states %g Å per voxel, but %g Å is used as set", path, own, given)
        else:
            what = "the STAR file states %g Å per voxel, but the header of %s states %g Å"
            logger.warning(f"{what}: the STAR file's is used (--set voxel_size= decides otherwise)", size, path, own)
