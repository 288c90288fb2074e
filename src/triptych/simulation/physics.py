"""Image formation of a tilt series and its reconstruction: pure functions on tensors, CPU or GPU.

Frame: arrays are [z, y, x], the beam runs along z and the tilt axis along y, and a tilt by theta turns the specimen by
R_y(theta), so that a point (x, z) lands at u = x cos(theta) + z sin(theta) on the detector. Both are measured from the
centre, index n // 2. Lengths are in voxels unless a name says otherwise; spatial frequencies k are in 1/Å.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from triptych.config import CtfCorrection, Smoothing
from triptych.simulation.potential import PROTEIN_CONTRAST
from triptych.tilt_images import contrast_phase, electron_wavelength

FINER = 4
"""Detector columns per voxel in projection and back-projection."""
SPLIT = 2
"""Pixels per voxel, along each axis, between which points are shared out."""
ROWS_AT_ONCE = {"cpu": 32, "cuda": 256}
"""y-slices that are projected at once: on a CPU few enough for its cache (three times faster), on a GPU for its memory."""
MEAN_FREE_PATH = 3950.0
"""Å, between inelastic scattering events in vitreous ice at 300 kV, energy-filtered (Rice et al. 2018, J. Struct. Biol. 204:38)."""
REST_ENERGY_KEV = 510.999
NODE_PHASE = 0.4
"""Radians at the Nyquist frequency between defoci at which a defocus gradient is evaluated: interpolating between them errs by 2 %."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """One tilt series: what the microscope did, tilt by tilt.

    Attributes
    ----------
    tilt_angles : (t,) degrees, as they really were
    nominal_angles : (t,) degrees, as the reconstruction believes them
    shifts : (t, 2) Å, residual misalignment (u along x, v along y) of each image
    defocus_um : (t,) underfocus on the tilt axis, positive
    exposures : (t,) e/Å^2, exposure before the middle of each tilt
    doses : (t,) e/Å^2, exposure of each tilt
    voltage_kv, spherical_aberration_mm : acceleration voltage and spherical aberration
    amplitude_contrast : share of amplitude contrast, from 0 to 1
    astigmatism_um : largest minus smallest defocus
    astigmatism_angle : degrees from the x axis towards y, direction of the largest defocus
    defocus_gradient : whether a tilted specimen's defocus changes with the distance from the tilt axis
    ice_thickness : Å, of the untilted specimen
    b_factor : Å^2, extra fall-off exp(-B k^2 / 4) of the signal
    quantum_efficiency : share of the electrons that the detector counts
    mtf_at_nyquist : value of the detector's transfer function at the Nyquist frequency
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
    astigmatism_um: float = 0.0
    astigmatism_angle: float = 0.0
    defocus_gradient: bool = True
    ice_thickness: float = 0.0
    b_factor: float = 0.0
    quantum_efficiency: float = 1.0
    mtf_at_nyquist: float = 0.7


@dataclass(frozen=True)
class Correction:
    """What the reconstruction does about CTF, dose and noise; `low_pass` in Å, 0 for none."""

    ctf: CtfCorrection = "none"
    deconvolution_constant: float = 0.1
    dose_weighting: bool = False
    cosine_weighting: bool = False
    smoothing: Smoothing = "none"
    low_pass: float = 0.0


