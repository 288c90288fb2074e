"""Alignment against poses that scipy made, scores against sums in real space, averages against the truth, symmetry against known groups."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from triptych.alignment.align import Alignment, align, average, consensus, merge_averages, split_halves, turn_onto
from triptych.alignment.rotations import angles_between, angular_errors, point_group, rotation_grid
from triptych.alignment.symmetry import find_symmetry
from triptych.config import AlignConfig
from triptych.errors import InputError
from triptych.fourier import band_pass, fourier_shell_correlation, frequency_grid, low_pass, resample_to_box, resolution_at, wedge_weights
from triptych.simulation.library import load_library
from triptych.volume import Volume

VOXEL_SIZE = 10.0
BOX_SIZE = 32
QUICK = AlignConfig(step=22, max_shift=20, resolution=28, candidates=4, device="cpu")
TILT_RANGE = (-60.0, 60.0)
FINER = 2


def make_spline(density: Volume) -> NDArray[np.float32]:
    """Coefficients of a cubic spline through a density on a grid FINER times finer."""
    return ndimage.spline_filter(resample_to_box(density, density.voxel_size / FINER, FINER * density.shape[0]), order=3, output=np.float32)


@cache
def read_spline(name: str) -> NDArray[np.float32]:
    return make_spline(next(structure.density for structure in load_library() if structure.name == name))


def place(spline: NDArray[np.float32], rotation: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float32]:
    """A density turned, then shifted (x, y, z, Å), by scipy."""
    back = FINER * rotation.T[::-1, ::-1]  # of (z, y, x)
    middle = np.full(3, spline.shape[0] // 2)
    out = np.full(3, BOX_SIZE // 2) + shift[::-1] / VOXEL_SIZE
    shape = (BOX_SIZE,) * 3
    return ndimage.affine_transform(spline, back, middle - back @ out, output_shape=shape, order=3, prefilter=False).astype(np.float32)


def filter_terms(volumes: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    axes = (-3, -2, -1)
    return np.fft.irfftn(np.fft.rfftn(volumes, axes=axes) * weights, s=volumes.shape[-3:], axes=axes).astype(np.float32)


class Copies(NamedTuple):
    """Copies of a structure with their true poses."""

    volumes: NDArray[np.float32]
    reference: NDArray[np.float32]
    truth: Alignment


def make_copies(name: str, count: int, noise: float = 0.0, wedge: NDArray[np.float32] | None = None, seed: int = 0) -> Copies:
    """Noise: its standard deviation over the signal's; between 25 Å and 1000 Å, as errors of recovered densities are smooth."""
    rng = np.random.default_rng(seed)
    rotations, shifts = Rotation.random(count, rng=rng).as_matrix(), rng.uniform(-8, 8, (count, 3))
    spline = read_spline(name)
    volumes = np.stack([place(spline, *pose) for pose in zip(rotations, shifts, strict=True)])
    if noise:
        errors = band_pass(rng.normal(size=volumes.shape).astype(np.float32), VOXEL_SIZE, 1000, 25)
        volumes += noise * volumes.std() * errors / errors.std()
    if wedge is not None:
        volumes = filter_terms(volumes, wedge)
    return Copies(volumes, place(spline, np.eye(3), np.zeros(3)), Alignment(rotations, shifts, np.ones(count, np.float32)))


def test_the_grid_of_rotations_is_even() -> None:
    step = 20.0
    grid = rotation_grid(step)
    np.testing.assert_allclose(grid @ np.swapaxes(grid, 1, 2), np.broadcast_to(np.eye(3), grid.shape), atol=1e-9)
    anywhere = Rotation.random(300, rng=np.random.default_rng(0)).as_matrix()
    nearest = angles_between(anywhere[:, None], grid).min(axis=1)
    assert nearest.max() < step  # a cubic lattice of this density: 0.87 steps
    assert nearest.mean() > step / 3


def test_angles_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = Rotation.random(20, rng=rng), Rotation.random(20, rng=rng)
    np.testing.assert_allclose(angles_between(a.as_matrix(), b.as_matrix()), np.degrees((a.inv() * b).magnitude()), atol=1e-6)


