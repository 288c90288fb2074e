"""Picking from whole tomograms: with a model that sees bright blobs and nothing else, so that what should come out is known."""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from scipy import ndimage
from test_model import small_model
from tiny import SIMULATE, TRAIN, hashes, set_options, write_mrc
from typer.testing import CliRunner

from triptych.cli import app
from triptych.config import NetworkConfig, PickConfig, PredictConfig, SimulateConfig, TrainConfig
from triptych.describing.files import describe_file
from triptych.errors import InputError
from triptych.io import mrc
from triptych.io.manifest import read_manifest
from triptych.io.mrc import read_mrc
from triptych.io.readers import cut_box
from triptych.io.relion import read_relion
from triptych.io.relion_particles import particles_from_relion
from triptych.io.source import open_particles
from triptych.io.star import read_star, write_star
from triptych.io.stated import list_tomograms
from triptych.io.tomogram import open_tomogram
from triptych.pages import pick_page
from triptych.particles import Frame
from triptych.recognition.model import Model, ModelCard, Predictions
from triptych.recognition.network import Network, PickOutput, TaskOutput
from triptych.recognition.novelty import Traits, fit_novelty
from triptych.settings import load_config
from triptych.stages.pick import RIM, Job, Picker, particle_table, pick
from triptych.stages.simulate import simulate
from triptych.stages.train import train
from triptych.stages.view import labels_layer
from triptych.tiling import Cutout
from triptych.volume import Volume

SHAPE = (48, 70, 60)
RADIUS = 55.0
"""Å, of the blobs."""
PLACES = np.array([[200.0, 150, 240], [330, 420, 130], [120, 610, 300], [480, 90, 400], [500, 560, 200]])
"""x, y, z in Å."""
TASKS = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8, tasks=("class", "mask", "density", "pick"))


