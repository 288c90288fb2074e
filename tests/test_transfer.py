"""The CTF of subtomograms, from files to averages: against the simulation, against itself in other layouts, and through `discover`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
from fake_predictions import VOXEL_SIZE, make_fake
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from test_align import BOX_SIZE, QUICK, filter_terms, make_copies

from triptych.alignment.align import align, average
from triptych.alignment.rotations import angles_between
from triptych.config import AlignConfig, DiscoverConfig, PredictConfig, SimulateConfig
from triptych.errors import InputError
from triptych.fourier import fourier_shell_correlation, frequency_grid, wedge_weights
from triptych.io.manifest import describe_input
from triptych.io.mrc import write_mrc
from triptych.io.source import open_particles
from triptych.io.star import read_star, write_star
from triptych.io.store import open_store, particle_name
from triptych.io.tilt_stacks import TiltStacks
from triptych.io.transfers import CtfVolumes, stored_transfers
from triptych.stages.discover import discover
from triptych.stages.simulate import simulate
from triptych.tilt_images import CTF_FLOOR, TiltOptics, reconstruct, transfer
from triptych.transfer import CtfTransfers, sample_ctf_volume
from triptych.volume import Volume

SIZE = 16
DEFOCI = (2.2, 2.8, 3.4, 4.0, 4.6, 5.2)


def make_transfers(count: int) -> CtfTransfers:
    defocus = np.resize(np.array(DEFOCI) * 1e4, count)
    return CtfTransfers(defocus, ["none", "phase_flip", "deconvolve", "multiply"] * count, np.full(count, 0.05), 300, 2.7, 0.07)


def stack_transfers(transfers: CtfTransfers, count: int, size: int) -> NDArray[np.float32]:
    return np.stack([transfers.of(row, size, VOXEL_SIZE) for row in range(count)])


# --------------------------------------------------------------------------------------------------------------- physics


@pytest.mark.parametrize("correction", ["none", "phase_flip", "deconvolve", "multiply"])
def test_it_is_what_the_simulation_does(tmp_path: Path, correction: str) -> None:
    """The noise-free reconstruction of lone particles over their density, shell by shell, follows the factor, sign included."""
    acquisition = {
        "defocus_um": [3.5, 4.5], "defocus_gradient": False, "astigmatism_um": [0, 0],
        "ctf_correction": {"none": 0, "phase_flip": 0, "deconvolve": 0, correction: 1},
        "deconvolution_constant": [0.3, 0.3],
        "radiation_damage": False, "b_factor": [0, 0], "shift_jitter": [0, 0], "tilt_jitter": [0, 0], "tilt_step": [2, 2],
    }  # fmt: skip
    scene = {"particles": 8, "particles_per_tomogram": 8, "box_size": 32, "none_share": 0, "tile_share": 0, "classes": ["apoferritin"]}
    simulate(tmp_path / "data.zarr", SimulateConfig.model_validate({**scene, "acquisition": acquisition, "workers": 1}))
    store = open_store(tmp_path / "data.zarr")
    transfers = stored_transfers(store)
    assert transfers is not None
    expected, k = transfers.of(0, 32, VOXEL_SIZE), frequency_grid((32,) * 3, VOXEL_SIZE)
    seen = wedge_weights((32,) * 3, float(store["tilt_min"][0]), float(store["tilt_max"][0]))
    signal, truth = (np.fft.rfftn(store[name][:].astype(np.float64), axes=(1, 2, 3)) for name in ("signal", "density"))
    # neighbours add to the signal, but not in phase with the particles
    shells = [(k >= low) & (k < low + 0.003) & (seen > 0) for low in np.arange(0.012, 0.042, 0.003)]
    power = [(np.abs(truth[:, shell]) ** 2).sum() for shell in shells]
    measured = [(signal[:, shell] * truth[:, shell].conj()).real.sum() for shell in shells] / np.array(power)
    wanted = [(np.abs(truth[:, shell]) ** 2 * expected[shell]).sum() for shell in shells] / np.array(power)
    assert np.corrcoef(measured, wanted)[0, 1] > 0.9
    assert (wanted.min() < -0.3) == (correction == "none")


def test_a_ctf_starts_at_the_amplitude_contrast() -> None:
    transfers = make_transfers(4)
    at_zero = [transfers.of(row, SIZE, VOXEL_SIZE)[0, 0, 0] for row in range(4)]
    assert at_zero == pytest.approx([0.07, 0.07, 0.07**2 / (0.07**2 + 0.05), 0.07**2], rel=1e-4)


def test_deconvolution_undoes_what_is_left_of_the_ctf() -> None:
    """Whatever a reconstruction has made of it: signs are right, what is clear is there again, and nothing is blown up."""
    copies = make_copies("ribosome_30s", 1)
    truth = np.fft.rfftn(copies.volumes[0])
    found = []
    for correction in ("none", "phase_flip", "multiply"):
        transfers = CtfTransfers(np.array([3.4e4]), [correction], np.zeros(1), 300, 2.7, 0.07)
        seen = filter_terms(copies.volumes, transfers.of(0, BOX_SIZE, VOXEL_SIZE)[None])[0]
        found.append(np.fft.rfftn(transfers.deconvolve(0, Volume(seen, VOXEL_SIZE)).data))
    for other in found[1:]:
        assert np.allclose(found[0], other, atol=1e-4 * np.abs(truth).max())
    ctf = CtfTransfers(np.array([3.4e4]), ["none"], np.zeros(1), 300, 2.7, 0.07).of(0, BOX_SIZE, VOXEL_SIZE)
    clear = np.abs(ctf) > 0.8
    assert clear.mean() > 0.2
    assert np.linalg.norm((found[0] - truth)[clear]) < 0.15 * np.linalg.norm(truth[clear])
    assert (np.abs(found[0]) <= np.abs(truth) + 1e-4 * np.abs(truth).max()).all()


def test_what_is_left_of_the_ctf_of_tilt_images() -> None:
    """Volumes made of tilt images have, where these measured it, what `TiltStacks.transfers` says of the Fourier terms of an undisturbed one."""
    size, angles = 32, np.arange(-60.0, 61.0, 1.5)
    rotations, nothing = Rotation.from_euler("Y", angles[:, None], degrees=True).as_matrix(), np.zeros(len(angles))
    seen = TiltOptics(rotations, *[nothing + 3.4e4] * 2, nothing, 300, 2.7, 0.07, False)
    blank = TiltOptics(rotations, *[nothing] * 3, 300, 0, 1, False)
    impulse = np.zeros((len(angles), size, size))  # images of a point in the middle, seen through the CTF
    impulse[:, size // 2, size // 2] = 1
    frequency = np.fft.fftfreq(size, VOXEL_SIZE)
    ky, kx = (part.ravel() for part in np.meshgrid(frequency, frequency, indexing="ij"))
    images = np.fft.ifft2(np.fft.fft2(impulse) * transfer(seen, kx, ky).reshape(impulse.shape)).real
    made, whole = (np.fft.rfftn(reconstruct(data, optics, VOXEL_SIZE)) for data, optics in ((images, seen), (impulse, blank)))
    transfers = TiltStacks([""], np.array([VOXEL_SIZE]), [seen], [np.ones(len(angles), bool)]).transfers
    assert transfers is not None
    left = transfers.of(0, size, VOXEL_SIZE)
    k = frequency_grid((size,) * 3, VOXEL_SIZE)
    clear = (wedge_weights((size,) * 3, -55, 55) > 0) & (k > 1 / 100) & (k < 1 / 26)
    ratio = (made * whole.conj()).real[clear] / np.abs(whole[clear]) ** 2  # of a blank CTF of 1, of which 1 / (1 + CTF_FLOOR) is left
    ratio = ratio / (1 + CTF_FLOOR)
    assert np.corrcoef(ratio, left[clear])[0, 1] > 0.98
    assert np.median(ratio / left[clear]) == pytest.approx(1, rel=0.03)


def test_the_ctf_of_tilt_images_of_several_optics_is_left_aside() -> None:
    """Rather than taken from those of the first particle: at 200 kV its zeros lie elsewhere than at 300 kV."""
    one = TiltOptics(np.eye(3)[None], *[np.array([3.4e4])] * 2, np.zeros(1), 300, 2.7, 0.07, True)
    stacks = TiltStacks(["", ""], np.full(2, VOXEL_SIZE), [one, replace(one, voltage_kv=200)], [np.ones(1, bool)] * 2)
    assert stacks.transfers is None
    assert stacks.take(np.array([1])).transfers is not None


@pytest.mark.parametrize(("shifts", "expected"), [([0, 0], 0.1), ([90, 30], [0.99**0.5, 0.1 * 0.75**0.5 + 0.99**0.5 / 2])])
def test_a_phase_plate_shifts_the_ctf_of_tilt_images(tmp_path: Path, shifts: list[float], expected: float | list[float]) -> None:
    """At k = 0 it is sin(asin(A) + phase shift), as in RELION, A the amplitude contrast."""
    write_mrc(tmp_path / "a.mrc", Volume(np.random.default_rng(0).random((2, SIZE, SIZE), dtype=np.float32), VOXEL_SIZE))
    optics = {"rlnOpticsGroup": 1, "rlnImagePixelSize": VOXEL_SIZE, "rlnImageDimensionality": 2, "rlnVoltage": 300.0}
    optics |= {"rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    particles = {"rlnTomoName": ["a"], "rlnImageName": ["a.mrc"], "rlnOpticsGroup": [1]}
    write_star(tmp_path / "particles.star", {"optics": pd.DataFrame(optics, index=[0]), "particles": pd.DataFrame(particles)})
    tilts = {"rlnTomoProjX": "[1,0,0,0]", "rlnTomoProjY": "[0,1,0,0]", "rlnTomoProjZ": ["[0,0,1,0]", "[-0.5,0,0.866,0]"], "rlnPhaseShift": shifts}
    tilts |= {"rlnDefocusU": 3e4, "rlnDefocusV": 3e4, "rlnDefocusAngle": 0.0}
    write_star(tmp_path / "tomograms.star", {"global": pd.DataFrame({"rlnTomoName": ["a"]}), "a": pd.DataFrame(tilts)})
    source = open_particles(tmp_path / "particles.star", PredictConfig(), SIZE * VOXEL_SIZE)
    assert isinstance(source.reader, TiltStacks)
    np.testing.assert_allclose(transfer(source.reader.optics[0], np.zeros(1), np.zeros(1))[:, 0], expected, rtol=1e-6)
    assert (source.transfers is None) == any(shifts)


# -------------------------------------------------------------------------------------------------------------- alignment


def test_an_average_undoes_the_ctf() -> None:
    copies = make_copies("ribosome_30s", 12)
    transfers = CtfTransfers(np.resize(np.array(DEFOCI) * 1e4, 12), ["none"] * 12, np.zeros(12), 300, 2.7, 0.07)
    wedges = stack_transfers(transfers, 12, BOX_SIZE)
    images = filter_terms(copies.volumes, wedges)
    plain, _ = average(images, copies.truth, VOXEL_SIZE)
    undone, _ = average(images, copies.truth, VOXEL_SIZE, wedges)
    (_, without), (frequencies, with_ctf) = (fourier_shell_correlation(x, copies.reference, VOXEL_SIZE) for x in (plain, undone))
    fine = (frequencies > 1 / 30) & (frequencies < 1 / 22)
    assert with_ctf[fine].min() > 0.97
    assert without[fine].min() < 0.9
    k = frequency_grid((BOX_SIZE,) * 3, VOXEL_SIZE)
    for low in np.arange(1 / 70, 1 / 25, 0.003):  # not only right in phase; still coarser detail is not brought back in full
        shell = (k >= low) & (k < low + 0.003)
        power, wanted = (np.mean(np.abs(np.fft.rfftn(x)[shell]) ** 2) for x in (undone, copies.reference))
        assert power == pytest.approx(wanted, rel=0.15)


def test_particles_are_aligned_through_their_own_ctf() -> None:
    """Beyond the first zero an uncorrected CTF turns the phases round; allowed for, poses and scores are those of undisturbed particles."""
    config = QUICK.model_copy(update={"resolution": 22.0})
    copies = make_copies("rna_polymerase_2", 4)
    transfers = CtfTransfers(np.full(4, 5e4), ["none"] * 4, np.zeros(4), 300, 2.7, 0.07)
    wedges = stack_transfers(transfers, 4, BOX_SIZE)
    images = filter_terms(copies.volumes, wedges)
    found = align(images, copies.reference, VOXEL_SIZE, config, wedges=wedges)
    blind = align(images, copies.reference, VOXEL_SIZE, config)
    assert angles_between(found.rotations, copies.truth.rotations).max() < 1
    assert found.scores.min() > 0.98
    assert blind.scores.max() < 0.9


# ------------------------------------------------------------------------------------------------------------ CTF volumes


def test_both_layouts_of_a_ctf_volume_say_the_same() -> None:
    half = make_transfers(1).of(0, SIZE, VOXEL_SIZE)
    whole = np.fft.fftshift(np.fft.fftn(np.fft.irfftn(half, s=(SIZE,) * 3, axes=(0, 1, 2))).real).astype(np.float32)
    for data in (half, whole):
        np.testing.assert_allclose(sample_ctf_volume(data, VOXEL_SIZE, SIZE, VOXEL_SIZE), half / np.abs(half).max(), atol=1e-5)


@pytest.mark.parametrize("box_size", [SIZE, 12])
def test_what_a_ctf_volume_has_not_measured_is_0(box_size: int) -> None:
    """Terms of weight 0 do not count in scores, nor in how sure these are: rounding must not make them terms of little weight."""
    half = make_transfers(2).of(1, SIZE, VOXEL_SIZE) * wedge_weights((SIZE,) * 3, -50, 60)
    found = sample_ctf_volume(half, VOXEL_SIZE, box_size, SIZE * VOXEL_SIZE / box_size)  # the same terms, up to those of the smaller box
    low = np.r_[:5, -5:0]
    np.testing.assert_array_equal(found[low][:, low, :5] == 0, half[low][:, low, :5] == 0)


def test_relions_weights_are_the_ctf_with_multiplicities_behind(tmp_path: Path) -> None:
    """As relion_tomo_subtomo writes <particle>_weights.mrc: squared CTFs, then how many tilts reach each term; the header's size is in 1/Å."""
    half = make_transfers(4).of(3, SIZE, VOXEL_SIZE)
    multiplicity = np.random.default_rng(0).random(half.shape, dtype=np.float32) * 40
    write_mrc(tmp_path / "1_ctf.mrc", Volume(half, 1 / VOXEL_SIZE))
    write_mrc(tmp_path / "1_weights.mrc", Volume(np.concatenate([half, multiplicity]), 1 / VOXEL_SIZE))
    volumes = CtfVolumes(tmp_path / "a.star", ["1_ctf.mrc", "1_weights.mrc"], [tmp_path], np.full(2, VOXEL_SIZE))
    for size in (SIZE, 12):
        np.testing.assert_array_equal(*(volumes.of(row, size, VOXEL_SIZE) for row in range(2)))


