"""What is in the ice: macromolecules packed against one another, and membranes.

Positions are (x, y, z) in voxels from the centre of voxel [0, 0, 0] of the specimen's array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from triptych.config import SpecimenConfig
from triptych.errors import InputError
from triptych.fourier import resample
from triptych.posing import oversample, pose
from triptych.simulation.physics import draw_log_uniform
from triptych.simulation.structures import PROTEIN_VOLUME, Structure
from triptych.volume import clip_box

OVERSAMPLING = 2
COARSE = 2
"""Contacts are found on a grid of so many voxels."""
TRIES, BLOCKS = 20, 4
"""Attempts to place a particle: at random, then in random blocks searched whole, BLOCK_STEPS cells wide."""
BLOCK_STEPS = 24
MOST_REFUSED = 5
"""So many particles of a kind that find no place, and the ice is full for that kind."""
PATCH_BYTES = 2**28
"""Most memory for particles in their poses that are kept to be drawn again."""
LARGEST_FACTOR = 1.1
"""Particles may be drawn so much larger than they are."""

CYTOSOL_KDA = (25.0, 60.0, 150.0)
"""Masses of the small proteins between the particles; each fills a third of their volume."""
MEMBRANE_REACH = 60.0
"""Å from the middle of a membrane to where it has faded."""
MEMBRANE_DEPTH = 20.0
"""Å from the middle of a membrane to where its surface counts as taken."""
GOLD_DENSITY = 6.0
"""Gold minus ice over `PROTEIN_CONTRAST`, from mean inner potentials of about 25 V and 4.5 V."""

Array = NDArray[np.float32]
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
    """A copy of a template in the specimen: `rotation` turns the template, on (x, y, z)."""

    label: int
    position: NDArray[np.float64]
    rotation: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ball:
    """A vesicle or a gold bead: centre (x, y, z) and radius in voxels."""

    centre: NDArray[np.float64]
    radius: float


@dataclass(frozen=True, eq=False)
class Specimen:
    """What is in the ice of one tomogram. Particles, vesicles and beads may lie beyond its edges in x and y.

    Attributes
    ----------
    shape : (nz, ny, nx) of the tomogram
    cytosol : for each kind of small protein its radius and the centres (n, 3) of its copies, voxels
    size_factor : particles are drawn so much larger than they are
    ice_thickness : Å
    occupancy, cytosol_share : shares of the volume that particles and small proteins fill
    """

    shape: tuple[int, int, int]
    placed: list[Placed]
    vesicles: list[Ball]
    beads: list[Ball]
    cytosol: list[tuple[float, NDArray[np.float64]]]
    size_factor: float
    ice_thickness: float
    occupancy: float
    cytosol_share: float


def make_template(structure: Structure, voxel_size: float) -> Template:
    """Prepare a structure for a specimen of the given voxel size."""
    density = resample(structure.density, voxel_size).data
    n = density.shape[0]
    inside = ndimage.binary_fill_holes(density > structure.contour)
    if not inside.any():
        raise InputError(f"{structure.name} fills no voxel of {voxel_size:g} Å: set a smaller voxel_size, or classes without it")
    coordinates = (np.argwhere(inside)[:, ::-1] - n // 2).astype(np.float32)
    cells = np.unique(np.round(coordinates / COARSE), axis=0) * COARSE
    radius = float(np.linalg.norm(coordinates, axis=1).max())
    size = 2 * int(np.ceil(LARGEST_FACTOR * radius + 3))
    volume = float(inside.sum())
    return Template(structure.name, oversample(torch.from_numpy(density), OVERSAMPLING), size, structure.contour, cells, radius, volume)


def ice_span(nz: int, thickness: float) -> tuple[float, float]:
    """Between which z, in voxels, there is ice of a thickness in voxels, in the middle of nz slices."""
    outside = max(0.0, nz - thickness) / 2
    return outside, nz - outside


class Occupancy:
    """Which cells of the coarse grid are taken.

    Attributes
    ----------
    low, high : (x, y, z) between which there is ice, voxels
    """

    def __init__(self, shape: tuple[int, int, int], gap: float, ice_thickness: float = math.inf) -> None:
        self.cells = np.zeros([-(-n // COARSE) for n in shape], dtype=bool)
        self.low, self.high = np.zeros(3), np.array(shape[::-1], dtype=float)
        self.low[2], self.high[2] = ice_span(shape[0], ice_thickness)
        reach = math.ceil(gap / COARSE)
        around = np.mgrid[tuple(slice(-reach, reach + 1) for _ in range(3))].reshape(3, -1).T
        self.around = around[np.linalg.norm(around, axis=1) * COARSE <= gap + COARSE / 2]

    @property
    def volume(self) -> float:
        """Of the ice, voxels."""
        return float(np.prod(self.high - self.low))

    def _cells_of(self, points: NDArray[np.floating]) -> tuple[NDArray[np.int64], ...]:
        index = np.floor(points / COARSE).astype(np.int64)
        return index[:, 2], index[:, 1], index[:, 0]

    def taken(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Whether the cell of each point is taken."""
        return self.cells[self._cells_of(points)]

    def is_free(self, points: Points) -> bool:
        """True if all the points are in the ice and in free cells."""
        if (points.min(0) < self.low).any() or (points.max(0) >= self.high).any():
            return False
        return not self.taken(points).any()

    def fill(self, points: Points) -> None:
        """Take the cells of the points and those within the gap around them."""
        z, y, x = self._cells_of(points)
        for dz, dy, dx in self.around:
            keep = [np.clip(axis + step, 0, n - 1) for axis, step, n in zip((z, y, x), (dz, dy, dx), self.cells.shape, strict=True)]
            self.cells[tuple(keep)] = True


