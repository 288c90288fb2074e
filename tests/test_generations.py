"""Fresh data while training: which rows are trained on depends on the update alone, and a resumed run equals an undisturbed one."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from fake_predictions import fill_with_zeros
from safetensors.torch import load_file
from tiny import SIMULATE, TRAIN, die_while_refreshing, hashes, refuse_to_refresh, shuffle_labels

import triptych
from triptych.config import CutConfig, SimulateConfig, TrainConfig
from triptych.errors import InputError
from triptych.io.manifest import write_manifest
from triptych.io.store import Rows, create_store, open_store
from triptych.settings import load_config
from triptych.stages.simulate import simulate, simulate_again
from triptych.stages.train import train
from triptych.training.dataset import PlannedBatches, split_rows
from triptych.training.generations import fresh_seed

CONFIG = load_config(TrainConfig, None, [*TRAIN, "updates=6", "refresh_every=2", "refresh_workers=1"])
"""Generations 0, 1 and 2, two updates each."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = load_config(SimulateConfig, None, [*SIMULATE, "classes=[apoferritin, groel]"])
    return simulate(tmp_path_factory.mktemp("data") / "data.zarr", config)


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data, tmp_path_factory.mktemp("straight") / "model", CONFIG, refresh=shuffle_labels)


def weights(model: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(model / "weights.safetensors"))


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(tensor, weights(b)[name]) for name, tensor in weights(a).items())


def test_simulated_again_is_like_the_first_but_for_the_seed(data: Path, tmp_path: Path) -> None:
    fresh, old = open_store(simulate_again(data, tmp_path / "fresh.zarr", 7)), open_store(data)
    assert fresh.attributes["config"] == {**old.attributes["config"], "seed": 7}
    assert fresh.class_names == old.class_names
    assert not np.allclose(fresh["position"][:], old["position"][:])
    assert not np.allclose(fresh["defocus_um"][:], old["defocus_um"][:])
    same_again = simulate_again(data, tmp_path / "same.zarr", int(old.attributes["seed"]))
    assert hashes(same_again) == hashes(data)


