"""What goes wrong on other people's machines: a clear sentence, and what is finished is kept. More of it in benchmarks/faults.py."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from triptych import train
from triptych.config import NetworkConfig, SimulateConfig, TrainConfig
from triptych.errors import InputError
from triptych.io.files import disk_errors, new_array
from triptych.io.store import BOX_ARRAYS, Rows, create_store, open_store
from triptych.recognition.model import Model, ModelCard
from triptych.recognition.network import Network, TaskOutput
from triptych.settings import load_config
from triptych.stages.simulate import simulate
from triptych.stages.train import explain_loader
from triptych.training.run_folder import join_logs

ROOT = Path(__file__).resolve().parents[1]


def test_killed_and_started_again(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/faults.py", str(tmp_path / "work"), "--kills", "1", "--stages", "cut", "--results", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "faults.json").read_text())
    assert (found["stages"]["cut"]["matched"], found["stages"]["cut"]["items_lost"]) == (1, 0)
    assert found["faults"]["cut"]["full_disk"]["ended"] == found["faults"]["cut"]["lost_input"]["ended"] == "refused"


# ------------------------------------------------------------------------------------------------------ memory of a GPU


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8)
    card = ModelCard(network, ("one", "none"), voxel_size=10.0, box_size=16, contrast="bright", label_names=("one",))
    return Model(Network(network, 2, 1), card, "cpu", "float32")


def with_room_for(model: Model, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the model run out of memory where more boxes come at once; the numbers that were tried."""
    tried: list[int] = []
    run_some = model._run_some

    def run(boxes: np.ndarray, half_turns: bool) -> TaskOutput:
        tried.append(len(boxes))
        if len(boxes) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return run_some(boxes, half_turns)

    monkeypatch.setattr(model, "_run_some", run)
    return tried


def test_too_many_boxes_for_the_memory(model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    boxes = np.random.default_rng(0).normal(size=(11, 16, 16, 16)).astype(np.float32)
    expected = model.run(boxes)
    tried = with_room_for(model, 3, monkeypatch)
    with caplog.at_level(logging.WARNING, "triptych"):
        found = model.run(boxes)
    assert tried == [11, 5, 2, 2, 2, 2, 2, 1]
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == ["going on with 5", "going on with 2"]
    for name in ("class_logits", "mask_logits", "density", "embedding"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    model.run(boxes[:4])
    assert tried[8:] == [2, 2]  # it is remembered


def test_no_memory_for_a_single_box(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with_room_for(model, 0, monkeypatch)
    with pytest.raises(InputError, match=r"too small for a single box \(CUDA out of memory"):
        model.run(np.zeros((4, 16, 16, 16), np.float32))


def run_out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_no_memory_for_a_tile(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.network, "scan", run_out_of_memory)
    with pytest.raises(InputError, match="smaller tile_size"):
        model.scan(np.zeros((1, 16, 16, 16), np.float32))


def test_no_memory_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulate(tmp_path / "data.zarr", load_config(SimulateConfig, None, tiny.SIMULATE))
    monkeypatch.setattr(Network, "forward", run_out_of_memory)
    with pytest.raises(InputError, match="batch_size=4"):
        train(data, tmp_path / "model", load_config(TrainConfig, None, [*tiny.TRAIN, "device=cpu"]))
    assert not (tmp_path / "model").exists()


# ------------------------------------------------------------------------------------------------------- disks and files


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no room left"), disk_errors(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match="writing is not allowed"), disk_errors(tmp_path / "out"):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "out" / "file"))
    with pytest.raises(PermissionError), disk_errors(tmp_path / "out"):
        raise OSError(errno.EACCES, "Permission denied", "/elsewhere/input.mrc")


@pytest.mark.skipif(sys.platform != "linux", reason="takes room as Linux does")
def test_a_mapped_file_has_its_room(tmp_path: Path) -> None:
    array = new_array(tmp_path / "array.npy", np.float32, (1000, 100))
    assert (tmp_path / "array.npy").stat().st_blocks * 512 >= array.nbytes


def test_a_chunk_that_disappears_is_not_read_as_zeros(tmp_path: Path) -> None:
    store = create_store(tmp_path / "data.zarr", Rows(16, 16), Rows(0, 0), 10.0, 8, ("one", "none"), {}, (*BOX_ARRAYS, "label", "tomogram"))
    for name in (*BOX_ARRAYS, "label", "tomogram"):
        array = store.array(name)
        store.write(name, 0, np.ones(array.shape, array.dtype))
    store = open_store(tmp_path / "data.zarr")
    (tmp_path / "data.zarr/density/c/1/0/0/0").unlink()
    assert (store.read_rows("density", np.arange(8)) == 1).all()
    with pytest.raises(InputError, match="disappeared"):
        store.read_rows("density", np.array([3, 9]))
    shutil.rmtree(tmp_path / "data.zarr")
    with pytest.raises(InputError, match="disappeared"):
        store.read_rows("subtomogram", np.arange(4))


# --------------------------------------------------------------------------------------------------------------- training


def test_the_log_of_an_interrupted_run_is_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    rows = [{"step": step, "epoch": step // 4, "loss": 1 / (step + 1)} for step in range(12)]
    rows += [{"step": step, "epoch": step // 4, "validation_iou": step / 10} for step in (3, 7, 11)]

    def write(folder: Path, *parts: list[dict[str, float]]) -> str:
        for number, part in enumerate(parts):
            (folder / f"from_{number}").mkdir(parents=True)
            pd.DataFrame(part).to_csv(folder / f"from_{number}" / "metrics.csv", index=False)
        return join_logs(folder)

    undisturbed = write(tmp_path / "a", rows)
    first, second = [row for row in rows if row["step"] < 6], [row for row in rows if row["step"] >= 4]
    assert write(tmp_path / "b", first, second) == undisturbed


def test_what_ends_the_loading_of_data() -> None:
    with pytest.raises(InputError, match=r"^the store is damaged$"):
        explain_loader(InputError("Caught InputError in DataLoader worker process 0.\n  ...\ntriptych.errors.InputError: the store is damaged\n"))
    with pytest.raises(InputError, match="a process that loads data died"):
        explain_loader(RuntimeError("DataLoader worker (pid(s) 17) exited unexpectedly"))
    explain_loader(RuntimeError("something else"))