class SeesBlobs(Network):
    """Blobs of class "blob", which the scan marks too wide, and whose rims it takes for membranes; everything else is none."""

    def scan(self, tiles: torch.Tensor) -> PickOutput:
        smooth = torch.nn.functional.avg_pool3d(tiles[:, None], 5, 1, 2)[:, 0]
        cells = torch.nn.functional.avg_pool3d(smooth[:, None], 2)[:, 0]
        wide = torch.nn.functional.avg_pool3d(cells[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
        return PickOutput(smooth * 10 - 10, torch.stack([torch.zeros_like(cells), 1.5 - cells], 1), 20 * (wide - 0.75))

    def forward(self, subtomograms: torch.Tensor, tiles: torch.Tensor | None = None) -> TaskOutput:
        mask = subtomograms * 10 - 45
        n = subtomograms.shape[-1] // 2
        there = (mask[:, n - 2 : n + 3, n - 2 : n + 3, n - 2 : n + 3] > 0).float().mean((1, 2, 3)) > 0.5
        logits = torch.stack([there * 8.0, ~there * 8.0], 1)
        radius = torch.linalg.norm(torch.stack(torch.meshgrid(*[torch.arange(2 * n) - n] * 3, indexing="ij")).float(), dim=0)
        return TaskOutput(logits, torch.where(radius < 12, mask, -10), mask, torch.zeros(len(mask), 8))


def seeing_model(*_: Any) -> Model:
    card = ModelCard(TASKS, ("blob", "none"), voxel_size=10.0, box_size=40, contrast="bright", label_names=("blob", "membrane"))
    return Model(SeesBlobs(TASKS, 2, 2), card, device="cpu", precision="float32")


@pytest.fixture
def sees_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = sys.modules["triptych.stages.pick"]
    monkeypatch.setattr(module, "load_model", seeing_model)


def blobs(voxel_size: float) -> np.ndarray:
    """Dark balls in weak noise, as a tomogram has them."""
    shape = [round(n * 10 / voxel_size) for n in SHAPE]
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)[..., ::-1] * voxel_size
    distance = np.min([np.linalg.norm(grid - place, axis=-1) for place in PLACES], 0)
    return np.random.default_rng(0).normal(0, 0.02, shape) - 1 / (1 + np.exp((distance - RADIUS) / 5))


@pytest.mark.usefixtures("sees_blobs")
@pytest.mark.parametrize(("voxel_size", "tile_size"), [(10.0, 64), (10.0, 24), (13.3, 24)])
def test_every_blob_is_found_once_where_it_is(voxel_size: float, tile_size: int, tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrc", blobs(voxel_size), voxel_size)
    out = pick([path], tmp_path / "picks", config=PickConfig(tile_size=tile_size, write_densities=True))
    found = particles_from_relion(out / "particles.star")
    assert found.positions is not None
    nearest = np.linalg.norm(found.positions[:, None] - PLACES, axis=-1)
    assert sorted(nearest.argmin(1)) == list(range(len(PLACES)))
    assert nearest.min(1).max() < 15
    assert set(found.table["triptychClass"]) == {"blob"}
    assert (found.table["triptychScore"] > 0.5).all()
    assert '<path class="k0"' in (out / "report.html").read_text()
    labels, instances, densities = (read_mrc(out / kind / "a.mrc", voxel_size).data for kind in ("labels", "instances", "densities"))
    for number, position in zip(found.table["triptychInstance"], found.positions, strict=True):
        z, y, x = np.round(position[::-1] / voxel_size).astype(int)
        assert instances[z, y, x] == number
        assert labels[z, y, x] == 1
        volume = (instances == number).sum() * voxel_size**3
        assert volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.35)
    assert read_star(out / "classes.star")["classes"]["triptychClass"].tolist() == ["blob", "none", "membrane"]
    near = ndimage.distance_transform_edt(instances == 0) * voxel_size < RIM - voxel_size
    assert set(np.unique(labels[near & (instances == 0)])) == {0, 3}  # there the scan marks too much
    assert (densities[instances == 0] == 0).all()
    assert densities[instances > 0].mean() > 5


def same_traits(count: int) -> Traits:
    """Of particles that all look the same."""
    return Traits(np.zeros((count, 8)), np.zeros((count, 2)), np.empty((count, 0)))


def test_what_is_unknown_keeps_its_best_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = seeing_model()
    model.novelty = fit_novelty(same_traits(20), np.zeros(20, np.int64), same_traits(20))  # nothing is less novel than these: all is unknown
    module: Any = sys.modules["triptych.stages.pick"]
    monkeypatch.setattr(module, "load_model", lambda *_: model)
    table = read_star(pick([write_mrc(tmp_path / "a.mrc", blobs(10.0), 10.0)], tmp_path / "picks") / "particles.star")["particles"]
    assert len(table) == len(PLACES)
    assert set(table["triptychClass"]) == {"blob"}
    assert set(table["triptychVerdict"]) == {"unknown"}
    assert (table["triptychNovelty"] >= 0.5).all()


def test_novelty_is_that_of_the_class_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pick is called its best class other than none, even where none is likelier."""
    sure, doubtful = [0.9, 0.1], [0.4, 0.6]
    by_class = np.float32([[0.2, 0.3], [0.8, 0.1]])
    masks, embedding = [np.ones((2, 2, 2), np.float32)] * 2, np.zeros((2, 8), np.float32)
    said = Predictions(("blob", "none"), np.float32([sure, doubtful]), masks, None, embedding, by_class)
    monkeypatch.setattr(Picker, "predict", lambda *_: (said, [np.zeros(3, np.int64)] * 2))
    picker = Picker.__new__(Picker)
    picker.model, picker.config = seeing_model(), PickConfig()
    picker.model.novelty = fit_novelty(same_traits(20), np.zeros(20, np.int64), same_traits(20))
    job = Job(Path("a.mrc"), "a", (8, 8, 8), 10.0, (0.0, 0.0, 0.0), Frame.of((8, 8, 8), 10.0), [], 0)
    found, _ = picker.recognise(job, np.zeros((2, 3)))
    assert found["novelty"].tolist() == pytest.approx([0.2, 0.8])


def test_the_page_shows_what_was_found_and_where() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(20, 30, 40)).astype(np.float32)
    labels = np.zeros(data.shape, np.uint16)
    labels[12:15, 10:14, 20:26], labels[:, :2] = 1, 3
    columns = [f"rlnCoordinate{axis}" for axis in "XYZ"]
    places = pd.DataFrame([[22.0, 12.0, 13.0], [30.0, 12.0, 13.0], [5.0, 25.0, 2.0]], columns=columns)
    kinds = {"triptychClass": ["blob", "blob", "rod"], "triptychVerdict": ["blob", "unknown", "rod"]}
    table = places.assign(rlnTomoName="a", triptychScore=[0.9, 0.5, 0.25], triptychProbability=[0.8, 0.6, 0.4], **kinds)
    about = {"contrast": {"a": "dark", "b": "dark"}, "contrast_warnings": ["CONTRAST LOOKS INVERTED"], "model": {"name": "m"}, "device": "CPU"}
    picked = [
        pick_page.Picked(name, Volume(data, 10.0), labels, table.loc[table["rlnTomoName"] == name, columns].to_numpy(float)[:, ::-1])
        for name in ("a", "b")
    ]
    text = pick_page.render(table, picked, ("blob", "rod", "membrane"), about)
    assert "3 particles in 2 tomograms; 1 of these were called" in text
    assert "CONTRAST LOOKS INVERTED" in text
    assert text.count('<svg class="slice"') == 4  # xy and xz of each
    assert text.count('<path class="k0"') == 2  # the blob, where the most are; not on the middle slices of b, where none is listed
    assert text.count('<path class="structure"') == 2  # the membrane, which only xy slices cut
    assert re.search(r"<td>any</td><td>3</td>.*<td>0.3</td><td>2</td>.*<td>0.9</td><td>1</td>", text, re.DOTALL)
    nothing = pick_page.render(table[:0], picked[1:], ("blob", "rod", "membrane"), about)
    assert "0 particles in 1 tomogram." in nothing
    assert "What was found" not in nothing


def test_the_slice_with_the_most_particles() -> None:
    assert pick_page.fullest(np.array([3.0, 4.0, 4.2, 11.0]), 2, 16) == 4
    assert pick_page.fullest(np.array([15.4]), 1, 16) == 15
    assert pick_page.fullest(np.array([2.0]), 5, 4) == 2  # of a tomogram that is thinner than what is averaged
    assert pick_page.fullest(np.empty(0), 2, 16) == 8
    assert pick_page.bin_image(np.arange(12, dtype=np.float32).reshape(3, 4), 2).tolist() == [[2.5, 4.5]]


@pytest.mark.parametrize("count", [0xFFFF, 0xFFFF + 5])
def test_instances_of_very_many_particles(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 16 bits count: each voxel of the map keeps the number of its particle, and napari can show it as labels."""

    def paint_one_voxel(volume: Any, _: Any, value: int, start: Any) -> None:
        volume[tuple(start)] = value

    monkeypatch.setattr(sys.modules["triptych.stages.pick"], "paint", paint_one_voxel)  # quicker
    shape = (41, 40, 40)
    job = Job(tmp_path / "a.mrc", "a", shape, 10.0, (0.0, 0.0, 0.0), Frame.of(shape, 10.0), [], 0)
    places = np.stack(np.unravel_index(np.arange(count), shape), 1)
    masks = [Cutout(place, (1, 1, 1), np.full(1, 128, np.uint8), 1) for place in places]
    picker = Picker.__new__(Picker)
    picker.model, picker.config = seeing_model(), PickConfig()
    picker.write_maps(job, tmp_path, masks, places, np.tile(np.float32([1, 0]), (count, 1)))
    data = read_mrc(tmp_path / "instances.mrc").data
    assert np.array_equal(data.ravel()[:count], np.arange(1, count + 1))
    assert not data.ravel()[count:].any()
    assert labels_layer(mrc.mmap_mrc(tmp_path / "instances.mrc"), {})[0].dtype.kind == "u"


def test_a_class_has_one_number_in_tables_and_maps(tmp_path: Path) -> None:
    """Of a model that has learned a class later (add-class), which its scan does not know: behind none, where maps once counted a membrane."""
    card = ModelCard(TASKS, ("blob", "none", "rod"), voxel_size=10.0, box_size=40, contrast="bright", label_names=("blob", "membrane"))
    job = Job(tmp_path / "a.mrc", "a", (8, 8, 8), 10.0, (0.0, 0.0, 0.0), Frame.of((8, 8, 8), 10.0), [], 0)
    picker = Picker.__new__(Picker)
    picker.model, picker.config = Model(SeesBlobs(TASKS, 3, 2), card, device="cpu"), PickConfig()
    masks = [Cutout(np.full(3, at), (1, 1, 1), np.full(1, 128, np.uint8), 1) for at in (1, 5)]
    probabilities = np.float32([[0.1, 0.2, 0.7], [0.6, 0.4, 0]])
    picker.write_maps(job, tmp_path, masks, np.full((2, 3), 1), probabilities)
    labels, numbers = read_mrc(tmp_path / "labels.mrc").data, range(1, 5)
    note = {"places": np.zeros((2, 3)), "probabilities": probabilities, "score": np.ones(2), "heights": np.ones(2)}
    table = particle_table(job, note, card.class_names, 1)
    assert table["rlnClassNumber"].tolist() == [labels[1, 1, 1], labels[5, 5, 5]] == [3, 1]
    assert dict(zip(numbers, card.numbered_names, strict=True)) == {1: "blob", 2: "none", 3: "rod", 4: "membrane"}


@pytest.mark.usefixtures("sees_blobs")
def test_maps_lie_where_the_tomogram_lies(tmp_path: Path) -> None:
    origin = (100.0, 200.0, -300.0)
    mrc.write_mrc(tmp_path / "a.mrc", Volume(blobs(10.0).astype(np.float32), 10.0, origin))
    out = pick([tmp_path / "a.mrc"], tmp_path / "picks", config=PickConfig(write_densities=True))
    for kind in ("labels", "instances", "densities"):
        assert read_mrc(out / kind / "a.mrc").origin == origin


@pytest.mark.usefixtures("sees_blobs")
def test_ome_zarr_is_read_as_mrc_is(tmp_path: Path) -> None:
    data = blobs(10.0).astype(np.float32)
    mrc = write_mrc(tmp_path / "a.mrc", data, 10.0)
    group = zarr.create_group(tmp_path / "b.zarr")
    group.create_array("0", data=data, chunks=(16, 16, 16))
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    steps = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}, {"type": "translation", "translation": [3.0, 2.0, 1.0]}]
    levels = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    opened = open_tomogram(tmp_path / "b.zarr")
    assert opened.voxel_size == 10.0
    assert opened.origin == (10.0, 20.0, 30.0)
    out = pick([mrc, tmp_path / "b.zarr"], tmp_path / "picks")
    table = read_star(out / "particles.star")["particles"]
    first, second = (table[table["rlnTomoName"] == name].drop(columns="rlnTomoName").reset_index(drop=True) for name in "ab")
    assert len(first) == len(PLACES)
    assert first.equals(second)
    for settings in (PredictConfig(), PredictConfig(tomograms=tmp_path)):  # to predict with them: found by the table, or by their names
        source = open_particles(out / "particles.star", settings, 80.0)
        assert len(source) == 2 * len(PLACES)
        for row in range(len(PLACES)):
            assert np.array_equal(source.read(row).data, source.read(row + len(PLACES)).data)
    assert (tmp_path / source.table_for(tmp_path)["rlnTomoReconstructedTomogram"].iloc[-1]).samefile(tmp_path / "b.zarr")


