"""The physics against independent codes, and against what must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_ctf
import torch_fourier_slice
from scipy.spatial.transform import Rotation

from triptych.posing import oversample, pose
from triptych.simulation.physics import (
    Acquisition,
    Correction,
    apply_filter,
    back_project,
    ball_transform,
    contrast_transfer,
    critical_exposure,
    detect,
    electron_wavelength,
    expected_counts,
    form_images,
    image_filter,
    interaction_constant,
    interpolator,
    project,
    project_balls,
    reconstruction_filter,
    smoothing_filter,
    transpose,
    weak_phase_contrast,
    weight_images,
)

ANGLES = torch.arange(-60, 61, 3.0)


def blobs(n: int, *places: tuple[float, float, float, float]) -> torch.Tensor:
    """Gaussians at (x, y, z) from the centre with a width, in a cube of n voxels."""
    axis = torch.arange(n, dtype=torch.float32) - n // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return sum((torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * s**2)) for a, b, c, s in places), torch.zeros(n, n, n))


VOLUME = blobs(48, (0, 0, 0, 3), (7, -4, 6, 2), (-9, 6, -5, 2.5))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def acquisition(angles: torch.Tensor, **changes: object) -> Acquisition:
    n = len(angles)
    plain = {
        "tilt_angles": angles,
        "nominal_angles": angles,
        "shifts": torch.zeros(n, 2),
        "defocus_um": torch.full((n,), 3.0),
        "exposures": torch.zeros(n),
        "doses": torch.full((n,), 3.0),
        "mtf_at_nyquist": 1.0,
    }
    return Acquisition(**{**plain, **changes})  # type: ignore[arg-type]


def projections(volume: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    nz, _, nx = volume.shape
    return project(volume, transpose(interpolator(nz, nx, nx, angles)), len(angles))


def reconstruct(images: torch.Tensor, tilts: Acquisition, correction: Correction, shape: tuple[int, int, int], pixel_size: float) -> torch.Tensor:
    nz, _, nx = shape
    return back_project(weight_images(images, tilts, correction, pixel_size), interpolator(nz, nx, images.shape[2], tilts.nominal_angles), nz, nx)


def test_untilted_projection_is_the_sum_along_z() -> None:
    image = projections(VOLUME, torch.zeros(1))[0]
    assert torch.allclose(image, VOLUME.sum(0), atol=1e-4)


def test_projection_agrees_with_torch_fourier_slice() -> None:
    # That program turns the sampling grid, so R_y(theta) of the specimen is R_y(-theta) there; the other sign must not fit.
    ours = projections(VOLUME, ANGLES)
    angles = ANGLES.numpy()[:, None]
    theirs, wrong = (
        torch_fourier_slice.project_3d_to_2d(VOLUME, torch.tensor(Rotation.from_euler("y", sign * angles, degrees=True).as_matrix()).float())
        for sign in (-1, 1)
    )
    assert correlation(ours, theirs) > 0.9995
    assert correlation(ours, wrong) < 0.95


def test_point_lands_where_the_frame_says() -> None:
    image = projections(blobs(48, (10, 3, 8, 1.5)), torch.tensor([30.0]))[0]
    row, column = divmod(int(image.argmax()), 48)
    assert row == 24 + 3
    assert column == pytest.approx(24 + 10 * np.cos(np.pi / 6) + 8 * np.sin(np.pi / 6), abs=0.6)


def test_full_tilt_range_gives_the_volume_back() -> None:
    angles = torch.arange(-88.5, 90, 3.0)
    images = apply_filter(projections(VOLUME, angles), reconstruction_filter(acquisition(angles), Correction(), 48, 48, 10.0))
    volume = back_project(images, interpolator(48, 48, 48, angles), 48, 48)
    assert correlation(volume, VOLUME) > 0.99
    assert float((volume * VOLUME).sum() / (VOLUME * VOLUME).sum()) == pytest.approx(1, abs=0.1)


def test_reconstruction_treats_the_axes_alike() -> None:
    # White noise comes back with the same power along x, which is interpolated twice, as along y, which is not.
    angles = torch.arange(-88.5, 90, 3.0)
    white = torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(0))
    tilts = acquisition(angles, amplitude_contrast=1.0, defocus_um=torch.zeros(60), spherical_aberration_mm=0.0)
    images = apply_filter(projections(white, angles), image_filter(tilts, 48, 48, 10.0))
    spectrum = np.fft.fftn(reconstruct(images, tilts, Correction(), (48, 48, 48), 10.0).numpy()) * np.fft.fftn(white.numpy()).conj()
    transfer = spectrum.real / np.abs(np.fft.fftn(white.numpy())) ** 2
    k = np.abs(np.fft.fftfreq(48))
    low, band = k < 0.05, (k > 0.25) & (k < 0.35)
    along_x, along_y = np.median(transfer[np.ix_(low, low, band)]), np.median(transfer[np.ix_(low, band, low)])
    assert along_x == pytest.approx(along_y, rel=0.15)


def test_missing_wedge_holds_the_share_of_the_angle_not_covered() -> None:
    tilts = acquisition(ANGLES)
    noise = torch.randn(len(ANGLES), 64, 64, generator=torch.Generator().manual_seed(0))
    volume = reconstruct(noise, tilts, Correction(), (64, 64, 64), 10.0)
    power = np.abs(np.fft.fftn(volume.numpy())) ** 2
    k = np.fft.fftfreq(64)
    kz, kx = np.meshgrid(k, k, indexing="ij")
    ring = (np.hypot(kz, kx) > 0.15) & (np.hypot(kz, kx) < 0.35)
    # A point of the kz-kx plane at this angle from the kx axis is measured by the tilt of the same angle.
    inside = np.degrees(np.arctan2(np.abs(kz), np.abs(kx))) > 62
    plane = power.mean(1)
    assert inside[ring].mean() == pytest.approx(28 / 90, abs=0.03)
    assert plane[ring & inside].mean() < 0.05 * plane[ring & ~inside].mean()


@pytest.mark.parametrize(("voltage", "wavelength"), [(300.0, 0.019687), (200.0, 0.025079), (100.0, 0.037014)])
def test_wavelength(voltage: float, wavelength: float) -> None:
    assert electron_wavelength(voltage) == pytest.approx(wavelength, rel=1e-4)


def test_ctf_agrees_with_torch_ctf() -> None:
    theirs = torch_ctf.calculate_ctf_1d(
        defocus=2.5,
        voltage=300,
        spherical_aberration=2.7,
        amplitude_contrast=0.07,
        phase_shift=0,
        pixel_size=2.0,
        n_samples=256,
        oversampling_factor=1,
    )
    k = torch.linspace(0, 0.5, 256) / 2.0
    ours = contrast_transfer(k, 2.5, 300.0, 2.7, 0.07)
    assert torch.allclose(ours, theirs.float(), atol=2e-3)
    assert float(ours[0]) == pytest.approx(0.07, abs=1e-4)


def test_critical_exposure_of_the_literature() -> None:
    # Grant & Grigorieff (2015), 300 kV: about 13.9 e/Å^2 at 10 Å by their formula.
    assert float(critical_exposure(torch.tensor(0.1), 300.0)) == pytest.approx(0.245 * 0.1**-1.665 + 2.81, rel=1e-5)


def test_misalignment_moves_the_image() -> None:
    no_ctf = {"amplitude_contrast": 1.0, "defocus_um": torch.zeros(1), "spherical_aberration_mm": 0.0}
    moved, still = (acquisition(torch.zeros(1), shifts=torch.tensor([shift]), **no_ctf) for shift in ([20.0, -10.0], [0.0, 0.0]))
    image, reference = (apply_filter(VOLUME.sum(0)[None], image_filter(tilts, 48, 48, 10.0))[0] for tilts in (moved, still))
    assert torch.allclose(image, torch.roll(reference, (-1, 2), (0, 1)), atol=1e-3)


def test_protein_is_bright_after_reconstruction() -> None:
    volume = blobs(48, (0, 0, 0, 6))
    tilts = acquisition(ANGLES)
    images = form_images(projections(volume, ANGLES), tilts, 10.0)
    for ctf in ("none", "phase_flip", "deconvolve", "multiply"):
        result = reconstruct(images, tilts, Correction(ctf), (48, 48, 48), 10.0)
        assert float(result[24, 24, 24]) > float(result.mean() + 3 * result.std())


def test_shot_noise_variance_is_that_of_the_counted_electrons() -> None:
    # 2 e/Å^2 on pixels of 100 Å^2, half of them counted, through ice of one mean free path: at 60° the path is twice as long.
    angles = torch.tensor([0.0, 60.0])
    tilts = acquisition(angles, doses=torch.full((2,), 2.0), quantum_efficiency=0.5, ice_thickness=3950.0)
    counts = 100 * np.exp([-1, -2])
    assert expected_counts(tilts, 10.0).tolist() == pytest.approx(counts.tolist(), rel=1e-4)
    signal, noise = detect(torch.zeros(2, 256, 256), tilts, 10.0, torch.Generator().manual_seed(1))
    assert not signal.any()
    assert noise.var((1, 2)).tolist() == pytest.approx((1 / counts).tolist(), rel=0.03)
    assert noise.mean().abs() < 0.01


def test_bright_protein_means_fewer_electrons() -> None:
    images = torch.zeros(1, 128, 128)
    images[:, :64] = 0.5
    tilts = acquisition(torch.zeros(1), doses=torch.ones(1))
    noise = detect(images, tilts, 10.0, torch.Generator().manual_seed(1))[1][0]
    assert float(noise[4:60].var()) == pytest.approx(0.005, rel=0.1)
    assert float(noise[68:124].var()) == pytest.approx(0.01, rel=0.1)


def test_points_and_balls_project_as_volumes_do() -> None:
    places = torch.tensor([[7.25, -4.5, 6.0], [-9.0, 6.0, -5.75], [0.0, 0.0, 0.0]])
    ours = project_balls([(4.0, places)], ANGLES, 48, 48)
    axis = torch.arange(-24, 24, 0.25)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    fine = sum(((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < 16).float() for a, b, c in places.tolist())
    volume = torch.nn.functional.avg_pool3d(torch.as_tensor(fine)[None, None].roll((2, 2, 2), (2, 3, 4)), 4)[0, 0]
    assert correlation(ours, projections(volume, ANGLES)) > 0.99
    assert ours.sum((1, 2)).tolist() == pytest.approx([3 * 4 / 3 * np.pi * 64] * len(ANGLES), rel=1e-3)


@pytest.mark.parametrize("place", [(5.5, -3.5), (5.25, -3.25), (5.0, -3.0)])
@pytest.mark.parametrize("ny", [48, 45])
def test_balls_between_pixels_keep_their_detail(place: tuple[float, float], ny: int) -> None:
    """A ball's transform with the phase of its place, to half of the highest frequency and beyond."""
    x, y = place
    ky, kx = torch.fft.fftfreq(ny)[:, None], torch.fft.rfftfreq(48)[None]
    phase = 2 * torch.pi * (kx * (24 + x) + ky * (ny // 2 + y))
    expected = ball_transform(torch.hypot(ky, kx), 2.0) * torch.polar(torch.ones_like(phase), -phase)
    found = torch.fft.rfft2(project_balls([(2.0, torch.tensor([[x, y, 0.0]]))], torch.zeros(1), ny, 48)[0])
    seen = torch.hypot(ky, kx) < 0.3
    assert (found - expected)[seen].norm() < 0.03 * expected[seen].norm()


def test_smearing_back_keeps_the_highest_frequency_as_it_is() -> None:
    columns = torch.cos(torch.pi * torch.arange(32)).repeat(1, 4, 1)
    volume = back_project(columns, interpolator(4, 32, 32, torch.zeros(1)), 4, 32)
    assert torch.allclose(volume, columns.expand(4, 4, 32), atol=1e-4)


def test_detector_damps_signal_and_noise_alike() -> None:
    image = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(2)) * 0.01
    tilts = acquisition(torch.zeros(1), mtf_at_nyquist=0.5)
    signal, noise = detect(image, tilts, 10.0, torch.Generator().manual_seed(3))
    sharp_signal, sharp_noise = detect(image, acquisition(torch.zeros(1)), 10.0, torch.Generator().manual_seed(3))
    for soft, sharp in ((signal, sharp_signal), (noise, sharp_noise)):
        ratio = torch.fft.rfft2(soft)[0, 0, 1:].abs() / torch.fft.rfft2(sharp)[0, 0, 1:].abs()
        assert ratio[-1] == pytest.approx(0.5, rel=0.01)
        assert ratio[15] == pytest.approx(0.5**0.5, rel=0.01)


def test_interaction_constant_of_the_literature() -> None:
    # 6.526e-4 rad/(V Å) at 300 kV, 7.288e-4 at 200 kV, 9.244e-4 at 100 kV.
    assert [interaction_constant(v) for v in (300.0, 200.0, 100.0)] == pytest.approx([6.526e-4, 7.288e-4, 9.244e-4], rel=1e-3)
    assert weak_phase_contrast(300.0, 10.0) == pytest.approx(2 * 6.526e-4 * 3.28 * 10, rel=1e-3)


@pytest.mark.parametrize("angle", [0.0, 30.0, 120.0])
def test_astigmatic_ctf_agrees_with_torch_ctf(angle: float) -> None:
    # There the astigmatism is half the difference of the defoci.
    theirs = torch_ctf.calculate_ctf_2d(2.5, 0.2, angle, 300, 2.7, 0.07, 0, 4.0, (64, 64), rfft=True, fftshift=False)
    tilts = acquisition(torch.zeros(1), defocus_um=torch.tensor([2.5]), astigmatism_um=0.4, astigmatism_angle=angle)
    assert torch.allclose(image_filter(tilts, 64, 64, 4.0)[0].real, theirs.squeeze().float(), atol=2e-3)


def test_defocus_gradient_images_each_place_at_its_own_defocus() -> None:
    # A point 1000 Å from the axis of a specimen tilted by 60°: its height along the beam adds to the defocus.
    height_um = -1000 * np.sin(np.radians(60)) * 1e-4
    spot = torch.zeros(1, 256, 256)
    spot[0, 128, 128 + 100] = 1  # pixels of 5 Å: 1000 Å cos 60°
    angle = 60.0
    image = form_images(spot, acquisition(torch.tensor([angle])), 5.0)
    plain = {"defocus_gradient": False, "defocus_um": torch.tensor([3.0 + height_um])}
    own = form_images(spot, acquisition(torch.tensor([angle]), **plain), 5.0)
    level = form_images(spot, acquisition(torch.tensor([angle]), defocus_gradient=False), 5.0)
    assert float((image - own).norm() / own.norm()) < 0.03
    assert float((level - own).norm() / own.norm()) > 0.1
    untilted = acquisition(torch.zeros(1)), acquisition(torch.zeros(1), defocus_gradient=False)
    assert torch.allclose(*(form_images(spot, tilts, 10.0) for tilts in untilted), atol=1e-6)


def test_smoothing_filters_are_what_they_say() -> None:
    signal = apply_filter(torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0)), low := gaussian(64, 200.0))
    noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert smoothing_filter(signal, noise, Correction(), 10.0) is None
    low_pass = smoothing_filter(signal, noise, Correction(smoothing="low_pass", low_pass=40.0), 10.0)
    assert low_pass is not None
    assert float(low_pass[0, 16]) == pytest.approx(0.5)  # 1/40 Å
    wiener = smoothing_filter(signal, noise, Correction(smoothing="wiener"), 10.0)
    assert wiener is not None
    assert torch.allclose(wiener[:4, :4], (low**2 / (low**2 + 1))[:4, :4], atol=0.25)
    denoised, worse = apply_filter(signal + noise, wiener), signal + noise
    assert (denoised - signal).square().mean() < 0.2 * (worse - signal).square().mean()


