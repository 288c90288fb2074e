"""Simulated subtomograms: the truth is true, the SNR is the one asked for, and the bytes do not depend on the workers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.config import SimulateConfig, SpecimenConfig
from triptych.errors import InputError
from triptych.io.store import Store, open_store
from triptych.physics import pose
from triptych.simulate import prepare_templates, simulate
from triptych.specimen import OVERSAMPLING, Occupancy, make_template, pack
from triptych.structures import load_library

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


def hashes(folder: Path) -> dict[str, str]:
    """Content of every file but the manifest, which holds the time."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "manifest.json")
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


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


def test_unknown_class_and_small_tomogram_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unicorn"):
        simulate(tmp_path / "a.zarr", CONFIG.model_copy(update={"classes": ("unicorn",)}))
    with pytest.raises(InputError, match="exceed box_size"):
        simulate(tmp_path / "b.zarr", CONFIG.model_copy(update={"specimen": SpecimenConfig(shape=(32, 96, 96))}))
    assert not list(tmp_path.iterdir())
