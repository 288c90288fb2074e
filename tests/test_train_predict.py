"""Dataset, training, resumption and prediction on tiny data, as the command line calls them."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import SIMULATE, TRAIN, write_model, write_mrc, write_particles

from triptych.config import AugmentConfig, CalibrateConfig, PredictConfig, SimulateConfig, TrainConfig
from triptych.errors import InputError
from triptych.fourier import scramble_phases
from triptych.io.mrc import read_mrc
from triptych.io.particle_source import ParticleSource
from triptych.io.predictions import open_input, read_predictions
from triptych.io.source import open_particles
from triptych.io.star import probability_columns, read_star
from triptych.io.store import Rows, create_store, open_store
from triptych.recognition.initial_weights import initial_maps, load_initial
from triptych.recognition.model import load_model, locate_model
from triptych.recognition.network import HALF_TURNS, Network, turn
from triptych.settings import load_config
from triptych.stages.calibrate import calibrate
from triptych.stages.predict import predict
from triptych.stages.simulate import simulate
from triptych.stages.train import train
from triptych.training.dataset import PlannedBatches, SubtomogramDataset, centre_heat, find_slab, split_rows, tile_rows
from triptych.training.requirements import check_tasks
from triptych.transfer import CtfTransfers


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("data") / "data.zarr", load_config(SimulateConfig, None, SIMULATE))


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data, tmp_path_factory.mktemp("model") / "model", load_config(TrainConfig, None, TRAIN))


# ------------------------------------------------------------------------------------------------------------- dataset


def test_split_holds_out_whole_tomograms(data: Path) -> None:
    store = open_store(data)
    train_rows, held_out = split_rows(store, 0.3, 100, 0)
    tomogram = store["tomogram"][:]
    assert set(train_rows) | set(held_out) == set(range(len(store)))
    assert not set(tomogram[train_rows]) & set(tomogram[held_out])


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_of_simulated_tomograms_whole_ones_are_held_out_however_few(data: Path, share: float) -> None:
    """On this very split rest published figures: the first tomograms of the permutation that the seed draws, and their rows in their order."""
    store = open_store(data)
    tomogram = store["tomogram"][:]
    assert find_slab(store, share, 7) is None
    train_rows, held_out = split_rows(store, share, 3, 7)
    chosen = np.random.default_rng((7, 1)).permutation(3)[: 2 if share == 0.5 else 1]
    is_held_out = np.isin(tomogram, chosen)
    assert train_rows.tolist() == np.flatnonzero(~is_held_out).tolist()
    assert held_out.tolist() == sorted(np.random.default_rng((7, 4)).permutation(np.flatnonzero(is_held_out))[:3])
    own = store["tiles/tomogram"][:]
    assert tile_rows(store, train_rows, None).tolist() == np.flatnonzero(~np.isin(own, chosen)).tolist()


def test_batches_go_on_where_they_stopped() -> None:
    rows = np.arange(100, 110)
    whole = list(PlannedBatches(rows, 4, 7, 0, 10))
    assert [*PlannedBatches(rows, 4, 7, 0, 6), *PlannedBatches(rows, 4, 7, 6, 4)] == whole
    first_pass = [row for batch in whole for row, _ in batch][:10]
    assert sorted(first_pass) == list(rows)
    assert whole != list(PlannedBatches(rows, 4, 8, 0, 10))


def test_augmentation_depends_on_the_draw_alone(data: Path) -> None:
    a = SubtomogramDataset(data, AugmentConfig(), 0).__getitems__([(1, 5), (2, 6)])
    b = SubtomogramDataset(data, AugmentConfig(), 0)[(2, 6)]
    c = SubtomogramDataset(data, AugmentConfig(), 0)[(2, 7)]
    assert torch.equal(a.subtomogram[1], b.subtomogram[0])
    assert not torch.equal(b.subtomogram, c.subtomogram)
    assert a.subtomogram.mean((1, 2, 3)).abs().max() < 1e-5
    assert torch.allclose(a.subtomogram.std((1, 2, 3)), torch.ones(2), atol=1e-3)


def test_unpacked_copy_gives_the_same_batches(data: Path, tmp_path: Path) -> None:
    draws = [(row, row) for row in range(12)]
    plain = SubtomogramDataset(data, AugmentConfig(), 0, tiles=3)
    cached = SubtomogramDataset(data, AugmentConfig(), 0, cache=tmp_path / "cache", tiles=3)
    for a, b in zip(plain.__getitems__(draws), cached.__getitems__(draws), strict=True):
        assert torch.equal(a, b)


def test_signal_stays_with_its_truth_under_half_turns(data: Path) -> None:
    quiet = AugmentConfig(snr=(1e4, 1e4), low_pass_share=0, high_pass_share=0, padding_share=0, inverted_share=0, scrambled_share=0)
    store = open_store(data)
    rows = [int(row) for row in np.flatnonzero(store["mask"][:].any((1, 2, 3)))]
    plain = SubtomogramDataset(data, quiet.model_copy(update={"half_turns": False}), 0).__getitems__([(row, 0) for row in rows])
    turned = SubtomogramDataset(data, quiet, 0).__getitems__([(row, 3) for row in rows])
    before, after = (
        [float(torch.corrcoef(torch.stack([x.flatten(), d.flatten()]))[0, 1]) for x, d in zip(batch.subtomogram, batch.density, strict=True)]
        for batch in (plain, turned)
    )
    assert after == pytest.approx(before, abs=0.05)


def test_noise_keeps_the_missing_wedge_of_the_signal(tmp_path: Path) -> None:
    """Of tilts from -19 to 59 degrees a half turn about x or z makes -59 to 19, and would fill the wedge of a signal that stays."""
    uneven = ["box_size=32", "specimen.shape=[48, 96, 96]", "tile_share=0", "particles=8"]
    tilts = ["acquisition.tilt_max=[40, 40]", "acquisition.tilt_centre=[20, 20]", "acquisition.tilt_jitter=[0, 0]"]
    data = simulate(tmp_path / "data.zarr", load_config(SimulateConfig, None, [*SIMULATE, *uneven, *tilts]))
    dataset, rows = SubtomogramDataset(data, AugmentConfig(), 0), np.arange(8)
    kz, kx = np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)
    angle, radius = np.degrees(np.arctan2(kz, kx)), np.hypot(kz, kx)
    missing = ((angle > 70) | (angle < -30)) & (radius > 0.15) & (radius < 0.4)
    measured = (angle > -10) & (angle < 50) & (radius > 0.15) & (radius < 0.4)
    window = np.hanning(32)  # lest the walls of the box smear the wedge
    window = window[:, None, None] * window[:, None] * window

    def share_in_wedge(boxes: np.ndarray) -> float:
        power = np.square(np.abs(np.fft.rfftn(boxes * window, axes=(1, 2, 3)))).sum((0, 2))
        return float(power[missing].mean() / power[measured].mean())

    assert dataset.store["tilt_min"][0] == pytest.approx(-19)
    assert share_in_wedge(open_store(data)["subtomogram"][:].astype(np.float32)) < 0.005
    for draw in range(3):
        assert share_in_wedge(dataset._mixed(rows, [np.random.default_rng((draw, int(row))) for row in rows])) < 0.005


def test_tiles_keep_their_labels_and_centres(data: Path) -> None:
    store = open_store(data)
    quiet = AugmentConfig(snr=(1e4, 1e4), low_pass_share=0, fall_off_share=0, high_pass_share=0)
    batch = SubtomogramDataset(data, quiet, 0, tiles=6, tile_rows=np.array([1])).__getitems__([(0, 0)])
    assert batch.tile is not None
    assert batch.tile_labels is not None
    assert batch.tile_heat is not None
    signal = torch.from_numpy(store["tiles/signal"][1].astype(np.float32))
    labels = torch.from_numpy(store["tiles/labels"][1].astype(np.int64))
    turns = [(turn(signal, axes), turn(labels, axes)) for axes in HALF_TURNS]
    chosen = set()
    for tile, seen in zip(batch.tile, batch.tile_labels, strict=True):
        correlation = [float(torch.corrcoef(torch.stack([tile.flatten(), turned.flatten()]))[0, 1]) for turned, _ in turns]
        best = int(np.argmax(correlation))
        assert correlation[best] > 0.99
        assert torch.equal(seen, turns[best][1])
        chosen.add(best)
    assert len(chosen) > 1
    assert batch.tile_heat.shape == (6, 8, 8, 8)


def test_heat_is_one_at_a_centre_and_falls_off() -> None:
    centres = np.zeros((8, 8, 8), np.float32)
    centres[4, 3, 1] = 1
    heat = centre_heat(centres)
    assert heat[2, 1, 0] == 1
    assert heat[2, 1, 1] == heat[2, 0, 0] == pytest.approx(np.exp(-0.5))
    assert (centre_heat(np.zeros((8, 8, 8), np.float32)) == 0).all()


def test_held_out_tomograms_lend_no_tiles(data: Path) -> None:
    store = open_store(data)
    train_rows, held_out = split_rows(store, 0.3, 100, 0)
    ours, theirs = tile_rows(store, train_rows), tile_rows(store, held_out)
    assert not set(ours) & set(theirs)
    assert len(ours) + len(theirs) == store["tiles/labels"].shape[0]


def test_held_out_tomograms_without_a_tile_are_refused_at_once(tmp_path: Path) -> None:
    """The last tomogram may have a single particle, for which there is no tile."""
    data = simulate(tmp_path / "data.zarr", load_config(SimulateConfig, None, [*SIMULATE, "particles=5"]))
    store = open_store(data)
    seed = next(seed for seed in range(50) if not len(tile_rows(store, split_rows(store, 0.05, 4, seed)[1])))
    with pytest.raises(InputError, match=r"1 tile of .* and 0 to validate with"):
        train(data, tmp_path / "model", load_config(TrainConfig, None, [*TRAIN, f"seed={seed}"]))
    assert not (tmp_path / "model.training").exists()


def test_picking_is_learned_from_scratch_and_from_a_model_without_it(data: Path, model: Path, tmp_path: Path) -> None:
    tasks = ["network.tasks=[class, mask, density, pick]", "tiles_per_batch=2"]
    for name, more in (("fresh", []), ("grown", [f"initial_model={model}"])):
        folder = train(data, tmp_path / name, load_config(TrainConfig, None, [*TRAIN, *tasks, *more]))
        card = load_model(folder).card
        assert card.label_names == open_store(data).label_names
        figures = json.loads((folder / "manifest.json").read_text())["validation"]
        assert 0 <= figures["tile_iou"] <= 1
        assert 0 <= figures["label_accuracy"] <= 1
    plain = simulate(tmp_path / "plain.zarr", load_config(SimulateConfig, None, [*SIMULATE, "tile_share=0"]))
    with pytest.raises(InputError, match="tile_share above 0"):
        train(plain, tmp_path / "none", load_config(TrainConfig, None, [*TRAIN, *tasks]))


def test_inverted_and_scrambled_copies_are_none(data: Path) -> None:
    for share in ("inverted_share", "scrambled_share"):
        always = AugmentConfig(**{"inverted_share": 0, "scrambled_share": 0, share: 1})
        batch = SubtomogramDataset(data, always, 0).__getitems__([(row, row) for row in range(8)])
        assert (batch.label == len(open_store(data).class_names) - 1).all()
        assert not batch.mask.any()
        assert not batch.density.any()


def test_scrambled_phases_keep_the_power_spectrum() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(16, 16, 16)).astype(np.float32)
    other = scramble_phases(data, rng)
    assert np.allclose(np.abs(np.fft.rfftn(other)), np.abs(np.fft.rfftn(data)), rtol=0.05, atol=0.5)
    assert abs(np.corrcoef(other.ravel(), data.ravel())[0, 1]) < 0.1


# ------------------------------------------------------------------------------------------------------------ training


def test_model_folder_is_complete(model: Path) -> None:
    assert {"weights.safetensors", "model.json", "novelty.safetensors", "manifest.json", "training.csv"} == {path.name for path in model.iterdir()}
    figures, log = json.loads((model / "manifest.json").read_text())["validation"], pd.read_csv(model / "training.csv")
    assert figures["particles"] == 4
    plain = log["validation_calibration_error"].dropna().iloc[-1]  # before the temperature that is fitted to these particles
    assert figures["calibration_error_before_temperature"] == pytest.approx(plain, rel=1e-5)
    shares = load_model(model).card.class_shares
    assert sum(shares) == pytest.approx(1)
    assert shares[-1] > 0.05  # some are turned into "none"
    assert not list(model.parent.glob("*.training"))


def test_resumed_run_equals_an_undisturbed_one(data: Path, tmp_path: Path) -> None:
    config = load_config(TrainConfig, None, [*TRAIN, "updates=4", "network.dropout=0.3"])
    straight = train(data, tmp_path / "straight", config)

    def stop_after_three(done: int, _: int) -> None:
        if done == 3:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        train(data, tmp_path / "stopped", config, on_progress=stop_after_three)
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(InputError, match="--resume"):
        train(data, tmp_path / "stopped", config)
    with pytest.raises(InputError, match=r"another config\.seed: resume"):
        train(data, tmp_path / "stopped", config.model_copy(update={"seed": 1}), resume=True)
    done: list[int] = []
    resumed = train(data, tmp_path / "stopped", config, resume=True, on_progress=lambda n, _: done.append(n))
    assert done[0] >= 2  # did not begin anew
    a, b = (load_file(folder / "weights.safetensors") for folder in (straight, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_full_disk_at_the_start_leaves_no_run_that_cannot_go_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_disk(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    config = load_config(TrainConfig, None, [*TRAIN, "network.tasks=[class]"])
    monkeypatch.setattr(Path, "write_text", fill_disk)
    with pytest.raises(InputError, match="No space left"):
        train(data, tmp_path / "model", config)
    assert not list(tmp_path.iterdir())


def test_a_seed_may_have_any_size(data: Path, tmp_path: Path) -> None:
    """The date and time, say, of whose products torch would take the last 64 bits only."""
    folder = train(data, tmp_path / "model", load_config(TrainConfig, None, [*TRAIN, "seed=20261129001745"]))
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 20261129001745


def test_a_training_that_diverges_ends_with_a_sentence_and_no_model(data: Path, tmp_path: Path) -> None:
    config = load_config(TrainConfig, None, [*TRAIN, "updates=4", "network.tasks=[mask, density]", "loss.density_weight=1e38"])
    with pytest.raises(InputError, match=r"diverged.*lower learning_rate"):
        train(data, tmp_path / "model", config)
    assert not (tmp_path / "model").exists()


def test_a_model_whose_weights_are_not_finite_is_refused(model: Path, tmp_path: Path) -> None:
    spoiled = load_model(model)
    spoiled.network.state_dict()["embed.0.weight"][0, 0] = 1e6  # beyond half precision
    with pytest.raises(InputError, match="infinite or NaN"):
        load_model(spoiled.save(tmp_path / "spoiled", None, []))


@pytest.mark.parametrize("balance", ["uncertainty", "gradient"])
def test_training_with_balanced_losses(balance: str, data: Path, tmp_path: Path) -> None:
    settings = [*TRAIN, f"loss.balance={balance}"]
    folder = train(data, tmp_path / "model", load_config(TrainConfig, None, settings))
    weights = load_file(folder / "weights.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert not any("log_variance" in name or "loss_weights" in name for name in weights)
    log = pd.read_csv(folder / "training.csv")
    for task in ("class", "mask", "density"):
        assert (log[f"weight_{task}"].dropna() > 0).all()
        assert log[f"loss_{task}"].notna().any()  # in a short training, too


def test_stop_after_follows_the_whole_schedule(data: Path, tmp_path: Path) -> None:
    config = load_config(TrainConfig, None, [*TRAIN, "updates=4"])

    def stop_at_once(done: int, _: int) -> None:
        if done == 4:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        train(data, tmp_path / "stopped", config, on_progress=stop_at_once)
    # Nothing is left to train up to the last checkpoint, after three updates: the model is written from it, though one update would have done.
    earlier, early = (config.model_copy(update={"stop_after": updates}) for updates in (1, 3))
    a = load_file(train(data, tmp_path / "stopped", earlier, resume=True) / "weights.safetensors")
    b = load_file(train(data, tmp_path / "early", early) / "weights.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_goes_on_from_a_model(data: Path, model: Path, tmp_path: Path) -> None:
    config = load_config(TrainConfig, None, [*TRAIN, f"initial_model={model}", "learning_rate=1e-9"])
    again = train(data, tmp_path / "again", config)
    a, b = (load_file(folder / "weights.safetensors") for folder in (model, again))
    assert torch.allclose(a["stem.0.weight"].float(), b["stem.0.weight"].float(), atol=1e-3)
    for task in ("mask", "density"):
        network = Network(config.network.model_copy(update={"tasks": ("class", task)}), 3)
        kept = initial_maps(network, load_model(model).network)["to_maps.weight"]
        assert torch.equal(kept, load_model(model).network.to_maps.weight[load_model(model).network.map_channels(task)].cpu())
    known, nameless = load_model(model), Network(config.network.model_copy(update={"tasks": ("mask", "density", "pick")}), 3, 5)
    load_initial(nameless, known.card.class_names, ("a", "b", "c", "d", "e"), model)  # which leaves out the head that names classes
    assert torch.equal(nameless.stem[0].weight, known.network.stem[0].weight.cpu())
    wide = load_config(TrainConfig, None, [*TRAIN, f"initial_model={model}", "network.channels=[16, 8, 8]"])
    with pytest.raises(InputError, match="do not fit the settings"):
        train(data, tmp_path / "wide", wide)


def test_the_shipped_model_goes_by_its_name(data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a model folder is asked for, unless a folder here has that name."""
    monkeypatch.setattr("triptych.recognition.model.BUILT_IN_MODEL", model)
    monkeypatch.chdir(tmp_path)
    config = load_config(TrainConfig, None, [*TRAIN, f"initial_model={model.name}"])
    assert json.loads((train(data, Path("trained"), config) / "manifest.json").read_text())["inputs"][1]["path"] == str(model)
    calibrate(model.name, data, Path("calibrated"))
    predict(data, Path("found"), model.name)
    Path("trained").rename(model.name)
    assert locate_model(model.name) == Path(model.name)


