"""Invariants of resampling, filters and spectra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch_fourier_shell_correlation import fourier_shell_correlation as torch_fsc

from triptych.errors import InputError
from triptych.fourier import (
    band_pass,
    fourier_shell_correlation,
    frequency_grid,
    low_pass,
    radial_power_spectrum,
    resample,
    resample_back,
    resample_to_box,
    wedge_weights,
)
from triptych.volume import Volume, clip_box, crop_or_pad


def make_noise(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, n, n)).astype(np.float32)


def make_blobs(n: int, voxel_size: float) -> Volume:
    """Two Gaussians whose places are in Å from the centre, index n // 2: the same density at any voxel size."""
    axis = (np.arange(n) - n // 2) * voxel_size
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    data = np.exp(-((z - 17) ** 2 + (y + 23) ** 2 + (x - 5) ** 2) / (2 * 30**2)) - 0.5 * np.exp(-((z + 40) ** 2 + y**2 + (x + 30) ** 2) / (2 * 26**2))
    return Volume(data.astype(np.float32), voxel_size)


@pytest.mark.parametrize(
    ("n", "old", "new"), [(32, 12.0, 10.0), (40, 10.0, 13.48), (48, 7.3, 10.0), (33, 10.0, 12.1), (40, 10.0, 10.0), (24, 14.0, 7.0)]
)
def test_resampling_keeps_density_and_centre(n: int, old: float, new: float) -> None:
    result = resample(make_blobs(n, old), new)
    assert result.shape == (round(n * old / new),) * 3
    np.testing.assert_allclose(result.data, make_blobs(result.shape[0], new).data, atol=2e-4)


def test_resampling_moves_the_origin_so_that_the_centre_stays() -> None:
    volume = Volume(make_noise(32), 12.0, (100.0, 200.0, 300.0))
    result = resample(volume, 10.0)
    for before, after in zip(volume.origin, result.origin, strict=True):
        assert after + 19 * 10 == pytest.approx(before + 16 * 12)


def test_resampling_to_the_same_voxel_size_changes_nothing() -> None:
    volume = Volume(make_noise(16), 10.0)
    assert np.array_equal(resample(volume, 10.0).data, volume.data)
    assert np.array_equal(resample(volume, 10.000001).data, volume.data)


def test_coarser_voxels_do_not_alias() -> None:
    """A wave finer than the new voxels can hold disappears instead of coming back as a coarse one."""
    wave = np.cos(2 * np.pi * 14 / 32 * np.arange(32))[None, None].repeat(32, 0).repeat(32, 1).astype(np.float32)
    assert np.abs(resample(Volume(wave, 10.0), 17.0).data).max() < 1e-5


def test_finer_voxels_and_back_is_the_identity() -> None:
    volume = Volume(make_noise(20), 10.0)
    finer = resample(volume, 5.0)
    np.testing.assert_allclose(resample(finer, 10.0).data, volume.data, atol=1e-4)


@pytest.mark.parametrize(("n", "voxel_size"), [(32, 12.0), (64, 7.0), (24, 16.8), (41, 10.0)])
def test_box_and_back(n: int, voxel_size: float) -> None:
    volume = make_blobs(n, voxel_size)
    box = resample_to_box(volume, 10.0, 40)
    assert box.shape == (40, 40, 40)
    assert box.dtype == np.float32
    back = resample_back(np.stack([box, 2 * box]), 10.0, volume)
    assert back.shape == (2, n, n, n)
    inside = slice(n // 2 - int(150 / voxel_size), n // 2 + int(150 / voxel_size))
    np.testing.assert_allclose(back[0][inside, inside, inside], volume.data[inside, inside, inside], atol=0.01)
    np.testing.assert_allclose(back[1], 2 * back[0], atol=1e-5)


def test_what_the_model_did_not_see_is_zero() -> None:
    back = resample_back(np.ones((40, 40, 40), dtype=np.float32), 10.0, Volume(np.zeros((64, 64, 64), dtype=np.float32), 10.0))
    assert back.sum() == pytest.approx(40**3)
    assert back[0].max() == 0


def test_box_is_padded_with_the_mean() -> None:
    volume = Volume(make_noise(16) + 5, 10.0)
    box = resample_to_box(volume, 10.0, 24)
    assert box[0, 0, 0] == pytest.approx(volume.data.mean(), abs=1e-5)
    assert np.array_equal(box[4:20, 4:20, 4:20], volume.data)


def test_new_voxels_have_one_value_whatever_the_axes() -> None:
    """Axes of which one is cropped and two are padded; the mean is that of each whole volume."""
    data = np.random.default_rng(0).normal(size=(2, 9, 4, 5)).astype(np.float32) + np.array([5, -3], np.float32)[:, None, None, None]
    box = crop_or_pad(data, (5, 8, 7))
    assert np.array_equal(box[:, :, 2:6, 1:6], data[:, 2:7])
    for volume, whole in zip(box, data, strict=True):
        volume[:, 2:6, 1:6] = whole.mean()
        assert np.ptp(volume) == 0


@given(axes=st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=3))
def test_a_clipped_box_is_what_lies_in_both(axes: list[tuple[int, int, int]]) -> None:
    """Columns: where a box starts, its size, that of the array."""
    start, size, shape = map(tuple, zip(*axes, strict=True))
    inside, own = clip_box(start, size, shape)
    expected = {
        (place, tuple(np.add(place, start).tolist()))
        for place in np.ndindex(*size)
        if all(0 <= i + a < n for i, a, n in zip(place, start, shape, strict=True))
    }
    places = [np.moveaxis(np.indices(whole), 0, -1)[part].reshape(-1, len(axes)).tolist() for whole, part in ((size, own), (shape, inside))]
    assert {(tuple(mine), tuple(there)) for mine, there in zip(*places, strict=True)} == expected


def test_resampling_refuses_nonsense() -> None:
    with pytest.raises(InputError, match="positive"):
        resample(Volume(make_noise(8), 10.0), 0.0)


def test_low_pass_keeps_coarse_and_removes_fine() -> None:
    volume = Volume(make_noise(32), 10.0)
    frequencies, before = radial_power_spectrum(volume)
    after = radial_power_spectrum(low_pass(volume, 50.0))[1]
    np.testing.assert_allclose(after[frequencies < 1 / 60], before[frequencies < 1 / 60], rtol=1e-4)
    assert (after[frequencies > 1 / 40] < 1e-9 * before[frequencies > 1 / 40]).all()


def test_band_pass_removes_the_mean_and_is_linear() -> None:
    noise = make_noise(16)
    np.testing.assert_allclose(band_pass(noise + 3, 10.0, 200.0, 30.0), band_pass(noise, 10.0, 200.0, 30.0), atol=1e-5)
    assert abs(band_pass(noise + 3, 10.0, 200.0, 30.0).mean()) < 1e-6


def test_power_of_white_noise_is_its_variance() -> None:
    frequencies, power = radial_power_spectrum(Volume(2 * make_noise(48), 10.0))
    assert frequencies[-1] == pytest.approx(1 / 20)
    np.testing.assert_allclose(power[6:], 4, rtol=0.15)


def test_power_adds_up_to_the_variance() -> None:
    """Parseval: all shells together, corners left out by a low-pass, hold the sum of squares."""
    volume = low_pass(Volume(make_noise(24), 10.0), 30.0)
    frequencies, power = radial_power_spectrum(volume)
    shells = np.rint(np.sqrt(sum(np.meshgrid(*[(np.fft.fftfreq(24) * 24) ** 2] * 3))))
    counts = np.array([(shells == k).sum() for k in range(len(frequencies))])
    assert (power * counts).sum() == pytest.approx((volume.data.astype(float) ** 2).sum(), rel=1e-5)


def test_shell_correlation() -> None:
    a, b = make_noise(32, 1), make_noise(32, 2)
    np.testing.assert_allclose(fourier_shell_correlation(a, a, 10.0)[1], 1, atol=1e-6)
    np.testing.assert_allclose(fourier_shell_correlation(a, -3 * a, 10.0)[1], -1, atol=1e-6)
    assert np.abs(fourier_shell_correlation(a, b, 10.0)[1][8:]).max() < 0.2
    # equal signal and noise in both halves: the expectation is SNR / (SNR + 1) = 1/2
    signal = make_noise(32, 3)
    assert fourier_shell_correlation(signal + a, signal + b, 10.0)[1][8:].mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(InputError, match="same box"):
        fourier_shell_correlation(a, b[1:], 10.0)


def test_shell_correlation_agrees_with_torch_fourier_shell_correlation() -> None:
    # That program counts a term and its mirror image once or twice, as the half transform has them; so the agreement is statistical.
    blobs = make_blobs(48, 10.0).data
    ours, theirs = [], []
    for seed in range(4):
        a, b = (blobs + 0.2 * make_noise(48, 2 * seed + i) for i in (0, 1))
        ours.append(fourier_shell_correlation(a, b, 10.0)[1])
        theirs.append(torch_fsc(torch.from_numpy(a), torch.from_numpy(b)).numpy())
    mean, other = np.mean(ours, axis=0), np.mean(theirs, axis=0)
    assert mean[1] > 0.9
    assert abs(mean[-1]) < 0.1
    np.testing.assert_allclose(mean[3:], other[3:], atol=0.05)


def test_every_tilt_measures_the_waves_along_the_tilt_axis() -> None:
    weights = wedge_weights((16, 16, 16), 20, 60)
    assert weights[0, :, 0].all()
    assert not weights[0, :, 1:].any()  # kz = 0 lies at 0 degrees
    assert wedge_weights((16, 16, 16), 20, 60, np.eye(3))[0, :, 0].all()


def test_wedge_of_a_box_that_is_turned_against_the_tomogram() -> None:
    shape = (16, 16, 16)
    plain = wedge_weights(shape, -60, 40)
    assert np.array_equal(wedge_weights(shape, -60, 40, np.eye(3)), plain)
    # the box's x is the tomogram's y: what a wave measures is told by its axes in the tomogram
    quarter = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    turned, wave = wedge_weights(shape, -60, 40, quarter), np.array([1, 5, 2])  # x, y, z in the box
    assert turned[wave[2], wave[1], wave[0]] == 1  # x, z of the tomogram: -5, 2, which lies at -22 degrees
    assert turned[5, 2, 1] == 0  # -2, 5: -68 degrees
    assert turned[3, -3, 1] == 0  # 3, 3: 45 degrees
    any_turn = Rotation.from_euler("ZYZ", [20, 50, 80], degrees=True).as_matrix()
    ball = frequency_grid((32, 32, 32), 1.0) < 0.5
    assert wedge_weights((32, 32, 32), -60, 60, any_turn)[ball].mean() == pytest.approx(120 / 180, abs=0.02)
