"""Training in two processes is training in one with the same batches, and each goes on where the other has stopped."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import SIMULATE, TRAIN

from triptych.config import NetworkConfig, SimulateConfig, Task, TrainConfig
from triptych.errors import InputError
from triptych.io.store import open_store
from triptych.recognition.network import Network
from triptych.settings import load_config
from triptych.stages.simulate import simulate
from triptych.stages.train import choose_strategy, train
from triptych.training.dataset import PlannedBatches, SubtomogramDataset
from triptych.training.losses import Truth, task_losses, total_loss
from triptych.training.ranks import Share

SETTINGS = [*TRAIN, "updates=4", "network.dropout=0", "precision=float32", "device=cpu"]
STOPPED = """
import sys
from pathlib import Path
from triptych.config import TrainConfig
from triptych.settings import load_config
from triptych.stages.train import train

def stop(done, total):
    if done == 3:
        raise RuntimeError("pulled the plug")

train(sys.argv[1], sys.argv[2], load_config(TrainConfig, None, sys.argv[3:]), resume=True, on_progress=stop)
"""

PATIENT = """
import os, sys, time
from datetime import timedelta
from torch import distributed
from triptych.training.ranks import patient_group

rank = 0 if os.fork() else 1
distributed.init_process_group("gloo", f"file://{sys.argv[1]}", timedelta(seconds=3), world_size=2, rank=rank)
group = patient_group()
if rank == 0:
    time.sleep(6)
distributed.barrier(group)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]) if rank == 0 else 0)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("data") / "data.zarr", load_config(SimulateConfig, None, SIMULATE))


def test_shares_of_a_batch_are_the_batch(data: Path) -> None:
    """Of particles and of tiles, augmentation included."""
    rows = np.arange(len(open_store(data)))
    augment = TrainConfig().augment
    parts = []
    for share in (Share(0, 1), Share(0, 2), Share(1, 2)):
        draws = next(iter(PlannedBatches(rows, 4, 0, first=3, count=1, share=share)))
        parts.append(SubtomogramDataset(data, augment, 0, tiles=2, share=share).__getitems__(draws))
    for whole, first, second in zip(*parts, strict=True):
        assert np.array_equal(whole, np.concatenate([first, second]))


def test_two_processes_train_as_one(data: Path, tmp_path: Path) -> None:
    """One update by one process, two by two, the last by one: against all by one."""
    config = load_config(TrainConfig, None, SETTINGS)
    alone = train(data, tmp_path / "alone", config)

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        train(data, tmp_path / "together", config, on_progress=stop)
    script = tmp_path / "script.py"
    script.write_text(STOPPED)
    command = [sys.executable, str(script), str(data), str(tmp_path / "together"), *SETTINGS, "devices=2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert "pulled the plug" in done.stderr
    assert "go on" not in done.stderr
    together = train(data, tmp_path / "together", config, resume=True)
    first, second = (pd.read_csv(io.StringIO((folder / "training.csv").read_text())) for folder in (alone, together))
    columns = [name for name in first if name.startswith("validation_")]
    assert len(first) == len(second) >= 4
    assert np.allclose(first[columns], second[columns], rtol=1e-3, atol=1e-4, equal_nan=True)
    weights = [load_file(folder / "weights.safetensors") for folder in (alone, together)]
    assert all(np.allclose(weights[0][name].float(), weights[1][name].float(), rtol=0.01, atol=1e-3) for name in weights[0])


@pytest.mark.parametrize("arrays", [{"mask", "density"}, {"mask"}])
@pytest.mark.parametrize("tasks", [("class",), ("class", "mask"), ("mask", "density"), ("class", "density"), ("mask",)])
def test_processes_are_told_of_weights_without_gradients(tasks: tuple[Task, ...], arrays: set[str]) -> None:
    """At the second update torch ends processes that wait for the gradients of other weights."""
    config = TrainConfig(devices=2, network=NetworkConfig(tasks=tasks, channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8))
    network, boxes = Network(config.network, 2), torch.rand(2, 16, 16, 16)
    truth = Truth(torch.tensor([0, 1]), (boxes > 0.5).float(), boxes if "density" in arrays else None)
    losses = task_losses(network(boxes), truth, config.loss)
    if losses:
        total_loss(losses).backward()
    idle = any(weight.grad is None for weight in network.parameters())
    module = SimpleNamespace(share=Share(0, 2), config=config, store=arrays)
    assert choose_strategy(module) == ("ddp_find_unused_parameters_true" if idle else "ddp")


def test_processes_wait_for_fresh_data_longer_than_torch_would(tmp_path: Path) -> None:
    """Torch waits for half an hour (here 3 s), one that simulates may take hours (6 s)."""
    command = [sys.executable, "-c", PATIENT, str(tmp_path / "meeting")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_batches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(InputError, match=r"multiple of devices x nodes \(3\)"):
        load_config(TrainConfig, None, ["devices=3"])
    with pytest.raises(InputError, match="set device=gpu, or devices=1"):
        load_config(TrainConfig, None, ["devices=2", "device=gpu:1"])
