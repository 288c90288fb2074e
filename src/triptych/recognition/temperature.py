"""What the logits of a particle are divided by, so that the probabilities of its classes are right."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

TEMPERATURES = (0.25, 4.0)
EXPONENTS = (-2.0, 1.0)
LEAST_SPREAD = 1e-3
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Temperature:
    """Temperature of a particle: value * (spread / typical) ** exponent, where spread is the standard deviation of its logits over the classes.

    One temperature for all particles (exponent 0; Guo et al., ICML 2017, arXiv:1706.04599) is right on average only: clear particles are then
    named with too little confidence and poor ones with too much, and how many there are of each depends on the data. The spread of the logits
    tells them apart. (That the temperature should depend on the sample: Joy et al., AAAI 2023, arXiv:2207.06211.)
    """

    value: float = 1.0
    typical: float = 1.0
    exponent: float = 0.0

    def is_possible(self) -> bool:
        return 0 < self.value < math.inf and 0 < self.typical < math.inf and EXPONENTS[0] <= self.exponent <= EXPONENTS[1]

    def scale(self, logits: Tensor) -> Tensor:
        """Logits (n, classes) whose softmax are the probabilities."""
        return logits / (self.value * (logit_spread(logits) / self.typical) ** self.exponent)[:, None]


def logit_spread(logits: Tensor) -> Tensor:
    """(n, classes) -> (n,)"""
    return logits.std(1, correction=0).clamp_min(LEAST_SPREAD)


def fit_temperature(logits: Tensor, label: Tensor) -> Temperature:
    """The temperature that gives held-out particles the least cross-entropy; the fewer they are, the nearer is its exponent to 0."""
    logits = logits.double()
    typical, start = float(logit_spread(logits).log().mean().exp()), math.log(fit_constant(logits, label))

    def loss(parameters: np.ndarray) -> float:
        fitted = Temperature(math.exp(parameters[0]), typical, float(parameters[1]))
        return float(F.cross_entropy(fitted.scale(logits), label) + parameters[1] ** 2 / len(label))

    bounds = [tuple(math.log(limit) for limit in TEMPERATURES), EXPONENTS]
    value, exponent = minimize(loss, [start, 0.0], method="L-BFGS-B", bounds=bounds).x
    return Temperature(math.exp(value), typical, float(exponent))


def fit_constant(logits: Tensor, label: Tensor) -> float:
    """The one temperature for all particles that gives them the least cross-entropy."""
    lowest, highest = TEMPERATURES
    candidates = torch.logspace(math.log10(lowest), math.log10(highest), 241)
    losses = torch.stack([F.cross_entropy(logits / t, label) for t in candidates])
    best = int(losses.argmin())
    if best in (0, len(candidates) - 1):
        text = "the temperature is cut off at a limit (%g to %g): the held-out particles are few, all rightly named, or unlike the training data"
        logger.warning(text, lowest, highest)
    return float(candidates[best])
