"""Symmetry of a density: found by search, reported with its correlation, and imposed only when asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from torch import Tensor

from triptych.align import centre, centre_of_mass, to_density, to_tensor
from triptych.config import AlignConfig
from triptych.errors import InputError
from triptych.matching import OVERSAMPLING, ROTATIONS_AT_ONCE, Particles, Reference, fine_fields, make_band, make_particles, make_reference, transform
from triptych.matching import score as score_poses
from triptych.model import choose_device
from triptych.physics import pose_many
from triptych.rotations import point_group

FloatArray = NDArray[np.float64]

FOLDS = range(2, 8)
MAIN_FOLDS = {"T": 2, "O": 4, "I": 2}
"""Order of the axis that `point_group` puts along z."""
AXIS_STEP, AZIMUTH_STEP = 6.0, 4.0
"""Degrees between the axes, and between the turns about an axis, that the search tries."""
LEAST_CONTRAST = 0.6
"""Least `Symmetry.contrast` of a symmetry."""


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A point group that a density may have.

    Attributes
    ----------
    name : "C2" ... "C7", "D2" ... "D7", "T", "O" or "I"
    frame : (3, 3), matrix on (x, y, z) that takes the group's own axes (see `rotations.point_group`) to the density's
    centre : (3,) x, y, z in Å from the box's centre (index n // 2), through which all axes go
    correlation : mean correlation of the density with itself after the group's rotations, the identity left out
    background : the same for the main axis in any direction (median): what roundness alone gives
    """

    name: str
    frame: FloatArray
    centre: FloatArray
    correlation: float
    background: float

    @property
    def axis(self) -> FloatArray:
        """Direction (x, y, z) of the main axis."""
        return self.frame[:, 2]

    @property
    def rotations(self) -> FloatArray:
        """(g, 3, 3), the group's rotations about the density's axes."""
        return about_axes(self.frame, point_group(self.name))

    @property
    def contrast(self) -> float:
        """0 for no more than roundness gives, 1 for a perfect symmetry."""
        return (self.correlation - self.background) / max(1 - self.background, 1e-6)


class Itself(NamedTuple):
    """A density, to be turned, and to be compared with."""

    particles: Particles
    reference: Reference


def about_axes(frame: FloatArray, rotations: FloatArray) -> FloatArray:
    """Rotations (..., 3, 3) about the axes of a frame instead of x, y and z."""
    turned: FloatArray = frame @ rotations @ np.swapaxes(frame, -1, -2)
    return turned


def correlate(itself: Itself, rotations: FloatArray) -> FloatArray:
    """Correlation of a density with itself after rotations (..., 3, 3), up to the resolution of its band."""
    reference = itself.reference
    flat = torch.from_numpy(np.ascontiguousarray(rotations.reshape(-1, 3, 3))).to(reference.density.device)
    nowhere = torch.zeros((1, 3), device=flat.device)
    parts = [score_poses(itself.particles, reference, some, nowhere) for some in flat.split(ROTATIONS_AT_ONCE)]
    return np.asarray(torch.cat(parts).cpu().numpy(), np.float64).reshape(rotations.shape[:-2])


@torch.inference_mode()
def find_symmetry(density: NDArray[np.float32], voxel_size: float, config: AlignConfig | None = None) -> list[Symmetry]:
    """Point groups that a density has, the largest first; empty for an asymmetric one.

    All axes go through its centre of mass. Cyclic groups are looked for in all directions, and others where an axis of theirs was found.
    What counts is `Symmetry.contrast`: at least LEAST_CONTRAST. Symmetry is that at the resolution of the settings: subunits that differ
    only in finer detail are the same.

    Parameters
    ----------
    density : (n, n, n), bright
    voxel_size : Å
    """
    config = config or AlignConfig()
    if density.ndim != 3 or len(set(density.shape)) != 1 or not np.ptp(density) > 0:
        raise InputError(f"symmetry was asked for of an array of shape {density.shape}, but a cube that is not constant was expected")
    itself = prepare(density, voxel_size, config)
    middle = centre_of_mass(density, voxel_size, config)
    found = []
    axes = half_sphere(AXIS_STEP)
    for fold in FOLDS:
        background, frame = find_axis(itself, axes, fold)
        groups = (f"C{fold}", f"D{fold}", *(name for name, main in MAIN_FOLDS.items() if main == fold))
        for name in groups:
            best, correlation = find_frame(itself, frame, name, fold)
            symmetry = Symmetry(name, best, middle, correlation, background)
            if symmetry.contrast >= LEAST_CONTRAST:
                found.append(symmetry)
            elif name == groups[0]:
                break  # no such axis
    return sorted(found, key=lambda symmetry: -len(point_group(symmetry.name)))


