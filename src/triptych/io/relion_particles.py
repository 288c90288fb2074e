"""STAR files of RELION, Warp and M -> particles, wherever these count from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.relion import (
    BINNING,
    CENTERED,
    CLASSES,
    COORDINATES,
    M_COORDINATES,
    SCORES,
    UNBINNED_PIXEL_SIZES,
    RelionFile,
    agrees,
    read_frames,
    read_relion,
    rotations_from_angles,
)
from triptych.io.star import numbers, read_star, tables_with
from triptych.io.tomogram_names import bare_tomogram_name
from triptych.particles import Frame, Particles

logger = logging.getLogger(__name__)

FrameFinder: TypeAlias = Callable[[Sequence[str]], Mapping[str, Frame]]
M_ANGLES, M_NAME, M_HALF = ("wrpAngleRot1", "wrpAngleTilt1", "wrpAnglePsi1"), "wrpSourceName", "wrpRandomSubset"
"""What M writes besides the coordinates: Warp's angles, the first ones, too."""


def particles_from_relion(
    path: Path | str, coordinate_pixel_size: float | None = None, find_frames: FrameFinder | None = None, find_others: FrameFinder | None = None
) -> Particles:
    """Particles of a STAR file: its table, and whatever of positions, rotations, classes and scores is in it.

    RELION 5's coordinates become positions from the first voxel only where `find_frames` finds the boxes of the tomograms that it
    is given the names of, or a table of tomograms states their size, or the particles state their coordinates from the first voxel, too, or the
    tomograms are where the file says that they are, or `find_others` finds their boxes, which counts only where the file itself does not tell them.
    """
    file = read_relion(path)
    stated, centers = _find_centers(file, find_frames, find_others)
    if file.unset_pixel_size and coordinate_pixel_size is None:
        logger.warning("%s; if it is wrong, correct it, or give the right one with --input-voxel-size (convert)", file.unset_pixel_size)
    if file.counts_fractions and coordinate_pixel_size is not None:
        logger.warning("%s counts in %s: --input-voxel-size does not matter to it", file.path, file.coordinate_rule())
    score, name = _column(file, SCORES), _column(file, CLASSES)
    return Particles(
        file.table,
        _positions(file, coordinate_pixel_size, centers),
        file.rotations(),
        tomograms=file.tomogram_names,
        classes=None if name is None else _class_names(name),
        scores=None if score is None else np.asarray(pd.to_numeric(score, errors="coerce"), dtype=np.float64),
        pixel_sizes=_pixel_sizes(file, coordinate_pixel_size),
        series_pixel_sizes=file.values(UNBINNED_PIXEL_SIZES[0]) if file.is_warp else None,  # Warp counts in the pixels of its export
        frames=stated,
        blocks={key: block for key, block in file.blocks.items() if key != file.block},
        tomogram_blocks=file.tomogram_blocks,
        file=file.path,
        tomograms_file=file.tomograms_file,
    )


def particles_from_m(path: Path | str) -> Particles:
    """Particles of a species of M (its ..._particles.star), whose half sets become rlnRandomSubset."""
    path = Path(path)
    table = next(iter(tables_with(read_star(path), M_COORDINATES[0]).values()), pd.DataFrame())
    missing = [name for name in (*M_COORDINATES, *M_ANGLES, M_NAME) if name not in table]
    if missing or table.empty:
        what = f"lacks the column {missing[0]}" if missing else "lists no particles"
        raise InputError(f"{path} {what}, but M's particles of a species were expected: write it anew")
    places, angles = (np.stack([numbers(table, name, path) for name in names], axis=1) for names in (M_COORDINATES, M_ANGLES))
    return Particles(
        table.drop(columns=[*M_COORDINATES, *M_ANGLES, M_NAME]).rename(columns={M_HALF: "rlnRandomSubset"}),
        places,
        rotations_from_angles(angles),
        tomograms=[str(name) for name in table[M_NAME]],
    )


def _column(file: RelionFile, labels: Sequence[str]) -> pd.Series | None:
    """The first of the columns that is there."""
    return next((file.table[label] for label in labels if label in file.table), None)