def draw_log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A positive number whose logarithm is uniform between the limits."""
    low, high = np.log(limits)
    return float(np.exp(rng.uniform(low, high)))


def contrast_transfer(k: Tensor, defocus_um: Tensor | float, voltage_kv: float, spherical_aberration_mm: float, amplitude_contrast: float) -> Tensor:
    """Contrast transfer function with protein bright, the sine of `contrast_phase`; k in 1/Å."""
    return torch.sin(contrast_phase(k**2, torch.as_tensor(defocus_um) * 1e4, voltage_kv, spherical_aberration_mm, amplitude_contrast))


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

    Parameters
    ----------
    nz, nx : voxels of the slice
    width : columns of the detector that are as wide as a voxel
    tilt_angles : (tilts,), degrees

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
    return sparse_rows(starts, columns.reshape(-1), weights.reshape(-1), (rows, len(angles) * width * FINER))


def sparse_rows(starts: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    """CSR tensor with short indices, which are half the memory to read."""
    with warnings.catch_warnings():  # torch calls its sparse matrices a beta feature once per process
        warnings.filterwarnings("ignore", message="Sparse CSR")
        return torch.sparse_csr_tensor(starts.int(), columns.int(), weights, shape, check_invariants=False)


def transpose(matrix: Tensor) -> Tensor:
    """Transpose of a CSR tensor as a CSR tensor. The product with a CSC tensor, which it is already, is several times slower."""
    parts = [part.cpu().numpy() for part in (matrix.values(), matrix.col_indices(), matrix.crow_indices())]
    flipped = sparse.csr_array(tuple(parts), shape=tuple(matrix.shape)).T.tocsr()
    starts, columns, weights = (torch.from_numpy(part).to(matrix.device) for part in (flipped.indptr, flipped.indices, flipped.data))
    return sparse_rows(starts, columns, weights, (matrix.shape[1], matrix.shape[0]))


def row_blocks(ny: int, device: torch.device) -> list[slice]:
    """y-slices that are multiplied at once."""
    step = ROWS_AT_ONCE[device.type]
    return [slice(first, min(first + step, ny)) for first in range(0, ny, step)]


def project(volume: Tensor, matrix: Tensor, tilts: int) -> Tensor:
    """Projections of a volume along the beam after each tilt.

    Parameters
    ----------
    volume : (nz, ny, nx)
    matrix : `transpose` of the `interpolator` for the volume's nz and nx
    tilts : number of tilts in the matrix

    Returns
    -------
    (tilts, ny, width)
    """
    nz, ny, nx = volume.shape
    width = matrix.shape[0] // (tilts * FINER)
    images = torch.empty((tilts, ny, width), device=volume.device)
    for rows in row_blocks(ny, volume.device):
        slices = volume[:, rows].permute(0, 2, 1).reshape(nz * nx, -1)
        fine = (matrix @ slices).reshape(tilts, width * FINER, -1).permute(0, 2, 1).contiguous()
        images[:, rows] = torch.fft.irfft(torch.fft.rfft(fine)[..., : width // 2 + 1], n=width)
    return images


def project_balls(balls: Sequence[tuple[float, Tensor]], tilt_angles: Tensor, ny: int, width: int) -> Tensor:
    """Projections of balls of density 1 after each tilt: their transforms at their places, which are shared out between finer pixels.

    Parameters
    ----------
    balls : radius in voxels, and centres (n, 3), x, y, z in voxels from the centre of the specimen, of the balls of each size
    tilt_angles : (t,) degrees

    Returns
    -------
    (t, ny, width)
    """
    device = tilt_angles.device
    ky, kx = image_frequencies(ny, width, 1.0, device)
    images = torch.zeros((len(tilt_angles), ny, width), device=device)
    shared_out = (torch.sinc(ky / SPLIT) * torch.sinc(kx / SPLIT)).square()  # on average multiplies so (Hockney & Eastwood 1988)
    for radius, centres in balls:
        transfer = ball_transform(torch.hypot(ky, kx), radius) / shared_out
        x, y, z = centres.double().unbind(1)
        for image, angle in zip(images, torch.deg2rad(tilt_angles.double()), strict=True):
            spots = share_out(SPLIT * (y + ny // 2), SPLIT * (x * angle.cos() + z * angle.sin() + width // 2), SPLIT * ny, SPLIT * width)
            fine = torch.fft.rfft2(spots)[:, : width // 2 + 1]
            image += torch.fft.irfft2(torch.cat([fine[: ny - ny // 2], fine[len(fine) - ny // 2 :]]) * transfer, s=(ny, width))
    return images


def share_out(rows: Tensor, columns: Tensor, ny: int, nx: int) -> Tensor:
    """Points (n,) on an image (ny, nx), each shared out between the four pixels around it; those outside are left out."""
    image = torch.zeros(ny * nx, dtype=torch.float64, device=rows.device)
    low, left = rows.floor(), columns.floor()
    for right in (0, 1):
        for down in (0, 1):
            share = (columns - left if right else 1 - columns + left) * (rows - low if down else 1 - rows + low)
            i, j = (left + right).long(), (low + down).long()
            inside = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
            image += torch.bincount((j * nx + i)[inside], share[inside], minlength=ny * nx)
    return image.reshape(ny, nx).float()


def ball_transform(k: Tensor, radius: float) -> Tensor:
    """Fourier transform of a ball of density 1, in voxels: V 3 (sin q - q cos q) / q^3 with q = 2 pi k R, k in 1/voxel."""
    q = (2 * math.pi * radius * k).clamp_min(1e-2)
    return 4 / 3 * math.pi * radius**3 * 3 * (q.sin() - q * q.cos()) / q**3


def back_project(images: Tensor, matrix: Tensor, nz: int, nx: int) -> Tensor:
    """Sum over tilts of the images smeared back along the beam, no weighting: (t, ny, width) -> (nz, ny, nx)."""
    tilts, ny, width = images.shape
    volume = torch.empty((nz, ny, nx), device=images.device)
    for rows in row_blocks(ny, images.device):
        spectrum = torch.fft.rfft(images[:, rows])
        if width % 2 == 0:
            spectrum[..., -1] /= 2  # among finer columns the highest frequency is there twice, once with each sign
        fine = torch.fft.irfft(spectrum, n=width * FINER) * FINER
        slices = matrix @ fine.permute(0, 2, 1).reshape(tilts * width * FINER, -1)
        volume[:, rows] = slices.reshape(nz, nx, -1).permute(0, 2, 1)
    return volume


def image_frequencies(ny: int, nx: int, pixel_size: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(ky, kx) in 1/Å of the rfft of an (ny, nx) image, broadcastable to (ny, nx // 2 + 1)."""
    ky = torch.fft.fftfreq(ny, pixel_size, device=device)[:, None]
    kx = torch.fft.rfftfreq(nx, pixel_size, device=device)[None]
    return ky, kx


