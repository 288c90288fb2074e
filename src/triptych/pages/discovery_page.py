"""The page of a discovery: a map of the embedding with the particles behind its dots, and for each group its average, from all sides.

One HTML file that loads nothing. Its script (`data/discovery.js`) is ours and small: surfaces are drawn by marching rays through the density
on a plain canvas, which needs no WebGL and no library of several megabytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.alignment.half_maps import THRESHOLD
from triptych.alignment.identify import name_match
from triptych.config import DiscoverConfig
from triptych.errors import InputError
from triptych.fourier import low_pass, resample_to_box
from triptych.io.files import to_plain
from triptych.io.mrc import read_mrc
from triptych.io.particle_source import ParticleSource
from triptych.io.predictions import Predicted
from triptych.judging.metrics import principal_components
from triptych.pages import figures
from triptych.pages.page import MAP_POINTS, Panel, density_limits, draw_panel, eye_resolution, render_page
from triptych.volume import Volume

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

FEWEST_FOR_TSNE = 12
SURFACE_VOXELS = 48
"""Side of the density that the page draws surfaces of."""
SURFACE_LEVEL = 0.4
"""Share of the density's height at which the surface lies to begin with."""
PANEL_VOXELS = 48
FEW_OF_A_HALF, LOW_STABILITY = 20, 0.6
"""With fewer particles, or a lower stability, a group is to be looked at twice, and the page says so."""


@dataclass(frozen=True)
class GroupView:
    """What the page shows of a group, besides group.json; `width`: of its surfaces' box, Å; `doubts`: sentences."""

    panels: list[Panel]
    correlation: str
    surfaces: list[str]
    width: float
    doubts: list[str]


def write_page(
    path: Path,
    groups_folder: Path,
    given: Predicted,
    source: ParticleSource,
    membership: IntArray,
    described: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    config: DiscoverConfig,
) -> None:
    """Write report.html.

    Parameters
    ----------
    path : of the page
    groups_folder : holds a folder of maps for each group, named by its number
    membership : (n,), the group of each particle from 1, 0 for none
    described : group.json of each group
    about : device, counts and the like, for the head of the page
    """
    rng = np.random.default_rng(config.seed)
    shown = choose_shown(membership, MAP_POINTS, rng)
    script = files("triptych").joinpath("data", "discovery.js").read_text(encoding="utf-8")
    views = [view_group(groups_folder / str(item["group"]), item) for item in described]
    data = {"map": map_data(given, source, membership, shown, config, rng), "surfaces": [view.surfaces for view in views]}
    page = render_page(
        "discovery.html.jinja",
        name=given.folder.name,
        about=about,
        groups=list(zip(described, views, strict=True)),
        particles=len(given),
        colours=[group_colour(item["group"]) for item in described],
        layout=config.layout if len(shown) >= FEWEST_FOR_TSNE else "pca",
        surface_level=SURFACE_LEVEL,
        name_match=name_match,
        script=script,
        # The browser runs this script and no other.
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=json.dumps(to_plain(data), separators=(",", ":")).replace("<", "\\u003c"),
    )
    path.write_text(page, encoding="utf-8")


