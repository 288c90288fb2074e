"""Resampling, filters and spectra of volumes in Fourier space.

A volume is taken as one period of a band-limited function. Resampling evaluates that function at the new voxels'
positions, whatever the ratio of the voxel sizes: exact to float32 rounding, and the centre, index ``n // 2``, stays where
it is. What is finer than the new voxels can hold (beyond half their frequency) is left out, so nothing is aliased.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triptych.errors import InputError
from triptych.volume import Volume, crop_or_pad, raised_cosine

FloatArray = NDArray[np.float64]


def interpolation_matrix(size: int, places: NDArray[np.floating[Any]], filter_at: Callable[[FloatArray], ArrayLike]) -> NDArray[np.float32]:
    """Matrix (count, size) that evaluates a periodic band-limited signal at other places.

    Parameters
    ----------
    size : samples in one period
    places : (count,), indices of samples, fractions allowed
    filter_at : weights of frequencies in 1 / sample, from 0 to 0.5
    """
    frequencies = np.arange(size // 2 + 1) / size
    # half of a frequency's power lies at its negative: the terms 0 and, for even sizes, 0.5 occur once
    weights = np.where((frequencies == 0) | (frequencies == 0.5), 1, 2) * filter_at(frequencies)
    # A product of two matrices: a table of all places, samples and frequencies would take gigabytes for a tomogram.
    there, back = (np.exp(2j * np.pi * np.outer(*pair)) for pair in ((places, frequencies), (frequencies, -np.arange(size))))
    return np.asarray(((there * weights) @ back).real / size, dtype=np.float32)


@lru_cache(maxsize=64)
def _resampling_matrix(size: int, ratio: float, count: int) -> NDArray[np.float32]:
    """To ``count`` samples that are ``ratio`` old ones apart; sample ``count // 2`` lies on the old sample ``size // 2``."""
    places = size // 2 + (np.arange(count) - count // 2) * ratio
    return interpolation_matrix(size, places, lambda frequencies: frequencies <= 0.5 / ratio * (1 + 1e-9))


def _resample_array(data: NDArray[np.float32], ratio: float, counts: tuple[int, ...]) -> NDArray[np.float32]:
    """Evaluate the last three axes at ``counts`` positions around the centre, ``ratio`` old voxels apart."""
    data = np.asarray(data, dtype=np.float32)
    for axis, count in zip((-3, -2, -1), counts, strict=True):
        if ratio == 1 and count == data.shape[axis]:
            continue
        matrix = _resampling_matrix(data.shape[axis], ratio, count)
        data = np.moveaxis(np.tensordot(data, matrix, (axis, 1)), -1, axis)
    return np.ascontiguousarray(data)


def _resampled_counts(shape: tuple[int, ...], ratio: float) -> tuple[int, int, int]:
    nz, ny, nx = (max(1, round(n / ratio)) for n in shape[-3:])
    return nz, ny, nx


def _ratio(new: float, old: float) -> float:
    if not (np.isfinite(new) and new > 0):
        raise InputError(f"the voxel size to resample to is {new} Å, but must be a positive number")
    return 1.0 if abs(new / old - 1) < 1e-6 else new / old  # stored voxel sizes differ in the last digit


def resample(volume: Volume, voxel_size: float) -> Volume:
    """The same density on voxels of another size, same extent (to half a new voxel), same centre.

    Parameters
    ----------
    volume : Volume, shape (nz, ny, nx)
    voxel_size : new size in Å; any ratio to the old one

    Returns
    -------
    Volume, whose axes have ``round(n * old / new)`` voxels. Its origin is set so that the centre keeps its position.
    """
    ratio = _ratio(voxel_size, volume.voxel_size)
    counts = _resampled_counts(volume.shape, ratio)
    x, y, z = (
        place + n // 2 * volume.voxel_size - count // 2 * voxel_size
        for place, n, count in zip(volume.origin, volume.shape[::-1], counts[::-1], strict=True)
    )
    return Volume(_resample_array(volume.data, ratio, counts), voxel_size, (x, y, z))


def _resample_into(data: NDArray[np.float32], ratio: float, shape: tuple[int, int, int], fill: float) -> NDArray[np.float32]:
    """Resample, and crop or pad to ``shape``; voxels that will be cropped are never computed."""
    counts = _resampled_counts(data.shape, ratio)
    nz, ny, nx = (min(count, wanted) for count, wanted in zip(counts, shape, strict=True))
    return crop_or_pad(_resample_array(data, ratio, (nz, ny, nx)), shape, fill)


def resample_to_box(volume: Volume, voxel_size: float, box_size: int, fill: float | None = None) -> NDArray[np.float32]:
    """Resample a volume and crop or pad it to a cube, centre on centre (index ``n // 2``).

    Parameters
    ----------
    volume : Volume, shape (nz, ny, nx)
    voxel_size : new size in Å
    box_size : voxels along each side of the cube
    fill : value of the voxels around the volume; default: its mean

    Returns
    -------
    float32 array (box_size, box_size, box_size)
    """
    return resample_to_shape(volume, voxel_size, (box_size, box_size, box_size), fill)


