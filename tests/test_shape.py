"""Shapes: what does not depend on the pose, and what does tell densities apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from triptych.recognition.density_shape import DEGREE, describe_shapes, shell_radii

SIZE = 32


def blobs(seed: int) -> np.ndarray:
    """A lopsided density of five blobs."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((SIZE,) * 3) - SIZE // 2
    total = np.zeros((SIZE,) * 3)
    for place in rng.uniform(-6, 6, (5, 3)):
        total += np.exp(-((z - place[0]) ** 2 + (y - place[1]) ** 2 + (x - place[2]) ** 2) / 8)
    return total.astype(np.float32)


def turned(density: np.ndarray, seed: int) -> np.ndarray:
    matrix, middle = Rotation.random(rng=np.random.default_rng(seed)).as_matrix(), np.full(3, SIZE // 2)
    return ndimage.affine_transform(density, matrix, middle - matrix @ middle, order=3).astype(np.float32)


def test_shape_stays_when_a_density_is_turned_and_shifted() -> None:
    first, second = blobs(0), blobs(1)
    own = describe_shapes(np.stack([first, *(np.roll(turned(first, seed), (1, -2, 1), (0, 1, 2)) for seed in range(6)), second]))
    assert own.shape == (8, len(shell_radii(SIZE)) * (DEGREE + 1))
    assert np.linalg.norm(own, axis=1) == pytest.approx(np.ones(8), abs=1e-5)
    apart = np.linalg.norm(own - own[0], axis=1)
    assert apart[1:7].max() < apart[7] / 5
    assert apart[7] > 0.2


def test_a_ball_has_power_at_degree_0_alone() -> None:
    z, y, x = np.indices((SIZE,) * 3)
    ball = 1 / (1 + np.exp(np.sqrt((z - 17) ** 2 + (y - 14) ** 2 + (x - 16) ** 2) - 7))
    shape = describe_shapes(ball[None]).reshape(-1, DEGREE + 1)
    assert np.square(shape[:, 0]).sum() == pytest.approx(1, abs=1e-3)
    inside = shape[:4, 0] / shell_radii(SIZE)[:4]
    assert inside == pytest.approx(np.full(4, inside[0]), rel=0.05)


def test_length_is_the_density_itself() -> None:
    """Before it is divided by, the squared length is the integral of the squared density: that of a faint one tells how faint it is."""
    density = blobs(2)
    faint = density * np.float32(2 / np.sqrt(np.square(density).sum()))
    assert np.linalg.norm(describe_shapes(faint[None])) == pytest.approx(0.5, rel=0.03)


def test_nothing_has_no_shape() -> None:
    assert not describe_shapes(np.zeros((2, SIZE, SIZE, SIZE), np.float32)).any()
    assert not describe_shapes(-blobs(0)[None] * 0).any()
    assert describe_shapes(np.empty((0, SIZE, SIZE, SIZE), np.float32)).shape == (0, len(shell_radii(SIZE)) * (DEGREE + 1))