def test_an_angular_error_is_up_to_symmetry() -> None:
    group = point_group("D7")
    rotations = Rotation.random(5, rng=np.random.default_rng(2)).as_matrix()
    np.testing.assert_allclose(angular_errors(rotations @ group[9], rotations, group), 0, atol=1e-5)
    assert angular_errors(rotations @ group[9], rotations).min() > 20
    assert len(point_group("D12")) == 24


@pytest.mark.parametrize("wedge", [None, TILT_RANGE])
def test_poses_are_found(wedge: tuple[float, float] | None) -> None:
    weights = None if wedge is None else wedge_weights((BOX_SIZE,) * 3, *wedge)
    copies = make_copies("rna_polymerase_2", 6, wedge=weights)
    found = align(copies.volumes, copies.reference, VOXEL_SIZE, QUICK, wedges=None if weights is None else weights[None])
    assert angles_between(found.rotations, copies.truth.rotations).max() < 1
    assert np.abs(found.shifts - copies.truth.shifts).max() < 0.1 * VOXEL_SIZE
    assert found.scores.min() > 0.98


def test_refinement_starts_where_it_is_told() -> None:
    copies = make_copies("rna_polymerase_2", 3)
    off = Rotation.from_rotvec([[6, 0, 0], [0, -5, 3], [2, 2, 6]], degrees=True).as_matrix()
    start = copies.truth._replace(rotations=off @ copies.truth.rotations, shifts=copies.truth.shifts + 4)
    found = align(copies.volumes, copies.reference, VOXEL_SIZE, QUICK, start=start)
    assert angles_between(found.rotations, copies.truth.rotations).max() < 0.5


def test_a_shift_is_that_of_the_particle_from_the_centre() -> None:
    reference = make_copies("rna_polymerase_2", 1).reference
    moved = np.roll(reference, (-1, 0, 1), axis=(0, 1, 2))  # z, y, x
    start = Alignment(np.eye(3)[None], np.zeros((1, 3)), np.ones(1, np.float32))
    found = align(moved[None], reference, VOXEL_SIZE, QUICK, start=start)
    np.testing.assert_allclose(found.shifts[0], (VOXEL_SIZE, 0, -VOXEL_SIZE), atol=0.2)


def test_the_score_is_the_correlation_in_real_space() -> None:
    weights = wedge_weights((BOX_SIZE,) * 3, -50, 65)
    copies = make_copies("ribosome_30s", 1, noise=0.5, wedge=weights)
    axis = np.arange(BOX_SIZE) - BOX_SIZE // 2
    distance = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    ball = (1 / (1 + np.exp(2 * (distance - 11)))).astype(np.float32)
    found = align(copies.volumes, copies.reference, VOXEL_SIZE, QUICK, wedges=weights[None], mask=ball)

    kept = weights * ((k := frequency_grid((BOX_SIZE,) * 3, VOXEL_SIZE)) > 0) * (k <= 1 / QUICK.resolution)
    pose = found.rotations[0], found.shifts[0]
    # the mask is round, so that only its shift counts; a particle's mean tells nothing
    mask = ndimage.shift(ball, found.shifts[0][::-1] / VOXEL_SIZE, order=3)
    particle = filter_terms((copies.volumes[0] - copies.volumes[0].mean()) * mask, kept)
    turned = filter_terms(place(make_spline(Volume(copies.reference * ball, VOXEL_SIZE)), *pose), kept)
    assert found.scores[0] == pytest.approx(np.corrcoef(particle.ravel(), turned.ravel())[0, 1], abs=0.01)
    assert found.scores[0] < 0.98


def test_there_and_back_is_where_it_was() -> None:
    """Through `average`: of one particle in its true pose, it is the particle turned back."""
    copies = make_copies("rna_polymerase_2", 1)
    density, weight = average(copies.volumes, copies.truth, VOXEL_SIZE)
    frequencies, correlation = fourier_shell_correlation(density, copies.reference, VOXEL_SIZE)
    assert correlation[(frequencies > 0) & (frequencies < 1 / 25)].min() > 0.99
    back, there = (low_pass(Volume(data, VOXEL_SIZE), 28).data for data in (density, copies.reference))
    np.testing.assert_allclose(back, there, atol=0.02 * there.max())
    assert weight[1, 2, 3] == 1


