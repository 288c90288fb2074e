"""The sign of the contrast, and the missing wedge, as the data show them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from triptych.contrast import choose_contrast, contrast_score, guess_contrast, guess_tomogram_contrast
from triptych.fourier import low_pass
from triptych.io.mrc import read_mrc
from triptych.missing_wedge import find_missing_wedge
from triptych.volume import Volume, bin_voxels, spread_boxes


def make_noise(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, n, n)).astype(np.float32)


def test_contrast_of_particles_in_noise() -> None:
    axis = np.arange(40) - 20
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    ball = (radius < 8).astype(np.float32)
    ball *= np.sqrt(0.05) / ball.std()
    volumes = [Volume(ball + make_noise(40, seed), 10.0) for seed in range(10)]
    assert guess_contrast(volumes).z_score > 6
    assert guess_contrast([volume.with_data(7 - 2 * volume.data) for volume in volumes]).seen == "dark"
    assert guess_contrast([]).z_score == 0
    assert contrast_score(np.zeros((16, 16, 16), dtype=np.float32)) == 0


def test_contrast_of_noise_is_undecided() -> None:
    """Also of noise whose power falls with frequency, as that of tomograms does."""
    white = [Volume(make_noise(32, seed), 10.0) for seed in range(24)]
    assert not guess_contrast(white).is_sure
    assert not guess_contrast([low_pass(volume, 60.0) for volume in white]).is_sure


def test_contrast_of_real_ribosomes(shared_data: Path) -> None:
    """Dark after deconvolution, each of the 20 by itself.

    The copies without deconvolution have the opposite sign, as their correlation with the reference says too.
    """
    folder = shared_data / "ribosome_70s_real"
    volumes = [read_mrc(path) for path in sorted((folder / "subtomograms").glob("*.mrc"))]
    z_score = guess_contrast(volumes).z_score
    assert z_score < -8
    assert all(guess_contrast([volume]).seen == "dark" for volume in volumes)
    assert guess_contrast([volume.with_data(-volume.data) for volume in volumes]).z_score == pytest.approx(-z_score)
    with np.load(folder / "truth.npz") as truth:
        raw = [Volume(data.astype(np.float32), 12.0) for data in truth["subtomograms_not_deconvolved"]]
    assert guess_contrast(raw).z_score > 4


def make_crowd(seed: int = 0) -> NDArray[np.float32]:
    """Bright balls of 100 Å anywhere in 800 Å of noise, on voxels of 10 Å."""
    rng = np.random.default_rng(seed)
    empty = np.ones((80, 80, 80), bool)
    empty[tuple(rng.integers(0, 80, (3, 60)))] = False
    return np.asarray((ndimage.distance_transform_edt(empty) < 5) + rng.normal(0, 2, empty.shape), dtype=np.float32)


def test_contrast_of_a_tomogram() -> None:
    crowd = make_crowd()
    bright = guess_tomogram_contrast(Volume(crowd, 10.0))
    assert bright.z_score > 4
    assert guess_tomogram_contrast(Volume(3 - 2 * crowd, 10.0)).z_score == pytest.approx(-bright.z_score)
    finer = crowd.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert guess_tomogram_contrast(Volume(finer, 5.0)).z_score == pytest.approx(bright.z_score, rel=0.3)
    crowd[40] = np.nan
    assert guess_tomogram_contrast(Volume(crowd, 10.0)).z_score == 0
    assert guess_tomogram_contrast(Volume(np.zeros((40, 40, 40), np.float32), 10.0)).z_score == 0


def test_contrast_of_an_empty_tomogram_is_undecided() -> None:
    noise = [Volume(make_noise(60, seed), 10.0) for seed in range(8)]
    assert not any(guess_tomogram_contrast(volume).is_sure for volume in noise)
    assert not any(guess_tomogram_contrast(low_pass(volume, 60.0)).is_sure for volume in noise)


def test_the_setting_decides_and_a_doubt_is_said(caplog: pytest.LogCaptureFixture) -> None:
    appearance = guess_tomogram_contrast(Volume(make_crowd(), 10.0))
    assert choose_contrast(appearance, "bright") == ("bright", None)
    assert choose_contrast(appearance, None, "bright") == ("bright", None)
    assert choose_contrast(appearance, "auto") == ("bright", None)
    with caplog.at_level(logging.WARNING):
        contrast, warning = choose_contrast(appearance, None, name="TS_1")
    assert contrast == "dark"
    assert warning is not None
    assert warning.startswith("TS_1: CONTRAST LOOKS INVERTED")
    assert warning in caplog.messages


def test_contrast_and_wedge_of_real_tomograms(shared_data: Path) -> None:
    """The microtubules were inverted by those who published them; the virions lie on their side, with a beam along y."""
    folder = shared_data / "tomograms_real"
    for name in ("microtubule_13pf", "microtubule_14pf"):
        tomogram = read_mrc(folder / f"{name}.mrc.gz")
        assert guess_tomogram_contrast(tomogram).z_score > 4
        wedge = find_missing_wedge(tomogram)
        assert wedge is not None
        assert (wedge.beam, wedge.tilt_axis) == (0, 1)
    virions = read_mrc(folder / "emd_1155.map.gz")
    assert guess_tomogram_contrast(virions).z_score < -2
    wedge = find_missing_wedge(virions)
    assert wedge is not None
    assert (wedge.beam, wedge.tilt_axis) == (1, 0)


# -------------------------------------------------------------------------------------------------------- missing wedge


def remove_wedge(data: NDArray[np.float32], beam: int, axis: int, tilt_min: float, tilt_max: float) -> Volume:
    k = np.meshgrid(*map(np.fft.fftfreq, data.shape), indexing="ij")
    angle = (np.degrees(np.arctan2(k[beam], k[3 - beam - axis])) + 90) % 180 - 90
    measured = (angle >= tilt_min) & (angle <= tilt_max)
    return Volume(np.fft.ifftn(np.fft.fftn(data) * measured).real.astype(np.float32), 10.0)


@pytest.mark.parametrize(("beam", "axis", "low", "high"), [(0, 1, -60, 60), (0, 2, -45, 45), (1, 0, -50, 66), (2, 1, -40, 70)])
def test_a_wedge_is_found_where_it_was_made(beam: int, axis: int, low: float, high: float) -> None:
    wedge = find_missing_wedge(remove_wedge(make_noise(72), beam, axis, low, high))
    assert wedge is not None
    assert (wedge.beam, wedge.tilt_axis) == (beam, axis)
    assert wedge.tilt_min == pytest.approx(low, abs=6)
    assert wedge.tilt_max == pytest.approx(high, abs=6)
    assert wedge.depth < 0.1


def test_a_wedge_is_found_in_real_subtomograms(shared_data: Path) -> None:
    """Of tilts to some 60 degrees those are seen that have not too little weight."""
    folder = shared_data / "ribosome_70s_real" / "subtomograms"
    wedge = find_missing_wedge(*(read_mrc(path) for path in sorted(folder.glob("*.mrc"))))
    assert wedge is not None
    assert wedge.lies_as_expected
    assert 36 < min(-wedge.tilt_min, wedge.tilt_max) < max(-wedge.tilt_min, wedge.tilt_max) < 54


def test_no_wedge_is_found_where_there_is_none() -> None:
    noise = make_noise(72)
    assert find_missing_wedge(Volume(noise, 10.0)) is None
    assert find_missing_wedge(low_pass(Volume(noise, 10.0), 40.0)) is None
    assert find_missing_wedge(Volume(np.cumsum(noise, axis=0), 10.0)) is None
    assert find_missing_wedge(Volume(np.zeros_like(noise), 10.0)) is None


# --------------------------------------------------------------------------------------------------------------- boxes


def test_boxes_are_spread_over_the_whole_volume() -> None:
    data = np.arange(12 * 7 * 30).reshape(12, 7, 30)
    seen = {int(value) for box in spread_boxes(data, 6, 100) for value in box.ravel()}
    assert seen == set(data[:, :6].ravel().tolist())  # an axis of 7 has place for one box of 6
    assert all(box.shape == (7, 7, 7) for box in spread_boxes(data, 7, 3))
    assert len(list(spread_boxes(data, 7, 3))) == 3
    assert [box.shape for box in spread_boxes(data, 50, 3)] == [data.shape]


def test_bins_are_means() -> None:
    data = make_noise(13)
    binned = bin_voxels(data, 3)
    assert binned.shape == (4, 4, 4)
    assert binned[1, 2, 3] == pytest.approx(data[3:6, 6:9, 9:12].mean(), abs=1e-6)
    assert bin_voxels(data, 1) is data
