"""Two averages of the two halves of the particles, aligned apart: how fine a detail they share, and the mask they are compared in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.fourier import fourier_shell_correlation, frequency_grid, resolution_at, scramble_phases
from triptych.volume import soften

FloatArray = NDArray[np.float64]
Map = NDArray[np.float32]

THRESHOLD = 0.143
"""Correlation of two half maps down to which their mean is believed (Rosenthal & Henderson 2003, J. Mol. Biol. 333:721)."""
RANDOMISED_FROM = 0.8
"""Phases are randomised from where the unmasked correlation first falls below this (as RELION does)."""
COARSEST, LEAST_WAVES = 100.0, 3
"""Å: where halves agree to nothing finer, an average is filtered and compared with structures to this resolution, or to that of which so many waves
fit into the box: what is coarser tells no structure from another."""
SOLVENT = 0.3
"""Share of a density's height from which on a voxel belongs to the molecule."""
MARGIN = 20.0
EDGE = 40.0
"""Å around the molecule in which a mask is 1, and over which it then falls to 0."""


class HalfMapCorrelation(NamedTuple):
    """Fourier shell correlations of two half maps.

    Attributes
    ----------
    frequency : 1/Å
    unmasked : of the whole boxes
    masked : within the mask
    corrected : less what the mask alone brings (Chen et al. 2013, Ultramicroscopy 135:24)
    resolution : Å, where `corrected` falls below 0.143; infinity where it does so from the first shell on. Shells whose wavelength is
        longer than the mask is wide do not count: they tell of the particle's surroundings, and the CTF leaves little of them
    """

    frequency: FloatArray
    unmasked: FloatArray
    masked: FloatArray
    corrected: FloatArray
    resolution: float


def compare_half_maps(first: Map, second: Map, voxel_size: float, mask: Map, rng: np.random.Generator) -> HalfMapCorrelation:
    """Fourier shell correlation of two half maps (n, n, n) with and without a soft mask, and corrected for the mask.

    Correlation beyond the frequency from which the phases were randomised is the mask's doing:
    corrected = (masked - randomised) / (1 - randomised).
    """
    frequency, unmasked = fourier_shell_correlation(first, second, voxel_size)
    masked = fourier_shell_correlation(first * mask, second * mask, voxel_size)[1]
    start = resolution_at(frequency, unmasked, RANDOMISED_FROM)
    finer = frequency_grid(first.shape, voxel_size) > 1 / start
    scrambled = [scramble_phases(half, rng, finer) * mask for half in (first, second)]
    randomised = fourier_shell_correlation(scrambled[0], scrambled[1], voxel_size)[1]
    beyond = frequency > 1 / start + 2 * frequency[1]  # not the shells that the mask mixes with those before
    by_mask = np.clip(randomised, 0, 1 - 1e-6)  # a correlation below 0 is chance, and must not make the maps look better
    corrected = np.where(beyond, (masked - by_mask) / (1 - by_mask), masked)
    resolution = resolution_at(frequency, corrected, THRESHOLD, width(mask, voxel_size))
    return HalfMapCorrelation(frequency, unmasked, masked, corrected, resolution)


def usable_resolution(resolution: float, box_width: float) -> float:
    """Å: the resolution at which two half maps agree, or the coarsest at which there is something to look at; both in Å."""
    return min(resolution, COARSEST, box_width / LEAST_WAVES)


def width(mask: Map, voxel_size: float) -> float:
    """Å, of what a mask lets through by half or more, along the axis where this is widest."""
    inside = np.argwhere(mask >= 0.5)
    return voxel_size * float(max(np.ptp(inside, axis=0) + 1)) if len(inside) else np.inf


def soft_mask(density: Map, voxel_size: float) -> Map:
    """Mask around a density (n, n, n; solvent 0): 1 to `MARGIN` Å around it, then a raised cosine to 0 over `EDGE` Å."""
    molecule = density > SOLVENT * float(np.percentile(density, 99.9))
    if not molecule.any():
        return np.ones(density.shape, dtype=np.float32)
    return soften(molecule, voxel_size, MARGIN, EDGE)