def test_calibrating_with_what_a_model_was_trained_on_is_warned_of(data: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also under another name of the data, and for a model that was calibrated in between; other data are not warned of."""
    moved = Path(shutil.copytree(data, tmp_path / "moved.zarr"))
    other = simulate(tmp_path / "other.zarr", load_config(SimulateConfig, None, [*SIMULATE, "seed=77"]))
    first = calibrate(model, other, tmp_path / "first", CalibrateConfig(held_out_share=0.4))
    assert "trained on" not in caplog.text
    for number, folder in enumerate((model, first)):
        caplog.clear()
        calibrate(folder, moved, tmp_path / f"again{number}", CalibrateConfig(held_out_share=0.4))
        assert f"{moved} is what the model was trained on" in caplog.text


def test_training_needs_its_truth_and_two_tomograms(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crop_size"):
        train(data, tmp_path / "a", load_config(TrainConfig, None, [*TRAIN, "crop_size=24"]))
    single = simulate(tmp_path / "single.zarr", load_config(SimulateConfig, None, [*SIMULATE, "particles=4"]))
    with pytest.raises(InputError, match="single tomogram"):
        train(single, tmp_path / "b", load_config(TrainConfig, None, TRAIN))


# ---------------------------------------------------------------------------------------------------------- prediction


def test_classes_that_predictions_could_not_name_are_refused_before_training(tmp_path: Path) -> None:
    for names, sentence in ((("a-b", "a_b", "none"), "classes a-b and a_b differ in punctuation"), (("unknown", "none"), "a meaning of its own")):
        store = create_store(tmp_path / f"{len(names)}.zarr", Rows(4, 2), Rows(0, 0), 10.0, 16, names, {})
        with pytest.raises(InputError, match=sentence):
            check_tasks(store, TrainConfig())


def test_predict_a_star_file(model: Path, tmp_path: Path) -> None:
    star = write_particles(tmp_path / "project", count=3, box_size=24, voxel_size=12.0)
    out = predict(star, tmp_path / "out", model, PredictConfig(batch_size=2))
    table, given = read_star(out / "particles.star")["particles"], read_star(star)["particles"]
    kept = [name for name in given if name != "rlnClassNumber"]
    assert list(table.columns[: len(kept)]) == kept
    assert table["triptychInputClassNumber"].tolist() == given["rlnClassNumber"].tolist()
    names = json.loads((model / "model.json").read_text())["class_names"]
    probabilities = table[probability_columns(names)].to_numpy(float)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-4)
    assert [names[i] for i in probabilities.argmax(1)] == table["triptychClass"].tolist()
    assert (probabilities.argmax(1) + 1 == table["rlnClassNumber"]).all()
    assert read_star(out / "classes.star")["classes"].to_dict("list") == {"rlnClassNumber": [*range(1, len(names) + 1)], "triptychClass": names}
    for kind in ("triptychMask", "triptychDensity"):
        volume = read_mrc(out / table[kind][1])
        assert volume.shape == (24, 24, 24)
        assert volume.voxel_size == pytest.approx(12.0)
    assert np.load(out / "embedding.npy", allow_pickle=False).shape == (3, 8)
    assert "optics" in read_star(out / "particles.star")
    before, after = (open_particles(path, PredictConfig(), 400.0).read(2).data for path in (star, out / "particles.star"))
    assert np.array_equal(before, after)


def test_particles_are_deconvolved_before_they_are_looked_at(model: Path, tmp_path: Path) -> None:
    star = write_particles(tmp_path / "project", count=2, box_size=24, voxel_size=12.0)
    ctf = CtfTransfers(np.full(2, 3e4), ["phase_flip"] * 2, np.zeros(2), 200, 2.7, 0.07)
    for row in range(2):
        by_hand = ctf.deconvolve(row, open_particles(star, PredictConfig(), 400.0).read(row))
        write_mrc(tmp_path / "by_hand" / f"{row}.mrc", by_hand.data, 12.0)
    settings = PredictConfig(deconvolve="phase_flipped", defocus_um=3.0, voltage_kv=200.0)
    undone, plain = predict(star, tmp_path / "undone", model, settings), predict(star, tmp_path / "plain", model)
    expected = np.load(predict(tmp_path / "by_hand", tmp_path / "expected", model) / "embedding.npy")
    away, here = (np.abs(np.load(folder / "embedding.npy") - expected).max() for folder in (plain, undone))
    assert here < 0.01 * away
    source, _ = open_input(read_predictions(undone))  # as orient and discover do, for which this tells what is left of the CTF
    assert source is not None
    assert source.transfers is not None
    assert source.transfers.correction == ["phase_flip"] * 2
    with pytest.raises(InputError, match=r"needs the defocus, and .*particles.star does not tell it"):
        predict(star, tmp_path / "unknown", model, PredictConfig(deconvolve="untreated"))
    with pytest.raises(InputError, match="but deconvolve is nothing"):
        predict(star, tmp_path / "useless", model, PredictConfig(defocus_um=3.0))


def test_first_particle_is_read_for_all_checks_at_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    plain = ParticleSource.read
    monkeypatch.setattr(ParticleSource, "read", lambda self, row: rows.append(row) or plain(self, row))
    predict(write_particles(tmp_path / "project", count=2), tmp_path / "out", model)
    assert rows == [0, 1, 0, 1]


def test_inverted_contrast_is_noticed(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    star = write_particles(tmp_path / "project", count=12)
    right = predict(star, tmp_path / "right", model, PredictConfig())
    assert json.loads((right / "manifest.json").read_text())["particles"]["contrast_warning"] is None
    wrong = predict(star, tmp_path / "wrong", model, PredictConfig(contrast="bright"))
    assert "INVERTED" in json.loads((wrong / "manifest.json").read_text())["particles"]["contrast_warning"]
    assert "INVERTED" in caplog.text
    auto = predict(star, tmp_path / "auto", model, PredictConfig(contrast="auto"))
    assert json.loads((auto / "manifest.json").read_text())["particles"]["contrast"] == "dark"


def test_predict_a_store_and_single_files(data: Path, model: Path, tmp_path: Path) -> None:
    table = read_star(predict(data, tmp_path / "store", model) / "particles.star")["particles"]
    assert table["triptychName"].tolist() == open_store(data).particle_names
    write_mrc(tmp_path / "files/a.mrc", np.random.default_rng(0).normal(size=(16, 16, 16)), 10.0)
    write_mrc(tmp_path / "files/b.mrc", np.random.default_rng(1).normal(size=(20, 20, 20)), 8.0)
    for number, (what, count) in enumerate([(tmp_path / "files", 2), (tmp_path / "files/a.mrc", 1), (str(tmp_path / "files/*.mrc"), 2)]):
        out = predict(what, tmp_path / f"out{number}", model)
        assert len(read_star(out / "particles.star")["particles"]) == count


def test_an_output_in_the_folder_that_is_read_is_refused(tmp_path: Path) -> None:
    """It would change the folder, so that nothing could go on with the output, or be made of it."""
    write_particles(tmp_path)
    with pytest.raises(InputError, match="which is read: choose a place outside"):
        predict(tmp_path / "subtomograms", tmp_path / "subtomograms/out", write_model(tmp_path / "model"))


def test_maps_of_an_earlier_prediction_are_not_named(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    first = predict(write_particles(tmp_path), tmp_path / "first", model)
    assert read_predictions(first).masks is not None
    again = read_predictions(predict(first / "particles.star", tmp_path / "again", model, PredictConfig(write_masks=False, write_densities=False)))
    assert again.masks is None
    assert again.densities is None


def test_what_fails_leaves_nothing(model: Path, tmp_path: Path) -> None:
    star = write_particles(tmp_path / "project", count=3)
    broken = tmp_path / "project/subtomograms/particle_3.mrc"
    data = read_mrc(broken, 12.0).data.copy()
    data[0, 0, 0] = np.nan
    write_mrc(broken, data, 12.0)
    with pytest.raises(InputError, match="NaN"):
        predict(star, tmp_path / "out", model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["project"]
