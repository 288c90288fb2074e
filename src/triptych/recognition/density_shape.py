"""What a density looks like, however it is turned: how strong it is in each shell around its centre, and in how fine a pattern.

The density on a sphere is a sum of spherical harmonics, and the power of all those of a degree does not change when the sphere is turned
(Kazhdan, Funkhouser & Rusinkiewicz, Symposium on Geometry Processing 2003). The centre is the centre of mass of the positive density.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import sph_harm_y
from torch import Tensor
from torch.nn import functional as F

DEGREE = 8
"""The finest pattern: eight waves around."""
LEAST = 4.0
"""Root of the number of voxels of protein below which a density is hardly there, and its shape counts for less."""
AT_ONCE = 32
"""Densities that are sampled at once."""


def shell_radii(size: int) -> NDArray[np.float64]:
    """Radii of the shells in a box of so many voxels: every voxel, to four fifths of the way to the wall."""
    return np.arange(1.0, 2 * size // 5 + 1)


@torch.inference_mode()
def describe_shapes(densities: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Densities (n, d, d, d), protein about 1 -> (n, shells * (DEGREE + 1)), of length 1, or less where there is hardly any density."""
    parts = [_describe(torch.from_numpy(np.asarray(densities[i : i + AT_ONCE], np.float32))) for i in range(0, len(densities), AT_ONCE)]
    empty = np.empty((0, len(shell_radii(densities.shape[-1])) * (DEGREE + 1)), np.float32)
    return np.concatenate([empty, *(part.numpy() for part in parts)])


def _describe(boxes: Tensor) -> Tensor:
    directions, harmonics, degrees = _sphere()
    radii = torch.from_numpy(shell_radii(boxes.shape[-1])).float()
    places = _centres_of_mass(boxes)[:, None, None] + radii[:, None, None] * directions
    values = _sample(boxes, places)
    power = torch.zeros(*values.shape[:2], DEGREE + 1).index_add_(2, degrees, (values @ harmonics).square())
    shapes = (power.sqrt() * radii[:, None]).flatten(1)
    length: Tensor = shapes.norm(dim=1, keepdim=True)
    return shapes / length.clamp_min(LEAST)


def _centres_of_mass(boxes: Tensor) -> Tensor:
    """(n, 3) voxels z, y, x; the middle of the box where nothing is positive."""
    size = boxes.shape[-1]
    weight, axis = boxes.clamp_min(0), torch.arange(size, dtype=torch.float32)
    total = weight.sum((1, 2, 3))
    moments = torch.stack([(weight.sum(others) * axis).sum(1) for others in ((2, 3), (1, 3), (1, 2))], 1)
    return torch.where(total[:, None] > 0, moments / total.clamp_min(1e-12)[:, None], size // 2)


def _sample(boxes: Tensor, places: Tensor) -> Tensor:
    """Values (n, ...) at voxels z, y, x (n, ..., 3), between voxels linearly, 0 outside."""
    grid = (places.flip(-1) * 2 / (boxes.shape[-1] - 1) - 1).flatten(1, -2)[:, :, None, None]
    return F.grid_sample(boxes[:, None], grid, align_corners=True).view(places.shape[:-1])


@cache
def _sphere() -> tuple[Tensor, Tensor, Tensor]:
    """Directions (m, 3) z, y, x; real spherical harmonics there times the weight of each direction (m, k); the degree of each harmonic (k,).

    Gauss-Legendre points along the axis and even ones around it, which integrate products of two such harmonics exactly.
    """
    cosines, weights = np.polynomial.legendre.leggauss(DEGREE + 4)
    around = 2 * len(cosines)
    polar, azimuth = (part.ravel() for part in np.meshgrid(np.arccos(cosines), np.arange(around) * 2 * np.pi / around, indexing="ij"))
    weight = np.repeat(weights, around) * 2 * np.pi / around
    directions = np.stack([np.cos(polar), np.sin(polar) * np.sin(azimuth), np.sin(polar) * np.cos(azimuth)], 1)
    columns, degrees = [], []
    for degree in range(DEGREE + 1):
        for order in range(degree + 1):
            wave = sph_harm_y(degree, order, polar, azimuth) * weight * (1 if order == 0 else np.sqrt(2))
            columns += [wave.real] if order == 0 else [wave.real, wave.imag]
            degrees += [degree] if order == 0 else [degree, degree]
    return torch.from_numpy(directions).float(), torch.from_numpy(np.stack(columns, 1)).float(), torch.tensor(degrees)
