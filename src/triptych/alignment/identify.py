"""What may an average be? Its comparison with a library of structures, each aligned to it, and each mirrored too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.alignment.align import align
from triptych.config import AlignConfig
from triptych.errors import InputError
from triptych.fourier import match_amplitudes, resample_to_box
from triptych.io.output_names import LIBRARY
from triptych.io.structure_files import structure_kind
from triptych.parallel import in_batches
from triptych.simulation.library import load_library
from triptych.simulation.structures import Structure, read_structure

STRUCTURES_AT_ONCE = 32
"""Structures aligned together: bounds the memory for a large library."""

CLEAR_HAND = 0.05
"""Difference of the correlations with a structure and with its mirror image from which on the hand is taken as told."""


class Match(NamedTuple):
    """A structure that was aligned to an average.

    Attributes
    ----------
    name, source, mass_kda : of the structure
    correlation : of the average with the structure
    mirror_correlation : with its mirror image
    rotation, shift : (3, 3) and (3,) Å, the average's frame -> the better of the two in the box in which the library has it
    """

    name: str
    source: str
    mass_kda: float
    correlation: float
    mirror_correlation: float
    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def hand(self) -> str:
        """ "same", or "mirrored" where the mirror image fits clearly better (the hand of the tomograms may be wrong), or "undecided"."""
        difference = self.correlation - self.mirror_correlation
        return "undecided" if abs(difference) < CLEAR_HAND else "same" if difference > 0 else "mirrored"

    @property
    def best(self) -> float:
        return max(self.correlation, self.mirror_correlation)


def name_match(name: str, hand: str) -> str:
    """A structure that fits an average best, in words that say where its mirror image does so, or does so as well (`Match.hand`)."""
    return {"same": name, "mirrored": f"mirror image of {name}"}.get(hand, f"{name} or its mirror image")


def identify(
    density: NDArray[np.float32],
    library: Sequence[Structure],
    voxel_size: float,
    config: AlignConfig | None = None,
) -> list[Match]:
    """Compare an average with every structure of a library.

    Structures take the average's mean amplitude in each shell of Fourier space, so that the filters that the average has gone through (CTF,
    weighting, B-factor) do not decide; shape does, within the largest ball in the box.

    Parameters
    ----------
    density : (n, n, n), an average, bright
    library : structures of any voxel size
    voxel_size : Å, of the density
    config : of the alignment; its resolution is the finest detail that is compared

    Returns
    -------
    A match for each structure, the best first, by the larger of the two correlations.
    """
    config, inside = config or AlignConfig(), ball_mask(density.shape[0])
    density = density - density.mean()  # as `align` takes it off the structures: times the ball it would be a ball of its own
    matches: list[Match] = []
    for part in in_batches(library, STRUCTURES_AT_ONCE):
        boxes = [match_amplitudes(resample_to_box(item.density, voxel_size, density.shape[0], fill=0), density) for item in part]
        images = np.stack([*boxes, *(mirror(box) for box in boxes)])
        found = align(images, density, voxel_size, config, mask=inside)
        for row, structure in enumerate(part):
            scores = float(found.scores[row]), float(found.scores[row + len(part)])
            best = row if scores[0] >= scores[1] else row + len(part)
            matches.append(Match(structure.name, structure.source, structure.mass_kda, *scores, found.rotations[best], found.shifts[best]))
    return sorted(matches, key=lambda match: -match.best)


def mirror(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mirror image (x -> -x) of volumes (..., nz, ny, nx); the centre, index n // 2, stays."""
    return np.roll(data[..., ::-1], 1 - data.shape[-1] % 2, axis=-1)


def ball_mask(size: int) -> NDArray[np.float32]:
    """1 in the largest ball around the centre of a cube of `size` voxels, else 0."""
    axis = np.arange(size) - size // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return np.asarray(radius < size // 2, dtype=np.float32)


def load_references(path: Path | None, voxel_size: float) -> list[Structure]:
    """Structures to compare with: a library folder, a folder of PDB, mmCIF and map files, or one file; None: the built-in library.

    Parameters
    ----------
    voxel_size : Å, of the densities made from files
    """
    if path is None or (path / LIBRARY).is_file():
        return load_library(path)
    if path.is_file():
        return [read_structure(path, voxel_size=voxel_size)]
    if not path.is_dir():
        raise InputError(
            f"the library {path} does not exist: give a library that `structures make` wrote, a folder of PDB, mmCIF and map files, or a file"
        )
    files = sorted(file for file in path.iterdir() if structure_kind(file))
    if not files:
        raise InputError(f"the library {path} holds neither library.json nor PDB, mmCIF or map files: give another folder")
    return [read_structure(file, voxel_size=voxel_size) for file in files]
