"""Annotated tomograms -> dataset store: what `simulate` writes, cut from a user's own tomograms.

The annotations are label maps, a list of particles, or both. From label maps alone, each connected piece of a label is a particle; from
a list alone, each particle is a ball. There is no noise-free signal and no clean density: the task density learns nothing from it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from triptych.config import NONE_CLASS, UNKNOWN, CutConfig
from triptych.errors import InputError
from triptych.fourier import resample
from triptych.io.manifest import recognise_input, write_manifest
from triptych.io.mrc import are_valid, check_values, mrc_files, read_mrc, read_sections
from triptych.io.output_names import CLASSES
from triptych.io.outputs import check_apart
from triptych.io.particle_lists import Known, read_particles
from triptych.io.readers import cut_box
from triptych.io.star import numbers, read_star
from triptych.io.star_source import check_inside
from triptych.io.store import Rows, check_shift, create_store, open_store, remove_leftovers
from triptych.io.tomogram import find_tomograms, is_zarr, open_tomogram, stated_frame
from triptych.io.tomogram_names import by_name, called, find_tomogram, tomogram_name
from triptych.parallel import Progress
from triptych.particles import Frame, Particles
from triptych.simulation.structures import check_class_names
from triptych.tiling import paint
from triptych.volume import Volume, standardise
from triptych.workspace import Workspace, open_workspace

logger = logging.getLogger(__name__)

SMALLEST_PIECE = 0.2
"""A connected piece of a label map is a particle if it has this share of the voxels of its label's median piece."""
NONE_TRIES = 100
ELSEWHERE = Frame((0, 0, 0), 1.0)
"""Stands for the box of a tomogram that is not cut, whose particles are left out wherever they are."""
LARGEST_LABEL = 65535
ARRAYS = ("subtomogram", "mask", "label", "tomogram", "position", "rotation", "shift", "box_position")
TILE_ARRAYS = ("tiles/subtomogram", "tiles/labels", "tiles/centres", "tiles/tomogram", "tiles/position")
Array = NDArray[np.float32]


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


