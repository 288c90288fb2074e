"""Annotated tomograms -> dataset store: what `simulate` writes, cut from a user's own tomograms.

There is no noise-free signal and no clean density: the task density learns nothing from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from triptych.config import NONE_CLASS, CutConfig
from triptych.io.manifest import recognise_input, write_manifest
from triptych.io.outputs import check_apart
from triptych.io.readers import cut_box
from triptych.io.store import Rows, check_shift, create_store, open_store, remove_leftovers
from triptych.io.tomogram import find_tomograms
from triptych.parallel import Progress
from triptych.training.annotations import Annotated, Annotations, check_places, name_tables, read_annotated, read_annotations, read_frame
from triptych.volume import Volume, standardise
from triptych.workspace import Workspace, open_workspace

NONE_TRIES = 100
ARRAYS = ("subtomogram", "mask", "label", "tomogram", "position", "rotation", "shift", "box_position")
TILE_ARRAYS = ("tiles/subtomogram", "tiles/labels", "tiles/centres", "tiles/tomogram", "tiles/position")
Array = NDArray[np.float32]


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
