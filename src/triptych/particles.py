"""Particles: where, how turned, and whatever else their table says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError


@dataclass(frozen=True, eq=False)
class Particles:
    """A list of particles.

    Attributes
    ----------
    table : DataFrame of n rows
        Every column of the input, in the input's order.
    positions : float array (n, 3) or None
        x, y, z in Å from the centre of voxel [0, 0, 0] of the particle's tomogram, origin shifts applied.
    rotations : float array (n, 3, 3) or None
        Matrices reference -> tomogram, acting on (x, y, z) columns.
    """

    table: pd.DataFrame
    positions: NDArray[np.float64] | None = None
    rotations: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for name, array in (("positions", self.positions), ("rotations", self.rotations)):
            if array is not None and len(array) != len(self.table):
                raise InputError(f"{len(array)} {name} came with {len(self.table)} particles")

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Particles:
        """The particles of the given rows, in that order."""
        index = np.asarray(rows, dtype=np.int64)
        return Particles(
            self.table.iloc[index].reset_index(drop=True),
            None if self.positions is None else self.positions[index],
            None if self.rotations is None else self.rotations[index],
        )
