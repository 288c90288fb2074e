"""A volume from a few tilt images of one particle, whose contrast transfer is divided out.

The Fourier transform of an image is a slice through that of the volume, at right angles to the image's beam (Bracewell's theorem). The
slices are spread over the nearest points of the volume's transform (trilinearly, which the sinc^2 at the end takes back), together
with their weights, CTF^2 + a constant, by which the sum is divided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Field = TypeVar("Field", NDArray[np.float64], "Tensor")
PADDING = 2
CTF_FLOOR = 0.1
"""What is added to CTF^2 where a CTF is divided out: how little signal is still amplified; as in `physics.Correction`."""


@dataclass(frozen=True, eq=False)
class TiltOptics:
    """What the images of one particle were taken with; arrays have one value for each image."""

    projections: NDArray[np.float64]
    """(n, 3, 3): rows are the image's x, its y and the beam, in the volume's x, y, z."""
    defocus_u: NDArray[np.float64]
    """Å, underfocus positive, at the particle."""
    defocus_v: NDArray[np.float64]
    astigmatism_angle: NDArray[np.float64]
    """Degrees, of the direction of defocus_u."""
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    premultiplied: bool
    """The images have been multiplied by their CTF."""
    phase_shift: NDArray[np.float64] | float = 0.0
    """Degrees, of a phase plate."""


def electron_wavelength(voltage_kv: float) -> float:
    """Relativistic wavelength in Å; h / sqrt(2 m e V (1 + e V / 2 m c^2)), CODATA constants."""
    volts = voltage_kv * 1e3
    return 12.2642596 / math.sqrt(volts * (1 + 0.978475598e-6 * volts))


def contrast_phase(k2: Field, defocus: Field, voltage_kv: float, spherical_aberration_mm: float, amplitude_contrast: float) -> Field:
    """Radians whose sine is the contrast transfer function with protein bright: positive at k = 0 for positive underfocus.

    pi lambda df k^2 - pi/2 Cs lambda^3 k^4 + asin(A) (Wade 1992, in the sign convention above), for arrays as for tensors.

    Parameters
    ----------
    k2 : k^2 in 1/Å^2
    defocus : Å, underfocus positive; broadcasts against k2
    """
    wavelength, aberration = electron_wavelength(voltage_kv), spherical_aberration_mm * 1e7
    return math.pi * wavelength * defocus * k2 - 0.5 * math.pi * aberration * wavelength**3 * k2**2 + math.asin(amplitude_contrast)


def transfer(optics: TiltOptics, kx: NDArray[np.float64], ky: NDArray[np.float64]) -> NDArray[np.float64]:
    """CTF of every image, (n, m), at m frequencies in 1/Å: astigmatism as Mindell & Grigorieff 2003 have it, protein bright."""
    angle = np.arctan2(ky, kx) - np.radians(optics.astigmatism_angle)[:, None]
    mean, half = (optics.defocus_u + optics.defocus_v) / 2, (optics.defocus_u - optics.defocus_v) / 2
    defocus = mean[:, None] + half[:, None] * np.cos(2 * angle)
    phase = contrast_phase(kx**2 + ky**2, defocus, optics.voltage_kv, optics.spherical_aberration_mm, optics.amplitude_contrast)
    return np.asarray(np.sin(phase + np.radians(optics.phase_shift).reshape(-1, 1)))


def reconstruct(images: NDArray[np.float64], optics: TiltOptics, pixel_size: float) -> NDArray[np.float32]:
    """A volume (size, size, size) of images (n, size, size) around the same particle, the centre of all at size // 2."""
    count, size, _ = images.shape
    big = PADDING * size
    low = big // 2 - size // 2
    inner = slice(low, low + size)
    padded = np.zeros((count, big, big))
    padded[:, inner, inner] = images - images.mean(axis=(1, 2), keepdims=True)
    frequency = np.fft.fftfreq(big)
    ky, kx = np.meshgrid(frequency, frequency, indexing="ij")
    inside = np.hypot(kx, ky) < 0.5
    kx, ky = kx[inside], ky[inside]
    values = np.fft.fft2(np.fft.ifftshift(padded, axes=(1, 2)))[:, inside]
    ctf = transfer(optics, kx / pixel_size, ky / pixel_size)
    values = values if optics.premultiplied else values * ctf
    places = kx[None, :, None] * optics.projections[:, None, 0] + ky[None, :, None] * optics.projections[:, None, 1]
    total, weight = _spread(places.reshape(-1, 3) * big, values.ravel(), (ctf**2 + CTF_FLOOR).ravel(), big)
    # a point that slices hardly touch is not amplified
    volume = np.fft.fftshift(np.fft.ifftn(total / np.maximum(weight, CTF_FLOOR)).real)[inner, inner, inner]
    droop = np.sinc((np.arange(size) - size // 2) / big) ** 2
    return np.asarray(volume / (droop[:, None, None] * droop[:, None] * droop), dtype=np.float32)


def _spread(
    places: NDArray[np.float64], values: NDArray[np.complex128], weights: NDArray[np.float64], size: int
) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Sums of values and of weights on a periodic grid (size, size, size), [z, y, x], of samples at places (m, 3) = x, y, z."""
    base = np.floor(places).astype(np.int64)
    rest = places - base
    total, weight = np.zeros(size**3, dtype=np.complex128), np.zeros(size**3)
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(corner, rest, 1 - rest), axis=1)
        x, y, z = ((base + corner) % size).T
        index = (z * size + y) * size + x
        total += np.bincount(index, share * values.real, size**3) + 1j * np.bincount(index, share * values.imag, size**3)
        weight += np.bincount(index, share * weights, size**3)
    return total.reshape((size,) * 3), weight.reshape((size,) * 3)
