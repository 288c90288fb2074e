"""Whether tomograms have the right hand: do structures fit their particles, or do the mirror images?

A wrong sign of the tilt angles or a flipped axis mirrors a tomogram, and nothing in it looks wrong. But no pose of a structure fits its
mirror image, and where the finer detail is there a few dozen particles tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from triptych.alignment.align import align, of_particles
from triptych.alignment.identify import mirror
from triptych.alignment.rivals import count_measured, log_likelihoods
from triptych.config import AlignConfig

IntArray = NDArray[np.int64]

CHIRAL = 0.97
"""Correlation of a structure with its mirror image in the best pose from which on it can tell nothing."""
SURE = 3.0
"""Standard errors of the mean from which on the hand is said, of many particles; of few it takes as many more as is as improbable by chance."""
CLASSES = 4
"""So many classes are compared at most, the commonest."""


class Hand(NamedTuple):
    """What some particles say.

    Attributes
    ----------
    particles : how many were compared; better : how many of them fit their structure better than its mirror image
    score : mean difference of the logarithms of the likelihoods over its standard error; positive: the right hand
    """

    particles: int
    better: int
    score: float

    @property
    def verdict(self) -> str:
        """In words, for people."""
        count = f"{self.better} of {self.particles} particles fit their structures better than the mirror images of these"
        if not self.is_told:
            return f"not told: {count}"
        return f"right: {count}" if self.score > 0 else f"probably wrong: only {count}"

    @property
    def is_told(self) -> bool:
        """By Student's t: the standard error of a few particles is itself known badly."""
        return self.particles > 1 and abs(self.score) >= float(stdtrit(self.particles - 1, ndtr(SURE)))

    @property
    def wrong(self) -> bool:
        return self.is_told and self.score < 0


def choose_sample(label: IntArray, probability: NDArray[np.float64], count: int) -> IntArray:
    """The surest particles of the commonest classes, about as many of each."""
    names, numbers = np.unique(label, return_counts=True)
    common = names[np.argsort(-numbers, kind="stable")][:CLASSES]
    own = [np.flatnonzero(label == name) for name in common]
    sure = [rows[np.argsort(-probability[rows], kind="stable")][: -(-count // len(common))] for rows in own]
    return np.sort(np.concatenate(sure))


def tell_hand(
    subtomograms: NDArray[np.float32],
    wedges: NDArray[np.float32],
    label: IntArray,
    references: Mapping[int, NDArray[np.float32]],
    voxel_size: float,
    config: AlignConfig,
) -> Hand | None:
    """Try structures and their mirror images on subtomograms, each with a search of its own; None where all look like their mirror images.

    Parameters
    ----------
    subtomograms, wedges : as for `align`
    label : (n,), number of the structure of each particle; not that which fits it best, for that one fits noise better than its mirror image does
    references : structures, on the grid of the particles
    """
    odds = []
    for k in np.unique(label).tolist():
        reference, mirrored = references[k], mirror(references[k])
        if align(mirrored[None], reference, voxel_size, config).scores[0] >= CHIRAL:
            continue
        rows = np.flatnonzero(label == k)
        own = of_particles(wedges, rows)
        scores = [align(subtomograms[rows], density, voxel_size, config, wedges=own).scores for density in (reference, mirrored)]
        right, wrong = log_likelihoods(np.stack(scores, axis=1).astype(np.float64), count_measured(own, voxel_size, config)).T
        odds.append(right - wrong)
    if not odds:
        return None
    found = np.concatenate(odds)
    error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.inf
    return Hand(len(found), int((found > 0).sum()), float(found.mean() / max(error, 1e-12)))