def _class_names(column: pd.Series) -> list[str] | None:
    """Classes as names: numbers without ".0"; NaN, which says that none is known, is 0, and none of all where there is nothing else."""
    if not pd.api.types.is_float_dtype(column):
        return [str(value) for value in column]
    return None if column.isna().all() else [f"{value:.15g}" for value in column.fillna(0)]


def _check_frames(frames: Mapping[str, Frame], implied: Mapping[str, NDArray[np.float64]], file: RelionFile) -> None:
    """InputError where a tomogram is said to be another one than the particles, which state where they are from its corner and its centre, say.

    They may count in the voxels of a binned tomogram, by the rounding of which it may differ.
    """
    pixel, binning = file.values(UNBINNED_PIXEL_SIZES[0]), file.values(BINNING)
    slack = 0.0 if pixel is None else float((pixel if binning is None else pixel * binning).max())
    for name, frame in frames.items():
        if not agrees(frame, implied.get(name), slack):
            size, voxel_size = " x ".join(map(str, frame.size)), frame.voxel_size
            x, y, z = implied[name]
            there = f"{file.path} places the centre of the tomogram {name} at {x:.1f}, {y:.1f}, {z:.1f} Å"
            raise InputError(f"{there}, but that of {size} voxels of {voxel_size:g} Å is elsewhere: leave the option out, or give the right size")


def _find_centers(
    file: RelionFile, find_frames: FrameFinder | None, find_others: FrameFinder | None
) -> tuple[dict[str, Frame], dict[str, NDArray[np.float64]]]:
    """The tomograms' boxes as the file states them, and the centres that its coordinates count from, or whose double they are fractions of."""
    stated, names = read_frames(file.tomograms, file.tomograms_file or file.path), file.tomogram_names
    if names is None or not (set(CENTERED) <= set(file.table.columns) or file.counts_fractions):
        return stated, {}
    bare = {bare_tomogram_name(name): frame for name, frame in stated.items()}
    stated |= {name: bare[bare_tomogram_name(name)] for name in names if bare_tomogram_name(name) in bare}
    implied, frames = file.implied_centers(), stated
    if find_frames is not None:
        frames = dict(find_frames(names))
        _check_frames(frames, implied, file)
    elif not set(names) <= set(stated):
        others = file.frames_of_files() | dict(find_others(names) if find_others else {})
        stated = frames = {name: frame for name, frame in others.items() if agrees(frame, implied.get(name))} | stated
    return stated, {name: frame.center for name, frame in frames.items()} | implied  # which is where the places from the corner are exactly


def _positions(file: RelionFile, pixel_size: float | None, centers: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64] | None:
    labels = set(file.table.columns)
    if not (set(COORDINATES) <= labels or set(CENTERED) <= labels):
        return None
    if not (file.counts_fractions or set(CENTERED) <= labels):
        return file.coordinates(pixel_size)[0]
    names = file.tomogram_names
    if names is None or any(name not in centers for name in names):
        how = "in fractions of the tomograms' sides" if file.counts_fractions else "from the tomograms' centres"
        raise InputError(
            f"{file.path} counts positions {how}, but no tomograms.star beside it states the sizes of all (rlnTomoSizeX/Y/Z, "
            "above 0, and rlnTomoTiltSeriesPixelSize), nor does the header of each tomogram, if it names them: put it there, or give convert the "
            "tomograms with --tomograms, or --tomogram-size, and --voxel-size where no header states it"
        )
    places = np.stack([centers[name] for name in names])
    positions, centered = file.coordinates(sides=2 * places)
    return positions + places if centered else positions


def _pixel_sizes(file: RelionFile, given: float | None) -> NDArray[np.float64] | None:
    """Å per pixel that the coordinates of each particle count in; of the unbinned tilt series, where they count in Å."""
    labels = set(file.table.columns)
    if set(CENTERED) <= labels:
        return file.values(UNBINNED_PIXEL_SIZES[0])
    if not set(COORDINATES) <= labels or file.counts_fractions:
        return None
    return file.coordinate_pixel_size(given)