def resample_to_shape(volume: Volume, voxel_size: float, shape: tuple[int, int, int], fill: float | None = None) -> NDArray[np.float32]:
    """As `resample_to_box`, for a box with sides of their own."""
    fill = float(np.mean(volume.data, dtype=np.float64)) if fill is None else fill
    return _resample_into(volume.data, _ratio(voxel_size, volume.voxel_size), shape, fill)


def resample_back(data: NDArray[np.float32], voxel_size: float, target: Volume) -> NDArray[np.float32]:
    """Bring a map of the model's grid to the grid of the volume that it was computed from.

    The way back of `resample_to_box`: away from the borders, and up to the coarser grid's resolution, the two cancel.

    Parameters
    ----------
    data : float array (..., n, n, n), e.g. mask probabilities or densities
    voxel_size : of ``data``, Å
    target : volume whose shape and voxel size are wanted

    Returns
    -------
    float32 array (..., nz, ny, nx). Voxels that the model did not see are 0.
    """
    return _resample_into(data, _ratio(target.voxel_size, voxel_size), target.shape, 0.0)


def frequency_grid(shape: tuple[int, ...], voxel_size: float) -> NDArray[np.float32]:
    """|k| in 1/Å of every term of ``numpy.fft.rfftn`` over the last three axes."""
    nz, ny, nx = shape[-3:]
    kz = np.fft.fftfreq(nz, voxel_size)[:, None, None]
    ky = np.fft.fftfreq(ny, voxel_size)[:, None]
    kx = np.fft.rfftfreq(nx, voxel_size)
    return np.asarray(np.sqrt(kz**2 + ky**2 + kx**2), dtype=np.float32)


def wedge_weights(shape: tuple[int, int, int], tilt_min: float, tilt_max: float, frame: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """1 where `rfftn` of a box has terms that the tilt range about y measures, 0 in the missing wedge.

    Parameters
    ----------
    shape : (nz, ny, nx) of the box, of cubic voxels
    tilt_min, tilt_max : degrees; the tilt theta measures the plane that holds ky and the direction (cos theta, sin theta) of kx and kz
    frame : (3, 3), matrix box -> tomogram on (x, y, z), where the box's axes are not those of the tomogram

    Returns
    -------
    float32 (nz, ny, nx // 2 + 1)
    """
    if not -90 <= tilt_min < tilt_max <= 90:
        raise InputError(f"the tilt range is {tilt_min} to {tilt_max} degrees, but it must ascend and lie within -90 to 90")
    kz, ky, kx = np.fft.fftfreq(shape[0])[:, None, None], np.fft.fftfreq(shape[1])[:, None], np.fft.rfftfreq(shape[2])
    whole = (shape[0], shape[1], len(kx))
    if frame is not None:
        kx, kz = (row[0] * kx + row[1] * ky + row[2] * kz for row in (frame[0], frame[2]))
        kz, kx = np.where(kx < 0, -kz, kz), np.abs(kx)  # a term and its complex conjugate are measured together
    angle = np.degrees(np.arctan2(kz, kx))
    on_axis = (kx == 0) & (kz == 0)  # the ky axis lies in the planes of all tilts, even where 0 is not among them
    measured = (((angle >= tilt_min) & (angle <= tilt_max)) | on_axis).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(measured, whole))