def write_table(path: Path, column: str, pixel_size: float = 1.35, **files: str) -> Path:
    """A table of tomograms by their names, ten times binned, as RELION 5 has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {"rlnTomoTiltSeriesPixelSize": pixel_size, "rlnTomoTomogramBinning": 10.0}
    write_star(path, {"global": pd.DataFrame({"rlnTomoName": list(files), column: list(files.values()), **sizes})})
    return path


@pytest.mark.usefixtures("sees_blobs")
@pytest.mark.parametrize("column", ["rlnTomoReconstructedTomogram", "rlnTomoReconstructedTomogramDenoised"])
def test_tomograms_of_a_table_are_called_and_sized_as_it_says(column: str, tmp_path: Path) -> None:
    for name in "ab":
        write_mrc(tmp_path / f"Tomograms/job1/rec_{name}.mrc", blobs(13.5), 0)
    star = write_table(tmp_path / "Tomograms/job1/tomograms.star", column, a="Tomograms/job1/rec_a.mrc", b="Tomograms/job1/rec_b.mrc")
    out = pick([star], tmp_path / "picks", config=PickConfig(tile_size=24))
    found = particles_from_relion(out / "particles.star")
    assert found.positions is not None
    assert found.tomograms == ["a"] * len(PLACES) + ["b"] * len(PLACES)
    assert np.linalg.norm(found.positions[:, None] - PLACES, axis=-1).min(1).max() < 15
    assert read_mrc(out / "labels/b.mrc").voxel_size == pytest.approx(13.5)
    assert str(star) in [given["path"] for given in read_manifest(out)["inputs"]]
    for listed in (out / "particles.star", out):
        assert open_particles(listed, PredictConfig(), 80.0).read(0).voxel_size == pytest.approx(13.5)
    write_star(tmp_path / "set.star", {"": {"rlnTomoTomogramsFile": "Tomograms/job1/tomograms.star"}})
    again = pick([tmp_path / "set.star"], tmp_path / "again", config=PickConfig(tile_size=24))
    assert read_star(again / "particles.star")["particles"].equals(found.table)


@pytest.mark.usefixtures("sees_blobs")
@pytest.mark.parametrize("right", [True, False])
def test_what_is_for_relion_counts_the_pixels_of_the_tilt_series(right: bool, tmp_path: Path) -> None:
    """It refuses particles whose pixels are not those of its tomograms' table; sizes that are no whole multiple of the binning are its own."""
    write_mrc(tmp_path / "a.mrc", blobs(13.5), 13.5)
    star = write_table(tmp_path / "tomograms.star", "rlnTomoReconstructedTomogram", 1.35, a="a.mrc")
    table = read_star(star)["global"]
    depth, height, width = blobs(13.5).shape
    size = {"rlnTomoSizeX": [10 * width + (3 if right else 500)], "rlnTomoSizeY": [10 * height], "rlnTomoSizeZ": [10 * depth]}
    write_star(star, {"global": table.assign(**size)})
    out = pick([star], tmp_path / "picks", config=PickConfig(tile_size=24))
    row = read_star(out / "tomograms.star")["global"].iloc[0]
    pixel, binning = (1.35, 10) if right else (13.5, 1)  # a table that contradicts the file is not believed
    assert row["rlnTomoTiltSeriesPixelSize"] == pytest.approx(pixel)
    assert row["rlnTomoTomogramBinning"] == pytest.approx(binning)
    assert row["rlnTomoSizeX"] == (size["rlnTomoSizeX"][0] if right else width)
    blocks = read_star(out / "particles.star")
    assert blocks["optics"]["rlnTomoTiltSeriesPixelSize"].tolist() == pytest.approx([pixel])
    found = particles_from_relion(out / "particles.star")
    assert found.positions is not None
    assert np.linalg.norm(found.positions[:, None] - PLACES, axis=-1).min(1).max() < 15
    centre = np.array([row[f"rlnTomoSize{axis}"] for axis in "XYZ"]) / 2 * pixel
    centered = blocks["particles"][[f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]].to_numpy()
    np.testing.assert_allclose(centered + centre, found.positions, atol=1e-3)