def cut(
    tomograms: Sequence[Path | str],
    out: Path | str,
    labels: Path | str | None = None,
    particles: Path | str | None = None,
    config: CutConfig | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Write a dataset store from annotated tomograms.

    What is cut from a tomogram is kept in a working folder beside `out`: the same call goes on after a kill.

    Parameters
    ----------
    tomograms : MRC files, OME-Zarr groups, or folders of them
    out : the store to make, e.g. "own.zarr"
    labels : folder of label maps, whose names begin with those of the tomograms
    particles : list of particles with classes, in any format that `triptych convert` reads; where it counts from the centres of its tomograms,
        a table of tomograms beside it says where these are, else the tomograms themselves, as for `predict`
    on_progress : called with (tomograms done, tomograms in all)

    Raises
    ------
    InputError
        If there is no annotation, or it does not fit the tomograms.
    """
    config = config or CutConfig()
    paths = find_tomograms(tomograms)
    given = [Path(path) for path in (labels, particles) if path is not None]
    inputs = [*paths, *given, *([] if labels is None else name_tables(Path(labels)))]
    check_apart(Path(out), [*map(Path, tomograms), *inputs])
    known = read_annotations(paths, labels, particles, config)
    size = config.model_voxel_size or read_frame(paths[0], config)[1]
    side = size * config.box_size
    check_shift(config.max_shift, side)
    if particles is not None:
        check_places(Path(particles), paths, side, known, config)
    settings = {"inputs": [recognise_input(path) for path in inputs], **config.model_dump(mode="json")}
    workspace = open_workspace(Path(out), settings, partial(create_empty, len(paths), size, known, config))
    with workspace.until_finished():
        write = partial(write_tomogram, workspace, paths, size, known, config)
        workspace.fill(range(len(paths)), write, lambda _: 1, 1, None, on_progress)
        remove_leftovers(workspace.result)
        arguments = {"tomograms": tomograms, "labels": labels, "particles": particles}
        about = {"class_names": class_names(known)}
        workspace.finish(lambda folder: write_manifest(folder, "cut", config, inputs, config.seed, about, arguments))
    return Path(out)


def class_names(known: Annotations) -> list[str]:
    return [*known.names[: known.classes], NONE_CLASS]


def create_empty(tomograms: int, voxel_size: float, known: Annotations, config: CutConfig, path: Path) -> None:
    """An empty store."""
    attributes = {"seed": config.seed, "config": config.model_dump(mode="json"), "label_names": list(known.names)}
    rows, tiles = (Rows(tomograms * n, n) for n in (config.particles_per_tomogram, config.tiles_per_tomogram))
    create_store(path, rows, tiles, voxel_size, config.box_size, tuple(class_names(known)), attributes, (*ARRAYS, *TILE_ARRAYS))


def write_tomogram(workspace: Workspace, paths: Sequence[Path], voxel_size: float, known: Annotations, config: CutConfig, number: int) -> int:
    """Put what is cut from a tomogram into the store and note that it is there; return 1."""
    rng = np.random.default_rng((config.seed, number))
    annotated = read_annotated(paths[number], known, config, voxel_size)
    store = open_store(workspace.result, mode="r+")
    for name, values in cut_rows(rng, annotated, config, number, known.classes).items():
        store.write(name, number * len(values), values)
    workspace.mark(number)
    return 1


# -------------------------------------------------------------------------------------------------------- annotations


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
        table = read_star(path).get("classes")
        if isinstance(table, pd.DataFrame) and {"rlnClassNumber", "triptychClass"} <= set(table):
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


# ------------------------------------------------------------------------------------------------------------- cutting


def cut_rows(rng: np.random.Generator, annotated: Annotated, config: CutConfig, number: int, classes: int) -> dict[str, NDArray[Any]]:
    """All arrays of the store for one tomogram."""
    nones = round(config.particles_per_tomogram * config.none_share) if len(annotated.places) else config.particles_per_tomogram
    chosen = choose_evenly(rng, annotated.label, config.particles_per_tomogram - nones)
    rows = [particle_row(rng, annotated, config, int(i)) for i in chosen] + [none_row(rng, annotated, config, classes) for _ in range(nones)]
    tiles = [tile_row(rng, annotated, config) for _ in range(config.tiles_per_tomogram)]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    arrays |= {f"tiles/{name}": np.stack([tile[name] for tile in tiles]) for name in (tiles[0] if tiles else ())}
    arrays["tomogram"] = np.full(len(rows), number)
    return arrays | ({"tiles/tomogram": np.full(len(tiles), number)} if tiles else {})


def choose_evenly(rng: np.random.Generator, label: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of particles, each class as often as any other."""
    if not len(label):
        return np.empty(0, dtype=np.int64)
    members = [np.flatnonzero(label == index) for index in np.unique(label)]
    return np.array([rng.choice(members[rng.integers(len(members))]) for _ in range(count)])


@dataclass(frozen=True, eq=False)
class View:
    """A box of a tomogram: where its middle lies, and how it is turned.

    Attributes
    ----------
    center : (3,) voxel z, y, x that becomes index n // 2 of each axis
    turn : (3, 3) rotation of the box's axes into the tomogram's, on (z, y, x); None: they are the tomogram's
    """

    center: NDArray[np.int64]
    turn: NDArray[np.float64] | None

    def grey(self, data: Array, size: int) -> Array:
        """Grey values that half precision holds: mean 0, standard deviation 1."""
        box = cut_box(data, self.center, (size,) * 3) if self.turn is None else self._turned(data, size, 3, None)
        return standardise(box)

    def numbers(self, data: NDArray[Any], size: int) -> NDArray[Any]:
        """Labels or owners, 0 outside of the tomogram."""
        box = cut_box(data, self.center, (size,) * 3, fill=0) if self.turn is None else self._turned(data, size, 0, 0)
        return np.asarray(box, dtype=data.dtype)

    def inward(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxels z, y, x of the tomogram as (z, y, x) from the box's middle."""
        apart = places - self.center
        return apart if self.turn is None else apart @ self.turn

    def position(self, volume: Volume) -> NDArray[np.float64]:
        """x, y, z in Å of its middle."""
        return np.asarray(self.center[::-1] * volume.voxel_size + volume.origin, np.float64)

    def rotation(self, rotation: NDArray[np.float64]) -> NDArray[np.float64]:
        """A rotation reference -> tomogram as one reference -> box, on (x, y, z)."""
        return rotation if self.turn is None else self.turn[::-1, ::-1].T @ rotation

    def _turned(self, data: NDArray[Any], size: int, order: int, fill: float | None) -> Array:
        assert self.turn is not None
        reach = 2 * math.ceil(math.sqrt(3) * size / 2) + 2  # the box's corners at any rotation
        around = cut_box(data, self.center, (reach,) * 3, fill)
        offset = reach // 2 - self.turn @ np.full(3, size // 2)
        return np.asarray(ndimage.affine_transform(around, self.turn, offset, (size,) * 3, order=order, mode="nearest"), dtype=np.float32)


def draw_view(rng: np.random.Generator, center: NDArray[np.int64], config: CutConfig) -> View:
    turn = Rotation.random(rng=rng).as_matrix() if rng.random() < config.turned_share else None
    return View(center, turn)


def particle_row(rng: np.random.Generator, annotated: Annotated, config: CutConfig, row: int) -> dict[str, Any]:
    """A box around a particle, shifted at random."""
    volume, place = annotated.volume, annotated.places[row]
    reach = config.max_shift / volume.voxel_size
    center = np.clip(np.round(place + rng.uniform(-reach, reach, 3)).astype(np.int64), 0, np.array(volume.shape) - 1)
    view = draw_view(rng, center, config)
    return {
        "subtomogram": view.grey(volume.data, config.box_size),
        "mask": view.numbers(annotated.owner, config.box_size) == row + 1,
        "label": annotated.label[row],
        "position": place[::-1] * volume.voxel_size + volume.origin,
        "rotation": view.rotation(annotated.rotations[row]),
        "shift": view.inward(place)[::-1] * volume.voxel_size,
        "box_position": view.position(volume),
    }


def none_row(rng: np.random.Generator, annotated: Annotated, config: CutConfig, classes: int) -> dict[str, Any]:
    """A box whose middle belongs to no particle: the farthest from them of many, or nearly."""
    volume = annotated.volume
    centers = rng.integers(0, volume.shape, (NONE_TRIES, 3))
    label = annotated.labels[tuple(centers.T)]
    free = (label == 0) | (label > classes)  # a list may lack particles that the label map has
    distance = cKDTree(annotated.places).query(centers)[0] * volume.voxel_size if len(annotated.places) else np.full(NONE_TRIES, np.inf)
    far = np.flatnonzero(free & (distance > config.none_distance))
    view = draw_view(rng, centers[far[0] if len(far) else np.lexsort((distance, free))[-1]].astype(np.int64), config)
    return {
        "subtomogram": view.grey(volume.data, config.box_size),
        "mask": np.zeros((config.box_size,) * 3, dtype=bool),
        "label": classes,
        "position": view.position(volume),
        "rotation": np.eye(3),
        "shift": np.zeros(3),
        "box_position": view.position(volume),
    }


def tile_row(rng: np.random.Generator, annotated: Annotated, config: CutConfig) -> dict[str, Any]:
    """A box anywhere, with all that is in it."""
    volume, half = annotated.volume, config.box_size // 2
    room = np.maximum(np.array(volume.shape) - config.box_size, 0)
    view = draw_view(rng, half + np.floor(rng.random(3) * (room + 1)).astype(np.int64), config)
    centres = np.zeros((config.box_size,) * 3, dtype=np.uint8)
    inside = np.round(view.inward(annotated.places)).astype(np.int64) + half
    centres[tuple(inside[((inside >= 0) & (inside < config.box_size)).all(1)].T)] = 1
    return {
        "subtomogram": view.grey(volume.data, config.box_size),
        "labels": view.numbers(annotated.labels, config.box_size),
        "centres": centres,
        "position": view.position(volume),
    }
