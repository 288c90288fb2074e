"""Whole tomograms, of which only the pieces that are looked at are read: MRC files and OME-Zarr groups."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.mrc import (
    common_voxel_size,
    is_mrc_name,
    locate_volume,
    mmap_mrc,
    mrc_files,
    read_header,
    read_mrc,
    stated_voxel_size,
)
from triptych.io.tomogram_names import tomogram_name
from triptych.io.zarr_files import CheckedArray, zarr_errors
from triptych.volume import Volume

UNITS = {"angstrom": 1.0, "nanometer": 10.0, "micrometer": 1e4}
"""Å per unit of length."""
LARGEST_UNPACKED = 2**31
"""Bytes of values of a compressed tomogram that are unpacked into memory."""


def find_tomograms(inputs: Sequence[Path | str]) -> list[Path]:
    """The tomograms that files, folders of files, and OME-Zarr groups stand for; InputError where there are none or a name comes twice."""
    found: list[Path] = []
    for item in map(Path, inputs):
        if is_tomogram(item):
            found.append(item)
        elif item.is_file():
            raise InputError(f"{item} is no tomogram: give tomograms as MRC files (.mrc, .rec, .map), OME-Zarr groups, or folders of them")
        elif item.is_dir():
            inside = tomogram_files(item)
            if not inside:
                how = "give the folder that they are in"
                raise InputError(f"the folder {item} holds no tomogram, but MRC files or OME-Zarr groups were expected: {how}")
            found += inside
        else:
            raise InputError(f"{item} does not exist: give tomograms as MRC files, OME-Zarr groups, or folders of them")
    check_unique([(tomogram_name(path), path) for path in found])
    return found


def check_unique(tomograms: Iterable[tuple[str, Path]]) -> None:
    """InputError where two tomograms, by name and file, are called the same, or are the same file."""
    files: dict[str, str] = {}
    for name, path in tomograms:
        if name in files:
            raise InputError(f"several tomograms are called {name}: rename them, since results are written under that name")
        files[name] = os.path.realpath(path)
    names: dict[str, str] = {}
    for name, file in files.items():
        if (other := names.setdefault(file, name)) != name:
            raise InputError(f"the tomograms {other} and {name} are the same file, {file}: give it once, or correct the table that names it")


def tomogram_files(folder: Path) -> list[Path]:
    """The MRC files in a folder, then the OME-Zarr groups."""
    return [*mrc_files(folder), *sorted(path for path in folder.iterdir() if is_zarr(path))]


def is_tomogram(path: Path) -> bool:
    """Whether there is an MRC file or a Zarr group."""
    return (is_mrc_name(path) and path.is_file()) or is_zarr(path)


def is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def is_ome_zarr(path: Path) -> bool:
    """Whether a folder is an OME-Zarr image rather than any other Zarr group."""
    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs) if is_zarr(path) else {}
    except (ValueError, KeyError, TypeError, OSError):
        return False
    ome = attributes.get("ome", attributes)
    return isinstance(ome, dict) and "multiscales" in ome


@lru_cache(maxsize=1)
def unpack_tomogram(path: Path, _changed: int, voxel_size: float | None, setting: str) -> Volume:
    """A compressed tomogram as a whole, once for each state of the file."""
    if read_header(path).data_bytes > LARGEST_UNPACKED:
        size = f"{LARGEST_UNPACKED / 1e9:.1f} GB"
        raise InputError(f"{path} is compressed and holds more than {size}, which would be unpacked into memory: decompress the file first")
    return read_mrc(path, voxel_size, setting=setting)


def stated_frame(path: Path) -> tuple[tuple[int, int, int], float | None]:
    """Shape (nz, ny, nx) of a tomogram and its voxel size in Å, None where the file states none; nothing is unpacked for it."""
    if is_zarr(path):
        array, size, _ = _finest_level(path)
        nz, ny, nx = array.shape
        return (nz, ny, nx), size
    header = read_header(path)
    locate_volume(header, None, path)
    return header.shape, stated_voxel_size(header)


def open_tomogram(path: Path, voxel_size: float | None = None, *, setting: str = "voxel_size") -> Volume:
    """A tomogram whose data are read when they are sliced.

    Parameters
    ----------
    path : MRC file, or OME-Zarr group (version 0.4 or 0.5), of which the finest level is taken; a compressed file is unpacked into memory
    voxel_size : Å; None: as the file says
    setting : the setting that a message about the voxel size tells the user to set
    """
    if not is_zarr(path):
        if not is_mrc_name(path):
            raise InputError(f"{path} is no tomogram that triptych reads: an MRC file (.mrc, .rec, .map) or an OME-Zarr group was expected")
        if read_header(path).compression:
            return unpack_tomogram(path, path.stat().st_mtime_ns, voxel_size, setting)
        return mmap_mrc(path, voxel_size, setting=setting)
    array, stated, origin = _finest_level(path)
    if voxel_size is None and stated is None:
        raise InputError(f"{path} does not say its voxel size in Å: say it with --set {setting}=...")
    return Volume(cast(NDArray[np.float32], array), voxel_size or cast(float, stated), origin)


def _finest_level(path: Path) -> tuple[CheckedArray, float | None, tuple[float, float, float]]:
    """The finest level of an OME-Zarr image, and its `_stated_frame`."""
    with zarr_errors(f"{path} is not an OME-Zarr image", "a group with 'multiscales' was expected"):
        group = zarr.open_group(path, mode="r")
        attributes: dict[str, Any] = dict(group.attrs)
        image = attributes.get("ome", attributes)["multiscales"][0]
        level = str(image["datasets"][0]["path"])
        array = group[level]
        stated, origin = _stated_frame(image)
    if not isinstance(array, zarr.Array) or array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise InputError(f"the finest level of {path} is no array of numbers with 3 axes: an image with the axes z, y, x was expected")
    return CheckedArray(array, path / level, "copy or make it again"), stated, origin


def _stated_frame(image: dict[str, Any]) -> tuple[float | None, tuple[float, float, float]]:
    """Å per voxel of the finest level, None where not stated or not the same along the axes; x, y, z in Å of its first voxel, or zeros."""
    axes = [axis for axis in image.get("axes", ()) if isinstance(axis, dict)]
    units = np.array([UNITS.get(str(axis.get("unit", "angstrom")).lower(), np.nan) for axis in axes] or [1.0] * 3)
    # Those of the level come first, then those of all levels (OME-NGFF 0.4 and 0.5, "multiscales" metadata).
    steps = [*image["datasets"][0].get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())]
    steps = [(step["type"], step[step["type"]]) for step in steps if step.get("type") in ("scale", "translation")]
    if np.isnan(units).any() or not all(len(values) == len(units) == 3 for _, values in steps):
        return None, (0.0, 0.0, 0.0)
    scale, start = np.ones(3), np.zeros(3)
    for kind, values in steps:
        scale, start = (scale * values, start * values) if kind == "scale" else (scale, start + values)
    size = common_voxel_size(scale * units)
    # A scale of 1 in no unit says no more than a header's 1 Å.
    is_stated = any(kind == "scale" for kind, _ in steps) and (size != 1 or any("unit" in axis for axis in axes))
    z, y, x = (start * units).tolist()
    return size if is_stated else None, (x, y, z)
