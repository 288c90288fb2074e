"""Euler angles, and those of the ZXZ kind, as motive lists and Dynamo have them. (RELION's, which are ZYZ, are in `relion`.)

phi turns about z first, then theta about x, then psi about z, all of them fixed axes: R = Rz(psi) Rx(theta) Rz(phi), which takes the
reference to the particle. Dynamo states the angles of the way back: tdrot = -psi, tilt = -theta, narot = -phi.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation


def angles_from_matrices(matrices: NDArray[np.float64], axes: str) -> NDArray[np.float64]:
    """Angles (n, 3) in degrees of matrices (n, 3, 3), about `axes` as scipy names them; the last is 0 where only a sum of two is determined."""
    with warnings.catch_warnings():  # scipy warns of just that
        warnings.filterwarnings("ignore", "Gimbal lock")
        angles = Rotation.from_matrix(np.reshape(matrices, (-1, 3, 3))).as_euler(axes, degrees=True)
    return np.asarray(angles + 0.0, dtype=np.float64)  # + 0.0: never "-0.0"


def rotations_from_zxz(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices reference -> particle, (n, 3, 3), of phi, theta, psi in degrees, (n, 3)."""
    return np.asarray(Rotation.from_euler("zxz", np.reshape(angles, (-1, 3)), degrees=True).as_matrix(), dtype=np.float64)


def zxz_from_rotations(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """phi, theta, psi in degrees, (n, 3), of matrices reference -> particle; theta in [0, 180], and psi 0 where only one sum is determined."""
    return angles_from_matrices(rotations, "zxz")


def rotations_from_dynamo(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices reference -> particle of tdrot, tilt, narot."""
    return rotations_from_zxz(-np.reshape(angles, (-1, 3))[:, ::-1])


def dynamo_from_rotations(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """tdrot, tilt, narot, with tilt in [0, 180] as Dynamo writes it: half a turn about z on both sides turns the sign of a tilt."""
    phi, theta, psi = zxz_from_rotations(rotations).T
    return np.stack([-psi % 360 - 180, theta, -phi % 360 - 180], axis=1)
