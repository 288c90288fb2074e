"""Annotated tomograms: label maps, a list of particles, or both -> which voxels belong to which particle.

From label maps alone, each connected piece of a label is a particle; from a list alone, each particle is a ball.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from triptych.config import NONE_CLASS, UNKNOWN, CutConfig
from triptych.errors import InputError
from triptych.fourier import resample
from triptych.io.mrc import are_valid, check_values, mrc_files, read_mrc, read_sections
from triptych.io.output_names import CLASSES
from triptych.io.particle_lists import Known, read_particles
from triptych.io.star import numbers, read_star, tables_with
from triptych.io.star_source import check_inside
from triptych.io.tomogram import is_zarr, open_tomogram, stated_frame
from triptych.io.tomogram_names import by_name, called, find_tomogram, tomogram_name
from triptych.particles import Frame, Particles
from triptych.simulation.structures import check_class_names
from triptych.tiling import paint
from triptych.volume import Volume

logger = logging.getLogger(__name__)

SMALLEST_PIECE = 0.2
"""A connected piece of a label map is a particle if it has this share of the voxels of its label's median piece."""
ELSEWHERE = Frame((0, 0, 0), 1.0)
"""Stands for the box of a tomogram that is not cut, whose particles are left out wherever they are."""
LARGEST_LABEL = 65535


@dataclass(frozen=True, eq=False)
class Annotations:
    """All that is known beforehand.

    Attributes
    ----------
    names : of the labels, those of particles first
    classes : how many of them are particles
    numbers : the label map's number of each name
    maps : label map of each tomogram, by the tomogram's name
    particles : the list, if there is one
    inside : for each row of the list the name of its tomogram, "" where that is none of those that are cut, or where the row is no particle
    """

    names: tuple[str, ...]
    classes: int
    numbers: dict[int, int]
    maps: dict[str, Path]
    particles: Particles | None = None
    inside: tuple[str, ...] = ()

    def rows_in(self, name: str) -> NDArray[np.int64]:
        """Rows of the list whose particles are in a tomogram."""
        return self._rows.get(name, np.empty(0, np.int64))

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        names = np.array(self.inside, dtype=object)
        return {str(name): np.asarray(rows, np.int64) for name, rows in pd.Series(names).groupby(names).indices.items()}


@dataclass(frozen=True, eq=False)
class Annotated:
    """A tomogram at the voxel size that is written, with what is in it.

    Attributes
    ----------
    volume : protein bright; its origin is told from the first voxel of the tomogram as it was given
    labels : (nz, ny, nx) 0 for background, else index of the name + 1
    owner : (nz, ny, nx) 0 for none, else row of `places` + 1
    places, label, rotations : of the particles: (n, 3) voxels z, y, x; index of the name; (n, 3, 3)
    """

    volume: Volume
    labels: NDArray[np.uint16]
    owner: NDArray[np.int32]
    places: NDArray[np.float64]
    label: NDArray[np.int64]
    rotations: NDArray[np.float64]


