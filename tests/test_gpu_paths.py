"""On a machine with a GPU: what computes there, and that all that belongs together is on it. The GPU is pretended."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from pretend_gpu import GPU, pretended_gpu

from triptych import device
from triptych.alignment.align import Alignment, align, average
from triptych.alignment.symmetry import correlate, half_group, prepare
from triptych.config import AlignConfig, LossConfig, NetworkConfig, SimulateConfig, TrainConfig
from triptych.device import choose_device, choose_precision, count_workers, memory_errors
from triptych.errors import InputError
from triptych.recognition.model import Model, ModelCard
from triptych.recognition.network import Network
from triptych.settings import load_config
from triptych.stages.simulate import simulate, simulate_rows
from triptych.stages.train import count_loaders, train
from triptych.training.losses import TileTruth, Truth, equalising_weights, task_losses, total_loss, uncertainty_loss
from triptych.training.requirements import check_devices

BOXES = np.random.default_rng(0).normal(size=(3, 16, 16, 16)).astype(np.float32)
EVERY_STEP = [
    "acquisition.smoothing={wiener: 1}",
    "acquisition.ctf_correction={deconvolve: 1}",
    "acquisition.dose_weighting=1",
    "acquisition.cosine_weighting=1",
    "specimen.cytosol_frequency=1",
]


def make_model(device: str, precision: str = "float32") -> Model:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8, spectrum="normalised", dropout=0.0)
    card = ModelCard(network, ("one", "two", "none"), voxel_size=10.0, box_size=16, contrast="bright", label_names=("one", "two"))
    return Model(Network(network, 3, 2), card, device, precision)


def test_what_is_pretended() -> None:
    with pretended_gpu():
        x = torch.ones(3, device=GPU)
        assert (2 * x + torch.tensor(1.0)).sum().device == GPU
        assert (x + 1).cpu().numpy().tolist() == [2, 2, 2]
        assert torch.poisson(x, generator=torch.Generator(GPU).manual_seed(0)).device == GPU
        generator = torch.Generator()
        mixed = (lambda: x + torch.ones(3), lambda: torch.ones(3)[x > 0], lambda: torch.poisson(x, generator=generator))
        for refused in (*mixed, lambda: torch.fft.fft(x.bfloat16())):
            with pytest.raises(RuntimeError):
                refused()
        with pytest.raises(TypeError):
            np.asarray(x)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_runs_on_the_gpu(precision: str) -> None:
    def run(model: Model) -> list[torch.Tensor]:
        found = model.predict(BOXES, 10.0, "bright")
        assert found.probabilities is not None
        return [*model.run(BOXES, half_turns=precision == "float32")[:4], *model.scan(BOXES), torch.from_numpy(found.probabilities)]  # type: ignore[list-item]

    with pretended_gpu():
        model = make_model("auto", precision)
        assert {part.device for part in model.network.state_dict().values()} == {GPU}
        on_gpu = run(model)
    for ours, theirs in zip(on_gpu, run(make_model("cpu", precision)), strict=True):
        torch.testing.assert_close(ours, theirs)


def descend(device: torch.device, truth_on: torch.device) -> list[torch.Tensor]:
    """The losses, and the weights after a step down each of the balances."""
    network = make_model("cpu").network.train().to(device)
    boxes, labels = torch.from_numpy(BOXES).to(device), torch.from_numpy((BOXES > 1).astype(np.int64) + (BOXES > 2))
    tiles = TileTruth(labels.to(truth_on), (labels[:, ::2, ::2, ::2] > 0).float().to(truth_on))
    truth = Truth(torch.tensor([0, 1, 0]).to(truth_on), (labels > 0).float().to(truth_on), torch.from_numpy(BOXES).to(truth_on), tiles)
    losses = task_losses(network(boxes, boxes), truth, LossConfig(contrastive_weight=1.0))
    balanced = total_loss(losses, equalising_weights(losses, network.shared_weight))
    loss = balanced + total_loss(losses) + uncertainty_loss(losses, torch.zeros(len(losses), device=device))
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return [part.detach().cpu() for part in (*losses.values(), *network.parameters())]


def test_a_network_learns_on_the_gpu() -> None:
    with pretended_gpu():
        on_gpu = descend(GPU, GPU)
        with pytest.raises(RuntimeError, match="same device"):
            descend(GPU, torch.device("cpu"))
    for ours, theirs in zip(on_gpu, descend(*[torch.device("cpu")] * 2), strict=True):
        torch.testing.assert_close(ours, theirs)


class Anywhere(CPUAccelerator):
    """Lightning's, which would not compute on what is no CPU."""

    def setup_device(self, device: torch.device) -> None:
        pass