def pack(rng: np.random.Generator, templates: Sequence[Template], occupancy: Occupancy, share: float, contact_share: float) -> list[Placed]:
    """Place equal numbers of all templates until they fill a share of the ice, the largest first.

    A particle finds a free place by chance; most are then pushed towards their nearest neighbour until they touch it. Where there is no room
    for the large ones, more of the small ones come in their place.
    """
    placed: list[Placed] = []
    missing = share * occupancy.volume
    while True:
        labels = choose_labels(rng, templates, missing)
        new = place_all(rng, labels, templates, occupancy, contact_share, placed)
        placed += new
        missing -= sum(templates[p.label].volume for p in new)
        if len(new) == len(labels) or not new:
            return placed


def place_all(
    rng: np.random.Generator, labels: list[int], templates: Sequence[Template], occupancy: Occupancy, contact_share: float, present: list[Placed]
) -> list[Placed]:
    """Place what there is room for, the largest first."""
    placed: list[Placed] = []
    refused = [0] * len(templates)
    centres = np.empty((len(present) + len(labels), 3))
    centres[: len(present)] = np.array([p.position for p in present]).reshape(-1, 3)
    for label in sorted(labels, key=lambda i: -templates[i].volume):
        if refused[label] == MOST_REFUSED:
            continue
        rotation = Rotation.random(rng=rng).as_matrix()
        points = (templates[label].points @ rotation.T).astype(np.float32)
        position = find_place(rng, points, occupancy)
        if position is None:
            refused[label] += 1
            continue
        count = len(present) + len(placed)
        if count and rng.random() < contact_share:
            position = push_to_contact(position, points, centres[:count], occupancy)
        occupancy.fill(points + position.astype(np.float32))
        centres[count] = position
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
    low = occupancy.low - points.min(0)
    high = occupancy.high - 1 - points.max(0)
    if (high <= low).any():
        return None
    for _ in range(TRIES):
        position: NDArray[np.float64] = rng.uniform(low, high)
        if occupancy.is_free(points + position.astype(np.float32)):
            return position
    return next((place for place in (search_block(rng, points, occupancy) for _ in range(BLOCKS)) if place is not None), None)