def gaussian(n: int, width: float) -> torch.Tensor:
    ky, kx = torch.fft.fftfreq(n, 10.0)[:, None], torch.fft.rfftfreq(n, 10.0)
    return 3 * torch.exp(-(ky**2 + kx**2) * width**2 / 2)


def test_pose_turns_and_shifts_as_the_matrix_says() -> None:
    place = np.array([6.0, -3.0, 4.0])
    rotation = Rotation.from_euler("ZYZ", [40, 70, -25], degrees=True).as_matrix()
    offset = np.array([0.3, -0.2, 0.4])
    template = oversample(blobs(48, (*place, 2.0)), 2)
    turned = pose(template, 2, torch.from_numpy(rotation), torch.from_numpy(offset), 48)
    wanted = rotation @ place + offset
    assert correlation(turned, blobs(48, (*wanted, 2.0))) > 0.999


def test_oversampling_keeps_the_samples() -> None:
    fine = oversample(VOLUME, 2)
    assert torch.allclose(fine[::2, ::2, ::2], VOLUME, atol=1e-3)


def test_cosine_weighting_weights_each_tilt_by_its_cosine() -> None:
    tilts = acquisition(torch.tensor([-60.0, 0.0, 60.0]))
    plain, weighted = (reconstruction_filter(tilts, Correction(cosine_weighting=on), 32, 32, 10.0) for on in (False, True))
    ratio = (weighted / plain).mean((1, 2))
    assert torch.allclose(ratio / ratio[1], torch.tensor([0.5, 1.0, 0.5]), atol=1e-5)
    assert float(ratio.mean()) == pytest.approx(1)
