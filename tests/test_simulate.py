"""Simulated subtomograms: the truth is true, the SNR is the one asked for, and the bytes do not depend on the workers."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import hashes

from triptych.config import AcquisitionConfig, SimulateConfig, SpecimenConfig
from triptych.errors import InputError
from triptych.io.store import Store, open_store
from triptych.posing import pose
from triptych.simulation.library import load_library
from triptych.simulation.scene import check_scene, draw_acquisition, slabs, tilt_sequence
from triptych.simulation.specimen import (
    MEMBRANE_DEPTH,
    OVERSAMPLING,
    Ball,
    Occupancy,
    Specimen,
    draw_ball,
    draw_membranes,
    fill_specimen,
    gold_profile,
    make_template,
    membrane_profile,
    pack,
    shell_points,
)
from triptych.stages.simulate import prepare_templates, simulate

CONFIG = SimulateConfig(
    classes=("proteasome_20s", "apoferritin", "groel"),
    particles=36,
    particles_per_tomogram=12,
    none_share=0.25,
    box_size=32,
    snr=(0.05, 0.5),
    workers=1,
    specimen=SpecimenConfig(shape=(56, 120, 120), vesicle_radius=(200, 300)),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(simulate(tmp_path_factory.mktemp("simulate") / "data.zarr", CONFIG))


def test_same_seed_same_bytes_for_any_number_of_workers(store: Store, tmp_path: Path) -> None:
    again = simulate(tmp_path / "again.zarr", CONFIG.model_copy(update={"workers": 3}))
    ours = hashes(store.path)
    assert hashes(again) == ours
    other = simulate(tmp_path / "other.zarr", CONFIG.model_copy(update={"seed": 1, "particles": 12}))
    assert hashes(other)["subtomogram/c/0/0/0/0"] != ours["subtomogram/c/0/0/0/0"]


def test_snr_is_the_one_recorded(store: Store) -> None:
    signal = store["signal"][:].astype(np.float64) * store["signal_scale"][:][:, None, None, None]
    noise = store["subtomogram"][:].astype(np.float64) - signal
    measured = signal.var((1, 2, 3)) / noise.var((1, 2, 3))
    assert np.allclose(measured, store["snr"][:], rtol=0.05)
    particles = store["label"][:] < 3
    assert store["snr"][:][particles].min() >= 0.049
    assert store["snr"][:][particles].max() <= 0.51


def test_every_class_and_none_are_there(store: Store) -> None:
    assert store.class_names == ("proteasome_20s", "apoferritin", "groel", "none")
    counts = np.bincount(store["label"][:], minlength=4)
    assert counts[3] == 9
    assert (counts[:3] >= 3).all()


def test_clean_density_is_the_reference_in_the_recorded_pose(store: Store) -> None:
    templates = prepare_templates(CONFIG)
    for row in np.flatnonzero(store["label"][:] < 3)[:8]:
        template = templates[int(store["label"][row])]
        offset = torch.from_numpy(np.asarray(store["shift"][row]) / CONFIG.voxel_size)
        rotation = torch.from_numpy(np.asarray(store["rotation"][row]))
        turned = pose(template.fine, OVERSAMPLING, rotation, offset, 32, float(store["voxel_size_factor"][row]))
        density = np.asarray(store["density"][row], dtype=np.float64)
        assert np.corrcoef(turned.numpy().ravel(), density.ravel())[0, 1] > 0.99
        inside = np.asarray(store["mask"][row]) > 0
        assert density[inside].min() > template.contour - 0.01
        assert density[~inside].max() < template.contour + 0.01


def test_signal_shows_the_particle_and_none_has_no_truth(store: Store) -> None:
    label, signal, density = store["label"][:], store["signal"][:].astype(np.float64), store["density"][:].astype(np.float64)
    correlations = [np.corrcoef(s.ravel(), d.ravel())[0, 1] for s, d in zip(signal[label < 3], density[label < 3], strict=True)]
    assert np.median(correlations) > 0.3
    assert not density[label == 3].any()
    assert not store["mask"][:][label == 3].any()


def test_the_page_of_the_dataset_reads_it_in_plain_pytorch(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "dataset.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    (tmp_path / "data.zarr").symlink_to(store.path)
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path("script.py")
    rows = np.concatenate([made[name].dataset.rows for name in ("train", "test")])
    assert sorted(rows) == list(range(36))
    subtomogram, label, mask, density = next(iter(made["test"]))
    assert subtomogram.shape == mask.shape == density.shape == (8, 32, 32, 32)
    assert subtomogram.dtype == density.dtype == torch.float32  # that of a network's weights
    assert label.tolist() == store["label"][:8].tolist()
    assert float(subtomogram.std()) == pytest.approx(1, abs=1e-3)


def test_shift_stays_within_what_was_asked(store: Store) -> None:
    assert np.abs(store["shift"][:]).max() <= CONFIG.max_shift + CONFIG.voxel_size / 2


def test_packed_particles_do_not_overlap_but_touch() -> None:
    rng = np.random.default_rng(0)
    templates = [make_template(structure, 10.0) for structure in load_library() if structure.name in CONFIG.classes]
    occupancy = Occupancy((64, 96, 96), 1.0)
    placed = pack(rng, templates, occupancy, 0.15, 1.0)
    assert len(placed) > 20
    centres = np.stack([p.position for p in placed])
    distance = np.linalg.norm(centres[:, None] - centres, axis=-1) + 1e6 * np.eye(len(centres))
    radii = np.array([templates[p.label].radius for p in placed])
    assert distance.min() > 6
    # Pushed together: nearly every particle has a neighbour nearer than the sum of the radii and 30 Å.
    assert np.mean((distance < radii[:, None] + radii + 3).any(1)) > 0.9


def test_unknown_class_small_tomogram_and_large_shift_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unicorn"):
        simulate(tmp_path / "a.zarr", CONFIG.model_copy(update={"classes": ("unicorn",)}))
    with pytest.raises(InputError, match="exceed box_size"):
        simulate(tmp_path / "b.zarr", CONFIG.model_copy(update={"specimen": SpecimenConfig(shape=(32, 96, 96))}))
    with pytest.raises(InputError, match="max_shift is 160 Å, but less than half the box"):
        simulate(tmp_path / "c.zarr", CONFIG.model_copy(update={"max_shift": 160.0}))
    assert not list(tmp_path.iterdir())


def test_structures_coarser_than_the_voxels_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    check_scene(SimulateConfig(voxel_size=8), load_library())
    assert "detail finer than 20 Å is missing; `triptych structures make --voxel-size 8`" in caplog.text


def test_particles_that_are_cut_out_repeatedly_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    simulate(tmp_path / "few.zarr", CONFIG.model_copy(update={"particles": 40, "particles_per_tomogram": 40}))
    store = open_store(tmp_path / "few.zarr")
    shown = store.read_rows("label", np.arange(40)) < len(store.class_names) - 1
    different = {tuple(position) for position in store.read_rows("position", np.arange(40))[shown].tolist()}
    assert len(different) < shown.sum()
    assert f"{shown.sum()} subtomograms show only {len(different)} different particles" in caplog.text


def test_what_tomograms_have_no_room_for_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = {"particles": 8, "particles_per_tomogram": 2, "none_share": 0.0, "tile_share": 0.0}
    empty = SpecimenConfig(shape=(40, 40, 40), occupancy=(0.002, 0.002), vesicles=(0, 0))
    store = open_store(simulate(tmp_path / "empty.zarr", CONFIG.model_copy(update={**small, "specimen": empty})))
    nones = int((store["label"][:] == 3).sum())
    assert nones > 2
    assert f'{nones} of 8 subtomograms are of the class "none", but 0 were asked for' in caplog.text
    assert "of the ice" not in caplog.text
    full = empty.model_copy(update={"occupancy": (0.5, 0.5)})
    store = open_store(simulate(tmp_path / "full.zarr", CONFIG.model_copy(update={**small, "specimen": full})))
    low, high = store["occupancy"][:].min(), store["occupancy"][:].max()
    assert f"particles fill {low:.3g} to {high:.3g} of the ice" in caplog.text
    assert caplog.text.count("of the ice") == 1


def test_the_dose_gives_the_snr_where_none_is_asked_for(tmp_path: Path) -> None:
    physical = open_store(simulate(tmp_path / "dose.zarr", CONFIG.model_copy(update={"snr": None, "particles": 12, "none_share": 0.0})))
    assert np.allclose(physical["snr"][:], physical["dose_snr"][:], rtol=1e-3)
    # 80-140 e/Å^2 and 0.1-0.25 µm of ice: between a hundredth and one.
    assert 0.01 < np.median(physical["snr"][:]) < 1


def test_everything_that_is_drawn_lies_in_its_range_and_is_recorded(tmp_path: Path) -> None:
    acquisition = AcquisitionConfig(
        tilt_max=(40, 50), tilt_centre=(-5, 5), tilt_order={"continuous": 1}, astigmatism_um=(0.2, 0.3), smoothing={"low_pass": 1}, low_pass=(30, 40)
    )
    changes = {"acquisition": acquisition, "specimen": SpecimenConfig(shape=(56, 80, 80), ice_thickness=(600, 700)), "particles_per_tomogram": 4}
    store = open_store(simulate(tmp_path / "ranges.zarr", CONFIG.model_copy(update={**changes, "particles": 8})))
    for name, (low, high) in {
        "tilt_max": (32, 55),
        "tilt_min": (-55, -32),
        "tilt_order": (2, 2),
        "astigmatism_um": (0.2, 0.3),
        "smoothing": (1, 1),
        "low_pass": (30, 40),
        "ice_thickness": (600, 700),
        "occupancy": (0.0, 0.09),
    }.items():
        values = store[name][:]
        assert ((values >= low) & (values <= high)).all(), name
    assert len(np.unique(store["ice_thickness"][:])) == 2  # one per tomogram


def test_the_order_in_which_frequencies_are_said_means_nothing() -> None:
    # settings are compared as JSON when a run goes on, where the order of keys does not count
    said = {"ctf_correction": {"none": 1, "deconvolve": 2}, "smoothing": {"none": 1, "wiener": 1}}
    said["tilt_order"] = {"bidirectional": 1, "continuous": 1}
    one, other = (AcquisitionConfig(**{name: dict(list(table.items())[::step]) for name, table in said.items()}) for step in (1, -1))
    assert one == other
    numbers = [[draw_acquisition(np.random.default_rng(seed), config)[2] for seed in range(8)] for config in (one, other)]
    assert numbers[0] == numbers[1]


def test_tilts_are_taken_in_the_order_asked_for() -> None:
    angles = np.arange(-6, 7, 3.0)
    assert angles[tilt_sequence(angles, "continuous")].tolist() == [-6, -3, 0, 3, 6]
    assert angles[tilt_sequence(angles, "bidirectional")].tolist() == [0, 3, 6, -3, -6]
    assert np.abs(angles[tilt_sequence(angles, "dose_symmetric")]).tolist() == [0, 3, 3, 6, 6]


def test_particles_lie_in_the_ice_and_beyond_the_edges() -> None:
    rng = np.random.default_rng(0)
    templates = [make_template(structure, 10.0) for structure in load_library() if structure.name in CONFIG.classes]
    config = SpecimenConfig(shape=(100, 120, 120), ice_thickness=(500, 500), occupancy=(0.1, 0.1), vesicles=(2, 2), gold_beads=(3, 3))
    specimen = fill_specimen(rng, config, templates, 10.0, 32)
    positions = np.stack([p.position for p in specimen.placed])
    assert np.abs(positions[:, 2] - 50).max() < 25
    assert positions[:, :2].min() < 0
    assert positions[:, :2].max() > 120
    assert specimen.occupancy == pytest.approx(0.1, rel=0.1)
    assert len(specimen.beads) == 3
    for bead in specimen.beads:
        assert np.linalg.norm(positions - bead.centre, axis=1).min() > bead.radius


@pytest.mark.parametrize("nz", [60, 61])
def test_no_membrane_sticks_out_of_the_ice(nz: int) -> None:
    sphere = Ball(np.array([20.0, 20.0, 30.0]), 15.0)
    specimen = Specimen((nz, 40, 40), [], [sphere], [], [], 1.0, 200.0, 0.0, 0.0)
    cut, whole = np.zeros((2, nz, 40, 40), np.float32)
    draw_membranes(cut, specimen, (0, 40), 0, 10.0)
    draw_membranes(whole, replace(specimen, ice_thickness=1000.0), (0, 40), 0, 10.0)
    inside = np.abs(np.arange(nz) - nz / 2 + 1e-3) <= 10  # 20 voxels of ice in the middle
    assert not cut[~inside].any()
    assert np.array_equal(cut[inside], whole[inside])
    assert whole[~inside].any()


@pytest.mark.parametrize("voxel_size", [5.0, 10.0, 14.0])
def test_membranes_take_their_room_whatever_the_voxels(voxel_size: float) -> None:
    points = shell_points(Ball(np.zeros(3), 300 / voxel_size), MEMBRANE_DEPTH / voxel_size)
    depth = np.linalg.norm(points, axis=1) * voxel_size - 300
    assert (depth.min(), depth.max()) == pytest.approx((-MEMBRANE_DEPTH, MEMBRANE_DEPTH), abs=0.1)
    assert np.diff(np.unique(depth.round())).max() <= 2 * voxel_size + 1


@pytest.mark.parametrize("asked", [0.3, 0.35])
def test_a_third_of_the_volume_can_be_filled(asked: float) -> None:
    rng = np.random.default_rng(0)
    templates = [make_template(structure, 10.0) for structure in load_library()]
    occupancy = Occupancy((96, 192, 192), 0.0)
    placed = pack(rng, templates, occupancy, asked, 1.0)
    assert sum(templates[p.label].volume for p in placed) / occupancy.volume > 0.95 * asked


def test_balls_have_the_profile_and_the_size() -> None:
    volume = np.zeros((40, 48, 56), dtype=np.float32)
    bead = Ball(np.array([20.0, 24.0, 18.0]), 5.0)
    origin = np.array([2, 0, 0])
    draw_ball(volume, bead, origin, 3, lambda depth: gold_profile(depth * 10, 10.0))
    assert volume.max() == volume[18, 24, 18]
    assert volume.sum() / volume.max() == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.05)
    shell = np.zeros_like(volume)
    draw_ball(shell, Ball(bead.centre, 10.0), origin, 6, lambda depth: membrane_profile(depth * 10))
    line = shell[18, 24, 18:]
    assert abs(int(line.argmax()) - 10) == 2  # the head groups, 18 Å to either side
    assert line[10] < 0.2 * line.max()


def test_slabs_cover_every_row_once() -> None:
    for shape in ((200, 700, 1500), (40, 64, 64)):
        rows = [row for first, last in slabs(shape, 32) for row in range(first, last)]
        assert rows == list(range(-32, shape[1] + 32))


# --------------------------------------------------------------------------------------------------------------- tiles


def test_tiles_show_what_is_there(store: Store) -> None:
    assert store.label_names == (*CONFIG.classes, "membrane", "gold")
    labels, centres, signal = (store[f"tiles/{name}"][:] for name in ("labels", "centres", "signal"))
    assert len(labels) == 9
    assert list(store["tiles/tomogram"][:]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert labels.max() <= len(store.label_names)
    assert centres.sum() > 3
    # particles are brighter than what is between them, and around a centre (these are hollow) is a particle
    assert signal[labels > 0].astype(float).mean() > signal[labels == 0].astype(float).mean() + 0.3
    around = [labels[tile][tuple(slice(max(0, i - 6), i + 7) for i in place)] for tile, *place in np.argwhere(centres)]
    assert np.mean([(box > 0).mean() > 0.2 for box in around]) > 0.8
    noise = store["tiles/subtomogram"][:].astype(float) - store["tiles/signal_scale"][:][:, None, None, None] * signal.astype(float)
    assert noise.std((1, 2, 3)) == pytest.approx(np.ones(9), abs=0.02)


def test_particles_are_the_same_without_tiles(store: Store, tmp_path: Path) -> None:
    plain = open_store(simulate(tmp_path / "plain.zarr", CONFIG.model_copy(update={"tile_share": 0.0, "particles": 12})))
    assert plain.label_names == ()
    assert np.array_equal(plain["subtomogram"][:], store["subtomogram"][:12])