def test_a_library_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the settings name it as it is called from the folder in which the store was simulated."""
    store = create_store(tmp_path / "a.zarr", Rows(4, 2), Rows(0, 0), 10.0, 16, ("x", "none"), {"config": {"structures": "library"}})
    fill_with_zeros(store)
    with monkeypatch.context() as there:
        there.chdir(tmp_path)
        write_manifest("a.zarr", "simulate", None, [], 0)
    module: Any = sys.modules["triptych.stages.simulate"]
    monkeypatch.setattr(module, "simulate", lambda _, config: config.structures)
    assert simulate_again(store.path, tmp_path / "b.zarr", 1) == tmp_path / "library"


def test_every_generation_has_a_seed_of_its_own(data: Path, tmp_path: Path) -> None:
    store = open_store(data)
    seeds = [fresh_seed(store, seed, number) for seed in range(5) for number in range(1, 5)]
    assert len(set(seeds)) == 20
    assert seeds == [fresh_seed(store, seed, number) for seed in range(5) for number in range(1, 5)]


def test_each_generation_begins_its_passes_anew() -> None:
    rows = np.arange(10)
    for start in (0, 7):
        drawn = [row for batch in PlannedBatches(rows, 5, 3, start, 2, start) for row, _ in batch]
        assert sorted(drawn) == list(rows)


def test_what_is_trained_on(data: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    module: Any = sys.modules["triptych.stages.train"]
    used: list[tuple[str, set[int]]] = []
    kept: list[set[str]] = []
    plain = module.SubtomogramDataset

    def record(path: Path, augment: object, *args: Any, **kwargs: Any) -> Any:
        if augment is not None:
            used.append((path.name, set()))
            kept.append({entry.name for entry in (tmp_path / "model.training" / "data").glob("*") if not entry.name.startswith(".")})
        else:
            assert path == data  # validation stays as it is
        return plain(path, augment, *args, **kwargs)

    class Batches(PlannedBatches):
        def row(self, draw: int) -> int:
            row = super().row(draw)
            used[-1][1].add(row)
            return row

    monkeypatch.setattr(module, "SubtomogramDataset", record)
    monkeypatch.setattr(module, "PlannedBatches", Batches)
    with caplog.at_level(logging.INFO, "triptych"):
        model = train(data, tmp_path / "model", CONFIG, refresh=shuffle_labels)
    assert same(model, straight)  # runs are repeatable
    assert [name for name, _ in used] == ["data.zarr", "data.zarr", "1.zarr", "1.zarr", "2.zarr", "2.zarr"]
    train_rows, held_out = split_rows(open_store(data), CONFIG.validation_share, CONFIG.validation_particles, CONFIG.seed)
    assert set.union(*(rows for name, rows in used if name == "data.zarr")) <= set(train_rows)
    assert len(set.union(*(rows for name, rows in used if name == "1.zarr")) & set(held_out)) > 0
    for name, entries in zip((name for name, _ in used), kept, strict=True):
        current = int(name[0]) if name != "data.zarr" else 0
        assert {f"{current}.zarr", f"{current}.cache"} <= entries or current == 0
        assert all(int(entry[0]) in (current, current + 1) for entry in entries)  # the one before is gone
    assert caplog.text.count("waited") == 2
    assert json.loads((model / "manifest.json").read_text())["generations"] == 3
    assert not (tmp_path / "model.training").exists()


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_resumed_run_with_fresh_data_equals_an_undisturbed_one(data: Path, straight: Path, stop: int, tmp_path: Path) -> None:
    def pull_the_plug(done: int, _: int) -> None:
        if done == stop:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        train(data, tmp_path / "model", CONFIG, on_progress=pull_the_plug, refresh=shuffle_labels)
    if stop == 4:  # what is missing is made again
        shutil.rmtree(tmp_path / "model.training" / "data")
    resumed = train(data, tmp_path / "model", CONFIG, resume=True, refresh=shuffle_labels)
    assert same(resumed, straight)


def test_fresh_data_change_what_is_learnt(data: Path, straight: Path, tmp_path: Path) -> None:
    assert not same(straight, train(data, tmp_path / "model", CONFIG.model_copy(update={"refresh_every": None})))


def test_package_simulates_the_fresh_data(data: Path, tmp_path: Path) -> None:
    """The whole of it: `triptych.train` needs nothing but the setting."""
    model = triptych.train(data, tmp_path / "model", load_config(TrainConfig, None, [*TRAIN, "refresh_every=1", "refresh_workers=1"]))
    assert json.loads((model / "manifest.json").read_text())["generations"] == 2


def test_faults_in_the_background_are_sentences(data: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"updates": 2000, "refresh_every": 1000})  # far from being needed
    with pytest.raises(InputError, match="the library is gone"):
        train(data, tmp_path / "a", config, refresh=refuse_to_refresh)
    with pytest.raises(InputError, match="fewer refresh_workers"):
        train(data, tmp_path / "b", CONFIG, refresh=die_while_refreshing)


def test_what_cannot_be_simulated_anew(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"call triptych\.train"):
        train(data, tmp_path / "model", CONFIG)
    foreign = tmp_path / "foreign.zarr"
    shutil.copytree(data, foreign)
    group = zarr.open_group(foreign, mode="r+")
    del group.attrs["config"]
    with pytest.raises(InputError, match="does not say how it was simulated"):
        train(foreign, tmp_path / "model", CONFIG, refresh=shuffle_labels)
    group.attrs["config"] = CutConfig().model_dump(mode="json")  # as of a store that was cut
    with pytest.raises(InputError, match="does not say how it was simulated"):
        train(foreign, tmp_path / "model", CONFIG, refresh=shuffle_labels)
    with pytest.raises(InputError, match="does not say how it was simulated"):
        simulate_again(foreign, tmp_path / "fresh.zarr", 1)
    assert not (tmp_path / "model.training").exists()


def test_refresh_falls_on_checkpoints() -> None:
    with pytest.raises(InputError, match=r"refresh_every is 300, but a multiple of updates_per_checkpoint \(200\) was expected"):
        load_config(TrainConfig, None, ["refresh_every=300", "updates_per_checkpoint=200"])