def search_block(rng: np.random.Generator, points: Points, occupancy: Occupancy) -> NDArray[np.float64] | None:
    """A free place among all of a random block of the coarse grid, for what finds none by chance; None if there is none.

    The overlap with what is taken, for every step at once, is a correlation, done in Fourier space.
    """
    own = np.floor(points[:, ::-1] / COARSE).astype(np.int64)
    first, extent = own.min(0), np.ptp(own, axis=0) + 1
    ice = [np.ceil(occupancy.low[::-1] / COARSE).astype(np.int64), np.floor(occupancy.high[::-1] / COARSE).astype(np.int64)]
    steps = np.minimum(BLOCK_STEPS, ice[1] - ice[0] - extent)
    if (steps < 1).any():
        return None
    corner = rng.integers(ice[0], ice[1] - extent - steps + 1)
    shape = tuple(extent + steps)
    taken = occupancy.cells[tuple(slice(a, a + n) for a, n in zip(corner, shape, strict=True))].astype(np.float32)
    particle = np.zeros(shape, dtype=np.float32)
    particle[tuple((own - first).T)] = 1
    overlap = fft.irfftn(fft.rfftn(taken) * fft.rfftn(particle).conj(), s=shape)
    free = np.argwhere(overlap[tuple(slice(n) for n in steps)] < 0.5)
    if not len(free):
        return None
    position: NDArray[np.float64] = ((corner + free[rng.integers(len(free))] - first) * COARSE)[::-1].astype(np.float64)
    aside = position + rng.uniform(0, COARSE, 3)
    return next((place for place in (aside, position) if occupancy.is_free(points + place.astype(np.float32))), None)


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


def place_vesicles(rng: np.random.Generator, occupancy: Occupancy, number: int, radius: tuple[float, float], depth: float) -> list[Ball]:
    """Vesicles whose centres lie anywhere, and whose membranes, of that depth to each side, lie where there is room; radius and depth in voxels."""
    vesicles = []
    for _ in range(number):
        vesicle = Ball(rng.uniform(occupancy.low, occupancy.high), float(rng.uniform(*radius)))
        points = shell_points(vesicle, depth)
        points = points[((points >= occupancy.low) & (points < occupancy.high)).all(1)]
        if len(points) and occupancy.is_free(points):
            occupancy.fill(points)
            vesicles.append(vesicle)
    return vesicles


def shell_points(vesicle: Ball, depth: float) -> Points:
    """Points of a vesicle's membrane, to so many voxels from its middle, about COARSE voxels apart."""
    number = int(4 * np.pi * vesicle.radius**2 / COARSE**2) + 1
    # A Fibonacci lattice: points of a sphere at nearly equal distances.
    height = 1 - (2 * np.arange(number) + 1) / number
    turn = np.pi * (1 + 5**0.5) * np.arange(number)
    flat = np.sqrt(1 - height**2)
    unit = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], 1)
    layers = [vesicle.centre + unit * (vesicle.radius + d) for d in np.linspace(-depth, depth, 2 * math.ceil(depth / COARSE) + 1)]
    return np.concatenate(layers).astype(np.float32)


def place_beads(rng: np.random.Generator, occupancy: Occupancy, number: int, diameter: tuple[float, float]) -> list[Ball]:
    """Gold beads where there is room; diameter in voxels."""
    beads = []
    for _ in range(number):
        radius = float(rng.uniform(*diameter)) / 2
        reach = math.ceil(radius)
        cube = np.mgrid[tuple(slice(-reach, reach + 1, COARSE) for _ in range(3))].reshape(3, -1).T.astype(np.float32)
        points = cube[np.linalg.norm(cube, axis=1) <= radius + COARSE / 2]
        position = find_place(rng, points, occupancy)
        if position is not None:
            occupancy.fill(points + position.astype(np.float32))
            beads.append(Ball(position, radius))
    return beads


def place_cytosol(rng: np.random.Generator, occupancy: Occupancy, share: float, voxel_size: float) -> list[tuple[float, NDArray[np.float64]]]:
    """Small proteins, as balls that fill a share of the volume that is still free; among themselves they may overlap."""
    kinds = []
    for mass_kda in CYTOSOL_KDA:
        volume = 1e3 * mass_kda * PROTEIN_VOLUME / voxel_size**3
        number = rng.poisson(share / len(CYTOSOL_KDA) * occupancy.volume / volume)
        centres = rng.uniform(occupancy.low, occupancy.high, (number, 3))
        kinds.append(((volume * 3 / (4 * np.pi)) ** (1 / 3), centres[~occupancy.taken(centres)]))
    return kinds