def detector_transfer(k: Tensor, pixel_size: float, at_nyquist: float) -> Tensor:
    """Modulation transfer function, an exponential that falls to `at_nyquist` at 1 / (2 pixel)."""
    return torch.exp(math.log(at_nyquist) * 2 * pixel_size * k)


def interaction_constant(voltage_kv: float) -> float:
    """Phase shift in radians per V Å of projected potential, 2 pi m e lambda / h^2 (Kirkland 2010, eq. 5.6)."""
    mass = (REST_ENERGY_KEV + voltage_kv) / (2 * REST_ENERGY_KEV + voltage_kv)
    return 2 * math.pi / (electron_wavelength(voltage_kv) * voltage_kv * 1e3) * mass


def weak_phase_contrast(voltage_kv: float, voxel_size: float) -> float:
    """Image contrast per unit of projected density (voxels x `PROTEIN_CONTRAST`) where the CTF is 1: twice the phase shift."""
    return 2 * interaction_constant(voltage_kv) * PROTEIN_CONTRAST * voxel_size


def image_filter(acquisition: Acquisition, ny: int, nx: int, pixel_size: float, defocus_offset_um: float = 0.0) -> Tensor:
    """What happens to each projection before the detector, (t, ny, nx // 2 + 1) complex: CTF, dose, envelope, misalignment."""
    device = acquisition.tilt_angles.device
    ky, kx = image_frequencies(ny, nx, pixel_size, device)
    k = torch.hypot(ky, kx)
    per_tilt = (-1, 1, 1)
    around = torch.atan2(ky, kx) - math.radians(acquisition.astigmatism_angle)
    defocus = acquisition.defocus_um.reshape(per_tilt) + defocus_offset_um + acquisition.astigmatism_um / 2 * torch.cos(2 * around)
    ctf = contrast_transfer(k, defocus, acquisition.voltage_kv, acquisition.spherical_aberration_mm, acquisition.amplitude_contrast)
    damage = dose_filter(k, acquisition.exposures.reshape(per_tilt), acquisition.voltage_kv)
    envelope = torch.exp(-acquisition.b_factor * k**2 / 4)
    u, v = acquisition.shifts.reshape(-1, 2, 1, 1).unbind(1)
    phase = -2 * math.pi * (kx * u + ky * v)
    shift = torch.complex(phase.cos(), phase.sin())
    response: Tensor = ctf * damage * envelope * shift
    return response