def test_tomograms_that_are_not_reconstructed_yet_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_mrc(tmp_path / "a.mrc", np.zeros((4, 4, 4)), 13.5)
    star = write_table(tmp_path / "tomograms.star", "rlnTomoReconstructedTomogram", a="a.mrc", b="None")
    table = read_star(star)["global"]
    sizes = {f"rlnTomoSize{axis}": [40.0, np.nan] for axis in "XYZ"}  # what pandas makes of a table whose rows do not all have the same columns
    write_star(star, {"global": table.assign(**sizes, rlnTomoTomogramBinning=[10.0, np.nan])})
    assert [(tomogram.name, tomogram.series) for tomogram in list_tomograms([star])] == [("a", Frame((40, 40, 40), 1.35))]
    assert "1 of 2 tomograms of" in caplog.text
    described = describe_file(star)
    assert dict(described.facts)["files"] == "1 of 2 found, 1 not reconstructed yet"
    assert not described.warnings
    columns = {"rlnTomoName": ["a"], **{f"rlnCenteredCoordinate{axis}Angst": [0.0] for axis in "XYZ"}}
    write_star(tmp_path / "particles.star", {"particles": pd.DataFrame(columns)})
    assert np.allclose(read_relion(tmp_path / "particles.star").values("rlnTomoTomogramBinning"), 10)


