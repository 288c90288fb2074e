"""Symmetry of a density: found by search, and reported with its correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from triptych.alignment.align import centre, centre_of_mass, to_tensor
from triptych.alignment.matching import (
    ROTATIONS_AT_ONCE,
    ParticleTerms,
    Reference,
    make_band,
    make_particle_terms,
    make_reference,
    score,
)
from triptych.alignment.rotations import point_group
from triptych.config import AlignConfig
from triptych.device import choose_device
from triptych.errors import InputError

FloatArray = NDArray[np.float64]

FOLDS = range(2, 8)
MAIN_FOLDS = {"T": 2, "O": 4, "I": 2}
"""Order of the axis that `point_group` puts along z."""
AXIS_STEP, AZIMUTH_STEP = 8.0, 4.0
"""Degrees between the axes, and between the turns about an axis, that the search tries."""
ANY_TURNS = np.arange(45, 180, 9.0)
"""Degrees, turns about an axis that stand for all: those of no symmetry, and too far for the density still to overlap itself."""
BACKGROUND_FRAMES = 20
"""Directions that stand for all."""
LEAST_CONTRAST = 0.65
"""Least `Symmetry.contrast` of a symmetry."""


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A point group that a density may have.

    Attributes
    ----------
    name : "C2" ... "C7", "D2" ... "D7", "T", "O" or "I"
    frame : (3, 3), matrix on (x, y, z) that takes the group's own axes (see `rotations.point_group`) to the density's
    centre : (3,) x, y, z in Å from the box's centre (index n // 2), through which all axes go
    correlation : of the density with itself after that of the group's rotations that it suits least
    background : the mean correlation after any turns about the main axis, or, for T, O and I, with the main axis in any direction: what a body
        that is round about that axis, or round altogether, has without any symmetry
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

    particles: ParticleTerms
    reference: Reference


def about_axes(frame: FloatArray, rotations: FloatArray) -> FloatArray:
    """Rotations (..., 3, 3) about the axes of a frame instead of x, y and z."""
    turned: FloatArray = frame @ rotations @ np.swapaxes(frame, -1, -2)
    return turned


def correlate(itself: Itself, rotations: FloatArray) -> FloatArray:
    """Correlation of a density with itself after rotations (..., 3, 3), up to the resolution of its band."""
    reference = itself.reference
    flat = torch.from_numpy(np.ascontiguousarray(rotations.reshape(-1, 3, 3))).to(reference.spectra.device)
    nowhere = torch.zeros((1, 3), device=flat.device)
    parts = [score(itself.particles, reference, some, nowhere) for some in torch.split(flat, ROTATIONS_AT_ONCE)]
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
    middle = centre_of_mass(density, voxel_size, config)
    centred = centre(density, voxel_size, config)
    coarse, fine = (prepare(centred, voxel_size, limit, config) for limit in (max(config.resolution, config.coarse_resolution), config.resolution))
    frames = frames_along(half_sphere(AXIS_STEP))
    found = []
    for fold in FOLDS:
        scores = measure(coarse, frames, f"C{fold}")
        groups = (f"C{fold}", f"D{fold}", *(name for name, main in MAIN_FOLDS.items() if main == fold))
        for name in groups:
            frame = turn_about_axis(coarse, frames[int(scores.argmax())], name, fold)
            frame = refine_frame(fine, frame, name)
            correlation = float(correlate(fine, about_axes(frame, half_group(name)[0])).min())
            symmetry = Symmetry(name, frame, middle, correlation, find_background(fine, frame, name, frames))
            if symmetry.contrast >= LEAST_CONTRAST:
                found.append(symmetry)
            elif name == groups[0]:
                break  # no such axis
    return sorted(found, key=lambda symmetry: -len(point_group(symmetry.name)))


def prepare(centred: NDArray[np.float32], voxel_size: float, resolution: float, config: AlignConfig) -> Itself:
    """A density, its centre of mass in the middle, ready to be compared with itself."""
    density = to_tensor(centred, choose_device(config.device))
    d = len(density)
    band = make_band(d, voxel_size, resolution, density.device)
    everything = torch.ones((1, d, d, d // 2 + 1), device=density.device)
    return Itself(make_particle_terms(density[None], everything, band), make_reference(density, band))


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


def measure(itself: Itself, frames: FloatArray, name: str) -> FloatArray:
    """Mean correlation (n,) of the density with itself after a group's rotations about the axes of each frame (n, 3, 3)."""
    turns, weights = half_group(name)
    means: FloatArray = correlate(itself, about_axes(frames[:, None], turns)) @ weights
    return means


def find_background(itself: Itself, frame: FloatArray, name: str, all_frames: FloatArray) -> float:
    """What `measure` gives for a body that is no less round, but has no symmetry; see `Symmetry.background`."""
    if name in MAIN_FOLDS:
        some = all_frames[:: max(1, len(all_frames) // BACKGROUND_FRAMES)]
        return float(np.median(measure(itself, some, name)))
    about = Rotation.from_euler("z", ANY_TURNS[:, None], degrees=True).as_matrix()
    turned = float(correlate(itself, about_axes(frame, about)).mean())
    if name.startswith("C"):
        return turned
    half_turn_about_x = np.diag([1.0, -1.0, -1.0])
    flipped = float(correlate(itself, about_axes(frame @ about, half_turn_about_x)).mean())
    fold = int(name[1:])
    return ((fold - 1) * turned + fold * flipped) / (2 * fold - 1)


def half_group(name: str) -> tuple[FloatArray, FloatArray]:
    """One of each pair of inverse rotations of a group, which correlate alike, and its share of all; the identity is left out."""
    vectors = Rotation.create_group(name).as_rotvec()
    vectors = vectors[np.linalg.norm(vectors, axis=1) > 1e-6]
    is_half_turn = np.linalg.norm(vectors, axis=1) > np.pi - 1e-6
    last = np.array([vector[np.abs(vector) > 1e-6][-1] for vector in vectors])
    kept = is_half_turn | (last > 0)
    return Rotation.from_rotvec(vectors[kept]).as_matrix(), np.where(is_half_turn[kept], 1, 2) / len(vectors)


def turn_about_axis(itself: Itself, frame: FloatArray, name: str, fold: int) -> FloatArray:
    """The frame turned about its main axis so that the group's other axes lie best."""
    if name.startswith("C"):
        return frame
    azimuths = np.arange(0, 360 / fold, AZIMUTH_STEP)
    frames = frame @ Rotation.from_euler("z", azimuths[:, None], degrees=True).as_matrix()
    best: FloatArray = frames[int(measure(itself, frames, name).argmax())]
    return best


def refine_frame(itself: Itself, frame: FloatArray, name: str) -> FloatArray:
    """The frame near another about whose axes the density is most symmetric."""

    def turned(vector: FloatArray) -> FloatArray:
        matrix: FloatArray = Rotation.from_rotvec(vector).as_matrix() @ frame
        return matrix

    simplex = np.radians(AXIS_STEP / 2) * np.vstack([np.zeros(3), np.eye(3)])
    options = {"initial_simplex": simplex, "xatol": 2e-3, "fatol": 1e-4, "maxfev": 40}
    best = minimize(lambda vector: -float(measure(itself, turned(vector)[None], name)[0]), np.zeros(3), method="Nelder-Mead", options=options)
    return turned(best.x)
