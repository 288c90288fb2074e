"""Which of several structures a particle shows: each is put into its best pose, and the subtomogram says which of them fits.

A network that names what it sees mostly has the right class among its first few. To look at the subtomogram once more with each of these
structures in hand tells them apart far better than the network alone, and costs a few searches instead of one for each structure that there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from triptych.alignment.align import Alignment, align, of_particles
from triptych.alignment.matching import make_band, pick
from triptych.config import AlignConfig, OrientConfig

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

INDEPENDENT = 0.4
"""Share of the measured Fourier terms that speak for themselves; with it the probabilities of simulated particles are right."""
HIGHEST = 1 - 1e-6
"""Correlations above count as this."""
LEAST = 1e-12
"""Probabilities below count as this."""


class Stacks(NamedTuple):
    """What there is of n particles, on one grid.

    Attributes
    ----------
    densities, subtomograms : (n, d, d, d), bright; None where they are not looked at
    wedges : (n, d, d, d // 2 + 1) or (1, ...), as for `align`
    """

    densities: NDArray[np.float32] | None
    subtomograms: NDArray[np.float32]
    wedges: NDArray[np.float32]


class Named(NamedTuple):
    """The structure that fits each of n particles best.

    Attributes
    ----------
    label : (n,), number of its class
    probabilities : (n, k), of all classes, after the trial
    poses : of that structure
    fits : (n,), correlation of that structure with the recovered density; NaN without one
    """

    label: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    poses: Alignment
    fits: NDArray[np.float32]


def choose_trials(probabilities: FloatArray, label: NDArray[np.int64], there: BoolArray, config: OrientConfig) -> BoolArray:
    """Which structures each particle is compared with, (n, k): that of its class, and its likeliest rivals.

    Parameters
    ----------
    probabilities : (n, k)
    label : (n,), the class that each was called
    there : (k,), which classes have a structure
    """
    rows = np.arange(len(label))
    others = np.where(there, probabilities, 0.0)
    others[rows, label] = 0.0
    rank = (-others).argsort(axis=1, kind="stable").argsort(axis=1)
    # recovered densities look like what the network has named: without the subtomograms nothing can be told by them
    count = config.rivals if config.by_subtomograms else 0
    tried: BoolArray = (rank < count) & (others > 0) & (others >= config.rival_probability)
    tried[rows, label] = True
    return tried


def name_particles(
    stacks: Stacks,
    references: Mapping[int, NDArray[np.float32]],
    tried: BoolArray,
    probabilities: FloatArray,
    voxel_size: float,
    config: OrientConfig,
) -> Named:
    """Try structures on particles, and keep the one that fits best, in its best pose.

    Parameters
    ----------
    references : structures by the number of their class, on the grid of the particles
    tried : (n, k), which of them each particle is compared with, one at least
    probabilities : (n, k), before the trial
    """
    by_subtomogram = no_poses(tried.shape)
    if config.by_subtomograms:
        for k in np.flatnonzero(tried.any(axis=0)).tolist():
            rows = np.flatnonzero(tried[:, k])
            put(by_subtomogram, (rows, k), align_subtomograms(stacks, rows, references[k], voxel_size, config))
        measured = count_measured(stacks.wedges, voxel_size, config.align)
        probabilities = cap(weigh(probabilities, by_subtomogram.scores.astype(np.float64), measured), tried)
    label = np.where(tried, probabilities, -1.0).argmax(axis=1)
    if stacks.densities is None:
        rows = np.arange(len(label))
        return Named(label, probabilities.astype(np.float32), pose_of(by_subtomogram, rows, label), np.full(len(label), np.nan, np.float32))
    poses, fits = no_poses(label.shape), np.empty(len(label), np.float32)
    for k in np.unique(label).tolist():
        rows = np.flatnonzero(label == k)
        found = align(stacks.densities[rows], references[k], voxel_size, config.align)
        fits[rows] = found.scores
        if config.by_subtomograms:
            refined = align_subtomograms(stacks, rows, references[k], voxel_size, config, start=found)
            found = better(pose_of(by_subtomogram, rows, k), refined)
        put(poses, rows, found)
    return Named(label, probabilities.astype(np.float32), poses, fits)


def align_subtomograms(
    stacks: Stacks, rows: NDArray[np.int64], reference: NDArray[np.float32], voxel_size: float, config: OrientConfig, start: Alignment | None = None
) -> Alignment:
    """Poses of a structure in the subtomograms of some particles; with `start` only refined."""
    return align(stacks.subtomograms[rows], reference, voxel_size, config.align, wedges=of_particles(stacks.wedges, rows), start=start)


def no_poses(shape: tuple[int, ...]) -> Alignment:
    """Room for so many poses, not found so far."""
    return Alignment(np.full((*shape, 3, 3), np.nan), np.full((*shape, 3), np.nan), np.full(shape, np.nan, np.float32))


def pose_of(poses: Alignment, rows: NDArray[np.int64], structure: NDArray[np.int64] | int) -> Alignment:
    """Of poses (n, k) of all structures those of one for each of some particles."""
    return Alignment(*(part[rows, structure] for part in poses))


def put(into: Alignment, where: Any, poses: Alignment) -> None:
    """Set some of the poses."""
    into.rotations[where], into.shifts[where], into.scores[where] = poses


def better(a: Alignment, b: Alignment) -> Alignment:
    """Of two poses of each particle the one with the higher score."""
    first = a.scores >= b.scores
    rotations = np.where(first[:, None, None], a.rotations, b.rotations)
    return Alignment(rotations, np.where(first[:, None], a.shifts, b.shifts), np.where(first, a.scores, b.scores))


def cap(probabilities: FloatArray, tried: BoolArray) -> FloatArray:
    """Probabilities (n, k) of which none that was not tried is above the highest that was: it cannot be likelier than what was found."""
    highest = np.where(tried, probabilities, 0.0).max(axis=1, keepdims=True)
    capped = np.where(tried, probabilities, np.minimum(probabilities, highest))
    return np.asarray(capped / capped.sum(axis=1, keepdims=True))


def count_measured(wedges: NDArray[np.float32], voxel_size: float, config: AlignConfig) -> FloatArray:
    """Real numbers (n,) or (1,) that were measured of each particle in the band that is compared: two for each pair k, -k."""
    band = make_band(wedges.shape[-2], voxel_size, config.resolution, torch.device("cpu"))
    return np.array([float(((pick(torch.from_numpy(np.ascontiguousarray(wedge)), band) != 0) * band.twins).sum()) for wedge in wedges])


def log_likelihoods(scores: FloatArray, measured: FloatArray) -> FloatArray:
    """Of structures that correlate with particles as the scores (n, k) say; -inf where a score is NaN.

    With the scale of the structure and the strength of white noise left open, the likelihood of m numbers that correlate c with a structure is
    proportional to (1 - c^2)^(-m / 2): what is left of their sum of squares, at the best scale and noise. But what a structure leaves over is
    neighbours and what blurs them too, and these are not independent from one Fourier term to the next: m counts in part.

    Parameters
    ----------
    measured : (n,) or (1,), how many numbers were compared
    """
    left = np.log1p(-np.square(np.clip(np.nan_to_num(scores), 0.0, HIGHEST)))
    return np.where(np.isfinite(scores), -INDEPENDENT * measured[:, None] / 2 * left, -np.inf)


def weigh(probabilities: FloatArray, scores: FloatArray, measured: FloatArray) -> FloatArray:
    """Probabilities (n, k) after structures were compared with the particles.

    Classes that were not tried are taken to fit as well as the second best of those that were: if one stands out, so it does among all.

    Parameters
    ----------
    probabilities : (n, k), before
    scores : (n, k), correlation of structure and subtomogram in the best pose; NaN where it was not tried
    measured : (n,) or (1,), how many numbers were compared
    """
    tried, likelihoods = np.isfinite(scores), log_likelihoods(scores, measured)
    ordered = np.sort(likelihoods, axis=1)[:, ::-1]
    second = ordered[:, min(1, tried.shape[1] - 1)]
    others = np.where(np.isfinite(second), second, ordered[:, 0])[:, None]
    return softmax(np.log(np.maximum(probabilities, LEAST)) + np.where(tried, likelihoods, others), axis=1)  # type: ignore[no-any-return]
