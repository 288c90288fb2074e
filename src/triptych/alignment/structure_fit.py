"""How well recovered densities fit the structure of their class, beside particles that are known to be of it: a second opinion on what is new.

A network that has learned to name classes draws what it has named, but not quite: of a structure that it was never shown it recovers some
of what is different. Turned onto the structure that it named, the density then correlates less with it than those of that class do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from triptych.recognition.novelty import novelty_scale

FloatArray = NDArray[np.float64]

FEWEST = 5
"""Particles of a class from which its own level is taken; fewer are compared with all classes."""
FOLDS = 5
"""Parts of the known particles that take turns in being judged by the levels of the others."""
LEAST_FIT = 1e-3
"""Correlations below count as this."""
LEAST_DEVIATION = 1e-3
MAD_TO_DEVIATION = 1.4826
"""Of a normal distribution: standard deviation over the median absolute deviation."""


@dataclass(frozen=True)
class FitLevels:
    """What fits of known particles are like.

    Attributes
    ----------
    classes : mean and standard deviation of the logarithm of the fits of each class; common : of all
    threshold : standard deviations below the mean of its class from which on a particle is unknown; scale : over which that novelty changes
    """

    classes: Mapping[str, tuple[float, float]]
    common: tuple[float, float]
    threshold: float
    scale: float

    def depth(self, names: Sequence[str], fits: FloatArray) -> FloatArray:
        """How many standard deviations each fit (n,) lies below the mean of its class."""
        middle, deviation = np.array([self.classes.get(name, self.common) for name in names]).reshape(-1, 2).T
        return np.asarray((middle - log_fits(fits)) / deviation)

    def novelty(self, names: Sequence[str], fits: FloatArray) -> FloatArray:
        """0 to 1 for each particle; from 1/2 on it is unknown."""
        return np.asarray(expit((self.depth(names, fits) - self.threshold) / self.scale))


def log_fits(fits: FloatArray) -> FloatArray:
    return np.log(np.maximum(fits, LEAST_FIT))


def fit_levels(names: Sequence[str], fits: FloatArray, accepted_share: float, right: NDArray[np.bool_] | None = None) -> FitLevels:
    """Levels by which a share of particles like these is accepted.

    Median and median absolute deviation are taken, since a few of them may have the wrong name. The share is that of particles which the levels
    do not know: those of some consecutive rows at a time, since neighbours in a table mostly come from one tomogram, and tomograms differ.

    Parameters
    ----------
    names : classes of n particles, as a model calls them
    fits : (n,) correlation of each recovered density with the structure of its class, in the best pose
    right : (n,) which are what they are called: levels are those of these, since a class that takes in others tells little; default: all
    """
    called, every = np.array(names), np.arange(len(fits))
    right = np.ones(len(fits), bool) if right is None else right
    depth = np.empty(len(fits))
    for part in np.array_split(every, min(FOLDS, len(fits))):
        others = np.setdiff1d(every, part) if len(part) < len(every) else every
        depth[part] = take_levels(called[others], fits[others], right[others]).depth(called[part].tolist(), fits[part])
    return replace(take_levels(called, fits, right), threshold=float(np.quantile(depth, accepted_share)), scale=novelty_scale(depth))


def take_levels(called: NDArray[np.str_], fits: FloatArray, right: NDArray[np.bool_]) -> FitLevels:
    """The levels of n particles, of those that are right where any are, without a threshold."""
    sure = right if right.any() else ~right
    of_class = {str(name): log_fits(fits[sure & (called == name)]) for name in np.unique(called)}
    own = {name: robust(values) for name, values in of_class.items() if len(values) >= FEWEST}
    return FitLevels(own, robust(log_fits(fits[sure])), 0.0, 1.0)


def robust(values: FloatArray) -> tuple[float, float]:
    """Median, and the standard deviation that the median absolute deviation speaks for."""
    middle = float(np.median(values))
    return middle, max(MAD_TO_DEVIATION * float(np.median(np.abs(values - middle))), LEAST_DEVIATION)
