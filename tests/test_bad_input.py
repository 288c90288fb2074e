"""Bad input through the command line: one sentence, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from typer.testing import CliRunner

from triptych.cli import app
from triptych.config import NetworkConfig, TrainConfig
from triptych.recognition.model import Model, ModelCard
from triptych.recognition.network import Network


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8)
    card = ModelCard(network, ("one", "none"), voxel_size=10.0, box_size=16, contrast="bright")
    return Model(Network(network, 2), card, "cpu", "float32").save(tmp_path_factory.mktemp("model") / "model", TrainConfig(), [])


@pytest.fixture
def star(tmp_path: Path) -> Path:
    return tiny.write_particles(tmp_path / "project", count=3)


def refuse(*words: str | Path) -> str:
    """The one sentence with which a command ends, without the folders of tests, whose names would hold what is expected in it."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, f"{result.exit_code}: {result.output} {result.exception!r}"
    assert "Traceback" not in result.output
    assert result.stderr.count("error: ") == 1
    message = " ".join(result.stderr.split())
    for folder in sorted({str(word.parent) for word in words if isinstance(word, Path)}, key=len):
        message = message.replace(folder, "")
    return message


def empty_star(star: Path) -> None:
    star.write_text("")


def star_without_rows(star: Path) -> None:
    star.write_text("data_particles\n\nloop_\n_rlnImageName #1\n")


def star_of_words(star: Path) -> None:
    star.write_text("these are not particles\n")


def missing_image(star: Path) -> None:
    (star.parent / "subtomograms/particle_2.mrc").unlink()


def truncated_image(star: Path) -> None:
    image = star.parent / "subtomograms/particle_2.mrc"
    image.write_bytes(image.read_bytes()[:5000])


def nan_image(star: Path) -> None:
    data = np.zeros((24, 24, 24))
    data[3, 4, 5] = np.nan
    tiny.write_mrc(star.parent / "subtomograms/particle_2.mrc", data, 12.0)


def oblong_image(star: Path) -> None:
    tiny.write_mrc(star.parent / "subtomograms/particle_2.mrc", np.zeros((24, 24, 20)), 12.0)


def flat_image(star: Path) -> None:
    tiny.write_mrc(star.parent / "subtomograms/particle_2.mrc", np.zeros((1, 24, 24)), 12.0)


def no_voxel_size(star: Path) -> None:
    for number in (1, 2, 3):
        tiny.write_mrc(star.parent / f"subtomograms/particle_{number}.mrc", np.zeros((24, 24, 24)), 0.0)
    text = star.read_text().replace(" 12.0 300.0", " 0 300.0")
    star.write_text(text)


def voxel_size_in_metres(star: Path) -> None:
    star.write_text(star.read_text().replace(" 12.0 300.0", " 1.2e-9 300.0"))


def voxel_size_in_picometres(star: Path) -> None:
    star.write_text(star.read_text().replace(" 12.0 300.0", " 1200 300.0"))


CASES: list[tuple[Callable[[Path], None], str]] = [
    (empty_star, "particles.star is empty"),
    (star_without_rows, "lists no particles"),
    (star_of_words, 'is "these are not particles", but a line that starts a block'),
    (missing_image, "particle_2.mrc, which is neither under"),
    (truncated_image, "particle_2.mrc is truncated"),
    (nan_image, "particle_2.mrc holds 1 values that are NaN"),
    (oblong_image, "20 x 24 x 24 voxels (x, y, z), but a subtomogram is a cube"),
    (flat_image, "24 x 24 x 1 voxels (x, y, z), but a subtomogram is a cube"),
    (no_voxel_size, "particles.star is 0 Å (particle 1), but must be between 0.1 and 1000 Å"),
    (voxel_size_in_metres, "particles.star is 1.2e-09 Å (particle 1), but must be between"),
    (voxel_size_in_picometres, "particles.star is 1200 Å (particle 1), but must be between"),
]


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize(("spoil", "expected"), CASES, ids=[case[0].__name__ for case in CASES])
def test_particles(spoil: Callable[[Path], None], expected: str, star: Path, model: Path, tmp_path: Path) -> None:
    spoil(star)
    message = refuse("predict", star, tmp_path / "out", "--model", model)
    assert expected in message
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def copy_model(model: Path, target: Path) -> Path:
    target.mkdir()
    for file in model.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "altered", "garbage"])
