"""The network's contract, and the model folder: what is saved is what is loaded, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from triptych.config import LossConfig, NetworkConfig, PredictConfig, TrainConfig
from triptych.device import choose_device
from triptych.errors import InputError
from triptych.recognition.model import Model, ModelCard, load_model
from triptych.recognition.network import HALF_TURNS, Network, PickOutput, depth_to_space, frequencies, normalise_spectrum, space_to_depth, turn
from triptych.recognition.temperature import Temperature
from triptych.training.losses import (
    TileTruth,
    Truth,
    coarse_labels,
    density_loss,
    equalising_weights,
    mask_loss,
    pick_loss,
    task_losses,
    total_loss,
    uncertainty_loss,
)
from triptych.volume import Volume

SMALL = NetworkConfig(channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8)
NAMES = ("one", "two", "none")


def small_model(config: NetworkConfig = SMALL, box_size: int = 16) -> Model:
    torch.manual_seed(0)
    card = ModelCard(config, NAMES, voxel_size=10.0, box_size=box_size, contrast="bright", temperature=Temperature(1.5))
    return Model(Network(config, len(NAMES)), card, device="cpu", precision="float32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_model().save(tmp_path / "model", TrainConfig(), [], seed=0)


@pytest.mark.parametrize("box", [16, 24, 40])
def test_any_box_that_divides_by_eight(box: int) -> None:
    out = Network(SMALL, 3).eval()(torch.randn(2, box, box, box))
    assert out.class_logits.shape == (2, 3)
    assert out.mask_logits.shape == out.density.shape == (2, box, box, box)
    assert out.embedding.shape == (2, 8)


@pytest.mark.parametrize("tasks", [("class",), ("mask",), ("density",), ("class", "mask"), ("mask", "density")])
def test_a_task_that_is_off_is_none_and_costs_nothing(tasks: tuple[str, ...]) -> None:
    network = Network(NetworkConfig(**{**SMALL.model_dump(), "tasks": tasks}), 3)
    out = network(torch.randn(2, 16, 16, 16))
    given = {"class": out.class_logits, "mask": out.mask_logits, "density": out.density}
    assert {name for name, value in given.items() if value is not None} == set(tasks)
    truth = Truth(torch.zeros(2, dtype=torch.long), torch.zeros(2, 16, 16, 16), torch.zeros(2, 16, 16, 16))
    losses = task_losses(out, truth, LossConfig())
    assert set(losses) == set(tasks)
    total_loss(losses).backward()
    if tasks == ("class",):
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_tiles_beside_particles_change_nothing_and_are_seen_as_alone() -> None:
    config = NetworkConfig(**{**SMALL.model_dump(), "tasks": ("class", "mask", "density", "pick")})
    network = Network(config, 3, labels=5).eval()
    boxes, tiles = torch.randn(2, 16, 16, 16), torch.randn(3, 16, 16, 16)
    together, alone, scan = network(boxes, tiles), network(boxes), network.scan(tiles)
    assert alone.pick is None
    for a, b in zip(together[:4], alone[:4], strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert together.pick is not None
    for a, b in zip(together.pick, scan, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert scan.foreground_logits.shape == (3, 16, 16, 16)
    assert scan.label_logits.shape == (3, 5, 8, 8, 8)
    assert scan.centre_logits.shape == (3, 8, 8, 8)


def test_no_place_of_a_tile_is_special() -> None:
    """Away from the border, a shifted tile gives shifted maps."""
    network = Network(NetworkConfig(**{**SMALL.model_dump(), "tasks": ("pick",)}), 3, labels=2).eval()
    tile = torch.zeros(1, 80, 80, 80)
    tile[:, 30:40, 34:46, 38:44] = torch.randn(10, 12, 6)
    out, shifted = network.scan(tile), network.scan(torch.roll(tile, (8, 8, 8), (1, 2, 3)))
    inside = slice(28, 60)
    moved = torch.roll(out.foreground_logits, (8, 8, 8), (1, 2, 3))
    assert torch.allclose(moved[:, inside, inside, inside], shifted.foreground_logits[:, inside, inside, inside], atol=1e-4)


def test_scanning_in_four_orientations_does_not_depend_on_the_first() -> None:
    model = small_model(NetworkConfig(**{**SMALL.model_dump(), "tasks": ("class", "mask", "pick")}))
    tile = np.random.default_rng(0).normal(size=(1, 16, 24, 32)).astype(np.float32)
    out = model.scan(tile, half_turns=True)
    for axes in HALF_TURNS:
        turned = model.scan(np.flip(tile, axes), half_turns=True)
        for a, b in zip(out, turned, strict=True):
            torch.testing.assert_close(a, b.flip(axes), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(out.foreground_logits, model.scan(tile).foreground_logits, atol=1e-3)


def test_loss_of_picking_is_least_for_the_truth() -> None:
    torch.manual_seed(0)
    labels = torch.zeros(2, 8, 8, 8, dtype=torch.long)
    labels[0, 2:4, 2:6, 2:6], labels[1, :2, :2, :2] = 2, 1
    heat = torch.zeros(2, 4, 4, 4)
    heat[0, 1, 2, 2] = 1
    right = F.one_hot(coarse_labels(labels).clamp_min(1) - 1, 3).movedim(-1, 1) * 20.0
    perfect = PickOutput((labels > 0) * 40.0 - 20, right, heat * 40 - 20)
    truth = TileTruth(labels, heat)
    assert float(pick_loss(perfect, truth)) < 1e-3
    for field in range(3):
        worse = PickOutput._make(torch.randn_like(part) if i == field else part for i, part in enumerate(perfect))
        assert float(pick_loss(worse, truth)) > 0.1
    empty = TileTruth(torch.zeros_like(labels), torch.zeros_like(heat))
    assert torch.isfinite(pick_loss(perfect, empty))


def test_balanced_losses() -> None:
    shared = torch.tensor([1.0, 2.0], requires_grad=True)
    losses = {"class": (3 * shared).sum(), "mask": (shared * torch.tensor([1.0, -1.0])).sum()}
    weights = equalising_weights(losses, shared)
    norms = [torch.autograd.grad(w * loss, shared, retain_graph=True)[0].norm() for w, loss in zip(weights, losses.values(), strict=True)]
    assert float(norms[0]) == pytest.approx(float(norms[1]))
    assert float(weights.mean()) == pytest.approx(1)
    # The learned weights come to rest at 1 / (2 L).
    fixed = {"class": torch.tensor(0.3), "mask": torch.tensor(2.0)}
    s = torch.log(2 * torch.tensor([0.3, 2.0])).requires_grad_()
    (gradient,) = torch.autograd.grad(uncertainty_loss(fixed, s), s)
    assert float(gradient.abs().max()) < 1e-6


def test_space_to_depth_and_back() -> None:
    x = torch.randn(2, 3, 4, 6, 8)
    assert torch.equal(depth_to_space(space_to_depth(x)), x)


@pytest.mark.parametrize("size", [(40, 40, 40), (48, 64, 32)])
def test_a_normalised_spectrum_is_the_same_whatever_filter_came_before(size: tuple[int, int, int]) -> None:
    boxes = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    radius = torch.sqrt(sum(torch.fft.fftfreq(n).reshape([-1 if i == axis else 1 for i in range(3)]) ** 2 for axis, n in enumerate(size)))
    filtered = torch.fft.ifftn(torch.fft.fftn(boxes, dim=(1, 2, 3)) * (0.1 + torch.exp(-10 * radius)), dim=(1, 2, 3)).real
    flat, again = normalise_spectrum(boxes), normalise_spectrum(7 * filtered + 3)
    assert F.mse_loss(flat, again) < 0.02  # of a variance of 1; before, most differs:
    assert F.mse_loss(boxes, filtered / filtered.std()) > 0.1
    torch.testing.assert_close(flat.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std((1, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)
    power = torch.fft.fftn(flat, dim=(1, 2, 3)).abs().square().mean(0)
    coarse, fine = (power[(radius > low) & (radius < high)].mean() for low, high in ((0.08, 0.12), (0.38, 0.42)))
    assert coarse / fine == pytest.approx(4 * np.exp(-25 * (0.1**2 - 0.4**2)), rel=0.15)


@pytest.mark.parametrize(("spectrum", "particles", "tiles"), [("normalised", True, True), ("particles", True, False), ("kept", False, False)])
def test_which_boxes_are_normalised(spectrum: str, particles: bool, tiles: bool) -> None:
    """What is normalised looks the same at any scale."""
    config = NetworkConfig(**{**SMALL.model_dump(), "tasks": ("class", "mask", "pick"), "spectrum": spectrum})
    network = Network(config, 3, labels=2).eval()
    boxes = torch.randn(2, 16, 16, 16)
    out, scaled = network(boxes, boxes), network(3 * boxes, 3 * boxes)
    assert torch.allclose(out.embedding, scaled.embedding, atol=1e-4) == particles
    assert torch.allclose(out.pick.foreground_logits, scaled.pick.foreground_logits, atol=1e-4) == tiles


def test_an_export_leaves_the_model_as_it_was() -> None:
    boxes = torch.randn(2, 32, 32, 32)
    model = small_model(box_size=32)
    torch.export.export(model.network, (boxes,))
    assert model.predict(boxes.numpy(), 10.0).classes == small_model(box_size=32).predict(boxes.numpy(), 10.0).classes
    torch.export.export(model.network, (boxes,))


@pytest.mark.parametrize("count", [8, 15, 24, 40, 41, 48, 64, 100])
def test_frequencies_are_those_of_torch(count: int) -> None:
    assert torch.equal(frequencies(count), torch.fft.fftfreq(count))
    assert torch.equal(frequencies(count)[: count // 2 + 1].abs(), torch.fft.rfftfreq(count))


def test_an_exported_network_takes_any_number_of_boxes(tmp_path: Path) -> None:
    module = small_model(NetworkConfig(**{**SMALL.model_dump(), "tasks": ("class", "mask")})).exportable()
    boxes = {"subtomograms": {0: torch.export.Dim("boxes")}}
    program = torch.export.export(module, (torch.randn(3, 16, 16, 16),), dynamic_shapes=boxes)
    assert "fftfreq" not in str(program.graph)  # which ONNX lacks
    torch.export.save(program, tmp_path / "network.pt2")
    again = torch.export.load(tmp_path / "network.pt2").module()
    for count in (1, 5):
        x = torch.randn(count, 16, 16, 16)
        out, expected = again(x), module(x)
        assert list(out) == ["class_logits", "mask_logits", "embedding"]
        assert all(torch.equal(out[name], expected[name]) for name in expected)


def test_normalising_keeps_half_turns_and_brings_nothing_back() -> None:
    boxes = torch.randn(1, 24, 24, 24, generator=torch.Generator().manual_seed(1))
    for axes in HALF_TURNS:
        torch.testing.assert_close(normalise_spectrum(turn(boxes, axes)), turn(normalise_spectrum(boxes), axes), atol=1e-4, rtol=0)
    assert not normalise_spectrum(torch.zeros(1, 16, 16, 16)).any()  # as a box of a single value is standardised
    waves = torch.fft.fftn(boxes[0])
    frequency = torch.fft.fftfreq(24).abs()
    waves[torch.meshgrid([frequency > 0.2] * 3, indexing="ij")[0]] = 0  # as a filter leaves it
    rest = torch.fft.fftn(normalise_spectrum(torch.fft.ifftn(waves).real[None])[0])[frequency > 0.2]
    assert rest.abs().max() < 1e-2 * waves.abs().max()


@pytest.mark.parametrize("axes", HALF_TURNS)
def test_half_turns_keep_the_centre_and_undo_themselves(axes: tuple[int, ...]) -> None:
    x = torch.randn(1, 8, 8, 8)
    assert torch.equal(turn(turn(x, axes), axes), x)
    assert turn(x, axes)[0, 4, 4, 4] == x[0, 4, 4, 4]


def test_losses_know_perfect_from_wrong() -> None:
    mask = (torch.rand(2, 8, 8, 8) > 0.7).float()
    assert float(mask_loss(40 * (mask - 0.5), mask)) < 0.01 < float(mask_loss(-40 * (mask - 0.5), mask))
    density = torch.rand(2, 8, 8, 8)
    assert float(density_loss(density, density)) < 1e-4
    assert float(density_loss(-density, density)) > 1.9


def test_a_batch_without_any_density_weighs_no_more_than_others() -> None:
    z, y, x = torch.meshgrid([torch.arange(16.0) - 8] * 3, indexing="ij")
    truth = torch.exp(-(x**2 + y**2 + z**2) / 8).expand(4, -1, -1, -1)
    gradients = []
    for given in (truth, torch.zeros_like(truth)):
        density = (0.5 * truth).requires_grad_()
        gradients.append(torch.autograd.grad(density_loss(density, given), density)[0].norm())
    assert 0 < gradients[1] < 3 * gradients[0]


def test_folder_gives_the_same_model(folder: Path) -> None:
    volumes = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32)
    loaded = load_model(folder, device="cpu", precision="float32")
    a, b = small_model().predict(volumes, 10.0), loaded.predict(volumes, 10.0)
    assert loaded.card == small_model().card
    assert a.probabilities is not None
    assert b.probabilities is not None
    assert np.allclose(a.probabilities, b.probabilities, atol=2e-3)  # weights are kept in half precision
    assert np.allclose(b.probabilities.sum(1), 1, atol=1e-5)
    assert b.classes[0] in NAMES


def test_maps_come_back_in_the_frame_of_the_input() -> None:
    result = small_model().predict(Volume(np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32), 12.0))
    assert result.masks is not None
    assert result.densities is not None
    assert result.masks[0].shape == result.densities[0].shape == (20, 20, 20)
    assert 0 <= result.masks[0].min() <= result.masks[0].max() <= 1


def test_contrast_sign_is_applied() -> None:
    volume = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    bright, dark = small_model().predict(volume, 10.0, "bright"), small_model().predict(-volume, 10.0, "dark")
    assert np.allclose(bright.embedding, dark.embedding, atol=1e-5)


def test_array_without_voxel_size_is_refused() -> None:
    with pytest.raises(InputError, match="voxel_size"):
        small_model().predict(np.zeros((1, 16, 16, 16), np.float32))
    with pytest.raises(InputError, match="voxel_size"):
        small_model().predict([np.zeros((16, 16, 16), np.float32)])


def test_a_network_in_training_is_neither_used_so_nor_changed() -> None:
    volumes, model = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32), small_model()
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    model.network.train()
    assert np.array_equal(model.predict(volumes, 10.0).embedding, small_model().predict(volumes, 10.0).embedding)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())


def test_a_new_head_needs_a_card_with_its_names(tmp_path: Path) -> None:
    volumes, model = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32), small_model()
    model.network.classify[-1] = torch.nn.Linear(8, 2)
    with pytest.raises(InputError, match=r"has 2 classes, but its card names 3: .* make a model anew"):
        model.predict(volumes, 10.0)
    with pytest.raises(InputError, match=r"classify.2.bias of the shape \(2,\), but its card \(3,\)"):
        model.save(tmp_path / "model", None, [])
    assert not list(tmp_path.iterdir())
    card = replace(model.card, class_names=("new", "none"), class_shares=(), temperature=Temperature())
    load_model(Model(model.network, card, "cpu").save(tmp_path / "model", None, [])).predict(volumes, 10.0)


def test_arrays_in_a_list_may_differ_in_size() -> None:
    arrays = [np.random.default_rng(n).normal(size=(n, n, n)).astype(np.float32) for n in (16, 20)]
    found = small_model().predict(arrays, 10.0)
    assert found.masks is not None
    assert [mask.shape for mask in found.masks] == [array.shape for array in arrays]
    assert np.allclose(found.embedding[1], small_model().predict(Volume(arrays[1], 10.0)).embedding[0], atol=1e-5)
    by_ones = small_model().predict(arrays, 10.0, batch_size=1)
    for name in ("probabilities", "embedding", "masks", "densities"):
        for one, all_at_once in zip(getattr(by_ones, name), getattr(found, name), strict=True):
            np.testing.assert_allclose(one, all_at_once, atol=1e-5)
    assert by_ones.class_names == found.class_names
    assert by_ones.novelty_by_class is None
    with pytest.raises(InputError, match="batch_size is 0"):
        small_model().predict(arrays, 10.0, batch_size=0)


CUBE = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("volumes", "options", "said"),
    [
        (CUBE, {"voxel_size": 100.0}, "volume 0 has 100 Å per voxel, but the model was trained at 10 Å"),
        (CUBE, {"voxel_size": "10"}, "voxel_size is '10', but must be a number"),
        (CUBE, {"voxel_size": 10.0, "batch_size": 1.5}, "batch_size is 1.5, but must be a whole number"),
        (CUBE[:, :, :0], {"voxel_size": 10.0}, "16 x 0 x 16 voxels holds nothing"),
        (CUBE.astype(np.complex64), {"voxel_size": 10.0}, "type complex64 came, but arrays of real numbers"),
        ("particle.mrc", {"voxel_size": 10.0}, "read a file with triptych.io.mrc.read_mrc"),
        (Path("particle.mrc"), {"voxel_size": 10.0}, "read a file with triptych.io.mrc.read_mrc"),
        (["particle.mrc"], {"voxel_size": 10.0}, "read a file with triptych.io.mrc.read_mrc"),
        ([], {}, "no volumes came"),
    ],
)
def test_what_cannot_be_predicted_on_is_refused(volumes: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        small_model().predict(volumes, **options)


def test_voxels_too_coarse_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    small_model().predict([Volume(CUBE[0], size) for size in (10.0, 17.0, 16.0)])
    assert [record.message[:28] for record in caplog.records if "per voxel" in record.message] == ["volume 1 has 17 Å per voxel,"]


@pytest.mark.parametrize("option", ["device", "precision"])
def test_strange_devices_and_precisions_are_refused(folder: Path, option: str) -> None:
    with pytest.raises(InputError, match=f"{option} is 'banana', but must be one of auto, "):
        load_model(folder, **{option: "banana"})


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "manifest.json"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_altered_file(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match="altered"):
        load_model(folder)


def test_manifest_without_hashes_and_foreign_model(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {}}))
    with pytest.raises(InputError, match="hashes"):
        load_model(folder)
    with pytest.raises(InputError, match="not a complete model folder"):
        load_model(folder.parent)


def test_a_gpu_is_chosen_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (9, 0))
    assert [str(choose_device(device)) for device in ("auto", "gpu", "gpu:1", "cpu")] == ["cuda:0", "cuda:0", "cuda:1", "cpu"]
    with pytest.raises(InputError, match="torch sees 2 GPUs, numbered from 0"):
        choose_device("gpu:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match="sees no CUDA GPU"):
        choose_device("gpu:1")
    with pytest.raises(ValidationError, match=r"device is .gpu1., but must be one of"):
        PredictConfig(device="gpu1")
