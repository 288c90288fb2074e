"""Rotations: even grids of them, point groups, and the angle between two.

Matrices act on (x, y, z), reference -> particle, as everywhere in triptych.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from triptych.errors import InputError

FloatArray = NDArray[np.float64]

SPIRAL = (2**0.5, 1.533751168755204288118041)
"""The two constants of super-Fibonacci spirals; the second is the real root of x^4 = x + 4."""


def rotation_grid(step: float) -> FloatArray:
    """Rotations spread evenly over all there are, about `step` degrees from one to the next.

    Super-Fibonacci spirals (M. Alexa, CVPR 2022): as even as the best known grids, for any number of rotations. The number is that of
    cubes of side `step` in the volume of all rotations, 8 pi^2 rad^3.

    Returns
    -------
    (n, 3, 3): 4411 rotations for 15°, 8616 for 12°
    """
    count = max(1, round(8 * np.pi**2 / np.radians(step) ** 3))
    s = np.arange(count) + 0.5
    inner, outer = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = (2 * np.pi * s / constant for constant in SPIRAL)
    quaternions = np.stack([inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)], axis=1)
    matrices: FloatArray = Rotation.from_quat(quaternions).as_matrix()
    return matrices


def angles_between(a: FloatArray, b: FloatArray) -> FloatArray:
    """Degrees of the rotation that leads from `a` to `b`, arrays (..., 3, 3) whose leading axes broadcast.

    From the length of the difference of the matrices, |a - b| = 2 sqrt(2) sin(angle / 2), which is exact for small angles as the trace is not.
    """
    chord = np.linalg.norm(a - b, axis=(-2, -1)) / (2 * 2**0.5)
    return np.asarray(2 * np.degrees(np.arcsin(np.clip(chord, 0, 1))))


def point_group(name: str) -> FloatArray:
    """The rotations (n, 3, 3) of a point group: "C1" ... "Cn", "D2" ... "Dn", "T", "O" or "I".

    As scipy orients them: the n-fold axis of Cn and Dn, and a 2-fold axis of T and I and a 4-fold one of O, lie along z.
    """
    match = re.fullmatch(r"C[1-9]\d*|D([2-9]|[1-9]\d+)|T|O|I", name)
    if not match:
        raise InputError(f"{name!r} is no point group: give C1, C2 ..., D2, D3 ..., T, O or I")
    group: FloatArray = Rotation.create_group(name).as_matrix()
    return group


def angular_errors(found: FloatArray, true: FloatArray, group: FloatArray | None = None) -> FloatArray:
    """Degrees between found and true rotations (n, 3, 3); of a symmetric reference, between the nearest two that look the same.

    Parameters
    ----------
    group : (g, 3, 3), rotations that leave the reference as it is; default: the identity only
    """
    if group is None:
        return angles_between(found, true)
    return np.asarray(angles_between(found[:, None], true[:, None] @ group).min(axis=1))
