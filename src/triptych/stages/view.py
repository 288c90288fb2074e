"""What was picked, in napari: the tomogram, its label map, the particles by class, what was recovered.

The layers are made here as napari's own tuples (data, settings, kind), so that napari itself is only needed to show them. napari finds
`open_reader` by napari.yaml: a folder of picks may also be dropped into its window.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from triptych.errors import InputError
from triptych.io.links import RECONSTRUCTED, find_file, search_folders
from triptych.io.mrc import mmap_mrc
from triptych.io.output_names import CLASSES, PARTICLES, TOMOGRAMS, map_file
from triptych.io.relion import BINNING, tomogram_table
from triptych.io.relion_particles import particles_from_relion
from triptych.io.star import read_star, tables_with
from triptych.io.tomogram import open_tomogram
from triptych.volume import Volume, spread_boxes

if TYPE_CHECKING:
    from napari import Viewer
    from napari.components import ViewerModel

Kind: TypeAlias = Literal["image", "labels", "points"]
Layer: TypeAlias = tuple[Any, dict[str, Any], Kind]
POINT_SIZE = 60.0
"""Å, of the ball that stands for a particle."""
SAMPLE = 8
"""Boxes of 64 voxels from which the range of grey values is judged."""


def show_picks(folder: Path | str, tomogram: str | None = None) -> Viewer:
    """Open a napari window with all that was picked from a tomogram; `napari.run()` then keeps it open.

    Parameters
    ----------
    folder : written by `triptych pick`
    tomogram : its name; None: the first
    """
    try:
        import napari
    except ImportError as error:
        raise InputError(f"napari cannot be imported ({error}): install it with pip install 'triptych[napari]'") from None
    layers = picked_layers(folder, tomogram)
    viewer = napari.Viewer(title=f"triptych: {folder}")
    add_layers(viewer, layers)
    return viewer


def add_layers(viewer: ViewerModel, layers: Sequence[Layer]) -> None:
    """Give layers to a viewer, with or without a window."""
    for data, settings, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **settings)
    # Thick slices: particles are shown wherever they reach into, and grey values averaged, as napari does.
    viewer.dims.margin_left = viewer.dims.margin_right = (POINT_SIZE / 2, 0, 0)
    viewer.reset_view()


def open_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Layer]] | None:
    """napari's question whether a path is ours: a reader of folders of picks, None for all else."""
    if not isinstance(path, str) or not all((Path(path) / name).is_file() for name in (PARTICLES, TOMOGRAMS, CLASSES)):
        return None
    return lambda chosen: picked_layers(chosen if isinstance(chosen, str) else chosen[0])


def picked_layers(folder: Path | str, tomogram: str | None = None) -> list[Layer]:
    """The layers of one tomogram, in Å, from the bottom up: grey values, recovered densities, label map, instances, particles.

    What the folder does not have (densities, unless pick was told to write them; a tomogram that was moved) is left out.
    """
    folder = Path(folder)
    rows = _tomogram_rows(folder)
    name = tomogram or rows.index[0]
    if name not in rows.index:
        raise InputError(f"{folder} holds no picks of a tomogram called {name}: it has {', '.join(rows.index)}")
    row = rows.loc[name]
    colours = class_colours(folder)
    layers: list[Layer] = []
    path = find_file(str(row[RECONSTRUCTED]), search_folders(folder / TOMOGRAMS))
    if path is not None:
        voxel_size = float(row["rlnTomoTiltSeriesPixelSize"]) * float(row.get(BINNING, 1.0))  # with which it was picked, whatever its header says
        layers.append(image_layer(open_tomogram(path, voxel_size), name))
    densities, labels, instances = (folder / map_file(kind, name) for kind in ("densities", "labels", "instances"))
    if densities.is_file():
        layers.append(density_layer(mmap_mrc(densities)))
    if labels.is_file():
        colormap: dict[int | None, Any] = {None: "transparent", 0: "transparent", **dict(enumerate(colours.values(), start=1))}
        layers.append(labels_layer(mmap_mrc(labels), {"name": "classes", "colormap": colormap, "opacity": 0.5}))
    if instances.is_file():
        layers.append(labels_layer(mmap_mrc(instances), {"name": "instances", "visible": False}))
    return [*layers, particles_layer(folder / PARTICLES, name, colours)]


