"""Subtomograms onto a reference: rotations and shifts, averages, and a reference made from nothing but the particles.

Bright particles on both sides: invert dark ones first. A pose is that of `triptych simulate`: the particle is the reference, turned by
`rotations` about the centre of the box (index n // 2) and then moved by `shifts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.config import AlignConfig

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]


class Alignment(NamedTuple):
    """Poses of n particles.

    Attributes
    ----------
    rotations : float64 (n, 3, 3), matrix reference -> particle on (x, y, z)
    shifts : float64 (n, 3), x, y, z in Å of the particle's centre from the box's centre (index n // 2)
    scores : float32 (n,), correlation with the reference over the measured frequencies, within the mask
    """

    rotations: FloatArray
    shifts: FloatArray
    scores: NDArray[np.float32]


def align(
    volumes: NDArray[np.float32],
    reference: NDArray[np.float32],
    voxel_size: float,
    config: AlignConfig | None = None,
    *,
    wedges: NDArray[np.float32] | None = None,
    mask: NDArray[np.float32] | None = None,
    start: Alignment | None = None,
    on_progress: Progress | None = None,
) -> Alignment:
    """Find rotation and shift of each volume against a reference: a search over all rotations, then refinement to below a degree.

    Parameters
    ----------
    volumes : (n, d, d, d), recovered densities or subtomograms, particles bright
    reference : (d, d, d), bright, centred
    voxel_size : Å, of both
    wedges : (n, d, d, d // 2 + 1) or (1, ...), weight 0..1 of each term of `rfftn` of a volume, such as `fourier.wedge_weights` gives; default: 1
    mask : (d, d, d), 0..1, of the reference: what lies outside is not compared; default: the whole box
    start : poses to refine only, without the search
    on_progress : called with (particles done, particles in all)

    Raises
    ------
    InputError
        If shapes do not fit, or the reference is constant.
    """
    raise NotImplementedError


def average(
    volumes: NDArray[np.float32],
    alignment: Alignment,
    voxel_size: float,
    wedges: NDArray[np.float32] | None = None,
    config: AlignConfig | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of the particles in the frame of the reference, each Fourier term over the particles that measured it.

    Returns
    -------
    density : (d, d, d)
    weight : (d, d, d // 2 + 1), how many particles measured each term of `rfftn`
    """
    raise NotImplementedError


def consensus(
    volumes: NDArray[np.float32],
    voxel_size: float,
    rng: np.random.Generator,
    config: AlignConfig | None = None,
    *,
    wedges: NDArray[np.float32] | None = None,
    on_progress: Progress | None = None,
) -> tuple[NDArray[np.float32], Alignment]:
    """An average of particles of one kind without a reference, and their poses in its (arbitrary) frame.

    Several particles are tried as the first reference, each for some rounds of aligning and averaging; that which the particles agree with
    best goes on with all of them until the poses stand still.
    """
    raise NotImplementedError


def split_halves(count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of two random halves of `count` particles, in ascending order: aligned apart from the start, their averages give an honest FSC."""
    order = rng.permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])
