"""Which tilts were measured? Seen in the power spectrum of a tomogram or of subtomograms, where the missing wedge is dark."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.volume import Volume, spread_boxes

BOX, BOXES = 64, 12
"""Voxels along each side of the boxes whose spectra are averaged, and how many there are at most."""
BAND = 0.2, 0.4
"""Periods per voxel between which the spectrum is looked at: far enough out that angles are well resolved."""
BIN = 3.0
"""Degrees."""
STEEPEST, FLATTEST = 78.0, 27.0
"""Degrees: the ends of a tilt range are looked for between these, on both sides."""
DARKEST = 0.5
"""The wedge's power over that of the measured part, below which it is believed to be a wedge."""
EDGE = 0.3
"""The measured part ends where the power falls below this share of its median."""
TOLERANCE = 12.0
"""Degrees: the power spectrum shows the ends of the tilt range to about half of that."""
LEAST_EXPLAINED = 0.6
"""Share of the variance of the logarithm of power over angle that measured and missing explain."""
AXES = "zyx"


@dataclass(frozen=True)
class MissingWedge:
    """What a power spectrum shows of the geometry of a tilt series.

    Attributes
    ----------
    beam, tilt_axis : axes of the array along which beam and tilt axis lie: 0 (z), 1 (y) or 2 (x)
    tilt_min, tilt_max : degrees, to about 5; of the sign convention nothing can be seen
    depth : power in the wedge over that of the measured part
    """

    beam: int
    tilt_axis: int
    tilt_min: float
    tilt_max: float
    depth: float

    @property
    def lies_as_expected(self) -> bool:
        """Whether the beam is along z and the tilt axis along y."""
        return (self.beam, self.tilt_axis) == (0, 1)

    def agrees(self, tilt_min: float, tilt_max: float) -> bool:
        """Whether these may be the ends of the tilt range, in degrees, in either sense: that is a matter of convention."""
        seen, stated = sorted((-self.tilt_min, self.tilt_max)), sorted((-tilt_min, tilt_max))
        return all(abs(a - b) <= TOLERANCE for a, b in zip(seen, stated, strict=True))

    def __str__(self) -> str:
        beam, axis = AXES[self.beam], AXES[self.tilt_axis]
        return f"tilts from about {self.tilt_min:.0f}° to {self.tilt_max:.0f}° around {axis}, beam along {beam}"


def find_missing_wedge(*volumes: Volume) -> MissingWedge | None:
    """The missing wedge of a tomogram, or of subtomograms; None where none is seen, as in one that was filled in or denoised.

    Each pair of axes is tried as beam and tilt axis. What is measured does not depend on the frequency along the tilt axis, and ends at two
    angles in the plane of the two others; the pair for which measured and missing differ most is taken.

    Parameters
    ----------
    volumes : whose axes are those of the tomogram, and which count by their power; the data may be mapped from a file
    """
    spectrum = flat_spectrum(*volumes)
    if not np.isfinite(spectrum).all():
        return None
    candidates = [fit_range(spectrum, beam, axis) for beam, axis in itertools.permutations(range(3), 2)]
    score, explained, wedge = max(candidates, key=lambda candidate: candidate[0])
    # Power that falls with the angle from the start, as where slices are out of step, is no wedge.
    falls_late = min(-wedge.tilt_min, wedge.tilt_max) > FLATTEST + BIN
    return wedge if score > 0 and falls_late and explained >= LEAST_EXPLAINED and wedge.depth <= DARKEST else None


def flat_spectrum(*volumes: Volume) -> NDArray[np.float64]:
    """Mean power of boxes from all over some volumes, over its mean in the same shell; (BOX, BOX, BOX), NaN where these are empty."""
    power = np.zeros((BOX,) * 3)
    for box in (box for volume in volumes for box in spread_boxes(volume.data, BOX, BOXES)):
        # A window, since the jump from one end of a box to the other would fill the wedge.
        z, y, x = (np.hanning(n + 2)[1:-1] for n in box.shape)
        power += np.abs(np.fft.fftn((box - box.mean(dtype=np.float64)) * z[:, None, None] * y[:, None] * x, (BOX,) * 3, (0, 1, 2))) ** 2
    shells = np.rint(np.sqrt(sum(k**2 for k in frequencies())) * BOX).astype(np.int64)
    mean = np.bincount(shells.ravel(), power.ravel()) / np.bincount(shells.ravel())
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(power / mean[shells], dtype=np.float64)


def frequencies() -> list[NDArray[np.float64]]:
    """Periods per voxel along z, y and x."""
    k = np.fft.fftfreq(BOX)
    return list(np.meshgrid(k, k, k, indexing="ij"))


def fit_range(spectrum: NDArray[np.float64], beam: int, axis: int) -> tuple[float, float, MissingWedge]:
    """The tilt range that divides power over angle best: how well, the share of the variance that it explains, and the wedge."""
    profile = angular_profile(spectrum, beam, axis)
    logs = np.log(np.maximum(profile, 1e-6))
    count, total = len(logs), logs.sum()
    best = (0.0, 0, count)
    centre, first, last = count // 2, round((90 - STEEPEST) / BIN), round((90 - FLATTEST) / BIN)
    for low, high in itertools.product(range(first, last + 1), range(count - last, count - first + 1)):
        inside = logs[low:high].sum()
        share = (high - low) / count
        step = inside / (high - low) - (total - inside) / (count - high + low)
        best = max(best, (float(np.sign(step) * step**2 * share * (1 - share)), low, high))
    score, low, high = best
    level = np.median(profile[low:high])
    outside = np.concatenate([profile[:low], profile[high:]])
    below = profile < EDGE * level
    flat = round(FLATTEST / BIN)
    start, stop = (float(BIN * (flat + np.argmax(side[flat:]) - 0.5)) for side in (below[centre - 1 :: -1], below[centre:]))
    depth = float(np.median(outside) / level) if len(outside) else 1.0
    return score, score / float(logs.var() or 1.0), MissingWedge(beam, axis, -start, stop, depth)


def angular_profile(spectrum: NDArray[np.float64], beam: int, axis: int) -> NDArray[np.float64]:
    """Mean power over the angle between the plane of the tilt axis and the third axis and each term, from -90° to 90°."""
    k = frequencies()
    along, across = k[beam], k[3 - beam - axis]
    radius = np.sqrt(sum(part**2 for part in k))
    wanted = (radius > BAND[0]) & (radius < BAND[1]) & (np.hypot(along, across) > BAND[0] / 2)
    angles = (np.degrees(np.arctan2(along, across)[wanted]) + 90) % 180
    bins = np.minimum((angles / BIN).astype(np.int64), round(180 / BIN) - 1)
    count = round(180 / BIN)
    return np.bincount(bins, spectrum[wanted], minlength=count) / np.maximum(np.bincount(bins, minlength=count), 1)