def choose_shown(membership: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Up to `count` rows, those in groups before the others, otherwise at random; ascending."""
    order = rng.permutation(len(membership))
    return np.sort(order[np.argsort(membership[order] == 0, kind="stable")][:count])


def group_colour(number: int) -> str:
    return figures.CLASS_COLOURS[(number - 1) % len(figures.CLASS_COLOURS)]


# ---------------------------------------------------------------------------------------------------------------- map


def map_data(
    given: Predicted, source: ParticleSource, membership: IntArray, shown: IntArray, config: DiscoverConfig, rng: np.random.Generator
) -> dict[str, Any]:
    """Dots of the map: where, of which group, and what is shown when the pointer is on one."""
    points = lay_out(np.asarray(given.embedding[shown], np.float64), config)
    pictured = set(choose_shown(membership[shown], config.panels, rng).tolist())
    return {
        "x": points[:, 0].round(4),
        "y": points[:, 1].round(4),
        "group": membership[shown],
        "colours": [group_colour(k) for k in range(1, int(membership.max()) + 1)],
        "name": [given.names[row] for row in shown],
        "called": None if given.label is None else given.called[shown].tolist(),
        "probability": None if given.probability is None else given.probability[shown].round(3),
        "novelty": None if given.novelty is None else given.novelty[shown].round(3),
        "picture": [picture(given, source, int(row)) if number in pictured else None for number, row in enumerate(shown)],
    }


def lay_out(embedding: FloatArray, config: DiscoverConfig) -> FloatArray:
    """Places (n, 2) of particles on a map, each axis from 0 to 1: t-SNE or principal components."""
    if config.layout == "pca" or len(embedding) < FEWEST_FOR_TSNE:
        points, _ = principal_components(embedding)
    else:
        from sklearn.manifold import TSNE

        points = TSNE(perplexity=min(30.0, len(embedding) / 4), init="pca", random_state=config.seed).fit_transform(embedding)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - low) / np.where(high > low, high - low, 1), np.float64)


def picture(given: Predicted, source: ParticleSource, row: int) -> dict[str, str] | None:
    """Central xy slices of input (low-passed) and recovered density, side by side, and the outline of the mask; None if they cannot be read."""
    assert given.densities is not None
    try:
        volume, density = source.read(row), read_mrc(given.densities[row])
        mask = None if given.masks is None else read_mrc(given.masks[row])
    except InputError:  # the page can do without one picture
        return None
    smooth = low_pass(volume.with_data(np.float32(given.sign) * volume.data), eye_resolution(volume.voxel_size), edge=1.0)
    seen, clean = central_slice(smooth), central_slice(density)
    grey = [figures.to_grey(seen, figures.grey_limits([seen])), figures.to_grey(clean, density_limits(density))]
    outline = "" if mask is None else figures.outline(central_slice(mask) > 0.5)
    return {"image": figures.png_data_uri(np.concatenate(grey, axis=1)), "outline": outline}


def central_slice(volume: Volume) -> NDArray[np.float32]:
    """The central xy slice of a volume, first row on top, of at most `PANEL_VOXELS` pixels along each side."""
    data = reduce_size(volume, PANEL_VOXELS)
    middle: NDArray[np.float32] = data[len(data) // 2, ::-1]
    return middle


def reduce_size(volume: Volume, most: int) -> NDArray[np.float32]:
    """The same extent on coarser voxels, at most so many along each side; a cube."""
    size = volume.shape[0]
    if size <= most:
        return np.asarray(volume.data, np.float32)
    return resample_to_box(volume, volume.voxel_size * size / most, most)


# ------------------------------------------------------------------------------------------------------------- groups


def view_group(folder: Path, described: Mapping[str, Any]) -> GroupView:
    """Slices, shell correlation and surfaces of a group."""
    average, recovered, mask = (read_mrc(folder / f"{name}.mrc") for name in ("average_filtered", "recovered", "mask"))
    within = average.with_data((average.data - solvent_level(average, mask)) * mask.data)
    panels = [
        draw_panel("Average", average.data, scale=average.voxel_size, outlines=[("predicted", mask.data > 0.5)]),
        draw_panel("Recovered", recovered.data, density_limits(recovered)),
    ]
    shells = {name: np.asarray(values, np.float64) for name, values in described["shell_correlation"].items() if name != "resolution"}
    curves = {name: shells[name] for name in ("corrected", "masked", "unmasked")}
    title = f"Fourier shell correlation of the halves of group {described['group']}"
    correlation = figures.draw_half_map_correlation(shells["frequency"], curves, THRESHOLD, title)
    size = seen_size(mask)
    surfaces = [encode_surface(item, size) for item in (within, recovered)]
    return GroupView(panels, correlation, surfaces, size * mask.voxel_size, list_doubts(described))


def list_doubts(described: Mapping[str, Any]) -> list[str]:
    """Why a group may not be what it seems, in sentences."""
    few = "Few particles: see whether the average looks like the recovered density, and whether another seed gives the same."
    loose = "Not found again in parts of the data: this may be no group."
    stability = described["stability"]
    return [
        *([few] if min(described["half_particles"]) < FEW_OF_A_HALF else []),
        *([loose] if stability is not None and stability < LOW_STABILITY else []),
    ]


def seen_size(mask: Volume) -> int:
    """Side in voxels of the cube around the centre that holds the ball around all that a mask lets through; at most the box's."""
    middle = np.array(mask.shape) // 2
    places = np.argwhere(mask.data > 0.5) - middle
    reach = float(np.sqrt((places**2).sum(axis=1)).max()) if len(places) else mask.shape[0] / 2
    return min(2 * int(np.ceil(reach)) + 2, mask.shape[0])


def solvent_level(average: Volume, mask: Volume) -> float:
    """Mean of an average outside its mask."""
    outside = mask.data < 0.01
    return float(average.data[outside].mean()) if outside.any() else 0.0


def encode_surface(volume: Volume, size: int) -> str:
    """The central cube of so many voxels as bytes in base64, 0 for what is negative and 255 for the brightest: x fastest, then y, then z."""
    coarse = volume.voxel_size * size / SURFACE_VOXELS
    data = resample_to_box(volume, coarse, SURFACE_VOXELS)
    height = max(float(data.max()), 1e-9)
    return base64.b64encode((np.clip(data / height, 0, 1) * 255).round().astype(np.uint8).tobytes()).decode()