def read_annotations(paths: Sequence[Path], labels: Path | str | None, particles: Path | str | None, config: CutConfig) -> Annotations:
    """Which label map belongs to which tomogram, and what the numbers and classes are called."""
    if labels is None and particles is None:
        raise InputError("no annotation came: give --labels, --particles, or both")
    listed = None if particles is None else read_list(particles, paths, config)
    if listed is not None and (listed.classes is None or listed.tomograms is None):
        what, option = ("in which tomogram", "--tomogram") if listed.tomograms is None else ("of what class", "--class")
        how = f"`triptych convert {particles} OUT.csv --to csv {option} NAME` makes a list that does"
        raise InputError(f"{particles} does not say {what} each particle is: {how}")
    maps: dict[str, Path] = {}
    if labels is not None:
        if not Path(labels).is_dir():
            raise InputError(f"--labels {labels} is no folder: give the folder of the label maps")
        tomograms = {path.resolve() for path in paths}
        files = by_name(file for file in mrc_files(Path(labels)) if file.resolve() not in tomograms)
        maps = {tomogram_name(path): find_tomogram(tomogram_name(path), files, Path(labels), "a label map was expected there") for path in paths}
    of_list = sorted(set(listed.classes or ())) if listed is not None else []
    of_maps = sorted({number for path in maps.values() for number in numbers_in(path)} - {0})
    stated = {} if labels is None else stated_names(Path(labels)) | config.names
    names = {number: stated.get(number, f"class_{number}") for number in of_maps}
    if unnamed := sorted(set(names) - set(stated)):
        warn_of_unnamed(unnamed, set(of_list) - set(names.values()), labels, particles)
    # A name of the list that no label map has is that of a class without voxels.
    classes = sorted({name for name in (*of_list, *names.values()) if name not in config.not_particles})
    check_class_names(classes, reserved=(NONE_CLASS, UNKNOWN))
    others = [name for name in names.values() if name in config.not_particles]
    every = (*classes, *others)
    inside = () if listed is None else locate_particles(listed, paths, particles, config.not_particles)
    return Annotations(every, len(classes), {number: every.index(name) for number, name in names.items()}, maps, listed, inside)


def warn_of_unnamed(numbers: Sequence[int], listed: set[str], labels: Path | str | None, particles: Path | str | None) -> None:
    """Say that a number of the label maps that has no name may be what is only in the list, which would make two classes of it."""
    if listed:
        text = "no classes.star in or beside %s names the number %d (%d such numbers), so it is of the class class_%d, and what %s calls %s is of "
        text += "another one: if they are the same, name the numbers with --set names="
        logger.warning(text, labels, numbers[0], len(numbers), numbers[0], particles, ", ".join(sorted(listed)[:3]))


def read_list(source: Path | str, paths: Sequence[Path], config: CutConfig) -> Particles:
    """The list of particles; where it counts from the tomograms' centres and does not say where these are, the tomograms themselves do."""

    def find_frames(names: Sequence[str]) -> dict[str, Frame]:
        files = by_name(paths)
        meant = {name: called(name, files) for name in dict.fromkeys(names)}
        return {name: Frame.of(*read_frame(found[0], config)) if found else ELSEWHERE for name, found in meant.items()}

    return read_particles(source, Known(input_voxel_size=config.coordinate_pixel_size, find_frames=find_frames))


def locate_particles(listed: Particles, paths: Sequence[Path], source: Path | str | None, others: Sequence[str]) -> tuple[str, ...]:
    """The attribute `inside` of Annotations, `others` being what is no particle; InputError where no row is in any of the tomograms `paths`."""
    files = by_name(paths)
    found: dict[str, str] = {}
    for name in dict.fromkeys(listed.tomograms or ()):
        meant = called(name, files)
        if len(meant) > 1:
            some = " and ".join(map(tomogram_name, meant[:2]))
            raise InputError(f"{source} names the tomogram {name}, which several of the tomograms may be ({some}): rename them")
        found[name] = tomogram_name(meant[0]) if meant else ""
    missing = [name for name, file in found.items() if not file]
    if len(missing) == len(found):
        ours = ", ".join(name for name, _ in files[:3])
        how = f"give those tomograms; if one of these is meant, `triptych convert {source} OUT.csv --to csv --tomogram NAME` renames it"
        raise InputError(f"{source} names no particle in {ours}, but in {', '.join(missing[:3])}: {how}")
    if missing:
        logger.warning("%s names %d more tomograms (%s ...), whose particles are left out", source, len(missing), missing[0])
    no_particles = sorted(set(listed.classes or ()) & set(others))
    if no_particles:
        logger.warning("%s lists %s too, which not_particles says are no particles: these rows are left out", source, ", ".join(no_particles))
    rows = zip(listed.tomograms or (), listed.classes or (), strict=True)
    return tuple("" if kind in others else found[name] for name, kind in rows)