def _filter(data: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    axes = (-3, -2, -1)
    shape = data.shape[-3:]
    return np.asarray(np.fft.irfftn(np.fft.rfftn(data, axes=axes) * weights, s=shape, axes=axes), dtype=np.float32)


def low_pass(volume: Volume, resolution: float, edge: float = 0.2) -> Volume:
    """Remove what is finer than ``resolution``.

    Parameters
    ----------
    volume : Volume
    resolution : Å, where the weight has fallen to one half
    edge : width of the raised-cosine fall-off as a share of the cut-off frequency
    """
    if not resolution > 0:
        raise InputError(f"the resolution of a low-pass filter is {resolution} Å, but must be above 0")
    position = (frequency_grid(volume.shape, volume.voxel_size) * resolution - 1) / edge + 0.5
    return volume.with_data(_filter(volume.data, raised_cosine(position)))


def band_pass(data: NDArray[np.float32], voxel_size: float, coarse: float, fine: float) -> NDArray[np.float32]:
    """Keep details between two sizes with Gaussian edges: a difference of two blurs.

    Parameters
    ----------
    data : float array (..., nz, ny, nx)
    voxel_size : Å
    coarse, fine : Å, resolutions at which the weight of the respective blur is exp(-1/2)
    """
    k = frequency_grid(data.shape, voxel_size)
    return _filter(data, np.exp(-((k * fine) ** 2) / 2) - np.exp(-((k * coarse) ** 2) / 2))


def _shells(shape: tuple[int, ...], voxel_size: float) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Shell number and multiplicity of each term of rfftn, and the shells' frequencies up to Nyquist.

    Shells are one Fourier voxel of the longest axis wide.
    """
    longest = max(shape[-3:])
    width = 1 / (longest * voxel_size)
    numbers = np.rint(frequency_grid(shape, voxel_size) / width).astype(np.int64)
    weights = np.full(numbers.shape, 2.0)  # rfftn leaves out the mirror images
    weights[..., 0] = 1
    if shape[-1] % 2 == 0:
        weights[..., -1] = 1
    return numbers, weights, np.asarray(np.arange(longest // 2 + 1) * width, dtype=np.float64)


def _shell_sum(values: NDArray[np.float64], shells: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(shells.ravel(), values.ravel(), minlength=count)[:count], dtype=np.float64)


def radial_power_spectrum(volume: Volume) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean power per Fourier term in shells up to the Nyquist frequency.

    Returns
    -------
    frequencies (1/Å) and power: of white noise of variance s^2 it is s^2 at all frequencies above 0
    """
    shells, weights, frequencies = _shells(volume.shape, volume.voxel_size)
    power = np.abs(np.fft.rfftn(volume.data)) ** 2 / volume.data.size
    total, number = (_shell_sum(values, shells, len(frequencies)) for values in (power * weights, weights))
    return frequencies, total / number


def fourier_shell_correlation(
    a: NDArray[np.float32], b: NDArray[np.float32], voxel_size: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation of two volumes in shells of Fourier space (Harauz & van Heel 1986), up to the Nyquist frequency.

    Parameters
    ----------
    a, b : float arrays of the same shape (nz, ny, nx)
    voxel_size : Å

    Returns
    -------
    frequencies (1/Å) and correlations in [-1, 1]; 0 where one of the two has no power
    """
    if a.shape != b.shape:
        raise InputError(f"volumes of shapes {a.shape} and {b.shape} cannot be compared: bring both to the same box")
    shells, weights, frequencies = _shells(a.shape, voxel_size)
    fa, fb = np.fft.rfftn(a), np.fft.rfftn(b)
    cross, power_a, power_b = (
        _shell_sum(values * weights, shells, len(frequencies))
        for values in ((fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2)
    )
    norm = np.sqrt(power_a * power_b)
    return frequencies, np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)


def resolution_at(frequencies: NDArray[np.float64], correlation: NDArray[np.float64], threshold: float, coarsest: float = np.inf) -> float:
    """Å at which a Fourier shell correlation first falls below a threshold (0.143 between half maps, 0.5 against the truth).

    Linear between shells; the finest shell's resolution where it never falls, infinity where it is below from the first shell on, or no shell
    counts. The mean and the shells coarser than `coarsest` (Å) do not count.
    """
    first = max(1, int(np.searchsorted(frequencies, (1 - 1e-6) / coarsest)))
    below = np.flatnonzero(correlation[first:] < threshold) + first
    if first >= len(frequencies) or (below.size and below[0] == first):
        return float("inf")
    if not below.size:
        return float(1 / frequencies[-1])
    i = int(below[0])
    share = (correlation[i - 1] - threshold) / (correlation[i - 1] - correlation[i])
    return float(1 / (frequencies[i - 1] + share * (frequencies[i] - frequencies[i - 1])))


def match_amplitudes(data: NDArray[np.float32], like: NDArray[np.float32]) -> NDArray[np.float32]:
    """A volume (nz, ny, nx) with its mean amplitude in each shell made that of another of the same shape, up to the Nyquist frequency."""
    shells, weights, frequencies = _shells(data.shape, 1.0)
    transform = np.fft.rfftn(data)
    own, wanted = (_shell_sum(np.abs(values) * weights, shells, len(frequencies)) for values in (transform, np.fft.rfftn(like)))
    factor = np.append(np.divide(wanted, own, out=np.zeros_like(own), where=own > 1e-9 * own.max()), 0.0)  # the corners beyond the last shell go
    matched = transform * factor[np.minimum(shells, len(frequencies))]
    return np.asarray(np.fft.irfftn(matched, s=data.shape, axes=(0, 1, 2)), dtype=np.float32)


def scramble_phases(data: NDArray[np.float32], rng: np.random.Generator, where: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """A volume (nz, ny, nx) with the same power spectrum and random phases, which are those of a real volume too.

    `where`: the terms of `rfftn` whose phases are drawn anew; default: all.
    """
    white = np.fft.rfftn(rng.normal(size=data.shape))
    transform = np.fft.rfftn(data)
    spectrum = np.abs(transform) * white / np.maximum(np.abs(white), 1e-12)
    if where is not None:
        spectrum = np.where(where, spectrum, transform)
    return np.asarray(np.fft.irfftn(spectrum, s=data.shape, axes=(0, 1, 2)), dtype=np.float32)