def test_a_header_counts_before_a_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_mrc(tmp_path / "a.mrc", np.zeros((4, 4, 4)), 13.5)
    write_mrc(tmp_path / "b.mrc", np.zeros((4, 4, 4)), 10.0)
    star = write_table(tmp_path / "tomograms.star", "rlnTomoReconstructedTomogram", a="a.mrc", b="b.mrc")
    assert [tomogram.voxel_size for tomogram in list_tomograms([star])] == [None, None]
    assert [f"{tmp_path / 'b.mrc'} is taken to have 10 Å" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(("pixel_size", "taken"), [(1.35, 13.5), (1.0, None), (0.0, None)])
def test_a_pixel_size_that_was_never_set_is_not_believed(pixel_size: float, taken: float | None, tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", np.zeros((4, 4, 4)), 0)
    star = write_table(tmp_path / "tomograms.star", "rlnTomoReconstructedTomogram", pixel_size, a="a.mrc")
    assert list_tomograms([star])[0].voxel_size == pytest.approx(taken)


@pytest.mark.parametrize(
    ("column", "files", "sentence"),
    [
        ("rlnTomoReconstructedTomogram", {"a": "a.mrc", "b": "gone.mrc"}, "says that the tomogram b is gone.mrc, which is neither under"),
        ("rlnTomoReconstructedTomogram", {"../a": "a.mrc"}, "cannot be the name of a file"),
        ("rlnTomoReconstructedTomogram", {"a": "a.mrc", "c": "a.mrc"}, "several tomograms are called a"),
        ("rlnTomoReconstructedTomogram", {"b": "a.mrc", "c": "a.mrc"}, "the tomograms b and c are the same file, .*a.mrc: give it once"),
        ("rlnTomoReconstructedTomogramHalf1", {"a": "a.mrc"}, "names tomograms in halves only .*`triptych average-halves"),
    ],
)
def test_tables_whose_tomograms_cannot_be_picked_from(column: str, files: dict[str, str], sentence: str, tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.zeros((4, 4, 4)), 10.0)
    with pytest.raises(InputError, match=sentence):
        list_tomograms([write_table(tmp_path / "tomograms.star", column, **files), path])


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        ({"particles": pd.DataFrame({"rlnTomoName": ["a"], "rlnCoordinateX": [1.0]})}, "lists no tomograms"),
        ({"": {"rlnTomoParticlesFile": "particles.star"}}, "optimisation set without tomograms"),
        ({"": {"rlnTomoTomogramsFile": "gone.star"}}, "names the tomograms gone.star, which do not exist"),
    ],
)
def test_other_tables_are_no_tomograms(blocks: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    write_star(tmp_path / "given.star", blocks)
    with pytest.raises(InputError, match=sentence):
        list_tomograms([tmp_path / "given.star"])


@pytest.mark.usefixtures("sees_blobs")
def test_stopped_and_in_parts_it_ends_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_mrc(tmp_path / f"tomograms/{name}.mrc", blobs(10.0), 10.0)
    config = PickConfig(tile_size=24)
    whole = hashes(pick([tmp_path / "tomograms"], tmp_path / "whole", config=config))

    def stop(done: int, total: int) -> None:
        if done > total / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pick([tmp_path / "tomograms"], tmp_path / "stopped", config=config, on_progress=stop)
    with pytest.raises(InputError, match="another threshold"):
        pick([tmp_path / "tomograms"], tmp_path / "stopped", config=PickConfig(tile_size=24, threshold=0.5))
    progress: list[int] = []
    assert hashes(pick([tmp_path / "tomograms"], tmp_path / "stopped", config=config, on_progress=lambda done, _: progress.append(done))) == whole
    assert progress[0] > 0
    for number in (2, 1):
        pick([tmp_path / "tomograms"], tmp_path / "parts", config=config, part=(number, 2))
    assert hashes(tmp_path / "parts") == whole
    pick([tmp_path / "tomograms"], tmp_path / "parts", config=config.model_copy(update={"workers": 2}), part=(2, 2))  # a late job of an array
    assert hashes(tmp_path / "parts") == whole
    with pytest.raises(InputError, match="exists already"):
        pick([tmp_path / "tomograms"], tmp_path / "parts", config=PickConfig(tile_size=32), part=(2, 2))


@pytest.mark.usefixtures("sees_blobs")
def test_an_impossible_part_leaves_nothing(tmp_path: Path) -> None:
    tomogram = write_mrc(tmp_path / "a.mrc", blobs(10.0), 10.0)
    with pytest.raises(InputError, match="numbered from 1 to"):
        pick([tomogram], tmp_path / "picks", part=(3, 2))
    assert list(tmp_path.iterdir()) == [tomogram]


@pytest.mark.usefixtures("sees_blobs")
def test_inverted_contrast_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dark = write_mrc(tmp_path / "dark.mrc", blobs(10.0), 10.0)
    bright = write_mrc(tmp_path / "bright.mrc", -blobs(10.0), 10.0)
    taken = read_manifest(pick([dark, bright], tmp_path / "as_dark"))
    assert taken["contrast"] == {"dark": "dark", "bright": "dark"}
    assert [warning.split(";")[0].split("(")[0] for warning in taken["contrast_warnings"]] == [
        "bright: CONTRAST LOOKS INVERTED: the particles are taken as dark, but look bright "
    ]
    assert taken["contrast_warnings"][0] in caplog.messages
    out = pick([dark, bright], tmp_path / "auto", config=PickConfig(contrast="auto", threshold=0.5))
    assert read_manifest(out)["contrast"] == {"dark": "dark", "bright": "bright"}
    found = particles_from_relion(out / "particles.star").table
    assert (found["rlnTomoName"].value_counts() == len(PLACES)).all()
    assert found["triptychContrast"].tolist() == found["rlnTomoName"].tolist()


@pytest.mark.usefixtures("sees_blobs")
def test_predict_reads_what_was_picked(tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "tomograms/a.mrc", blobs(10.0), 10.0)
    out = pick([path], tmp_path / "deep/picks")
    source = open_particles(out / "particles.star", PredictConfig(), 400.0)
    assert len(source) == len(PLACES)
    for i in range(len(source)):
        assert source.read(i).data[18:23, 18:23, 18:23].mean() < -0.9


@pytest.mark.usefixtures("sees_blobs")
def test_an_empty_tomogram_gives_an_empty_list(tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.random.default_rng(0).normal(size=SHAPE), 10.0)
    out = pick([path], tmp_path / "picks", config=PickConfig(threshold=0.9))
    assert not read_mrc(out / "instances/a.mrc").data.any()
    assert len(read_star(out / "particles.star")["particles"]) == 0


def test_the_command_line_trains_and_picks(tmp_path: Path) -> None:
    data = simulate(tmp_path / "data.zarr", load_config(SimulateConfig, None, [*SIMULATE, "tile_share=0.5"]))
    settings = load_config(TrainConfig, None, [*TRAIN, "network.tasks=[class, mask, density, pick]", "tiles_per_batch=2"])
    model = train(data, tmp_path / "model", settings)
    path = write_mrc(tmp_path / "a.mrc", blobs(10.0)[:24, :24, :24], 10.0)
    options = set_options(["threshold=0.01", "min_score=0", "device=cpu"])
    result = CliRunner().invoke(app, ["pick", str(path), str(tmp_path / "picks"), "--model", str(model), *options])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "picks/manifest.json").is_file()
    again = CliRunner().invoke(app, ["pick", str(path), str(tmp_path / "picks"), "--model", str(model), *options])
    assert again.exit_code == 2
    assert "exists" in again.output


