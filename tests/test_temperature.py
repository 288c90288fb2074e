"""The temperature of the class probabilities: found again where it is known, and right for clear and poor particles alike."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from triptych.recognition.temperature import Temperature, fit_constant, fit_temperature, logit_spread
from triptych.training.confidence import class_figures

TRUE = Temperature(1.4, 2.0, -0.8)


def draw(particles: int, width: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (n, 12) that spread by about `width`, times 0.5 to 2, and labels drawn from the probabilities that the true temperature gives."""
    generator = torch.Generator().manual_seed(seed)
    widths = width * 2 ** (2 * torch.rand(particles, 1, generator=generator) - 1)
    logits = widths * torch.randn(particles, 12, generator=generator)
    return logits, torch.multinomial(TRUE.scale(logits).softmax(1), 1, generator=generator)[:, 0]


def test_one_temperature_divides_all_logits_alike() -> None:
    logits, _ = draw(20, 2.0)
    torch.testing.assert_close(Temperature(1.5).scale(logits), logits / 1.5)


def test_the_temperature_that_made_the_labels_is_found() -> None:
    logits, label = draw(6000, 2.0)
    found = fit_temperature(logits, label)
    assert found.exponent == pytest.approx(TRUE.exponent, abs=0.1)
    assert found.typical == pytest.approx(float(logit_spread(logits).log().mean().exp()), rel=1e-5)
    at_typical = TRUE.value * (found.typical / TRUE.typical) ** TRUE.exponent
    assert found.value == pytest.approx(at_typical, rel=0.05)


@pytest.mark.parametrize("width", [1.0, 4.0])
def test_probabilities_stay_right_where_particles_are_poorer_or_clearer(width: float) -> None:
    logits, label = draw(4000, 2.0)
    fitted, constant = fit_temperature(logits, label), Temperature(fit_constant(logits, label))
    others = draw(4000, width, seed=1)
    errors = [class_figures(*others, temperature)["calibration_error"] for temperature in (fitted, constant)]
    assert errors[0] < 0.03
    assert errors[1] > 2 * errors[0]


def test_few_particles_hardly_move_the_exponent() -> None:
    logits, label = draw(5, 2.0)
    assert abs(fit_temperature(logits, label).exponent) < 0.5


def test_logits_without_any_spread_stay_finite() -> None:
    assert TRUE.scale(torch.zeros(2, 3)).softmax(1).tolist() == [[pytest.approx(1 / 3)] * 3] * 2


@pytest.mark.parametrize("wrong", [Temperature(0.0), Temperature(math.nan), Temperature(1.0, 0.0), Temperature(1.0, 1.0, 50.0)])
def test_impossible_temperatures_are_known(wrong: Temperature) -> None:
    assert not wrong.is_possible()
    assert TRUE.is_possible()
