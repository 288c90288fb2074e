"""Structures of one's own: shapes averaged from the masks of a dataset, and what `orient` makes of them without recovered densities."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_predictions import VOXEL_SIZE, make_fake
from tiny import write_model, write_mrc
from typer.testing import CliRunner

from triptych.alignment.align import align
from triptych.cli import app
from triptych.config import AlignConfig, OrientConfig, PredictConfig
from triptych.errors import InputError
from triptych.io.mrc import read_mrc
from triptych.io.star import read_star, write_star
from triptych.io.store import open_store
from triptych.judging.metrics import intersection_over_union
from triptych.simulation.library import load_library, write_library
from triptych.simulation.structures import Structure
from triptych.stages.average_masks import average_masks, roundness
from triptych.stages.orient import orient
from triptych.stages.predict import predict
from triptych.volume import Volume

CLASSES = ("ribosome_70s", "proteasome_20s", "none")
ALIGN = AlignConfig(step=30, candidates=2, resolution=30, coarse_resolution=45, max_shift=30)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake(tmp_path_factory.mktemp("fake"), count=24, size=24, class_names=CLASSES, snr=(2.0, 4.0)).predictions


@pytest.fixture(scope="module")
def data(predictions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The truth, each particle at a place of its own, but for two boxes of one particle."""
    folder = tmp_path_factory.mktemp("data") / "data.zarr"
    shutil.copytree(predictions.parent / "truth.zarr", folder)
    store = open_store(folder, "r+")
    places = np.arange(24, dtype=np.float32)[:, None] * np.ones(3, np.float32) * 50
    places[3] = places[0]
    store.write("position", 0, places)
    shifts = np.zeros((24, 3), np.float32)
    shifts[3] = 20
    store.write("shift", 0, shifts)
    return folder


