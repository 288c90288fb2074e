"""Predicting and picking in several processes, in parts and on a Dask cluster give what one process gives."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from distributed import LocalCluster
from tiny import hashes, write_model, write_mrc

from triptych.config import PickConfig, PredictConfig, TrainConfig
from triptych.errors import InputError
from triptych.io.star import read_star
from triptych.recognition.model import Model, load_model
from triptych.recognition.temperature import Temperature
from triptych.stages.pick import pick
from triptych.stages.predict import BLOCK, open_predictor, predict
from triptych.workspace import reopen

COUNT = 2 * BLOCK + 2
PICK = PickConfig(tile_size=16, margin=8, threshold=0.05, min_score=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack of small boxes, one of them empty."""
    path = tmp_path_factory.mktemp("particles") / "stack.mrcs"
    data = np.random.default_rng(0).normal(size=(COUNT, 16, 16, 16)).astype(np.float32)
    data[BLOCK] = 0
    with mrcfile.new(path) as file:
        file.set_data(data)
        file.voxel_size = 10.0
    return path


@pytest.fixture(scope="module")
def tomograms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tomograms")
    for name in ("a", "b"):
        write_mrc(folder / f"{name}.mrc", np.random.default_rng(ord(name)).normal(size=(16, 32, 32)), 10.0)
    return folder


@pytest.fixture(scope="module")
def predicted(particles: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of what one process writes."""
    return hashes(predict(particles, tmp_path_factory.mktemp("whole") / "out", model))


@pytest.fixture(scope="module")
def picked(tomograms: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of what one process writes."""
    out = pick([tomograms], tmp_path_factory.mktemp("whole") / "out", model, PICK)
    assert len(read_star(out / "particles.star")["particles"]) > 2
    return hashes(out)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def test_two_processes(particles: Path, model: Path, predicted: object, tmp_path: Path) -> None:
    assert hashes(predict(particles, tmp_path / "predicted", model, PredictConfig(workers=2))) == predicted


def test_dask_cluster(
    scheduler: str, particles: Path, tomograms: Path, model: Path, predicted: object, picked: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hashes(predict(particles, tmp_path / "predicted", model, scheduler=scheduler)) == predicted
    monkeypatch.chdir(tomograms.parent)  # where the worker is not
    assert hashes(pick([tomograms.name], tmp_path / "picked", model, PICK, scheduler=scheduler)) == picked


def test_parts_of_a_prediction(particles: Path, model: Path, predicted: object, tmp_path: Path) -> None:
    out, progress = tmp_path / "out", []
    predict(particles, out, model, part=(2, 2), on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(0, BLOCK), (BLOCK, BLOCK)]
    assert not out.exists()
    with pytest.raises(InputError, match="another half_turns"):
        predict(particles, out, model, PredictConfig(half_turns=True), part=(1, 2))
    predict(particles, out, model, part=(1, 2))
    assert hashes(out) == predicted
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stopped_prediction_goes_on(particles: Path, model: Path, predicted: object, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def stop(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(particles, tmp_path / "out", model, on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == [".out.part"]
    progress: list[int] = []
    out = predict(particles, tmp_path / "out", model, on_progress=lambda done, _: progress.append(done))
    assert progress == [BLOCK, 2 * BLOCK, COUNT]
    assert hashes(out) == predicted
    assert f"of {COUNT}: all values are the same" in caplog.text
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["particles"]["count"] == COUNT
    assert manifest["seconds"] > 0


def test_a_model_calibrated_meanwhile_is_noticed(particles: Path, model: Path, tmp_path: Path) -> None:
    """The same weights: a process that has opened the folder before must open it anew."""
    folder = tmp_path / "model"
    before = load_model(model)
    before.save(folder, TrainConfig(), [], 0)
    told = [pickle.loads(pickle.dumps(open_predictor(str(particles), folder, PredictConfig())))]  # noqa: S301
    shutil.rmtree(folder)
    card = replace(before.card, temperature=Temperature(2 * before.card.temperature.value))
    Model(before.network, card, "cpu", "float32").save(folder, TrainConfig(), [], 0)
    told.append(pickle.loads(pickle.dumps(open_predictor(str(particles), folder, PredictConfig()))))  # noqa: S301
    first, second = (predictor.model.card.temperature.value for predictor in told)
    assert second == 2 * first


def test_another_model_on_a_worker_is_noticed(particles: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not what the run was started with: "):
        reopen(open_predictor, (str(particles), model, PredictConfig()), 1, "of another version")
