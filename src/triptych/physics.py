"""Image formation of a tilt series and its reconstruction: pure functions on tensors, CPU or GPU.

Frame: arrays are [z, y, x], the beam runs along z and the tilt axis along y, and a tilt by theta turns the specimen by
R_y(theta), so that a point (x, z) lands at u = x cos(theta) + z sin(theta) on the detector. Both are measured from the
centre, index n // 2. Lengths are in voxels unless a name says otherwise; spatial frequencies k are in 1/Å.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.config import CtfCorrection

FINER = 4
"""Detector columns per voxel in projection and back-projection."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """One tilt series: what the microscope did, tilt by tilt.

    Attributes
    ----------
    tilt_angles : (t,) degrees, as they really were
    shifts : (t, 2) Å, residual misalignment (u along x, v along y) of each image
    defocus_um : (t,) underfocus, positive
    exposures : (t,) e/Å^2, exposure before the middle of each tilt
    doses : (t,) e/Å^2, exposure of each tilt
    nominal_angles : (t,) degrees, as the reconstruction believes them
    """

    tilt_angles: Tensor
    nominal_angles: Tensor
    shifts: Tensor
    defocus_um: Tensor
    exposures: Tensor
    doses: Tensor
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07
    b_factor: float = 0.0
    mtf_at_nyquist: float = 0.7


@dataclass(frozen=True)
class Correction:
    """What the reconstruction does about CTF and dose."""

    ctf: CtfCorrection = "none"
    deconvolution_constant: float = 0.1
    dose_weighting: bool = False


def draw_log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A positive number whose logarithm is uniform between the limits."""
    low, high = np.log(limits)
    return float(np.exp(rng.uniform(low, high)))


def electron_wavelength(voltage_kv: float) -> float:
    """Relativistic wavelength in Å; h / sqrt(2 m e V (1 + e V / 2 m c^2)), CODATA constants."""
    volts = voltage_kv * 1e3
    return 12.2642596 / math.sqrt(volts * (1 + 0.978475598e-6 * volts))


def contrast_transfer(k: Tensor, defocus_um: Tensor | float, voltage_kv: float, spherical_aberration_mm: float, amplitude_contrast: float) -> Tensor:
    """Contrast transfer function with protein bright: positive at k = 0 for positive underfocus.

    sin(pi lambda df k^2 - pi/2 Cs lambda^3 k^4 + asin(A)) (Wade 1992, in the sign convention above).
    """
    wavelength = electron_wavelength(voltage_kv)
    aberration = spherical_aberration_mm * 1e7
    phase = math.pi * wavelength * torch.as_tensor(defocus_um) * 1e4 * k**2 - 0.5 * math.pi * aberration * wavelength**3 * k**4
    return torch.sin(phase + math.asin(amplitude_contrast))


def critical_exposure(k: Tensor, voltage_kv: float) -> Tensor:
    """Critical exposure in e/Å^2 (Grant & Grigorieff 2015): 0.245 k^-1.665 + 2.81 at 300 kV, 0.8 times that at 200 kV."""
    scale = 0.8 if voltage_kv < 250 else 1.0
    return scale * (0.245 * k.clamp_min(1e-4) ** -1.665 + 2.81)


def dose_filter(k: Tensor, exposures: Tensor, voltage_kv: float) -> Tensor:
    """Amplitude left at frequency k after an exposure, exp(-N / 2 Nc(k)); exposures broadcast against k."""
    return torch.exp(-0.5 * exposures / critical_exposure(k, voltage_kv))