@pytest.fixture(scope="module")
def library(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("average") / "library"
    result = CliRunner().invoke(app, ["structures", "average", str(data), str(out)])
    assert result.exit_code == 0, result.output
    assert "agreement of their masks" in result.output
    return out


def test_masks_average_to_what_they_have_in_common(library: Path, data: Path) -> None:
    """Of two boxes of one particle that counts which has it nearer to its middle."""
    store = open_store(data)
    shapes = {shape.name: shape for shape in load_library(library)}
    assert set(shapes) == set(CLASSES[:2])
    for k, name in enumerate(CLASSES[:2]):
        shape, rows = shapes[name], np.flatnonzero((store["label"][:] == k) & (store["shift"][:, 0] == 0))
        masks = (store.read_rows("mask", rows) > 0).astype(np.float32)
        inside = shape.density.data > shape.contour
        assert inside.sum() == pytest.approx(masks.sum(axis=(1, 2, 3)).mean(), rel=0.02)
        assert np.median(align(masks, shape.density.data, VOXEL_SIZE, ALIGN).scores) > 0.93
        assert shape.source == f"average of the masks of {len(rows)} particles of data.zarr"


def test_what_was_averaged_is_put_into_its_place(library: Path, predictions: Path, tmp_path: Path) -> None:
    """By the subtomograms alone: the model need not recover densities."""
    bare = tmp_path / "bare"
    shutil.copytree(predictions, bare)
    table = read_star(bare / "particles.star")["particles"]
    assert isinstance(table, pd.DataFrame)
    write_star(bare / "particles.star", {"particles": table.drop(columns="triptychDensity")})
    settings = OrientConfig(library=library, align=ALIGN, tilt_range=(-60, 60), rivals=0, hand_check=0)
    with pytest.raises(InputError, match=r"holds no recovered densities, .* --set align_by=subtomograms"):
        orient(bare, tmp_path / "poses", settings)
    out = orient(bare, tmp_path / "poses", settings.model_copy(update={"align_by": "subtomograms"}))
    posed, store = read_star(out / "particles.star")["particles"], open_store(predictions.parent / "truth.zarr")
    assert isinstance(posed, pd.DataFrame)
    assert "triptychStructureFit" not in posed
    assert posed["triptychPoseProbability"].between(0, 1).all()
    right = posed[posed["triptychClass"] == posed["triptychTrueClass"]]
    rows = np.array([store.particle_names.index(name) for name in right["triptychName"]])
    placed = np.stack([read_mrc(out / path).data > 0 for path in right["triptychMask"]])
    assert np.median(intersection_over_union(placed, store.read_rows("mask", rows))) > 0.8


def orient_rods(predicted: Path, **changes: object) -> Path:
    """Poses of two predicted particles that are called a and b, both of which are rods, with label maps."""
    named = read_star(predicted / "particles.star")["particles"]
    assert isinstance(named, pd.DataFrame)
    write_star(predicted / "particles.star", {"particles": named.assign(triptychClass=["a", "b"])})
    rod = np.zeros((16, 16, 16), np.float32)
    rod[6:10, 7:9, 3:14] = 1
    library = predicted.with_name("library")
    write_library([Structure(name, Volume(rod, VOXEL_SIZE), 100.0, 0.5, "made for a test") for name in "ab"], library)
    quick = AlignConfig(step=45, candidates=1, resolution=45, coarse_resolution=45, max_shift=20)
    settings = OrientConfig(library=library, align=quick, align_by="subtomograms", write_labels=True, hand_check=0)
    return orient(predicted, predicted.with_name("poses"), settings.model_copy(update=changes))


def test_masks_are_put_together_to_label_maps(tmp_path: Path) -> None:
    """In the tomogram that the particles are cut out of, by the numbers of the classes."""
    model = write_model(tmp_path / "model")
    path = write_mrc(tmp_path / "tomograms/a.mrc", np.random.default_rng(0).normal(size=(40, 44, 48)), VOXEL_SIZE)
    place = {f"rlnCoordinate{axis}": [10.0, 30.0] for axis in "XYZ"}
    table = pd.DataFrame({"rlnTomoName": ["a"] * 2, **place, "rlnTomoTiltSeriesPixelSize": VOXEL_SIZE})
    write_star(tmp_path / "particles.star", {"particles": table})
    predicted = predict(tmp_path / "particles.star", tmp_path / "predictions", model, PredictConfig(tomograms=path.parent, write_densities=False))
    posed = orient_rods(predicted, unknown=True)
    table = read_star(posed / "particles.star")["particles"]
    numbers = dict(zip(*(read_star(posed / "classes.star")["classes"][name] for name in ("triptychClass", "rlnClassNumber")), strict=True))
    expected = np.zeros((40, 44, 48), int)
    for mask, name in zip(table["triptychMask"], table["triptychClass"], strict=True):
        box = read_mrc(posed / mask)
        z, y, x = np.argwhere(box.data > 0).T + np.round(np.array(box.origin)[::-1] / VOXEL_SIZE).astype(int)[:, None]
        expected[z, y, x] = numbers[name]
    labels = read_mrc(posed / "labels/a.mrc")
    assert labels.voxel_size == VOXEL_SIZE
    assert (expected > 0).sum() > 100
    np.testing.assert_array_equal(labels.data, expected)


def test_tomograms_with_the_same_name_of_file_have_label_maps_of_their_own(tmp_path: Path) -> None:
    """Called as the table calls them; where it calls two the same, they cannot be told apart."""
    model = write_model(tmp_path / "model")
    for folder in ("one", "two"):
        write_mrc(tmp_path / folder / "rec.mrc", np.random.default_rng(0).normal(size=(24, 24, 24)), VOXEL_SIZE)
    place = {f"rlnCoordinate{axis}": [12.0, 12.0] for axis in "XYZ"}
    about = {"rlnTomoTiltSeriesPixelSize": VOXEL_SIZE, "rlnTomoReconstructedTomogram": ["one/rec.mrc", "two/rec.mrc"], "rlnTomoTomogramBinning": 1.0}
    write_star(tmp_path / "particles.star", {"particles": pd.DataFrame({"rlnTomoName": ["TS_1", "TS_2"], **place, **about})})
    predicted = predict(tmp_path / "particles.star", tmp_path / "predictions", model, PredictConfig(write_densities=False))
    posed = orient_rods(predicted, rivals=0)
    assert {path.name: set(np.unique(read_mrc(path).data)) for path in (posed / "labels").iterdir()} == {"TS_1.mrc": {0, 1}, "TS_2.mrc": {0, 2}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"write_labels": True, "write_masks": False}, "write_labels puts masks together, but write_masks is false"),
        ({"write_labels": True}, "write_labels needs the tomograms, but these particles are images of their own"),
        ({"known": Path("nowhere"), "align_by": "subtomograms"}, "known judges by the fit to recovered densities"),
    ],
)
def test_settings_that_contradict_each_other(change: dict[str, object], sentence: str, library: Path, predictions: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        orient(predictions, tmp_path / "poses", OrientConfig(library=library, align=ALIGN).model_copy(update=change))


def test_masks_that_make_no_structure(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Balls have no pose, masks of several kinds no common shape; and what has no mask at all is refused."""
    axis = (np.arange(24) - 12) ** 2
    assert roundness((axis[:, None, None] + axis[:, None] + axis < 36).astype(np.float32)) > 0.98
    rod = np.zeros((24, 24, 24), np.float32)
    rod[10:14, 11:13, 4:20] = 1
    assert roundness(rod) < 0.7
    other = tmp_path / "other.zarr"
    shutil.copytree(data, other)
    store = open_store(other, "r+")
    label, masks = store["label"][:], store["mask"][:]
    masks[label == 0] = (axis[:, None, None] + axis[:, None] + axis < 36).astype(masks.dtype)
    masks[label == 1] = 0
    store.write("mask", 0, masks)
    found = average_masks(other, tmp_path / "library")
    assert [shape.structure.name for shape in found] == [CLASSES[0]]
    assert "is a ball, as those are which `cut` draws around listed places" in caplog.text
    assert f"has no mask of a particle of {CLASSES[1]}" in caplog.text
    assert f"the shape of {CLASSES[0]} comes from 7 particles only: label a dozen or more" in caplog.text
    caplog.clear()
    masks[label == 0], masks[label == 1] = rod > 0, np.roll(rod, 8, axis=2) > 0
    masks[np.flatnonzero(label == 0)[:2]] = (axis[:, None, None] + axis[:, None] + axis < 36).astype(masks.dtype)
    store.write("mask", 0, masks)
    average_masks(other, tmp_path / "library_of_two")
    assert f"a tenth of the masks of {CLASSES[0]} correlate with their average by less than" in caplog.text
    assert f"8 of 8 masks of {CLASSES[1]} reach the faces of their boxes" in caplog.text
    store.write("mask", 0, np.zeros_like(masks))
    with pytest.raises(InputError, match="has no mask that is not empty"):
        average_masks(other, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_class_without_a_particle_is_left_out(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(data, tmp_path / "data.zarr")
    store = open_store(tmp_path / "data.zarr", "r+")
    label = store["label"][:]
    store.write("label", 0, np.where(label == 1, 2, label))
    assert [shape.structure.name for shape in average_masks(tmp_path / "data.zarr", tmp_path / "library")] == [CLASSES[0]]
    assert f"has no mask of a particle of {CLASSES[1]}" in caplog.text