def test_a_ctf_volume_is_sampled_for_another_box() -> None:
    fine = make_transfers(2).of(1, 96, VOXEL_SIZE)
    wanted = make_transfers(2).of(1, 24, 2 * VOXEL_SIZE)
    found = sample_ctf_volume(fine, VOXEL_SIZE, 24, 2 * VOXEL_SIZE)
    np.testing.assert_allclose(found, wanted / fine.max(), atol=0.02)
    beyond = sample_ctf_volume(fine, VOXEL_SIZE, 96, VOXEL_SIZE / 2)
    k = np.abs(np.fft.fftfreq(96, VOXEL_SIZE / 2))
    assert not beyond[k > 0.5 / VOXEL_SIZE * 1.05].any()


@pytest.fixture(scope="module")
def with_volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of images that a STAR file lists with their CTF volumes."""
    folder = tmp_path_factory.mktemp("volumes")
    fake = make_fake(folder, count=16, size=SIZE, class_names=("complex",))
    store = open_store(fake.truth)
    transfers, wedge = make_transfers(16), wedge_weights((SIZE,) * 3, -60, 60)
    images = folder / "project/images"
    images.mkdir(parents=True)
    for row in range(16):
        own = wedge * transfers.of(row, SIZE, VOXEL_SIZE)
        write_mrc(images / f"{particle_name(row)}.mrc", Volume(filter_terms(store["subtomogram"][row].astype(np.float32)[None], own)[0], VOXEL_SIZE))
        with mrcfile.new(images / f"{particle_name(row)}_ctf.mrc") as file:  # the half of a cube, as Warp writes it, with an empty header
            file.set_data(own)
    table = {f"rln{kind}": [f"images/{particle_name(row)}{end}.mrc" for row in range(16)] for kind, end in (("ImageName", ""), ("CtfImage", "_ctf"))}
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [VOXEL_SIZE], "rlnImageSize": [SIZE], "rlnImageDimensionality": [3]})
    star = folder / "project/particles.star"
    write_star(star, {"optics": optics, "particles": pd.DataFrame({**table, "rlnOpticsGroup": 1})})
    source = open_particles(star, PredictConfig(), SIZE * VOXEL_SIZE)
    predicted = read_star(fake.predictions / "particles.star")["particles"]
    assert isinstance(predicted, pd.DataFrame)
    write_star(fake.predictions / "particles.star", {"particles": pd.concat([source.table_for(fake.predictions), predicted], axis=1)})
    manifest = fake.predictions / "manifest.json"
    told = json.loads(manifest.read_text())
    told["particles"] = {**told["particles"], "path": str(star), "kind": "star"}
    told["inputs"] = [describe_input(star)]
    manifest.write_text(json.dumps(told))
    return fake.predictions


QUICKEST = AlignConfig(step=45, starts=1, rounds=1, candidates=1, resolution=40, coarse_resolution=50, max_shift=20)
ONE_GROUP = DiscoverConfig(particles="all", one_group=True, align=QUICKEST, group={"smallest": 8, "resamplings": 2}, panels=0)


def test_discover_reads_ctf_volumes(with_volumes: Path, tmp_path: Path) -> None:
    found = discover(with_volumes, tmp_path / "found", ONE_GROUP)
    blind = discover(with_volumes, tmp_path / "blind", ONE_GROUP.model_copy(update={"ctf": False}))
    told, told_blind = (json.loads((folder / "groups/1/group.json").read_text()) for folder in (found, blind))
    assert "CTF volumes" in told["ctf_is"]
    assert "CTF volumes" in told["tilt_ranges_are"]
    assert told_blind["ctf_is"] == "left as it is, as set"
    assert told_blind["tilt_ranges_are"].startswith("assumed")
    assert (found / "groups/1/average.mrc").read_bytes() != (blind / "groups/1/average.mrc").read_bytes()
    for folder in (found, found / "groups/1"):
        table = read_star(folder / "particles.star")["particles"]
        assert all((folder / name).is_file() for name in (*table["rlnCtfImage"], *table["rlnImageName"]))


def test_ctf_volumes_that_are_gone_are_named(with_volumes: Path, tmp_path: Path) -> None:
    gone = with_volumes.parent / "project/images/particle_000003_ctf.mrc"
    kept = gone.rename(gone.with_suffix(".away"))
    try:
        with pytest.raises(InputError, match=r"row 4 of .* names the CTF volume images/particle_000003_ctf\.mrc, which is neither"):
            discover(with_volumes, tmp_path / "out", ONE_GROUP)
        assert not list(tmp_path.iterdir())
        with mrcfile.new(gone) as file:
            file.set_data(np.ones((SIZE, SIZE, SIZE - 3), np.float32))
        with pytest.raises(InputError, match="a CTF volume is a cube or half of one"):
            discover(with_volumes, tmp_path / "out", ONE_GROUP)
    finally:
        kept.rename(gone)


def test_ctf_volumes_of_another_shape_are_refused_when_they_are_looked_for(tmp_path: Path) -> None:
    """Before any is read, which may be hours later."""
    write_mrc(tmp_path / "a.mrc", Volume(np.ones((SIZE, SIZE, SIZE - 3), np.float32), VOXEL_SIZE))
    volumes = CtfVolumes(tmp_path / "a.star", ["a.mrc"] * 2, [tmp_path], np.full(2, VOXEL_SIZE))
    with pytest.raises(InputError, match="13 x 16 x 16 voxels"):
        _ = volumes.paths