def prepare(density: NDArray[np.float32], voxel_size: float, config: AlignConfig) -> Itself:
    """A density about its centre of mass, ready to be compared with itself."""
    device = choose_device(config.device)
    centred = to_tensor(centre(density, voxel_size, config), device)
    band = make_band(len(density), voxel_size, config.resolution, device)
    d = len(density)
    everything = torch.ones((1, d, d, d // 2 + 1), device=device)
    return Itself(make_particles(centred[None], everything, band), make_reference(centred, band))


def half_sphere(step: float) -> FloatArray:
    """Directions (n, 3) about `step` degrees apart, one of each pair of opposites: a Fibonacci spiral."""
    count = math.ceil(2 * np.pi / np.radians(step) ** 2)
    i = np.arange(count)
    z, azimuth = (i + 0.5) / count, np.pi * (3 - 5**0.5) * i
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)


def frames_along(axes: FloatArray) -> FloatArray:
    """Frames (n, 3, 3) whose z axis is each of the directions (n, 3)."""
    helper = np.where(np.abs(axes[:, :1]) < 0.7, [[1.0, 0, 0]], [[0, 1.0, 0]])
    x = np.cross(helper, axes)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(axes, x), axes], axis=2)


def find_axis(itself: Itself, axes: FloatArray, fold: int) -> tuple[float, FloatArray]:
    """Median over all directions of the correlation after the turns of an n-fold axis, and a frame along the best direction."""
    frames = frames_along(axes)
    # A turn and its inverse correlate alike: those up to half a circle are enough.
    correlations = [correlate(itself, about_axes(frames, turn)) * weight for turn, weight in half_group(f"C{fold}")]
    mean = np.sum(correlations, axis=0)
    return float(np.median(mean)), frames[int(mean.argmax())]


def half_group(name: str) -> Iterator[tuple[FloatArray, float]]:
    """One of each pair of inverse rotations of a group without the identity, and its share of all."""
    group = Rotation.create_group(name)
    vectors = [vector for vector in group.as_rotvec() if np.linalg.norm(vector) > 1e-6]
    for vector in vectors:
        is_half_turn = np.linalg.norm(vector) > np.pi - 1e-6
        leading = vector[np.abs(vector) > 1e-6][-1]
        if is_half_turn or leading > 0:
            yield Rotation.from_rotvec(vector).as_matrix(), (1 if is_half_turn else 2) / len(vectors)


def find_frame(itself: Itself, main: FloatArray, name: str, fold: int) -> tuple[FloatArray, float]:
    """The frame near a main axis in which a group's rotations leave the density most alike, and their mean correlation."""
    turns, weights = (np.array(part) for part in zip(*half_group(name), strict=True))

    def measure(frames: FloatArray) -> FloatArray:
        means: FloatArray = correlate(itself, about_axes(frames[:, None], turns)) @ weights
        return means

    if not name.startswith("C"):
        azimuths = np.arange(0, 360 / fold, AZIMUTH_STEP)
        frames = main @ Rotation.from_euler("z", azimuths[:, None], degrees=True).as_matrix()
        main = frames[int(measure(frames).argmax())]

    def loss(vector: FloatArray) -> float:
        return -float(measure((Rotation.from_rotvec(vector).as_matrix() @ main)[None])[0])

    simplex = np.radians(AXIS_STEP / 2) * np.vstack([np.zeros(3), np.eye(3)])
    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-5, "maxfev": 120})
    return Rotation.from_rotvec(best.x).as_matrix() @ main, -float(best.fun)


@torch.inference_mode()
def symmetrise(density: NDArray[np.float32], voxel_size: float, symmetry: Symmetry, config: AlignConfig | None = None) -> NDArray[np.float32]:
    """Mean of a density (n, n, n) over the rotations of a group about its axes; its mean over the box is 0."""
    device = choose_device((config or AlignConfig()).device)
    band = make_band(len(density), voxel_size, 2 * voxel_size, device)
    field = fine_fields(transform(to_tensor(density, device), band), band)
    rotations = symmetry.rotations
    offsets = (symmetry.centre - rotations @ symmetry.centre) * (band.size / band.box_width)
    turned: list[Tensor] = [
        transform(pose_many(field[None], OVERSAMPLING, rotation[None], offset[None], band.size)[0, 0], band)
        for rotation, offset in zip(torch.from_numpy(rotations).to(device), torch.from_numpy(offsets).to(device), strict=True)
    ]
    return to_density(torch.stack(turned).mean(0), band, len(density))
