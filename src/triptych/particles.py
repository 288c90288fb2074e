"""Particles: where, how turned, and whatever else their table says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError

GIVE_PIXEL_SIZE = "give it in Å with --input-voxel-size (convert) or --set coordinate_pixel_size= (cut)"
"""What to do where a list counts in pixels of a size that it does not state."""


@dataclass(frozen=True)
class Frame:
    """The box of a tomogram, in the voxels in which its size is stated."""

    size: tuple[int, int, int]
    """Voxels along x, y, z."""
    voxel_size: float
    """Å."""

    @classmethod
    def of(cls, shape: tuple[int, int, int], voxel_size: float) -> Frame:
        """The box of an array (nz, ny, nx)."""
        nz, ny, nx = shape
        return cls((nx, ny, nz), voxel_size)

    @property
    def center(self) -> NDArray[np.float64]:
        """x, y, z in Å from the first voxel to N / 2, which is where RELION 5 counts from."""
        return np.array(self.size, dtype=np.float64) / 2 * self.voxel_size

    def in_voxels_of(self, voxel_size: float) -> Frame:
        """The same box in voxels of so many Å, as the unbinned tilt series of a binned tomogram has it."""
        x, y, z = (round(n * self.voxel_size / voxel_size) for n in self.size)
        return Frame((x, y, z), voxel_size)


@dataclass(frozen=True, eq=False)
class Particles:
    """A list of particles and all that its file says of them; None: the file doesn't say.

    Attributes
    ----------
    table : DataFrame of n rows
        Every column of the input, in the input's order.
    positions : float array (n, 3) or None
        x, y, z in Å from the centre of voxel [0, 0, 0] of the particle's tomogram, origin shifts applied.
    rotations : float array (n, 3, 3) or None
        Matrices reference -> tomogram, acting on (x, y, z) columns.
    tomograms, classes : n names or None
    scores : float array (n,) or None
        The higher, the surer.
    pixel_sizes : float array (n,) or None
        Å, of the pixels in which the input counts or which it states.
    series_pixel_sizes : float array (n,) or None
        Å, of the unbinned tilt series, where the input states it beside the pixels that it counts in.
    radii : Å, of the classes whose size the input states, by name
    frames : the boxes of the tomograms whose size is known, by name
    blocks : what else is in the particles' STAR file (optics, general), by block name
    tomogram_blocks : what is in the STAR file of their tomograms, by block name
    file, tomograms_file : where the table and the `tomogram_blocks` come from, so that relative paths in them start there
    """

    table: pd.DataFrame
    positions: NDArray[np.float64] | None = None
    rotations: NDArray[np.float64] | None = None
    tomograms: list[str] | None = None
    classes: list[str] | None = None
    scores: NDArray[np.float64] | None = None
    pixel_sizes: NDArray[np.float64] | None = None
    series_pixel_sizes: NDArray[np.float64] | None = None
    radii: Mapping[str, float] = field(default_factory=dict)
    frames: Mapping[str, Frame] = field(default_factory=dict)
    blocks: Mapping[str, Any] = field(default_factory=dict)
    tomogram_blocks: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    tomograms_file: Path | None = None

    def __post_init__(self) -> None:
        for name in ("positions", "rotations", "tomograms", "classes", "scores", "pixel_sizes", "series_pixel_sizes"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.table):
                raise InputError(f"{len(values)} {name} came with {len(self.table)} particles")

    def __len__(self) -> int:
        return len(self.table)

    @property
    def class_numbers(self) -> list[Any] | None:
        """What the table calls the classes by number, such as label maps have them; None where it does not."""
        return self.table["rlnClassNumber"].tolist() if "rlnClassNumber" in self.table else None

    @property
    def unbinned_pixel_sizes(self) -> NDArray[np.float64] | None:
        """Å per pixel (n,) of the tilt series, or of what the input counts in where it tells of no other pixels."""
        return self.pixel_sizes if self.series_pixel_sizes is None else self.series_pixel_sizes

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Particles:
        """The particles of the given rows, in that order."""
        index = np.asarray(rows, dtype=np.int64)

        def pick(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            return None if values is None else values[index]

        def pick_names(names: list[str] | None) -> list[str] | None:
            return None if names is None else [names[row] for row in index]

        return replace(
            self,
            table=self.table.iloc[index].reset_index(drop=True),
            positions=pick(self.positions),
            rotations=pick(self.rotations),
            tomograms=pick_names(self.tomograms),
            classes=pick_names(self.classes),
            scores=pick(self.scores),
            pixel_sizes=pick(self.pixel_sizes),
            series_pixel_sizes=pick(self.series_pixel_sizes),
        )
