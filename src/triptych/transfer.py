"""By what the Fourier terms of subtomograms came out multiplied: the CTF, and what a reconstruction has made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from triptych.config import CtfCorrection
from triptych.fourier import frequency_grid
from triptych.tilt_images import CTF_FLOOR, contrast_phase
from triptych.volume import Volume

FloatArray = NDArray[np.float64]

LEAST_SHARE = 1e-5
"""Of the largest value of a CTF volume: what is below is rounding errors, where nothing was measured."""


@dataclass(frozen=True, eq=False)
class CtfTransfers:
    """The CTF of each subtomogram, as if all tilts had the same, and how its reconstruction treated it.

    Attributes
    ----------
    defocus : (n,), Å, underfocus positive
    correction : (n,)
    constant : (n,), c in CTF / (CTF^2 + c), of those that were deconvolved
    holds_wedge : whether the missing wedge is in it already; origin : where it comes from, in words
    """

    defocus: FloatArray
    correction: Sequence[CtfCorrection]
    constant: FloatArray
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    holds_wedge: bool = False
    origin: str = "the CTF that the dataset states"

    def of(self, row: int, box_size: int, voxel_size: float) -> NDArray[np.float32]:
        """Factor (d, d, d // 2 + 1) of each term of `rfftn` of that row's subtomogram, on a grid of d voxels of so many Å."""
        return np.asarray(treat(self._ctf(row, box_size, voxel_size), self.correction[row], float(self.constant[row])), np.float32)

    def deconvolve(self, row: int, volume: Volume) -> Volume:
        """That row's subtomogram, a cube, with its CTF undone as far as a Wiener filter can: CTF^2 / (CTF^2 + `CTF_FLOOR`) of it is left."""
        ctf = self._ctf(row, volume.shape[0], volume.voxel_size)
        again = {"none": ctf, "phase_flip": np.abs(ctf), "multiply": np.ones_like(ctf)}[self.correction[row]]
        factor = again / (ctf**2 + CTF_FLOOR)
        undone = np.fft.irfftn(np.fft.rfftn(volume.data) * factor, s=volume.shape, axes=(0, 1, 2))
        return volume.with_data(undone.astype(np.float32))

    def _ctf(self, row: int, box_size: int, voxel_size: float) -> FloatArray:
        k2 = np.square(frequency_grid((box_size,) * 3, voxel_size), dtype=np.float64)
        phase = contrast_phase(k2, self.defocus[row], self.voltage_kv, self.spherical_aberration_mm, self.amplitude_contrast)
        return np.asarray(np.sin(phase))

    def take(self, rows: NDArray[np.int64]) -> CtfTransfers:
        """Those of these subtomograms only, in that order."""
        return replace(self, defocus=self.defocus[rows], correction=[self.correction[row] for row in rows], constant=self.constant[rows])


def treat(ctf: FloatArray, correction: CtfCorrection, constant: float) -> FloatArray:
    """What is left of a CTF."""
    if correction == "phase_flip":
        return np.abs(ctf)
    if correction == "deconvolve":
        return ctf**2 / (ctf**2 + constant)
    return ctf**2 if correction == "multiply" else ctf


def sample_ctf_volume(data: NDArray[np.float32], voxel_size: float, box_size: int, new_voxel_size: float) -> NDArray[np.float32]:
    """A CTF volume, as RELION reads it, at the Fourier terms of another box.

    Parameters
    ----------
    data : either (d, d, d), zero frequency at index d // 2, or (d, d, d // 2 + 1), as `rfftn` gives it
    voxel_size : Å, of the image that belongs to it

    Returns
    -------
    (box_size, box_size, box_size // 2 + 1), at most 1, linearly interpolated; 0 where nothing was measured, and beyond the image's own frequencies
    """
    d = len(data)
    if data.shape[-1] == d:
        whole = data
    else:  # of the terms that rfftn leaves out, each is that at the negative frequency
        whole = np.fft.fftshift(np.fft.fftn(np.fft.irfftn(data, s=(d,) * 3, axes=(0, 1, 2))).real)
    whole = np.pad(whole, ((0, 1 - d % 2),) * 3, mode="wrap")  # the highest frequency, which is there once for both signs
    step = d * voxel_size / (box_size * new_voxel_size)
    k = step * np.fft.fftfreq(box_size, 1 / box_size) + d // 2
    kx = step * np.arange(box_size // 2 + 1) + d // 2
    sampled = ndimage.map_coordinates(whole, np.meshgrid(k, k, kx, indexing="ij"), order=1, cval=0.0)
    share = sampled / max(float(np.abs(whole).max()), 1e-30)
    return np.where(np.abs(share) < LEAST_SHARE, 0, share).astype(np.float32)
