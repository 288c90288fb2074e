"""How frequent each class is among some particles, and what that makes of the probabilities of each of them.

A network names particles as if the classes were as frequent as in its training data. A list of particles is not like that: most of it may be of one
kind, or junk. How frequent the classes are shows in the probabilities of all particles together, without a label (Saerens, Latinne &
Decaestecker, Neural Computation 14:21, 2002). That they are calibrated matters (Alexandari, Kundaje & Shrikumar, ICML 2020, arXiv:1901.06852).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

PRIOR_PARTICLES = 1.0
"""For so many particles of an average class the shares of the training data count: with less, a few particles say too much of themselves."""
STEPS, SETTLED = 1000, 1e-6
"""Steps at most, and the change of a share at which they end."""
ROWS_AT_ONCE = 65536
"""Particles that are weighed at once, so that a step takes no memory to speak of."""
LEAST = 1e-12
"""Probabilities below count as this."""


def reweigh(probabilities: FloatArray, trained: FloatArray, shares: FloatArray) -> NDArray[np.float64]:
    """Probabilities (n, classes) where the classes are as frequent as `shares` (classes,), given what they are where they are so as `trained`.

    By Bayes' theorem, where a particle of a class looks the same however frequent the class is (Saerens et al. 2002, eq. 2.4).
    """
    weighted = np.maximum(probabilities.astype(np.float64), LEAST) * (shares / trained)
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True))


def estimate_shares(probabilities: FloatArray, trained: FloatArray, prior_particles: float = PRIOR_PARTICLES) -> NDArray[np.float64]:
    """The shares of the classes (classes,), by expectation maximisation from the probabilities (n, classes) of particles.

    The most probable ones where the shares themselves follow a Dirichlet distribution: beside the particles, `prior_particles` for each class are
    spread as in the training data. So few particles leave the shares nearly as they were, and no class is ever impossible.

    Parameters
    ----------
    trained : (classes,), shares in the training data, each above 0; their sum is 1
    """
    parts = [probabilities[first : first + ROWS_AT_ONCE] for first in range(0, len(probabilities), ROWS_AT_ONCE)]
    shares, prior = trained, prior_particles * len(trained)
    for _ in range(STEPS):
        before = shares
        counts = sum((reweigh(part, trained, before).sum(axis=0) for part in parts), prior * trained)
        shares = counts / (len(probabilities) + prior)
        if np.abs(shares - before).max() < SETTLED:
            break
    return np.asarray(shares, np.float64)