def _tomogram_rows(folder: Path) -> pd.DataFrame:
    """The table of the tomograms, by their names."""
    for name in (PARTICLES, TOMOGRAMS, CLASSES):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no {name}, so it is no output of `triptych pick`: give the folder that it wrote")
    table = tomogram_table(read_star(folder / TOMOGRAMS))
    if table is None or RECONSTRUCTED not in table or table.empty:
        raise InputError(f"{folder / TOMOGRAMS} does not say where the tomograms are: pick anew")
    return table.set_index(table["rlnTomoName"].astype(str))


def class_colours(folder: Path) -> dict[str, tuple[float, float, float, float]]:
    """A colour for each name in a folder's classes.star, in the order of their numbers in label maps."""
    table = tables_with(read_star(folder / CLASSES), "triptychClass").get("classes")
    if table is None:
        raise InputError(f"{folder / CLASSES} names no classes: pick anew")
    # Hues a golden section apart: neighbours differ most.
    return {str(name): (*colorsys.hsv_to_rgb(number * 0.618 % 1, 0.75, 1.0), 1.0) for number, name in enumerate(table["triptychClass"])}


def in_angstrom(volume: Volume) -> dict[str, Any]:
    return {"scale": (volume.voxel_size,) * 3, "units": ("Å",) * 3}


def image_layer(tomogram: Volume, name: str) -> Layer:
    """Grey values, without the darkest and the brightest two thousandths, such as gold."""
    values = np.concatenate([box.ravel() for box in spread_boxes(tomogram.data, 64, SAMPLE)])
    low, high = (float(limit) for limit in np.percentile(values, [0.2, 99.8]))
    return tomogram.data, {**in_angstrom(tomogram), "name": name, "contrast_limits": (low, max(high, low + 1e-6))}, "image"


def density_layer(densities: Volume) -> Layer:
    settings = {"name": "recovered densities", "colormap": "magma", "blending": "additive", "contrast_limits": (0.0, 1.5), "visible": False}
    return densities.data, {**in_angstrom(densities), **settings}, "image"


def labels_layer(volume: Volume, settings: dict[str, Any]) -> Layer:
    data = volume.data if volume.data.dtype.kind in "iu" else volume.data.astype(np.uint32)  # napari takes no others for labels
    return data, {**in_angstrom(volume), **settings}, "labels"


def particles_layer(path: Path, tomogram: str, colours: dict[str, tuple[float, float, float, float]]) -> Layer:
    """Particles as points in their classes' colours, which carry class, probability and score."""
    particles = particles_from_relion(path) if len(_particle_table(path)) else None
    if particles is None or particles.positions is None or particles.tomograms is None:
        return np.empty((0, 3)), {"name": "particles", "units": ("Å",) * 3}, "points"
    rows = np.flatnonzero(np.array(particles.tomograms) == tomogram)
    wanted = [label for label in ("triptychClass", "triptychProbability", "triptychScore", "triptychInstance") if label in particles.table]
    features = particles.table[wanted].iloc[rows].reset_index(drop=True)
    settings = {
        "name": "particles",
        "units": ("Å",) * 3,
        "size": POINT_SIZE,
        "features": features,
        "face_color": np.array([colours.get(str(name), (1.0, 1.0, 1.0, 1.0)) for name in features["triptychClass"]]).reshape(-1, 4),
        "border_color": "white",
        "opacity": 0.8,
        "projection_mode": "rescale_linear",
    }
    return particles.positions[rows][:, ::-1], settings, "points"


def _particle_table(path: Path) -> pd.DataFrame:
    table = tables_with(read_star(path)).get("particles")
    if table is None:
        raise InputError(f"{path} holds no table of particles: pick anew")
    return table