def membrane_profile(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Density of a lipid bilayer at a distance (Å) from its middle.

    Two head-group layers 36 Å apart, each a Gaussian of 7 Å, around a hydrophobic core a little below water (typical of electron
    density profiles, Nagle & Tristram-Nagle 2000).
    """
    heads = np.exp(-((depth - 18) ** 2) / 98) + np.exp(-((depth + 18) ** 2) / 98)
    return np.asarray(1.1 * heads - 0.2 * np.exp(-(depth**2) / 128), dtype=np.float32)


def gold_profile(depth: NDArray[np.float32], voxel_size: float) -> NDArray[np.float32]:
    """Density of gold at a distance (Å) from a bead's surface, its edge as soft as a voxel is wide."""
    return np.asarray(GOLD_DENSITY / (1 + np.exp((depth / (0.3 * voxel_size)).clip(-30, 30))), dtype=np.float32)


def draw_ball(volume: Array, ball: Ball, origin: NDArray[np.int64], beyond: float, profile: Callable[[Array], Array]) -> None:
    """Add a shape that depends on the distance from a sphere's surface, given in voxels, up to `beyond` voxels outside.

    Voxel [0, 0, 0] of the volume lies at `origin` (x, y, z).
    """
    centre = (ball.centre - origin)[::-1]
    reach = ball.radius + beyond
    low, high = np.floor(centre - reach).astype(np.int64), np.ceil(centre + reach).astype(np.int64) + 1
    inside, _ = clip_box(low, high - low, volume.shape)
    z, y, x = (np.arange(side.start, side.stop, dtype=np.float32) - c for side, c in zip(inside, centre.astype(np.float32), strict=True))
    distance = np.sqrt((z**2)[:, None, None] + (y**2)[:, None] + x**2)
    volume[inside] += profile(distance - np.float32(ball.radius))


def fill_specimen(rng: np.random.Generator, config: SpecimenConfig, templates: Sequence[Template], voxel_size: float, margin: int) -> Specimen:
    """Put vesicles, gold beads and particles into the ice of a tomogram and of a margin around it (voxels along x and y)."""
    nz, ny, nx = config.shape
    outside = np.array([margin, margin, 0])
    thickness = rng.uniform(*config.ice_thickness)
    occupancy = Occupancy((nz, ny + 2 * margin, nx + 2 * margin), config.gap / voxel_size, thickness / voxel_size)
    low, high = (r / voxel_size for r in config.vesicle_radius)
    number = int(rng.integers(config.vesicles[0], config.vesicles[1] + 1))
    vesicles = place_vesicles(rng, occupancy, number, (low, high), MEMBRANE_DEPTH / voxel_size)
    low, high = (d / voxel_size for d in config.gold_diameter)
    beads = place_beads(rng, occupancy, int(rng.integers(config.gold_beads[0], config.gold_beads[1] + 1)), (low, high))
    placed = pack(rng, templates, occupancy, draw_log_uniform(rng, config.occupancy), config.contact_share)
    cytosol_share = rng.uniform(*config.cytosol) * (rng.random() < config.cytosol_frequency)
    cytosol = place_cytosol(rng, occupancy, cytosol_share, voxel_size)
    filled = sum(templates[p.label].volume for p in placed) / occupancy.volume
    return Specimen(
        config.shape,
        [replace(p, position=p.position - outside) for p in placed],
        [replace(v, centre=v.centre - outside) for v in vesicles],
        [replace(b, centre=b.centre - outside) for b in beads],
        [(radius, centres - outside) for radius, centres in cytosol],
        rng.uniform(*config.voxel_size_error),
        thickness,
        filled,
        cytosol_share,
    )


class PosedParticles:
    """The particles of a specimen as cubes of density in their poses, each made once while there is room in memory."""

    def __init__(self, specimen: Specimen, templates: Sequence[Template]) -> None:
        self.specimen, self.templates = specimen, templates
        self._kept: dict[int, Array] = {}
        self._room = PATCH_BYTES

    def patch(self, number: int) -> Array:
        """The cube of the particle `specimen.placed[number]`."""
        if number in self._kept:
            return self._kept[number]
        particle = self.specimen.placed[number]
        patch = posed(self.templates[particle.label], particle.rotation, particle.position % 1, self.specimen.size_factor)
        if patch.nbytes <= self._room:
            self._kept[number] = patch
            self._room -= patch.nbytes
        return patch

    def near(self, rows: tuple[int, int]) -> Iterator[tuple[int, Placed]]:
        """The particles that may reach into some rows (y), with their numbers."""
        for number, particle in enumerate(self.specimen.placed):
            reach = self.templates[particle.label].size
            if rows[0] - reach < particle.position[1] < rows[1] + reach:
                yield number, particle


def draw_particles(particles: PosedParticles, rows: tuple[int, int], margin: int) -> Array:
    """Density of all particles in some rows (y) of the specimen, with a margin along x: (nz, rows, nx + 2 margin)."""
    nz, _, nx = particles.specimen.shape
    volume = np.zeros((nz, rows[1] - rows[0], nx + 2 * margin), dtype=np.float32)
    for number, particle in particles.near(rows):
        paste(volume, particles.patch(number), np.floor(particle.position).astype(np.int64) - slab_origin(rows, margin))
    return volume


def draw_membranes(volume: Array, specimen: Specimen, rows: tuple[int, int], margin: int, voxel_size: float) -> None:
    """Add the vesicles to the rows that `draw_particles` made; what would stick out of the ice is cut off, as that of the tomogram is."""
    bottom, top = (math.ceil(z) for z in ice_span(len(volume), specimen.ice_thickness / voxel_size))
    origin = slab_origin(rows, margin) + np.array([0, 0, bottom])
    for vesicle in specimen.vesicles:
        draw_ball(volume[bottom:top], vesicle, origin, MEMBRANE_REACH / voxel_size, lambda depth: membrane_profile(depth * voxel_size))


def draw_gold(volume: Array, specimen: Specimen, rows: tuple[int, int], margin: int, voxel_size: float) -> None:
    """Add the gold beads to the rows that `draw_particles` made."""
    for bead in specimen.beads:
        draw_ball(volume, bead, slab_origin(rows, margin), 3, lambda depth: gold_profile(depth * voxel_size, voxel_size))


def slab_origin(rows: tuple[int, int], margin: int) -> NDArray[np.int64]:
    """Voxel (x, y, z) of the tomogram on which voxel [0, 0, 0] of a slab lies."""
    return np.array([-margin, rows[0], 0])


def draw_labels(particles: PosedParticles, rows: tuple[int, int], voxel_size: float) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
    """Which voxels of some rows (y) of a tomogram belong to what, each (nz, rows, nx).

    Returns
    -------
    classes : 0 for background, label + 1 for particles; the number after the last class for membranes, the one after that for gold
    instances : 0 for none, else number in `specimen.placed` + 1; where two particles overlap, that of the denser one
    """
    specimen, templates = particles.specimen, particles.templates
    nz, _, nx = specimen.shape
    shape = (nz, rows[1] - rows[0], nx)
    classes, instances, densest = np.zeros(shape, np.int16), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for draw, least, label in ((draw_membranes, 0.3, len(templates) + 1), (draw_gold, GOLD_DENSITY / 2, len(templates) + 2)):
        drawn = np.zeros(shape, np.float32)
        draw(drawn, specimen, rows, 0, voxel_size)
        classes[drawn > least] = label
    for number, particle in particles.near(rows):
        template, patch = templates[particle.label], particles.patch(number)
        inside, own = window(shape, template.size, np.floor(particle.position).astype(np.int64) - slab_origin(rows, 0))
        here = (patch[own] > template.contour) & (patch[own] > densest[inside])
        classes[inside][here], instances[inside][here], densest[inside][here] = particle.label + 1, number + 1, patch[own][here]
    return classes, instances


def posed(template: Template, rotation: NDArray[np.float64], fraction: NDArray[np.float64], size_factor: float) -> Array:
    """The template's cube in a pose, its centre `fraction` (x, y, z) of a voxel beyond index size // 2."""
    cube = pose(template.fine, OVERSAMPLING, torch.from_numpy(rotation), torch.from_numpy(fraction), template.size, size_factor)
    return cube.numpy()


def paste(volume: Array, patch: Array, centre: NDArray[np.int64]) -> None:
    """Add a cube whose index size // 2 lies on voxel `centre` (x, y, z) of the volume; what sticks out is cut off."""
    inside, own = window(volume.shape, patch.shape[0], centre)
    volume[inside] += patch[own]


def window(shape: tuple[int, ...], size: int, centre: NDArray[np.int64]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a cube of `size` voxels around voxel `centre` (x, y, z) lies in a volume, and which part of the cube that is."""
    return clip_box(centre[::-1] - size // 2, size, shape)
