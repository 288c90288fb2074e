"""Symmetry of a density: found by search, reported with its correlation, and imposed only when asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.config import AlignConfig

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A point group that a density may have.

    Attributes
    ----------
    name : "C2" ... "C7", "D2" ... "D7", "T", "O" or "I"
    frame : (3, 3), matrix on (x, y, z) that takes the group's own axes (main axis along z, see `rotations.point_group`) to the density's
    centre : (3,) x, y, z in Å from the box's centre (index n // 2), through which all axes go
    correlation : mean correlation of the density with itself after the group's rotations
    background : the same after rotations that are no symmetry: what roundness alone gives
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
        raise NotImplementedError


def find_symmetry(density: NDArray[np.float32], voxel_size: float, config: AlignConfig | None = None) -> list[Symmetry]:
    """Point groups that the density has, the largest first; empty for an asymmetric one.

    Parameters
    ----------
    density : (n, n, n), an average
    voxel_size : Å
    """
    raise NotImplementedError


def symmetrise(density: NDArray[np.float32], voxel_size: float, symmetry: Symmetry) -> NDArray[np.float32]:
    """Mean of the density (n, n, n) over the rotations of a group about its axes."""
    raise NotImplementedError