def test_an_average_fills_the_wedge_and_beats_its_particles() -> None:
    weights = wedge_weights((BOX_SIZE,) * 3, *TILT_RANGE)
    copies = make_copies("ribosome_30s", 12, noise=2.0, wedge=weights)
    density, weight = average(copies.volumes, copies.truth, VOXEL_SIZE, weights[None])
    one, _ = average(copies.volumes[:1], Alignment(*(part[:1] for part in copies.truth)), VOXEL_SIZE, weights[None])
    of_average, of_one = (fourier_shell_correlation(x, copies.reference, VOXEL_SIZE)[1][2:12].mean() for x in (density, one))
    assert of_average > of_one + 0.3
    inside = frequency_grid((BOX_SIZE,) * 3, VOXEL_SIZE) < 1 / 25
    assert weight[inside][1:].mean() == pytest.approx(12 * 120 / 180, rel=0.05)


def test_an_average_counts_each_term_over_those_that_measured_it() -> None:
    """Half of the particles see nothing but one wedge: where only the others measured, the average is theirs, not diluted."""
    copies = make_copies("ribosome_30s", 1)
    wedge = wedge_weights((BOX_SIZE,) * 3, -40, 40)
    wedges = np.stack([np.ones_like(wedge), wedge])
    both = np.concatenate([copies.volumes, filter_terms(copies.volumes, wedge)])
    here = Alignment(np.stack([np.eye(3)] * 2), np.zeros((2, 3)), np.ones(2, np.float32))
    density, _ = average(both, here, VOXEL_SIZE, wedges)
    both_seen, one_seen = (low_pass(Volume(data, VOXEL_SIZE), 25).data for data in (density, copies.volumes[0]))
    # Linear interpolation is sharpened for turns of any kind; without a turn that is too much by a few per cent.
    np.testing.assert_allclose(both_seen, one_seen, atol=0.03 * one_seen.max())


def test_averages_of_parts_make_the_average_of_all() -> None:
    """Background included, which is 0 in each."""
    copies = make_copies("ribosome_30s", 2)
    whole, _ = average(copies.volumes, copies.truth, VOXEL_SIZE)
    parts = [average(copies.volumes[i : i + 1], copies.truth.take(slice(i, i + 1)), VOXEL_SIZE) for i in range(2)]
    np.testing.assert_allclose(merge_averages(parts), whole, atol=1e-3 * whole.max())


def test_an_average_of_nothing_is_0() -> None:
    here = Alignment(np.eye(3)[None], np.zeros((1, 3)), np.ones(1, np.float32))
    density, _ = average(np.ones((1, 8, 8, 8), np.float32), here, VOXEL_SIZE, np.zeros((1, 8, 8, 5), np.float32))
    assert not density.any()


@pytest.mark.parametrize(("name", "agreeing"), [("rna_polymerase_2", 8), ("ribosome_50s", 5)])
def test_a_consensus_needs_no_reference(name: str, agreeing: int) -> None:
    copies = make_copies(name, 8, noise=0.5)
    config = QUICK.model_copy(update={"starts": 2, "rounds": 2, "resolution": 32.0, "step": 28.0, "agreeing": agreeing})
    density, found = consensus(copies.volumes, VOXEL_SIZE, np.random.default_rng(0), config)
    # up to one rotation of the whole
    whole = Rotation.from_matrix(np.swapaxes(copies.truth.rotations, 1, 2) @ found.rotations).mean().as_matrix()
    assert np.median(angles_between(found.rotations, copies.truth.rotations @ whole)) < 3
    onto = align(density[None], copies.reference, VOXEL_SIZE, QUICK)
    assert onto.scores[0] > 0.95


@pytest.mark.parametrize(("name", "group"), [("groel", "D7"), ("apoferritin", "O"), ("spike", "C3"), ("ribosome_70s", None)])
def test_symmetry_is_found_in_any_pose(name: str, group: str | None) -> None:
    rotation, shift = Rotation.random(rng=np.random.default_rng(3)).as_matrix(), np.array([6.0, -4.0, 3.0])
    density = place(read_spline(name), rotation, shift)
    found = find_symmetry(density, VOXEL_SIZE, QUICK.model_copy(update={"resolution": 34.0}))
    if group is None:
        assert found == []
        return
    assert found[0].name == group
    np.testing.assert_allclose(found[0].centre, shift, atol=2)
    for turn in found[0].rotations[1:4]:
        turned = place(read_spline(name), turn @ rotation, turn @ (shift - found[0].centre) + found[0].centre)
        assert np.corrcoef(turned.ravel(), density.ravel())[0, 1] > 0.9