def interpolator(nz: int, nx: int, width: int, tilt_angles: Tensor) -> Tensor:
    """Sparse matrix of linear interpolation from detector columns, FINER times finer, to the voxels of a z-x slice.

    Its transpose projects: each voxel is spread over the two columns next to its u. Every y-slice shares it. On columns as wide as
    voxels, interpolation would damp the high frequencies and fold others back; on four times finer ones both are below 5 %.

    Returns
    -------
    sparse CSR tensor, shape (nz * nx, tilts * width * FINER), on the device of `tilt_angles`
    """
    device = tilt_angles.device
    angles = torch.deg2rad(tilt_angles.double())
    z = torch.arange(nz, device=device).double() - nz // 2
    x = torch.arange(nx, device=device).double() - nx // 2
    u = (x[None, :, None] * angles.cos() + z[:, None, None] * angles.sin() + width // 2) * FINER
    left = u.floor()
    fraction = u - left
    columns = torch.stack([left, left + 1], -1)
    weights = torch.stack([1 - fraction, fraction], -1)
    weights = torch.where((columns >= 0) & (columns < width * FINER), weights, 0.0).float()
    tilt = torch.arange(len(angles), device=device)[:, None] * width * FINER
    columns = columns.clamp(0, width * FINER - 1).long() + tilt
    rows = nz * nx
    starts = torch.arange(rows + 1, device=device) * 2 * len(angles)
    with warnings.catch_warnings():  # torch calls its sparse matrices a beta feature once per process
        warnings.filterwarnings("ignore", message="Sparse CSR")
        size = (rows, len(angles) * width * FINER)
        return torch.sparse_csr_tensor(starts, columns.reshape(-1), weights.reshape(-1), size, check_invariants=False)


def project(volume: Tensor, tilt_angles: Tensor, width: int | None = None) -> Tensor:
    """Projections of a volume along the beam after each tilt.

    Parameters
    ----------
    volume : (nz, ny, nx)
    tilt_angles : (t,) degrees
    width : detector columns, even; default nx

    Returns
    -------
    (t, ny, width)
    """
    nz, ny, nx = volume.shape
    width = width or nx
    matrix = interpolator(nz, nx, width, tilt_angles)
    # The arrays of a CSR matrix, read as CSC, are its transpose.
    spread = torch.sparse_csc_tensor(matrix.crow_indices(), matrix.col_indices(), matrix.values(), matrix.shape[::-1], check_invariants=False)
    fine = (spread @ volume.permute(0, 2, 1).reshape(nz * nx, ny)).reshape(len(tilt_angles), width * FINER, ny)
    spectrum = torch.fft.rfft(fine, dim=1)[:, : width // 2 + 1]
    images: Tensor = torch.fft.irfft(spectrum, n=width, dim=1).permute(0, 2, 1)
    return images


def back_project(images: Tensor, tilt_angles: Tensor, nz: int, nx: int) -> Tensor:
    """Sum over tilts of the images smeared back along the beam, no weighting: (t, ny, width) -> (nz, ny, nx)."""
    tilts, ny, width = images.shape
    fine = torch.fft.irfft(torch.fft.rfft(images.permute(0, 2, 1), dim=1), n=width * FINER, dim=1) * FINER
    slices: Tensor = interpolator(nz, nx, width, tilt_angles) @ fine.reshape(tilts * width * FINER, ny)
    return slices.reshape(nz, nx, ny).permute(0, 2, 1)


def frequency_grid(ny: int, nx: int, pixel_size: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(ky, kx) in 1/Å of the rfft of an (ny, nx) image, broadcastable to (ny, nx // 2 + 1)."""
    ky = torch.fft.fftfreq(ny, pixel_size, device=device)[:, None]
    kx = torch.fft.rfftfreq(nx, pixel_size, device=device)[None]
    return ky, kx


def detector_transfer(k: Tensor, pixel_size: float, at_nyquist: float) -> Tensor:
    """Modulation transfer function, an exponential that falls to `at_nyquist` at 1 / (2 pixel)."""
    return torch.exp(math.log(at_nyquist) * 2 * pixel_size * k)


def signal_filter(acquisition: Acquisition, ny: int, nx: int, pixel_size: float) -> Tensor:
    """What the microscope does to each projection, (t, ny, nx // 2 + 1) complex: CTF, dose, envelope, detector, misalignment."""
    device = acquisition.tilt_angles.device
    ky, kx = frequency_grid(ny, nx, pixel_size, device)
    k = torch.hypot(ky, kx)
    per_tilt = (-1, 1, 1)
    ctf = contrast_transfer(
        k, acquisition.defocus_um.reshape(per_tilt), acquisition.voltage_kv, acquisition.spherical_aberration_mm, acquisition.amplitude_contrast
    )
    damage = dose_filter(k, acquisition.exposures.reshape(per_tilt), acquisition.voltage_kv)
    envelope = torch.exp(-acquisition.b_factor * k**2 / 4) * detector_transfer(k, pixel_size, acquisition.mtf_at_nyquist)
    u, v = acquisition.shifts.reshape(-1, 2, 1, 1).unbind(1)
    phase = -2 * math.pi * (kx * u + ky * v)
    shift = torch.complex(phase.cos(), phase.sin())
    response: Tensor = ctf * damage * envelope * shift
    return response


def reconstruction_filter(acquisition: Acquisition, correction: Correction, ny: int, nx: int, pixel_size: float) -> Tensor:
    """What the reconstruction does to each image before back-projection, (t, ny, nx // 2 + 1): ramp, CTF, dose weighting.

    The ramp |kx| times the angle between tilts makes back-projection the inverse of projection (Crowther et al. 1970; Radermacher 1992).
    `deconvolve` multiplies by CTF / (CTF^2 + c), as Wiener filters with a constant c do.
    """
    device = acquisition.tilt_angles.device
    ky, kx = frequency_grid(ny, nx, pixel_size, device)
    k = torch.hypot(ky, kx)
    order = acquisition.nominal_angles.sort().values
    step = torch.deg2rad((order[-1] - order[0]) / max(len(order) - 1, 1))
    # The ramp's zero would lose the mean of the central slab; a quarter of the first frequency is the mean of |kx| around 0.
    ramp = kx.clamp_min(float(kx[0, 1]) / 4) * pixel_size * step
    result = ramp.expand(len(order), ny, -1)
    if correction.ctf != "none":
        ctf = contrast_transfer(
            k, acquisition.defocus_um.mean(), acquisition.voltage_kv, acquisition.spherical_aberration_mm, acquisition.amplitude_contrast
        )
        result = result * (ctf.sign() if correction.ctf == "phase_flip" else ctf / (ctf**2 + correction.deconvolution_constant))
    if correction.dose_weighting:
        result = result * dose_filter(k, acquisition.exposures.reshape(-1, 1, 1), acquisition.voltage_kv)
    return result


def apply_filter(images: Tensor, transfer: Tensor) -> Tensor:
    """Multiply the Fourier transforms of (t, ny, nx) images by (t, ny, nx // 2 + 1)."""
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * transfer, s=images.shape[-2:])
    return filtered


def reconstruct(images: Tensor, acquisition: Acquisition, correction: Correction, shape: tuple[int, int, int], pixel_size: float) -> Tensor:
    """Weighted back-projection at the nominal angles: (t, rows, width) -> shape (nz, ny, nx), cut from the middle."""
    nz, ny, nx = shape
    rows, width = images.shape[1:]
    weighted = apply_filter(images, reconstruction_filter(acquisition, correction, rows, width, pixel_size))
    first = rows // 2 - ny // 2
    return back_project(weighted[:, first : first + ny], acquisition.nominal_angles, nz, nx)


def simulate_tilt_series(volume: Tensor, acquisition: Acquisition, pixel_size: float, margin: int) -> Tensor:
    """Noise-free images of a volume (nz, ny, nx), (t, ny + 2 margin, nx + 2 margin).

    The margin keeps what the CTF spreads from wrapping around.
    """
    padded = F.pad(volume, (0, 0, margin, margin))
    width = volume.shape[2] + 2 * margin
    images = project(padded, acquisition.tilt_angles, width)
    return apply_filter(images, signal_filter(acquisition, images.shape[1], width, pixel_size))


def shot_noise(acquisition: Acquisition, ny: int, nx: int, pixel_size: float, generator: torch.Generator) -> Tensor:
    """Noise-only images (t, ny, nx): white shot noise of variance 1 / dose, seen through the detector."""
    device = acquisition.tilt_angles.device
    ky, kx = frequency_grid(ny, nx, pixel_size, device)
    white = torch.randn((len(acquisition.doses), ny, nx), generator=generator, device=device) / acquisition.doses.reshape(-1, 1, 1).sqrt()
    return apply_filter(white, detector_transfer(torch.hypot(ky, kx), pixel_size, acquisition.mtf_at_nyquist).expand(len(white), -1, -1))


def pose(template: Tensor, oversampling: int, rotation: Tensor, offset: Tensor, size: int, scale: float = 1.0) -> Tensor:
    """A template turned and shifted, sampled on a cube of `size` voxels.

    Parameters
    ----------
    template : (n, n, n), sampled `oversampling` times more finely than the result, centre at index n // 2
    rotation : (3, 3), template -> result, on (x, y, z)
    offset : (3,) position (x, y, z) of the centre in the result, in voxels from index size // 2
    scale : everything is this much larger
    """
    n = template.shape[0]
    grid = torch.arange(size, dtype=torch.float32, device=template.device) - size // 2
    x, y, z = (grid - offset[i] for i in range(3))
    back = rotation.T.float() * (oversampling / scale)
    # Coordinates in the template, (x, y, z) last, as grid_sample wants them: -1 and 1 are the centres of the outer voxels.
    source = x[:, None] * back[:, 0] + (y[:, None] * back[:, 1])[:, None] + (z[:, None] * back[:, 2])[:, None, None] + n // 2
    unit = source * (2 / (n - 1)) - 1
    return F.grid_sample(template[None, None].float(), unit[None], mode="bilinear", padding_mode="zeros", align_corners=True)[0, 0]


def oversample(data: Tensor, factor: int) -> Tensor:
    """Fourier interpolation of an even-sided cube (n, n, n) onto a grid `factor` times finer; index n // 2 stays the centre."""
    n = data.shape[0]
    spectrum = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(data)))
    wide = torch.zeros((n * factor,) * 3, dtype=spectrum.dtype, device=data.device)
    low = n * factor // 2 - n // 2
    wide[low : low + n, low : low + n, low : low + n] = spectrum
    fine: Tensor = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(wide))).real.float() * factor**3
    return fine