def check_places(source: Path, paths: Sequence[Path], box_size_angstrom: float, known: Annotations, config: CutConfig) -> None:
    """InputError where a listed particle is so far outside its tomogram that nothing of it can be seen."""
    assert known.particles is not None
    assert known.particles.positions is not None
    for path in paths:
        rows = known.rows_in(tomogram_name(path))
        shape, voxel_size = read_frame(path, config)
        nearest = np.floor(known.particles.positions[rows] / voxel_size + 0.5).astype(np.int64)
        how = "check the pixel size in which the list counts (--set coordinate_pixel_size=) and the tomogram's voxel size (--set voxel_size=)"
        check_inside(nearest, shape, math.ceil(box_size_angstrom / voxel_size), rows, source, path, how)


def numbers_in(path: Path) -> set[int]:
    """The numbers of a label map, of which one section at a time is in memory; InputError where it holds others."""
    values = np.unique(np.concatenate([np.unique(section[are_valid(section)]) for section in read_sections(path)]))
    if values.size and (values[0] < 0 or values[-1] > LARGEST_LABEL or (values % 1).any()):
        extent = f"from {values[0]:g} to {values[-1]:g}"
        raise InputError(f"{path} holds values {extent}, but a label map has whole numbers from 0 to {LARGEST_LABEL}: check it")
    return {int(value) for value in values}


def name_tables(folder: Path) -> list[Path]:
    """The files classes.star in and beside a folder of label maps."""
    return [path for path in (folder / CLASSES, folder.absolute().parent / CLASSES) if path.is_file()]


def stated_names(folder: Path) -> dict[int, str]:
    """What a classes.star in or beside the folder of label maps, as we write it, calls their numbers."""
    for path in name_tables(folder):
        table = tables_with(read_star(path), "rlnClassNumber", "triptychClass").get("classes")
        if table is not None:
            found = numbers(table, "rlnClassNumber", path)
            return {round(number): str(name) for number, name in zip(found, table["triptychClass"], strict=True)}
    return {}


def read_frame(path: Path, config: CutConfig) -> tuple[tuple[int, int, int], float]:
    """Shape and voxel size of a tomogram, without its values."""
    shape, stated = stated_frame(path)
    return shape, config.voxel_size or stated or open_tomogram(path).voxel_size  # which says what is wrong with the file's own


def open_volume(path: Path, config: CutConfig) -> Volume:
    """A whole tomogram, as it is."""
    if not is_zarr(path):
        return read_mrc(path, config.voxel_size)
    tomogram = open_tomogram(path, config.voxel_size)
    data = np.asarray(tomogram.data[:], dtype=np.float32)
    check_values(data, path)
    return tomogram.with_data(data)


def read_annotated(path: Path, known: Annotations, config: CutConfig, voxel_size: float) -> Annotated:
    """A tomogram with its annotations, at another voxel size."""
    # Lists count from the first voxel, wherever the file says that this lies.
    raw, name = replace(open_volume(path, config), origin=(0.0, 0.0, 0.0)), tomogram_name(path)
    volume = resample(raw, voxel_size)
    sign = np.float32(1 if config.contrast == "bright" else -1)
    places, label, rotations = listed_particles(name, known, volume)
    if name in known.maps:
        labels = read_labels(known.maps[name], raw, volume, known, config)
        if known.particles is None:
            places, label = find_pieces(labels, known.classes)
            rotations = np.broadcast_to(np.eye(3), (len(places), 3, 3))
        owner = assign_voxels(labels, places, label)
    else:
        labels, owner = draw_balls(volume, places, label, known, config)
    if not len(places):
        logger.warning("%s has no annotated particle", path)
    return Annotated(volume.with_data(sign * volume.data), labels, owner, places, label, rotations)