def defocus_step(acquisition: Acquisition, pixel_size: float) -> float:
    """Change of defocus in µm that turns the CTF's phase by NODE_PHASE at the Nyquist frequency."""
    return NODE_PHASE / (math.pi * electron_wavelength(acquisition.voltage_kv) * (0.5 / pixel_size) ** 2) * 1e-4


def heights_um(acquisition: Acquisition, nx: int, pixel_size: float) -> Tensor:
    """How far the middle of the tilted specimen lies along the beam at each detector column, (t, nx) in µm.

    A point (x, 0) of the specimen lands at u = x cos(theta) and z = -x sin(theta). The beam runs along z, so that it adds to the underfocus.
    """
    u = (torch.arange(nx, device=acquisition.tilt_angles.device) - nx // 2) * pixel_size * 1e-4
    return -torch.tan(torch.deg2rad(acquisition.tilt_angles))[:, None] * u


def form_images(projections: Tensor, acquisition: Acquisition, pixel_size: float) -> Tensor:
    """Contrast of each image, protein bright, before the detector.

    With a defocus gradient each column is imaged at its own defocus: the projections are split between the nearest of a few defoci
    (linear interpolation), and each part sees the CTF of its own. Within the specimen's thickness the defocus is one.

    Parameters
    ----------
    projections : (t, ny, nx), sums of density over voxels along the beam
    """
    ny, nx = projections.shape[1:]
    phases = projections * weak_phase_contrast(acquisition.voltage_kv, pixel_size)
    if not acquisition.defocus_gradient:
        return apply_filter(phases, image_filter(acquisition, ny, nx, pixel_size))
    step = defocus_step(acquisition, pixel_size)
    place = heights_um(acquisition, nx, pixel_size) / step
    farthest = int(place.abs().max().ceil())
    spectrum = torch.zeros((len(phases), ny, nx // 2 + 1), dtype=torch.complex64, device=phases.device)
    for node in range(-farthest, farthest + 1):
        weight = (1 - (place - node).abs()).clamp_min(0)
        seen = weight.any(1)
        if seen.any():
            part = torch.fft.rfft2(phases[seen] * weight[seen, None])
            spectrum[seen] += part * image_filter(select_tilts(acquisition, seen), ny, nx, pixel_size, node * step)
    images: Tensor = torch.fft.irfft2(spectrum, s=(ny, nx))
    return images


def select_tilts(acquisition: Acquisition, chosen: Tensor) -> Acquisition:
    """The acquisition with some of its tilts only; `chosen` is an index or a mask (t,)."""
    per_tilt = ("tilt_angles", "nominal_angles", "shifts", "defocus_um", "exposures", "doses")
    return replace(acquisition, **{name: getattr(acquisition, name)[chosen] for name in per_tilt})


def expected_counts(acquisition: Acquisition, pixel_size: float) -> Tensor:
    """Electrons that each pixel counts where there is only ice, (t,): the ice lets exp(-path / mean free path) through."""
    path = acquisition.ice_thickness / torch.cos(torch.deg2rad(acquisition.tilt_angles))
    through = torch.exp(-path / mean_free_path(acquisition.voltage_kv))
    return acquisition.doses * pixel_size**2 * acquisition.quantum_efficiency * through


def mean_free_path(voltage_kv: float) -> float:
    """MEAN_FREE_PATH at another voltage: proportional to the square of the electron's velocity."""
    fast, slow = (1 - (1 + v / REST_ENERGY_KEV) ** -2 for v in (300.0, voltage_kv))
    return MEAN_FREE_PATH * slow / fast


def detect(images: Tensor, acquisition: Acquisition, pixel_size: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the detector makes of the images' contrast: signal, and noise of Poisson-distributed counts, both (t, ny, nx).

    The unit of both is the mean count. Both pass the detector's transfer function, as counted electrons do.
    """
    counts = expected_counts(acquisition, pixel_size)[:, None, None]
    expected = counts * (1 - images).clamp_min(0)
    noise = (expected - torch.poisson(expected, generator=generator)) / counts
    ny, nx = images.shape[1:]
    ky, kx = image_frequencies(ny, nx, pixel_size, images.device)
    transfer = detector_transfer(torch.hypot(ky, kx), pixel_size, acquisition.mtf_at_nyquist)
    return apply_filter(images, transfer), apply_filter(noise, transfer)


def reconstruction_filter(acquisition: Acquisition, correction: Correction, ny: int, nx: int, pixel_size: float) -> Tensor:
    """What the reconstruction does to each image before back-projection, (t, ny, nx // 2 + 1): ramp, CTF, dose weighting.

    The ramp |kx| times the angle between tilts makes back-projection the inverse of projection (Crowther et al. 1970; Radermacher 1992).
    `deconvolve` multiplies by CTF / (CTF^2 + c), as Wiener filters with a constant c do, and `multiply` by the CTF, as RELION and Warp export.
    Cosine weighting trusts a tilt less the thicker the ice is that its electrons cross, as Warp and M do (Tegunov & Cramer 2019).
    """
    device = acquisition.tilt_angles.device
    ky, kx = image_frequencies(ny, nx, pixel_size, device)
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
        deconvolved = ctf / (ctf**2 + correction.deconvolution_constant)
        result = result * {"phase_flip": ctf.sign(), "multiply": ctf, "deconvolve": deconvolved}[correction.ctf]
    if correction.dose_weighting:
        result = result * dose_filter(k, acquisition.exposures.reshape(-1, 1, 1), acquisition.voltage_kv)
    if correction.cosine_weighting:
        cosine = torch.cos(torch.deg2rad(acquisition.nominal_angles))
        result = result * (cosine / cosine.mean()).reshape(-1, 1, 1)
    return result


def apply_filter(images: Tensor, transfer: Tensor) -> Tensor:
    """Multiply the Fourier transforms of (t, ny, nx) images by (t, ny, nx // 2 + 1)."""
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * transfer, s=images.shape[-2:])
    return filtered


def weight_images(images: Tensor, acquisition: Acquisition, correction: Correction, pixel_size: float, smoothing: Tensor | None = None) -> Tensor:
    """Images ready to be smeared back: ramp, CTF correction, dose weighting and smoothing, (t, ny, nx)."""
    ny, nx = images.shape[1:]
    transfer = reconstruction_filter(acquisition, correction, ny, nx, pixel_size)
    return apply_filter(images, transfer if smoothing is None else transfer * smoothing)


def smoothing_filter(signal: Tensor, noise: Tensor, correction: Correction, pixel_size: float) -> Tensor | None:
    """Radial filter (ny, nx // 2 + 1) that smooths a tomogram, or None. On every image, it is the same filter on the volume.

    `low_pass` has a Gaussian edge and falls to 1/2 at the resolution; `wiener` is S / (S + N) with the mean power of signal and
    noise at each frequency: the linear filter that denoises best, as trained denoisers roughly do.
    """
    if correction.smoothing == "none":
        return None
    ny, nx = signal.shape[1:]
    ky, kx = image_frequencies(ny, nx, pixel_size, signal.device)
    k = torch.hypot(ky, kx)
    if correction.smoothing == "low_pass":
        return torch.exp(-math.log(2) * (k * correction.low_pass) ** 2)
    ring = (k * pixel_size * min(ny, nx)).round().long().flatten()
    number = torch.bincount(ring).clamp_min(1)
    s, n = (torch.bincount(ring, torch.fft.rfft2(x).abs().square().mean(0).flatten()) / number for x in (signal, noise))
    return (s / (s + n).clamp_min(1e-20))[ring].reshape(k.shape).float()
