"""How near a recovered density may be to the true one, as mask and density themselves show: an expectation for each particle.

A network that is sure of a particle draws it with steep edges and in full; where it wavers between several answers, it draws their mean, pale and
blurred. What tells the two apart is measured here, and how much each counts is fitted on labelled particles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.floating[Any]]

TRAITS = 8
MARKED = 1
"""The trait that is 0 where no voxel is marked."""
TERMS = 1 + TRAITS + TRAITS * (TRAITS + 1) // 2
LEAST_PARTICLES = 4 * TERMS
"""From which the weights are fitted."""
FOLDS = 5
PENALTIES = np.logspace(-2, 4, 13)
HIGHEST = 0.999
"""A correlation of 1 would be infinite after Fisher's transformation."""
WITHIN = 0.5
"""Share of a voxel, or probability, from which on it belongs to the particle."""


@dataclass(frozen=True)
class Fidelity:
    """Expected correlation of recovered and true density over the box: tanh of a quadratic function of the traits.

    Attributes
    ----------
    means, deviations : (TRAITS,), of the particles that it was fitted to
    lowest, highest : (TRAITS,), limits of what these had, in deviations from the means; what lies beyond counts as the limit
    weights : (TERMS,)
    particles : that it was fitted to
    error : root mean square of what expected correlations are wrong by, of particles that were left out of the fit
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    weights: tuple[float, ...]
    particles: int
    error: float

    def is_possible(self) -> bool:
        of_traits = (self.means, self.deviations, self.lowest, self.highest)
        return (
            all(len(values) == TRAITS for values in of_traits)
            and len(self.weights) == TERMS
            and all(math.isfinite(value) for values in (*of_traits, self.weights) for value in values)
            and min(self.deviations) > 0
            and all(low <= high for low, high in zip(self.lowest, self.highest, strict=True))
            and type(self.particles) is int
            and self.particles > 0
            and 0 <= self.error < math.inf
        )

    def expect(self, traits: FloatArray) -> NDArray[np.float32]:
        """Traits (n, TRAITS) -> expected correlations (n,), none below 0; 0 where no voxel is marked, as of most boxes without a particle."""
        scaled = ((traits - np.array(self.means)) / np.array(self.deviations)).clip(self.lowest, self.highest)
        expected = np.tanh(make_terms(scaled) @ np.array(self.weights))
        return np.where(traits[:, MARKED] > 0, expected.clip(min=0), 0).astype(np.float32)


def describe_recovery(density: Tensor, mask_logits: Tensor | None) -> NDArray[np.float32]:
    """What mask and density of particles show of how sure the network was of them.

    Parameters
    ----------
    density : (n, d, h, w), dimensionless: protein about 1, background 0
    mask_logits : (n, d, h, w); None: the density, cut to 0 to 1, serves as the probability that a voxel belongs to the particle

    Returns
    -------
    (n, TRAITS): doubt of the mask (mean of 1 - p, weighted by p), root of the voxels within, mean p within, mean and standard deviation of the
    density within, mass for each voxel that is expected to belong to it, standard deviation of the density in all, and outside
    """
    p = (density.clamp(0, 1) if mask_logits is None else mask_logits.sigmoid()).flatten(1)
    d = density.flatten(1)
    within = (p > WITHIN).to(p.dtype)
    mean, deviation = moments(d, within)
    size = p.sum(1) + 1
    traits = (
        (p * (1 - p)).sum(1) / size,
        within.sum(1).sqrt(),
        moments(p, within)[0],
        mean,
        deviation,
        d.clamp_min(0).sum(1) / size,
        (d - d.mean(1, keepdim=True)).square().mean(1).sqrt(),
        moments(d, 1 - within)[1],
    )
    return torch.stack(traits, 1).numpy()


def moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation along the last axis, (n, m) -> (n,), (n,); 0 where all weights are."""
    total = weights.sum(-1).clamp_min(1)
    mean = (values * weights).sum(-1) / total
    return mean, ((values - mean[:, None]).square() * weights).sum(-1).div(total).sqrt()


def make_terms(scaled: FloatArray) -> NDArray[np.float64]:
    """(n, TRAITS) -> (n, TERMS): 1, the traits, and all products of two of them."""
    first, second = np.triu_indices(TRAITS)
    ones = np.ones((len(scaled), 1))
    return np.concatenate([ones, scaled, scaled[:, first] * scaled[:, second]], axis=1, dtype=np.float64)


def fit_fidelity(traits: FloatArray, correlation: FloatArray) -> Fidelity | None:
    """The weights that foretell the correlations (n,), NaN where there is no true density, best; None where too few particles have one.

    Particles of which no voxel is marked are left out: there is nothing to tell them by.
    Fitted is Fisher's transformation of the correlation (atanh), whose errors are about as large for high correlations as for low ones.
    """
    from sklearn.linear_model import RidgeCV  # takes a second, and who predicts does not need it
    from sklearn.model_selection import KFold, cross_val_predict

    told = np.isfinite(correlation) & (traits[:, MARKED] > 0)
    traits, correlation = np.asarray(traits[told], np.float64), np.asarray(correlation[told], np.float64)
    if len(traits) < LEAST_PARTICLES:
        return None
    means, deviations = traits.mean(0), traits.std(0).clip(min=1e-6)
    scaled = (traits - means) / deviations
    terms, transformed = make_terms(scaled), np.arctanh(correlation.clip(-HIGHEST, HIGHEST))
    ridge = RidgeCV(PENALTIES).fit(terms[:, 1:], transformed)  # which has the first term, the constant, without a penalty
    foretold = np.tanh(cross_val_predict(ridge, terms[:, 1:], transformed, cv=KFold(FOLDS)))
    return Fidelity(
        means=tuple(means.tolist()),
        deviations=tuple(deviations.tolist()),
        lowest=tuple(scaled.min(0).tolist()),
        highest=tuple(scaled.max(0).tolist()),
        weights=(float(ridge.intercept_), *ridge.coef_.tolist()),
        particles=len(traits),
        error=float(np.sqrt(np.mean((foretold - correlation) ** 2))),
    )


def read_fidelity(fields: Mapping[str, Any] | None) -> Fidelity | None:
    """Of a model's card; TypeError where the fields are others."""
    if fields is None:
        return None
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Fidelity(**values)
