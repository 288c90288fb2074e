"""A 3-D array that knows its voxel size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from triptych.config import LARGEST_VOXEL_SIZE, LEAST_VOXEL_SIZE
from triptych.errors import InputError

MAX_BOX = 512
"""Voxels along a side of a subtomogram: what is larger would not be handled in one piece."""
Slices = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Volume:
    """A density on a cubic grid.

    Attributes
    ----------
    data : float array, shape (nz, ny, nx)
        Array order is ``[z, y, x]``, the beam along z, the tilt axis along y. The centre of an axis
        of n voxels is index ``n // 2``.
    voxel_size : float
        Å per voxel, the same along the three axes.
    origin : tuple of float
        Å, position (x, y, z) of the centre of voxel [0, 0, 0].
    """

    data: NDArray[np.float32]
    voxel_size: float
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise InputError(f"a volume has 3 axes, but this array has shape {self.data.shape}")
        if 0 in self.data.shape:
            raise InputError(f"a volume of {' x '.join(map(str, self.data.shape))} voxels holds nothing: give one with sides of at least 1 voxel")
        if not np.isfinite(self.voxel_size) or self.voxel_size <= 0:
            raise InputError(f"the voxel size is {self.voxel_size} Å, but must be a positive number: give the right one")

    @property
    def shape(self) -> tuple[int, int, int]:
        nz, ny, nx = self.data.shape
        return nz, ny, nx

    def with_data(self, data: NDArray[np.float32]) -> Volume:
        """The same frame around other values."""
        return replace(self, data=data)


Volumes: TypeAlias = Volume | NDArray[np.float32] | list[Volume] | list[NDArray[np.float32]]


def as_volumes(volumes: Volumes, voxel_size: float | None) -> list[Volume]:
    """Whatever a caller has -> list of Volumes."""
    if isinstance(volumes, Volume):
        return [volumes]
    if not isinstance(volumes, list | tuple):
        array = as_array(volumes)
        if array.ndim not in (3, 4):
            raise InputError(f"volumes of shape {array.shape} came; expected (n, nz, ny, nx) or (nz, ny, nx)")
        volumes = list(array if array.ndim == 4 else array[None])
    return [as_volume(volume, voxel_size) for volume in volumes]


def as_volume(volume: Volume | NDArray[np.float32], voxel_size: float | None) -> Volume:
    if isinstance(volume, Volume):
        return volume
    if voxel_size is None:
        raise InputError("an array does not say its voxel size: give voxel_size in Å")
    if np.asarray(voxel_size).dtype.kind not in "fiu":
        raise InputError(f"voxel_size is {voxel_size!r}, but must be a number of Å")
    return Volume(as_array(volume), float(voxel_size))


def as_array(values: ArrayLike) -> NDArray[np.float32]:
    """Grey values as float32; InputError unless they are real numbers."""
    kind = np.asarray(values).dtype
    if kind.kind not in "fiub":
        what = f"values of the type {kind} came, but arrays of real numbers or Volumes were expected"
        raise InputError(f"{what}: read a file with triptych.io.mrc.read_mrc, or give its name to triptych.predict")
    return np.asarray(values, dtype=np.float32)


def can_be_voxel_sizes(sizes: ArrayLike) -> NDArray[np.bool_]:
    """Which sizes, in Å, voxels of tomograms and subtomograms or the pixels of their tilt series can have."""
    sizes = np.asarray(sizes, np.float64)
    return (sizes >= LEAST_VOXEL_SIZE) & (sizes <= LARGEST_VOXEL_SIZE)


def check_voxel_sizes(sizes: ArrayLike, what: str) -> None:
    """InputError where a size, or that of a particle, in Å, is none that voxels or pixels can have; `what` says what it is."""
    sizes = np.asarray(sizes, np.float64)
    if (wrong := np.flatnonzero(~can_be_voxel_sizes(sizes))).size:
        which = f" (particle {wrong[0] + 1})" if sizes.ndim else ""
        limits = f"between {LEAST_VOXEL_SIZE:g} and {LARGEST_VOXEL_SIZE:g} Å"
        raise InputError(f"{what} is {sizes.flat[wrong[0]]:g} Å{which}, but must be {limits}: correct it, or say the right one")


def standardise(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift and scale each volume to mean 0 and standard deviation 1 over its whole box.

    This is the only normalisation of grey values in triptych, the same in training and prediction.

    Parameters
    ----------
    data : float array, shape (..., nz, ny, nx)

    Returns
    -------
    float32 array of the same shape. A constant volume becomes all zeros.
    """
    data = np.asarray(data, dtype=np.float32)
    axes = (-3, -2, -1)
    centred = data - data.mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    deviation = centred.std(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    standard: NDArray[np.float32] = centred / np.where(deviation > 0, deviation, np.float32(1))
    return standard


def clip_box(start: ArrayLike, size: ArrayLike, shape: tuple[int, ...]) -> tuple[Slices, Slices]:
    """What a box and an array have in common, as slices of the array and of the box; both are empty where that is nothing.

    Parameters
    ----------
    start : index of the array at which the box starts, which may lie outside
    size, shape : of the box and of the array
    """
    start = np.asarray(start)
    low, high = np.clip(start, 0, shape), np.clip(start + size, 0, shape)
    inside, own = (tuple(slice(int(a), int(b)) for a, b in zip(*ends, strict=True)) for ends in ((low, high), (low - start, high - start)))
    return inside, own


def crop_or_pad(data: NDArray[np.float32], shape: tuple[int, int, int], fill: float | None = None) -> NDArray[np.float32]:
    """Crop or pad the last three axes around the centre (index ``n // 2`` stays the centre).

    Parameters
    ----------
    data : array, shape (..., nz, ny, nx)
    shape : the wanted size of the last three axes
    fill : value of the new voxels; default: the mean of each volume before it is cropped
    """
    wanted = (*data.shape[:-3], *shape)
    start = [have // 2 - want // 2 for have, want in zip(data.shape, wanted, strict=True)]
    inside, own = clip_box(start, wanted, data.shape)
    box = np.empty(wanted, data.dtype)
    box[...] = data.mean(axis=(-3, -2, -1), keepdims=True) if fill is None else fill
    box[own] = data[inside]
    return box


def raised_cosine(position: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """A soft edge: 1 up to position 0, 0 from position 1 on."""
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(position, 0, 1)), dtype=np.float32)


def soften(inside: NDArray[np.bool_], voxel_size: float, reach: float, edge: float) -> NDArray[np.float32]:
    """Soft mask around voxels (nz, ny, nx): 1 up to `reach` Å from them, then a raised cosine that falls to 0 over `edge` Å."""
    return raised_cosine((ndimage.distance_transform_edt(~inside) * voxel_size - reach) / edge)


def bin_voxels(data: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means of cubes of `factor` voxels a side; what is left over at the ends is cut off."""
    if factor == 1:
        return data
    nz, ny, nx = (n // factor for n in data.shape)
    cubes = data[: nz * factor, : ny * factor, : nx * factor].reshape(nz, factor, ny, factor, nx, factor)
    return np.asarray(cubes.mean(axis=(1, 3, 5)), dtype=np.float32)


def spread_numbers(count: int, most: int) -> list[int]:
    """At most so many of the numbers from 0 to count - 1, evenly spread, the first and the last among them."""
    return [int(number) for number in np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))]


def spread_boxes(data: NDArray[Any], width: int, most: int) -> Iterator[NDArray[np.float32]]:
    """Boxes from all over a volume, at most so many, whose sides are at most `width` voxels; they overlap as little as can be.

    Parameters
    ----------
    data : (nz, ny, nx), perhaps mapped from a file: only what is in the boxes is read
    """
    sides = [min(width, n) for n in data.shape]
    counts = [max(1, round(n / max(side, 1))) for n, side in zip(data.shape, sides, strict=True)]
    starts = [
        np.clip((np.arange(count) + 0.5) * n / count - side / 2, 0, n - side).astype(int)
        for n, side, count in zip(data.shape, sides, counts, strict=True)
    ]
    corners = list(itertools.product(*starts))
    for number in spread_numbers(len(corners), most):
        yield np.asarray(data[tuple(slice(a, a + side) for a, side in zip(corners[number], sides, strict=True))], dtype=np.float32)