def test_halves_share_no_particle() -> None:
    first, second = split_halves(11, np.random.default_rng(0))
    assert sorted([*first, *second]) == list(range(11))
    assert abs(len(first) - len(second)) == 1
    shown = np.array([7, 3, 7, 5, 3, 3, 0, 9, 9, 7])
    for seed in range(20):
        first, second = split_halves(10, np.random.default_rng(seed), shown)
        assert sorted([*first, *second]) == list(range(10))
        assert not set(shown[first]) & set(shown[second])
        for same in (np.arange(10), np.zeros(10, np.int64)):  # there must be two halves
            assert [half.tolist() for half in split_halves(10, np.random.default_rng(seed), same)] == [
                half.tolist() for half in split_halves(10, np.random.default_rng(seed))
            ]


def test_halves_are_turned_onto_each_other_by_coarse_detail_alone() -> None:
    """Two references with the same coarse detail, whose fine detail would agree better if one were turned."""
    spline, turn = read_spline("ribosome_50s"), Rotation.from_rotvec([0, 0, np.radians(8)]).as_matrix()
    first, turned = (place(spline, rotation, np.zeros(3)) for rotation in (np.eye(3), turn))
    coarse, coarse_turned = (low_pass(Volume(density, VOXEL_SIZE), 35).data for density in (first, turned))
    second = coarse + 20 * (turned - coarse_turned)
    found = [align(second[None], first, VOXEL_SIZE, QUICK), turn_onto(first, second, VOXEL_SIZE, QUICK)]
    errors = [np.degrees(Rotation.from_matrix(pose.rotations[0]).magnitude()) for pose in found]
    assert errors[0] > 4
    assert errors[1] < 1.5


def test_resolution_is_where_the_correlation_falls() -> None:
    frequencies = np.arange(6) / 100
    assert resolution_at(frequencies, np.array([1, 1, 0.9, 0.7, 0.3, 0.9]), 0.5) == pytest.approx(1 / 0.035)
    assert resolution_at(frequencies, np.ones(6), 0.5) == pytest.approx(20)
    assert resolution_at(frequencies, np.zeros(6), 0.5) == np.inf
    coarse_is_noise = np.array([1, 0, 0.9, 0.7, 0.3, 0.9])
    assert resolution_at(frequencies, coarse_is_noise, 0.5) == np.inf
    assert resolution_at(frequencies, coarse_is_noise, 0.5, coarsest=50) == pytest.approx(1 / 0.035)
    assert resolution_at(frequencies, np.zeros(6), 0.5, coarsest=50) == np.inf
    assert resolution_at(frequencies, np.ones(6), 0.5, coarsest=15) == np.inf  # no shell is as fine


def test_wedges_hold_the_share_of_the_tilt_range() -> None:
    weights = wedge_weights((48, 8, 48), -60, 40)
    terms = frequency_grid((48, 8, 48), 1.0)
    assert weights[(terms > 0.1) & (terms < 0.5)].mean() == pytest.approx(100 / 180, abs=0.03)


@pytest.mark.parametrize(
    ("volumes", "reference", "wedges", "message"),
    [
        (np.zeros((2, 8, 8, 6)), np.zeros((8, 8, 6)), None, "cubes"),
        (np.ones((2, 8, 8, 8)), np.ones((6, 6, 6)), None, "same box"),
        (np.ones((2, 8, 8, 8)), np.ones((8, 8, 8)), None, "nothing can be aligned"),
        (np.ones((2, 8, 8, 8)), np.eye(8)[None] * np.ones((8, 1, 1)), np.ones((3, 8, 8, 5)), "wedges"),
    ],
)
def test_what_does_not_fit_is_refused(
    volumes: NDArray[np.float64], reference: NDArray[np.float64], wedges: NDArray[np.float64] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        align(volumes.astype(np.float32), reference.astype(np.float32), VOXEL_SIZE, QUICK, wedges=wedges)


def test_a_box_without_any_detail_to_compare_is_refused() -> None:
    boxes = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32)
    with pytest.raises(InputError, match="boxes 32 Å wide hold nothing to compare down to 40 Å"):
        align(boxes, boxes[0], 2.0)