def listed_particles(name: str, known: Annotations, volume: Volume) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Places in a tomogram, labels and rotations of its particles in the list."""
    particles = known.particles
    if particles is None:
        return np.empty((0, 3)), np.empty(0, np.int64), np.empty((0, 3, 3))
    assert particles.positions is not None
    assert particles.classes is not None
    rows = known.rows_in(name)
    label = np.array([known.names.index(particles.classes[i]) for i in rows], dtype=np.int64)
    unturned = np.broadcast_to(np.eye(3), (len(rows), 3, 3))
    places = (particles.positions[rows] - volume.origin)[:, ::-1] / volume.voxel_size
    return places, label, unturned if particles.rotations is None else particles.rotations[rows]


def read_labels(path: Path, raw: Volume, volume: Volume, known: Annotations, config: CutConfig) -> NDArray[np.uint16]:
    """A label map on the voxels of the resampled tomogram, each taking the nearest value."""
    data = read_mrc(path, config.voxel_size or raw.voxel_size).data
    if data.shape != raw.shape:
        raise InputError(f"the label map {path} has {data.shape} voxels, but its tomogram has {raw.shape}: give maps on the tomogram's own voxels")
    renumber = np.zeros(int(data.max(initial=0)) + 1, dtype=np.uint16)
    for number, index in known.numbers.items():
        if number < len(renumber):
            renumber[number] = index + 1
    nearest = []
    for new, old in zip(volume.shape, raw.shape, strict=True):
        at = np.round((np.arange(new) - new // 2) * volume.voxel_size / raw.voxel_size).astype(int) + old // 2
        nearest.append(np.clip(at, 0, old - 1))
    return renumber[data.astype(np.int64)][np.ix_(*nearest)]


def find_pieces(labels: NDArray[np.uint16], classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres of mass of the connected pieces of each class's label, and their labels; crumbs are left out."""
    places, label = [np.empty((0, 3))], []
    for index in range(classes):
        pieces, count = ndimage.label(labels == index + 1, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        whole = [i + 1 for i in range(count) if sizes[i] >= SMALLEST_PIECE * np.median(sizes)]
        if whole:
            places.append(np.array(ndimage.center_of_mass(pieces > 0, pieces, whole)))
            label += [index] * len(whole)
    return np.concatenate(places), np.array(label, dtype=np.int64)


def assign_voxels(labels: NDArray[np.uint16], places: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.int32]:
    """Each voxel of a class's label belongs to the nearest particle of that class."""
    owner = np.zeros(labels.shape, dtype=np.int32)
    for index in np.unique(label):
        rows = np.flatnonzero(label == index)
        voxels = np.argwhere(labels == index + 1)
        if len(voxels):
            owner[tuple(voxels.T)] = rows[cKDTree(places[rows]).query(voxels)[1]] + 1
    return owner


def draw_balls(
    volume: Volume, places: NDArray[np.float64], label: NDArray[np.int64], known: Annotations, config: CutConfig
) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Label map and owners of particles of which only the place is known."""
    assert known.particles is not None  # there would be label maps
    radii = {**known.particles.radii, **config.radius}
    missing = sorted({known.names[index] for index in label} - set(radii))
    if missing:
        how = f'--set "radius={{{", ".join(f"{name}: 100" for name in missing)}}}" with the right ones in Å'
        raise InputError(f"there is no label map, and radius names no radius for {', '.join(missing)}: give them, as {how}")
    most = max(volume.shape) * volume.voxel_size / 2
    for name in sorted({known.names[index] for index in label}):
        if not volume.voxel_size <= radii[name] <= most:
            what = f"the radius of {name} is {radii[name]:g} Å, but a voxel ({volume.voxel_size:g}) to half the tomogram's longest side ({most:g})"
            raise InputError(f'{what} was expected: give the right one in Å, as --set "radius={{{name}: 100}}"')
    labels, owner = np.zeros(volume.shape, dtype=np.uint16), np.zeros(volume.shape, dtype=np.int32)
    for number, (place, index) in enumerate(zip(places, label, strict=True), start=1):
        radius = radii[known.names[index]]
        reach = int(np.ceil(radius / volume.voxel_size)) + 1
        center = np.round(place).astype(np.int64)
        grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1)
        ball = np.linalg.norm(grid + center - place, axis=-1) <= radius / volume.voxel_size
        paint(labels, ball, index + 1, center - reach)
        paint(owner, ball, number, center - reach)
    return labels, owner