@pytest.mark.filterwarnings("ignore:GPU available but not used", "ignore:'pin_memory' argument")
def test_simulate_and_train_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def make_trainer(**settings: Any) -> Trainer:
        asked.append(settings)
        return Trainer(**settings | {"accelerator": "auto", "devices": 1, "strategy": SingleDeviceStrategy(GPU, accelerator=Anywhere())})

    monkeypatch.setattr(sys.modules["triptych.stages.train"], "Trainer", make_trainer)
    with pretended_gpu():
        data = simulate(tmp_path / "data.zarr", load_config(SimulateConfig, None, tiny.SIMULATE))
        settings = load_config(TrainConfig, None, [*tiny.TRAIN, "precision=float32", "loss.balance=gradient"])
        model = train(data, tmp_path / "model", settings)
    assert (model / "weights.safetensors").is_file()
    assert (asked[0]["accelerator"], asked[0]["devices"]) == ("gpu", [0])


def test_a_tomogram_is_simulated_on_the_gpu() -> None:
    settings = [*tiny.SIMULATE, *EVERY_STEP]
    with pretended_gpu():
        on_gpu = simulate_rows(load_config(SimulateConfig, None, settings), 0)[0]
    on_cpu = simulate_rows(load_config(SimulateConfig, None, [*settings, "device=cpu"]), 0)[0]
    for name, values in on_cpu.items():  # the random numbers of a real GPU are others
        np.testing.assert_array_equal(on_gpu[name], values, err_msg=name)


def test_particles_are_aligned_on_the_gpu() -> None:
    config, wedges = AlignConfig(step=45, candidates=2), np.ones((3, 16, 16, 9), np.float32)
    reference, mask = BOXES[0], (np.abs(np.mgrid[:16, :16, :16] - 8).max(0) < 6).astype(np.float32)

    def find() -> list[np.ndarray]:
        poses = align(BOXES, reference, 10.0, config, wedges=wedges, mask=mask)
        refined: Alignment = align(BOXES, reference, 10.0, config, start=poses)
        turns = correlate(prepare(reference, 10.0, 30.0, config), half_group("C3")[0])
        return [*poses, *refined, *average(BOXES, refined, 10.0, wedges, config), turns]

    with pretended_gpu():
        on_gpu = find()
    for ours, theirs in zip(on_gpu, find(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---------------------------------------------------------------------------------------------------- which GPU, and how


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Tesla V100 (compute capability 7.0) and an A100 (8.0), as NVIDIA's tables list them; of 24 GiB each."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    capability = {0: (7, 0), torch.device("cuda", 0): (7, 0), 1: (8, 0), torch.device("cuda", 1): (8, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * 2**30))


@pytest.mark.usefixtures("two_gpus")
def test_only_newer_gpus_have_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # as torch says of all, since older ones imitate it
    assert [choose_precision("auto", torch.device("cuda", number)) for number in (0, 1)] == [torch.float32, torch.bfloat16]
    assert choose_precision("bfloat16", torch.device("cuda", 0)) is torch.bfloat16


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_torch_has_no_code_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "sm_120", "compute_120"])
    assert [str(choose_device(name)) for name in ("auto", "gpu", "gpu:1")] == ["cuda:1"] * 3
    with pytest.raises(InputError, match="no code for GPUs of that age"):
        choose_device("gpu:0")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_60", "sm_70"])  # older than the second one
    assert choose_device("auto") == GPU
    with pytest.raises(InputError, match="no code for GPUs of that age"):
        choose_device("gpu:1")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "compute_70"])  # which the driver compiles for newer ones
    assert choose_device("gpu:1") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx90a", "gfx1100"])  # of AMD
    assert choose_device("auto") == GPU


@pytest.mark.usefixtures("two_gpus")
def test_processes_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_cores", lambda: 64)
    assert [count_workers(workers, "gpu") for workers in (0, 1, 20)] == [8, 1, 20]
    monkeypatch.setattr(device, "available_cores", lambda: 4)
    assert [count_workers(0, name) for name in ("gpu", "cpu")] == [4, 0]


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_has_more_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["triptych.stages.train"], "available_cores", lambda: 12)
    settings = (TrainConfig(device="cpu"), TrainConfig(), TrainConfig(devices=2), TrainConfig(loader_workers=0))
    assert [count_loaders(config) for config in settings] == [1, 8, 6, 0]


@pytest.mark.usefixtures("two_gpus")
def test_more_gpus_than_there_are() -> None:
    check_devices(TrainConfig(devices=2))
    check_devices(TrainConfig(devices=4, device="cpu"))
    with pytest.raises(InputError, match="devices is 4, but torch sees 2 GPUs: set devices=2"):
        check_devices(TrainConfig(devices=4))


def test_too_little_memory_is_said() -> None:
    with pytest.raises(InputError, match="memory of the GPU is too small for this"), memory_errors():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
