"""Are particles brighter or darker than what surrounds them? Judged from the grey values, with how sure that is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from triptych.config import DEFAULT_CONTRAST, Contrast
from triptych.errors import counted
from triptych.fourier import band_pass
from triptych.volume import Volume, bin_voxels, spread_boxes

logger = logging.getLogger(__name__)

CONTRAST_SAMPLE = 64
"""Particles from which the sign of the contrast is judged."""
SURE = 3.0
"""z-score from which the sign is more than a guess."""
CONTRAST_DOUBT = 4.0
"""z-score from which the data are believed to show the other sign."""
OTHER: dict[Contrast, Contrast] = {"dark": "bright", "bright": "dark"}

REGIONS, REGION_WIDTH, PART_WIDTH = 12, 800.0, 300.0
"""Of a tomogram, at most so many boxes of that width are looked at, in parts; Å."""
COARSE, FINE = 500.0, 80.0
"""Å: what is coarser (gradients, thickness) or finer (noise) tells nothing of the sign."""
LARGEST_SKEWNESS = 2.0
"""Of a part, so that no gold bead decides."""
SKEWNESS_OF_NOISE = 0.03
"""What counting noise and reconstruction may leave everywhere; it averages to nothing in no number of parts."""


@dataclass(frozen=True)
class Appearance:
    """Which sign the grey values of particles seem to have."""

    z_score: float
    """How sure: above 0 for bright, below 0 for dark, 0 where nothing can be told."""
    basis: str
    """What was looked at."""

    @property
    def seen(self) -> Contrast:
        return "bright" if self.z_score > 0 else "dark"

    @property
    def is_sure(self) -> bool:
        return abs(self.z_score) >= SURE

    def __str__(self) -> str:
        return f"{self.seen} (z = {self.z_score:.1f} over {self.basis})"


# ------------------------------------------------------------------------------------------------------------ particles


def contrast_score(data: NDArray[np.floating[Any]]) -> float:
    """How much brighter the middle of a box is than its surroundings, in standard deviations.

    The middle is a Gaussian of standard deviation 1/8 of the box; the surroundings are a shell around radius 0.42. Gradients
    longer than the box and detail finer than 1/5 of it count for nothing. The unit is the spread of the same figure over
    all places in the box, so that noise of any spectrum scores 0 ± 1.
    """
    shape = data.shape[-3:]
    data = data.astype(np.float64) - data.mean(dtype=np.float64)
    # distance from index 0, periodic, as a share of the axis
    axes = [np.minimum(np.arange(n), n - np.arange(n)) / n for n in shape]
    radius = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
    middle, around = np.exp(-((radius / 0.125) ** 2) / 2), np.exp(-(((radius - 0.42) / 0.04) ** 2) / 2)
    kernel = band_pass((middle / middle.sum() - around / around.sum()).astype(np.float32), 1 / max(shape), 2.5, 0.2)
    scores = np.fft.irfftn(np.fft.rfftn(data) * np.fft.rfftn(kernel).conj(), s=shape, axes=(0, 1, 2))
    spread = float(scores.std())
    center = tuple(n // 2 for n in shape)
    return float(scores[center]) / spread if spread > 0 else 0.0


def guess_contrast(volumes: Iterable[Volume]) -> Appearance:
    """Whether particles, each near the middle of its box, are brighter or darker than their surroundings.

    The z-score is the sum of the single scores (each cut at ±4, so that no outlier decides) over the square root of their number. Empty boxes
    give 0 ± 1; a systematic rim, as masks leave, gives a wrong answer.

    Parameters
    ----------
    volumes : subtomograms of one kind of contrast; twenty are enough, one may mislead
    """
    scores = [min(max(contrast_score(volume.data), -4.0), 4.0) for volume in volumes]
    return Appearance(sum(scores) / float(np.sqrt(len(scores))) if scores else 0.0, counted(len(scores), "particle"))


# ----------------------------------------------------------------------------------------------------- whole tomograms


def guess_tomogram_contrast(tomogram: Volume) -> Appearance:
    """Whether what is dense in a tomogram is brighter or darker than the ice.

    Ice fills most of a tomogram, and what is dense, be it protein, membrane or gold, stands out of it on one side: grey values between
    two resolutions are skewed to that side. The z-score is the mean skewness of the tomogram's parts over its uncertainty. A tomogram that
    is full to the brim, or empty, tells nothing.

    Parameters
    ----------
    tomogram : its data may be mapped from a file; a few boxes of them are read. Where they are not valid nothing is concluded from them.
    """
    skews = np.array([skew for region in sample_regions(tomogram) for skew in skewness_of_parts(region)])
    skews = np.clip(skews[np.isfinite(skews)], -LARGEST_SKEWNESS, LARGEST_SKEWNESS)
    basis = f"{len(skews)} parts of the tomogram"
    if len(skews) < 2:
        return Appearance(0.0, basis)
    uncertainty = np.hypot(skews.std(ddof=1) / np.sqrt(len(skews)), SKEWNESS_OF_NOISE)
    return Appearance(float(skews.mean() / uncertainty), basis)


def sample_regions(tomogram: Volume) -> Iterator[Volume]:
    """Boxes from all over a tomogram, on voxels that are fine enough to hold what is looked at."""
    factor = max(1, int(FINE / 4 / tomogram.voxel_size))
    for box in spread_boxes(tomogram.data, round(REGION_WIDTH / tomogram.voxel_size), REGIONS):
        if min(box.shape) >= factor:
            yield Volume(bin_voxels(box, factor), tomogram.voxel_size * factor)


def skewness_of_parts(region: Volume) -> list[float]:
    """Skewness of the grey values, between two resolutions, of each part of a region; NaN where all are the same or one is not valid."""
    with np.errstate(invalid="ignore", over="ignore"):
        smooth = band_pass(region.data - region.data.mean(), region.voxel_size, COARSE, FINE)
        parts = spread_boxes(smooth, round(PART_WIDTH / region.voxel_size), smooth.size)
        return [float(stats.skew(part, axis=None)) if part.std() > 1e-6 * smooth.std() else float("nan") for part in parts]


# ------------------------------------------------------------------------------------------------------------ decisions


def contrast_warning(appearance: Appearance, stated: Contrast) -> str | None:
    """A sentence if particles that are taken as dark or bright clearly look the other way."""
    if appearance.seen == stated or abs(appearance.z_score) < CONTRAST_DOUBT:
        return None
    return f"CONTRAST LOOKS INVERTED: the particles are taken as {stated}, but look {appearance}"


def choose_contrast(
    appearance: Appearance, wanted: Contrast | Literal["auto"] | None, stated: Contrast | None = None, name: str = ""
) -> tuple[Contrast, str | None]:
    """The sign of the particles' grey values, and a warning if the data look otherwise; both are logged.

    Parameters
    ----------
    wanted : the setting; None: as the files state
    stated : by the files; None: not at all
    name : of the input, where there is more than one
    """
    before = f"{name}: " if name else ""
    if wanted == "auto":
        logger.warning("%scontrast: the particles look %s and are taken as such", before, appearance)
        return appearance.seen, None
    taken = wanted or stated or DEFAULT_CONTRAST
    warning = contrast_warning(appearance, taken)
    if warning:
        warning = f"{before}{warning}; if they are, run again with --set contrast={OTHER[taken]}"
        logger.warning(warning)
    return taken, warning
