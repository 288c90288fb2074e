"""What is in the ice: macromolecules packed against one another, and membranes.

Positions are (x, y, z) in voxels from the centre of voxel [0, 0, 0] of the specimen's array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from triptych.fourier import resample
from triptych.physics import oversample, pose
from triptych.structures import Structure

OVERSAMPLING = 2
COARSE = 2
"""Contacts are found on a grid of so many voxels."""
TRIES = 40
LARGEST_FACTOR = 1.1
"""Particles may be drawn so much larger than they are."""

Points = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Template:
    """A structure, ready to be placed many times.

    Attributes
    ----------
    fine : (n, n, n) density, sampled OVERSAMPLING times more finely than the specimen
    size : side of the cube that holds it in any pose, voxels
    contour : density at its surface
    points : (p, 3) its inside on the coarse grid, voxels from its centre
    radius : voxels
    volume : voxels, cavities included
    """

    name: str
    fine: Tensor
    size: int
    contour: float
    points: Points
    radius: float
    volume: float


@dataclass(frozen=True, eq=False)
class Placed:
    """A copy of a template in the specimen."""

    label: int
    position: NDArray[np.float64]
    rotation: NDArray[np.float64]


def make_template(structure: Structure, voxel_size: float) -> Template:
    """Prepare a structure for a specimen of the given voxel size."""
    density = resample(structure.density, voxel_size).data
    n = density.shape[0]
    inside = ndimage.binary_fill_holes(density > structure.contour)
    coordinates = (np.argwhere(inside)[:, ::-1] - n // 2).astype(np.float32)
    cells = np.unique(np.round(coordinates / COARSE), axis=0) * COARSE
    radius = float(np.linalg.norm(coordinates, axis=1).max())
    size = 2 * int(np.ceil(LARGEST_FACTOR * radius + 3))
    volume = float(inside.sum())
    return Template(structure.name, oversample(torch.from_numpy(density), OVERSAMPLING), size, structure.contour, cells, radius, volume)


class Occupancy:
    """Which cells of the coarse grid are taken."""

    def __init__(self, shape: tuple[int, int, int], gap: float) -> None:
        self.cells = np.zeros([-(-n // COARSE) for n in shape], dtype=bool)
        self.limits = np.array(shape[::-1])
        reach = math.ceil(gap / COARSE)
        around = np.mgrid[tuple(slice(-reach, reach + 1) for _ in range(3))].reshape(3, -1).T
        self.around = around[np.linalg.norm(around, axis=1) * COARSE <= gap + COARSE / 2]

    def _cells_of(self, points: Points) -> tuple[NDArray[np.int64], ...]:
        index = np.floor(points / COARSE).astype(np.int64)
        return index[:, 2], index[:, 1], index[:, 0]

    def is_free(self, points: Points) -> bool:
        """True if all the points are in the specimen and in free cells."""
        if points.min() < 0 or (points.max(0) >= self.limits).any():
            return False
        return not self.cells[self._cells_of(points)].any()

    def fill(self, points: Points) -> None:
        """Take the cells of the points and those within the gap around them."""
        z, y, x = self._cells_of(points)
        for dz, dy, dx in self.around:
            keep = [np.clip(axis + step, 0, n - 1) for axis, step, n in zip((z, y, x), (dz, dy, dx), self.cells.shape, strict=True)]
            self.cells[tuple(keep)] = True


def pack(rng: np.random.Generator, templates: Sequence[Template], occupancy: Occupancy, share: float, contact_share: float) -> list[Placed]:
    """Place equal numbers of all templates at random until they fill a share of the volume, the largest first.

    A particle finds a free place by chance; most are then pushed towards their nearest neighbour until they touch it.
    """
    labels = choose_labels(rng, templates, share * float(np.prod(occupancy.limits)))
    placed: list[Placed] = []
    centres = np.empty((len(labels), 3))
    for label in sorted(labels, key=lambda i: -templates[i].volume):
        rotation = Rotation.random(rng=rng).as_matrix()
        points = (templates[label].points @ rotation.T).astype(np.float32)
        position = find_place(rng, points, occupancy)
        if position is None:
            continue
        if placed and rng.random() < contact_share:
            position = push_to_contact(position, points, centres[: len(placed)], occupancy)
        occupancy.fill(points + position.astype(np.float32))
        centres[len(placed)] = position
        placed.append(Placed(label, position, rotation))
    return placed


def choose_labels(rng: np.random.Generator, templates: Sequence[Template], volume: float) -> list[int]:
    """Labels in random rounds, each template once a round, until their volumes add up."""
    labels: list[int] = []
    filled = 0.0
    while True:
        for label in rng.permutation(len(templates)):
            filled += templates[label].volume
            if filled > volume and labels:
                return labels
            labels.append(int(label))


def find_place(rng: np.random.Generator, points: Points, occupancy: Occupancy) -> NDArray[np.float64] | None:
    low = -points.min(0)
    high = occupancy.limits - 1 - points.max(0)
    if (high <= low).any():
        return None
    for _ in range(TRIES):
        position: NDArray[np.float64] = rng.uniform(low, high)
        if occupancy.is_free(points + position.astype(np.float32)):
            return position
    return None


def push_to_contact(position: NDArray[np.float64], points: Points, centres: NDArray[np.float64], occupancy: Occupancy) -> NDArray[np.float64]:
    """Move towards the nearest centre in coarse steps while the place is free."""
    away = centres - position
    nearest = away[np.argmin(np.linalg.norm(away, axis=1))]
    distance = float(np.linalg.norm(nearest))
    step = nearest / max(distance, 1e-6) * COARSE
    for _ in range(int(distance / COARSE)):
        if not occupancy.is_free(points + (position + step).astype(np.float32)):
            break
        position = position + step
    return position


def add_vesicles(
    rng: np.random.Generator, volume: NDArray[np.float32], occupancy: Occupancy, number: int, radius: tuple[float, float], voxel_size: float
) -> None:
    """Draw lipid bilayers: spherical shells, whose centres may lie outside, into the volume and take their cells.

    The profile is two head-group layers 36 Å apart, each a Gaussian of 7 Å, around a hydrophobic core a little below water
    (typical of electron density profiles, Nagle & Tristram-Nagle 2000).
    """
    nz, ny, nx = volume.shape
    z, y, x = np.ogrid[:nz, :ny, :nx]
    for _ in range(number):
        centre = rng.uniform(0, (nz, ny, nx))
        size = rng.uniform(*radius)
        depth = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2, dtype=np.float32) * voxel_size - size
        near = np.abs(depth) < 60
        where = np.argwhere(near & (np.abs(depth) < 40))[:, ::-1].astype(np.float32)
        if len(where) == 0 or not occupancy.is_free(where):
            continue
        d = depth[near]
        heads = np.exp(-((d - 18) ** 2) / 98) + np.exp(-((d + 18) ** 2) / 98)
        volume[near] += 1.1 * heads - 0.2 * np.exp(-(d**2) / 128)
        occupancy.fill(where)


def draw_particles(volume: NDArray[np.float32], placed: Sequence[Placed], templates: Sequence[Template], size_factor: float) -> None:
    """Add every placed particle to the volume, each so much larger than it is."""
    for particle in placed:
        patch = posed(templates[particle.label], particle.rotation, particle.position % 1, size_factor)
        paste(volume, patch, np.floor(particle.position).astype(np.int64))


def posed(template: Template, rotation: NDArray[np.float64], fraction: NDArray[np.float64], size_factor: float) -> NDArray[np.float32]:
    """The template's cube in a pose, its centre `fraction` (x, y, z) of a voxel beyond index size // 2."""
    cube = pose(template.fine, OVERSAMPLING, torch.from_numpy(rotation), torch.from_numpy(fraction), template.size, size_factor)
    return cube.numpy()


def paste(volume: NDArray[np.float32], patch: NDArray[np.float32], centre: NDArray[np.int64]) -> None:
    """Add a cube whose index size // 2 lies on voxel `centre` (x, y, z) of the volume; what sticks out is cut off."""
    size = patch.shape[0]
    start = centre[::-1] - size // 2
    inside = tuple(slice(max(a, 0), max(min(a + size, n), 0)) for a, n in zip(start, volume.shape, strict=True))
    own = tuple(slice(s.start - a, max(s.stop - a, 0)) for s, a in zip(inside, start, strict=True))
    volume[inside] += patch[own]