def test_several_processes_pick_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = ModelCard(TASKS, ("blob", "none"), voxel_size=10.0, box_size=40, contrast="bright", label_names=("blob", "membrane"))
    model = Model(Network(TASKS, 2, 2), card, "cpu", "float32").save(tmp_path / "model", TrainConfig(), [])
    for name in "ab":
        write_mrc(tmp_path / f"rec_{name}.mrc", blobs(13.5)[:24, :32, :24], 0)
    tomograms = [write_table(tmp_path / "tomograms.star", "rlnTomoReconstructedTomogram", a="rec_a.mrc", b="rec_b.mrc")]
    tables = []
    for workers in (1, 2):
        config = PickConfig(workers=workers, threshold=0.01, min_score=0, tile_size=32, precision="float32")
        tables.append(read_star(pick(tomograms, tmp_path / f"picks_{workers}", model, config) / "particles.star")["particles"])
    assert len(tables[0]) > 0
    assert set(tables[0]["rlnTomoName"]) == {"a", "b"}
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-5)  # threads add up in another order


def test_bad_input_is_named(tmp_path: Path) -> None:
    three = TASKS.model_copy(update={"tasks": ("class", "mask", "density")})
    plain = small_model(three).save(tmp_path / "plain", TrainConfig(), [], seed=0)
    path = write_mrc(tmp_path / "a.mrc", blobs(10.0), 10.0)
    with pytest.raises(InputError, match="without the task pick"):
        pick([path], tmp_path / "picks", plain)
    bare = small_model(TASKS.model_copy(update={"tasks": ("class", "mask", "pick")})).save(tmp_path / "bare", TrainConfig(), [], seed=0)
    with pytest.raises(InputError, match="without the task density: leave the setting out"):
        pick([path], tmp_path / "picks", bare, PickConfig(write_densities=True))
    module: Any = sys.modules["triptych.stages.pick"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_model", seeing_model)
        with pytest.raises(InputError, match="does not exist"):
            pick([tmp_path / "none.mrc"], tmp_path / "picks")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="holds no tomogram"):
            pick([tmp_path / "empty"], tmp_path / "picks")
        with pytest.raises(InputError, match="several tomograms are called a"):
            pick([path, write_mrc(tmp_path / "b/a.mrc", blobs(10.0), 10.0)], tmp_path / "picks")
        (tmp_path / "text.txt").write_text("x")
        with pytest.raises(InputError, match="is no tomogram: give tomograms as MRC files"):
            pick([tmp_path / "text.txt"], tmp_path / "picks")
        group = zarr.create_group(tmp_path / "c.zarr")
        with pytest.raises(InputError, match="not an OME-Zarr image"):
            pick([tmp_path / "c.zarr"], tmp_path / "picks")
        group.create_array("0", data=np.zeros((8, 8, 8), np.float32))
        group.attrs["multiscales"] = [{"datasets": [{"path": "0"}]}]
        with pytest.raises(InputError, match="does not say its voxel size"):
            pick([tmp_path / "c.zarr"], tmp_path / "picks")
    assert not (tmp_path / "picks").exists()


def test_a_compressed_tomogram_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).normal(size=(12, 14, 16)).astype(np.float32)
    data[0, 0, 0] = 3
    plain = write_mrc(tmp_path / "plain.mrc", data, 10.0)
    packed = tmp_path / "packed.mrc.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert np.array_equal(open_tomogram(packed).data, open_tomogram(plain).data)
    monkeypatch.setattr("triptych.io.tomogram.LARGEST_UNPACKED", 1000)
    assert open_tomogram(packed).shape == data.shape  # it is kept
    with pytest.raises(InputError, match="decompress the file first"):
        open_tomogram(packed, 12.0)


def test_bad_values_do_not_spread_over_the_border_of_a_box() -> None:
    data = np.ones((8, 8, 8), np.float32)
    data[2, 3, 4] = np.nan
    box = cut_box(data, np.array([0, 4, 4]), (8, 8, 8))
    assert np.isnan(box).sum() == 1
    assert (box[np.isfinite(box)] == 1).all()
