"""Whole simulated tomograms: the files agree with one another, and our own reader finds the particles in them."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import triptych.simulation.scene
from triptych.config import PredictConfig, SpecimenConfig, TomogramConfig
from triptych.io.relion_particles import particles_from_relion
from triptych.io.source import open_particles
from triptych.io.star import read_star
from triptych.simulation.scene import prepare_templates, project_specimen, reconstruct_rows, simulate_scene
from triptych.simulation.specimen import draw_labels, draw_particles, posed
from triptych.stages.simulate_tomograms import MAPS, simulate_tomograms

SHAPE = (48, 96, 112)
CONFIG = TomogramConfig(
    classes=("proteasome_20s", "apoferritin", "groel"),
    tomograms=2,
    snr=(0.5, 0.5),
    workers=1,
    specimen=SpecimenConfig(shape=SHAPE, occupancy=(0.08, 0.08), vesicles=(1, 1), vesicle_radius=(150, 200), gold_beads=(2, 2)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_tomograms(tmp_path_factory.mktemp("tomograms") / "out", CONFIG)


def maps(folder: Path, number: int = 0) -> dict[str, np.ndarray]:
    return {kind: mrcfile.read(folder / kind / f"tomogram_{number:04d}.mrc") for kind in MAPS}


def test_files_are_valid_and_carry_the_voxel_size(folder: Path) -> None:
    for kind in MAPS:
        for number in range(2):
            path = folder / kind / f"tomogram_{number:04d}.mrc"
            assert mrcfile.validate(path)
            with mrcfile.open(path) as file:
                assert file.data.shape == SHAPE
                assert file.voxel_size.x == pytest.approx(10)
                assert file.header.dmax == pytest.approx(file.data.max())
                assert file.header.rms == pytest.approx(file.data.std(dtype=np.float64), rel=1e-4)


def test_particles_are_dark_in_the_tomogram_and_where_the_labels_say(folder: Path) -> None:
    content = maps(folder)
    inside = content["instances"] > 0
    assert inside.mean() > 0.03
    # "dark" is the default; an untreated CTF leaves the rim of a particle the darkest
    assert content["tomograms"][inside].mean() < content["tomograms"][~inside].mean() - 0.05
    assert content["densities"][inside].mean() > 10 * abs(content["densities"][~inside].mean())
    classes = read_star(folder / "classes.star")["classes"]
    assert list(classes["triptychClass"]) == ["proteasome_20s", "apoferritin", "groel", "membrane", "gold"]
    assert set(np.unique(content["classes"])) <= {0, *classes["rlnClassNumber"]}


def test_star_file_names_the_instance_at_each_place(folder: Path) -> None:
    table = read_star(folder / "particles.star")["particles"]
    particles = particles_from_relion(folder / "particles.star")
    assert particles.positions is not None
    assert particles.rotations is not None
    templates = prepare_templates(CONFIG)
    for number in range(2):
        content = maps(folder, number)
        rows = np.flatnonzero(table["rlnTomoName"] == f"tomogram_{number:04d}")
        assert len(rows) > 5
        for row in rows:
            own = content["instances"] == table["triptychInstance"][row]
            if own.any():
                assert set(np.unique(content["classes"][own])) == {table["rlnClassNumber"][row]}
        # the recorded pose gives the recorded density
        row = rows[0]
        place = particles.positions[row] / 10
        template = templates[int(table["rlnClassNumber"][row]) - 1]
        factor = float(read_star(folder / "tomograms.star")["global"]["triptychVoxelSizeFactor"][number])
        patch = posed(template, particles.rotations[row], place % 1, factor)
        corner = np.floor(place[::-1]).astype(int) - template.size // 2
        seen = content["densities"][tuple(slice(max(a, 0), a + template.size) for a in corner)]
        patch = patch[tuple(slice(max(0, -a), None) for a in corner)][tuple(slice(n) for n in seen.shape)]
        inside = patch > template.contour
        assert np.corrcoef(seen[inside], patch[inside])[0, 1] > 0.99


def test_angles_and_centred_coordinates_agree_with_relions_rules(folder: Path) -> None:
    table = read_star(folder / "particles.star")["particles"]
    for axis, size in zip("XYZ", SHAPE[::-1], strict=True):
        centred = (table[f"rlnCoordinate{axis}"] - size / 2) * 10
        assert np.allclose(table[f"rlnCenteredCoordinate{axis}Angst"], centred, atol=1e-3)
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    rotations = particles_from_relion(folder / "particles.star").rotations
    assert rotations is not None
    assert np.allclose(Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix(), rotations, atol=1e-5)


def test_snr_is_the_one_asked_for_and_the_noise_is_the_unit(folder: Path) -> None:
    recorded = read_star(folder / "tomograms.star")["global"]
    assert np.allclose(recorded["triptychSnr"], 0.5, rtol=0.01)
    # signal and noise are independent: the variances add up to 1 + SNR
    assert maps(folder)["tomograms"].var() == pytest.approx(1.5, rel=0.05)


def test_our_own_reader_cuts_the_particles_out(folder: Path) -> None:
    source = open_particles(folder / "particles.star", PredictConfig(), 400.0)
    assert len(source) == len(read_star(folder / "particles.star")["particles"])
    assert source.read(0).shape == (40, 40, 40)


def test_an_occupancy_that_is_not_reached_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = TomogramConfig(classes=CONFIG.classes, workers=1, specimen=SpecimenConfig(shape=(40, 40, 40), occupancy=(0.5, 0.5)))
    filled = float(read_star(simulate_tomograms(tmp_path / "full", full) / "tomograms.star")["global"]["triptychOccupancy"][0])
    assert filled < 0.4
    assert f"particles fill {filled:.3g} to {filled:.3g} of the ice" in caplog.text


def test_slab_by_slab_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    templates = prepare_templates(CONFIG)
    scene = simulate_scene(np.random.default_rng(0), CONFIG, templates, torch.device("cpu"))
    whole = project_specimen(scene.particles, scene.acquisition, 10.0)
    ((rows, signal, noise),) = reconstruct_rows(scene)
    density, labels = draw_particles(scene.particles, rows, 0), draw_labels(scene.particles, rows, 10.0)
    monkeypatch.setattr(triptych.simulation.scene, "SLAB_VOXELS", 48 * 176 * 20)
    assert torch.allclose(project_specimen(scene.particles, scene.acquisition, 10.0), whole, atol=1e-3)
    parts = list(reconstruct_rows(scene))
    assert len(parts) == 4
    assert np.allclose(np.concatenate([part[1] for part in parts], 1), signal, atol=1e-5)
    assert np.allclose(np.concatenate([part[2] for part in parts], 1), noise, atol=1e-5)
    assert np.array_equal(np.concatenate([draw_particles(scene.particles, part[0], 0) for part in parts], 1), density)
    pieces = zip(*(draw_labels(scene.particles, part[0], 10.0) for part in parts), strict=True)
    assert all(np.array_equal(np.concatenate(piece, 1), label) for piece, label in zip(pieces, labels, strict=True))