def test_model_folder(name: str, how: str, star: Path, model: Path, tmp_path: Path) -> None:
    spoiled = copy_model(model, tmp_path / "spoiled")
    if how == "missing":
        (spoiled / name).unlink()
    elif how == "altered" and name != "manifest.json":
        data = bytearray((spoiled / name).read_bytes())
        data[len(data) // 2] ^= 1
        (spoiled / name).write_bytes(data)
    elif how == "altered":
        manifest = json.loads((spoiled / name).read_text())
        manifest["files"]["model.json"] = "0" * 64
        (spoiled / name).write_text(json.dumps(manifest))
    else:
        (spoiled / name).write_bytes(b"\x00garbage")
    message = refuse("predict", star, tmp_path / "out", "--model", spoiled)
    assert "spoiled" in message
    assert not (tmp_path / "out").exists()


def test_a_library_of_structures_is_no_particles(tmp_path: Path, model: Path) -> None:
    library = tmp_path / "library"
    tiny.write_mrc(library / "ribosome.mrc", np.random.default_rng(0).normal(size=(24, 24, 24)), 10.0)
    (library / "library.json").write_text("{}")
    message = refuse("predict", library, tmp_path / "out", "--model", model)
    assert "library is a library of structures, but subtomograms were expected: simulate some first (triptych simulate DATA --set" in message


@pytest.mark.parametrize("kind", ["densities", "masks"])
def test_maps_of_particles_are_no_particles(kind: str, star: Path, model: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["predict", str(star), str(tmp_path / "out"), "--model", str(model)]).exit_code == 0
    message = refuse("predict", tmp_path / "out" / kind, tmp_path / "again", "--model", model)
    assert f"{kind} holds maps that triptych made of particles, but subtomograms were expected: give the particles, by their table" in message
    assert CliRunner().invoke(app, ["predict", str(tmp_path / "out"), str(tmp_path / "again"), "--model", str(model)]).exit_code == 0


def test_a_file_is_no_model_folder(star: Path, model: Path, tmp_path: Path) -> None:
    message = refuse("predict", star, tmp_path / "out", "--model", model / "weights.safetensors")
    assert "weights.safetensors is a file: give a folder that `triptych train` wrote" in message


def test_existing_output_is_kept(star: Path, model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "out" / "precious.txt"
    kept.parent.mkdir()
    kept.write_text("precious")
    assert "exists" in refuse("predict", star, kept.parent, "--model", model)
    assert kept.read_text() == "precious"
    assert [path.name for path in kept.parent.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("voxel_size=0", "voxel_size is 0, but"),
        ("voxel_size=1.0e-9", "voxel_size is 1.0e-09, but must be null or a number of at least 0.1"),
        ("tomogram_voxel_size=1000000", "tomogram_voxel_size is 1000000, but"),
        ("contrast=grey", "contrast is 'grey', but"),
        ("batch_sise=3", "did you mean 'batch_size'"),
        ("batch_size=0", "batch_size is 0, but"),
        ("voxel_size", "'voxel_size', but key=value was expected"),
        ("voxel_size=", "'voxel_size=', which has no value"),
        ("class_shares= ", "'class_shares= ', which has no value"),
    ],
)
def test_settings(setting: str, expected: str, star: Path, model: Path, tmp_path: Path) -> None:
    assert expected in refuse("predict", star, tmp_path / "out", "--model", model, "--set", setting)
    assert not (tmp_path / "out").exists()


def test_data_that_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "Zarr" in refuse("train", tmp_path / "folder", tmp_path / "model")
    assert "manifest.json" in refuse("report", tmp_path / "folder", tmp_path / "report")
    assert "does not exist" in refuse("predict", tmp_path / "nothing.star", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"folder"}


def test_damaged_store(model: Path, tmp_path: Path) -> None:
    from triptych.config import SimulateConfig
    from triptych.settings import load_config
    from triptych.stages.simulate import simulate

    store = simulate(tmp_path / "data.zarr", load_config(SimulateConfig, None, tiny.SIMULATE))
    (store / "subtomogram/c/0/0/0/0").write_bytes(b"xx")
    assert "subtomogram is damaged" in refuse("predict", store, tmp_path / "out", "--model", model)
    assert [path.name for path in tmp_path.iterdir()] == ["data.zarr"]


@pytest.mark.parametrize("array", ["subtomogram", "density", "label"])
def test_store_that_lost_a_piece(array: str, tmp_path: Path) -> None:
    from triptych.config import SimulateConfig
    from triptych.settings import load_config
    from triptych.stages.simulate import simulate

    store = simulate(tmp_path / "data.zarr", load_config(SimulateConfig, None, tiny.SIMULATE))
    next(path for path in sorted((store / array / "c").rglob("*")) if path.is_file()).unlink()
    for words in (("train", store, tmp_path / "trained"), ("predict", store, tmp_path / "out")):
        assert f"array '{array}'" in refuse(*words)
    assert [path.name for path in tmp_path.iterdir()] == ["data.zarr"]


def test_refused_training_is_in_nobodys_way(model: Path, tmp_path: Path) -> None:
    from triptych.config import SimulateConfig
    from triptych.settings import load_config
    from triptych.stages.simulate import simulate

    one = simulate(tmp_path / "one.zarr", load_config(SimulateConfig, None, [*tiny.SIMULATE, "particles=4"]))
    assert "single tomogram" in refuse("train", one, tmp_path / "trained", *tiny.set_options(tiny.TRAIN))
    data = simulate(tmp_path / "data.zarr", load_config(SimulateConfig, None, tiny.SIMULATE))
    missing = [*tiny.TRAIN, f"initial_model={tmp_path / 'nothing'}"]
    assert "does not exist" in refuse("train", data, tmp_path / "trained", *tiny.set_options(missing))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.zarr", "one.zarr"]


def test_boxes_that_say_nothing_are_named(star: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.write_mrc(star.parent / "subtomograms/particle_2.mrc", np.full((24, 24, 24), 7.0), 12.0)
    result = CliRunner().invoke(app, ["predict", str(star), str(tmp_path / "out"), "--model", str(model)])
    assert result.exit_code == 0, result.output
    assert "particle_2 of 3: all values are the same" in caplog.text


def test_a_tomogram_is_no_subtomogram(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tomogram = tiny.write_mrc(tmp_path / "tomogram.mrc", np.random.default_rng(0).normal(size=(48, 48, 48)), 10.0)
    result = CliRunner().invoke(app, ["predict", str(tomogram), str(tmp_path / "out"), "--model", str(model)])
    assert result.exit_code == 0, result.output
    assert "480 Å wide, but the model looks at the 160 Å in its middle" in caplog.text


@pytest.mark.parametrize(
    "setting", ["acquisition.tilt_max=[95, 95]", "seed=true", "specimen.vesicle_radius=[-5, -1]", "acquisition.b_factor=[-1, 0]"]
)
def test_impossible_simulations(setting: str, tmp_path: Path) -> None:
    message = refuse("simulate", tmp_path / "out.zarr", *tiny.set_options([*tiny.SIMULATE, setting]))
    assert f"error: {setting.split('=')[0]} " in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_output_without_a_name(name: str, star: Path, model: Path) -> None:
    assert "output" in refuse("predict", star, name, "--model", model)
