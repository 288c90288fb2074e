"""What recovered densities are expected to be worth: traits, fit, and the way into models, tables and reports."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from triptych.config import CalibrateConfig, PredictConfig, SimulateConfig, TrainConfig
from triptych.describing.results import describe_model
from triptych.errors import InputError
from triptych.io.output_names import CARD
from triptych.io.predictions import read_predictions
from triptych.io.source import open_particles
from triptych.io.star import read_star
from triptych.io.store import open_store
from triptych.judging.metrics import judge_expectation
from triptych.recognition import fidelity
from triptych.recognition.fidelity import LEAST_PARTICLES, MARKED, TERMS, TRAITS, Fidelity, describe_recovery, fit_fidelity, make_terms, read_fidelity
from triptych.recognition.model import BUILT_IN_MODEL, load_model, read_card
from triptych.recognition.network import HALF_TURNS, turn
from triptych.settings import load_config
from triptych.stages.calibrate import calibrate
from triptych.stages.predict import predict
from triptych.stages.simulate import simulate
from triptych.stages.train import train
from triptych.terminal import print_calibration
from triptych.training.dataset import split_rows


def draw_ball(edge: float, size: int = 24, radius: float = 6.0) -> torch.Tensor:
    """Density of a ball (1, size, size, size) whose surface is so many voxels thick."""
    z, y, x = np.mgrid[:size, :size, :size] - size // 2
    distance = np.sqrt((x - 1.0) ** 2 + 0.8 * y**2 + z**2)
    return torch.from_numpy(1 / (1 + np.exp((distance - radius) / edge)))[None].float()


# ---------------------------------------------------------------------------------------------------------------- traits


def test_a_pale_and_blurred_particle_shows_doubt() -> None:
    sharp, blurred = (describe_recovery(ball, torch.logit(ball, eps=1e-6))[0] for ball in (draw_ball(0.2), draw_ball(2.0)))
    doubt, root, inside, mean = range(4)
    assert blurred[doubt] > 3 * sharp[doubt]
    assert sharp[root] ** 2 == pytest.approx(int((draw_ball(0.2) > 0.5).sum()))
    assert sharp[inside] > blurred[inside]
    assert sharp[mean] > blurred[mean]


def test_traits_are_the_same_in_every_pose_and_without_masks_by_the_density() -> None:
    ball = draw_ball(1.0)
    for axes in HALF_TURNS:
        np.testing.assert_allclose(describe_recovery(turn(ball, axes), None), describe_recovery(ball, None), rtol=1e-4)
    # Where mask and density say the same, it makes no difference who says it.
    np.testing.assert_allclose(describe_recovery(ball, torch.logit(ball)), describe_recovery(ball, None), rtol=1e-4)


def test_an_empty_recovery_has_finite_traits() -> None:
    nothing = torch.zeros(2, 8, 8, 8)
    assert np.isfinite(describe_recovery(nothing, nothing - 20)).all()
    assert describe_recovery(nothing[:0], nothing[:0]).shape == (0, TRAITS)


# ------------------------------------------------------------------------------------------------------------------- fit


def draw_sample(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Traits, and correlations that follow from them by a quadratic law and an error of 0.02 or so."""
    rng, weights = np.random.default_rng(seed), np.random.default_rng(5).normal(size=1 + TRAITS + TRAITS * (TRAITS + 1) // 2)
    traits = rng.normal(size=(count, TRAITS))
    law = 1.5 + 0.03 * make_terms(traits) @ weights
    return 20 + 2 * traits, np.tanh(law + 0.05 * rng.normal(size=count))


def test_a_law_that_is_there_is_found() -> None:
    fitted = fit_fidelity(*draw_sample(1500, 0))
    assert fitted is not None
    traits, correlation = draw_sample(1000, 1)
    found = judge_expectation(fitted.expect(traits), correlation)
    assert found.error < 0.035
    assert found.rank_correlation > 0.9
    assert abs(found.bias) < 0.005
    assert fitted.error == pytest.approx(found.error, rel=0.2)  # what it says of itself is true of others


def test_no_law_is_found_where_there_is_none() -> None:
    traits, correlation = draw_sample(1000, 0)
    fitted = fit_fidelity(traits, np.random.default_rng(0).permutation(correlation))
    assert fitted is not None
    assert fitted.error == pytest.approx(correlation.std(), rel=0.1)
    assert abs(judge_expectation(fitted.expect(draw_sample(500, 1)[0]), draw_sample(500, 1)[1]).rank_correlation) < 0.3


def test_particles_without_a_true_density_do_not_count() -> None:
    traits, correlation = draw_sample(400, 0)
    gaps = np.where(np.arange(400) % 2, correlation, np.nan)
    assert fit_fidelity(traits, gaps) == fit_fidelity(traits[1::2], correlation[1::2])
    assert fit_fidelity(traits, np.where(np.arange(400) < LEAST_PARTICLES - 1, correlation, np.nan)) is None


def test_what_lies_beyond_the_examples_counts_as_their_limit() -> None:
    traits, correlation = draw_sample(400, 0)
    fitted = fit_fidelity(traits, correlation)
    assert fitted is not None
    np.testing.assert_allclose(fitted.expect(traits.max(0, keepdims=True) + 100), fitted.expect(traits.max(0, keepdims=True)), rtol=1e-5)


def test_where_nothing_is_marked_nothing_is_expected() -> None:
    traits, correlation = draw_sample(400, 0)
    empty = np.where(np.arange(TRAITS) == MARKED, 0, traits)
    fitted = fit_fidelity(np.concatenate([traits, empty]), np.concatenate([correlation, 0 * correlation]))
    assert fitted is not None
    assert fitted == fit_fidelity(traits, correlation)
    assert not fitted.expect(empty).any()
    assert (fitted.expect(traits) >= 0).all()


def test_a_trait_that_never_varies_says_nothing() -> None:
    traits, correlation = draw_sample(400, 0)
    traits[:, 3] = 7.0
    fitted = fit_fidelity(traits, correlation)
    assert fitted is not None
    assert np.isfinite(fitted.expect(traits)).all()


def test_a_card_keeps_it_and_an_impossible_one_is_known() -> None:
    fitted = fit_fidelity(*draw_sample(400, 0))
    assert fitted is not None
    assert read_fidelity(json.loads(json.dumps(asdict(fitted)))) == fitted
    assert read_fidelity(None) is None
    assert fitted.is_possible()
    for wrong in ({"means": fitted.means[1:]}, {"weights": (*fitted.weights[1:], float("nan"))}, {"deviations": (0.0, *fitted.deviations[1:])}):
        assert not replace(fitted, **wrong).is_possible()
    for wrong in ({"lowest": fitted.highest, "highest": fitted.lowest}, {"error": float("nan")}, {"particles": "many"}, {"particles": 0}):
        assert not replace(fitted, **wrong).is_possible()


def test_a_card_with_a_wrong_one_is_refused_in_a_short_sentence(tmp_path: Path) -> None:
    card = json.loads((BUILT_IN_MODEL / CARD).read_text())
    for wrong in ({"means": [0.5] * 3}, {"weights": [10**400] * TERMS}, {"error": None}, {"particles": "many"}):
        (tmp_path / CARD).write_text(json.dumps(card | {"fidelity": card["fidelity"] | wrong}))
        with pytest.raises(InputError) as caught:
            read_card(tmp_path / CARD)
        assert len(str(caught.value)) < len(str(tmp_path)) + 300
    (tmp_path / CARD).write_text(json.dumps({name: value for name, value in card.items() if name != "fidelity"}))
    assert read_card(tmp_path / CARD)[0].fidelity is None  # as of a model from before there was one


# ---------------------------------------------------------------------------------------------------------------- stages


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("data") / "data.zarr", load_config(SimulateConfig, None, tiny.SIMULATE))


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = [*tiny.TRAIN, "network.tasks=[class, mask, density]", "validation_share=0.4", "validation_particles=100"]
    return train(data, tmp_path_factory.mktemp("model") / "model", load_config(TrainConfig, None, settings))


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "LEAST_PARTICLES", 4)
    monkeypatch.setattr(fidelity, "FOLDS", 2)


@pytest.mark.usefixtures("few_are_enough")
def test_calibration_fits_it_and_predictions_tell_it(data: Path, model: Path, tmp_path: Path) -> None:
    assert load_model(model).card.fidelity is None  # too few particles were held out
    fitted = calibrate(model, data, tmp_path / "fitted", CalibrateConfig(fit_novelty=False, fit_temperature=False, held_out_share=0.4))
    found = load_model(fitted).card.fidelity
    assert isinstance(found, Fidelity)
    assert replace(load_model(fitted).card, fidelity=None) == load_model(model).card
    assert f"wrong by {found.error:.3f}" in dict(describe_model(fitted).facts)["fidelity"]
    assert "fidelity" not in dict(describe_model(model).facts)
    star = tiny.write_particles(tmp_path / "project", count=3)
    table = read_star(predict(star, tmp_path / "out", fitted) / "particles.star")["particles"]
    volumes = [open_particles(star, PredictConfig(), 160.0).read(row) for row in range(3)]
    expected = load_model(fitted).predict(volumes).fidelity
    assert expected is not None
    np.testing.assert_allclose(table["triptychFidelity"], expected, atol=1e-3)
    given = read_predictions(tmp_path / "out")
    assert given.fidelity is not None
    np.testing.assert_allclose(given.fidelity, expected, atol=1e-3)
    # A model that cannot tell leaves nothing of what another one has said.
    again = read_star(predict(tmp_path / "out/particles.star", tmp_path / "again", model) / "particles.star")["particles"]
    assert "triptychFidelity" not in again


@pytest.mark.usefixtures("few_are_enough")
def test_calibration_keeps_it_unless_the_network_sees_something_else(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fitted = calibrate(model, data, tmp_path / "fitted", CalibrateConfig(held_out_share=0.4))
    first = load_model(fitted).card.fidelity
    assert first is not None
    kept = calibrate(fitted, data, tmp_path / "kept", CalibrateConfig(fit_fidelity=False, held_out_share=0.4))
    assert load_model(kept).card.fidelity == first
    switched = calibrate(fitted, data, tmp_path / "switched", CalibrateConfig(spectrum="kept", fit_fidelity=False, held_out_share=0.4))
    assert load_model(switched).card.fidelity is None
    assert "left out of the new model" in caplog.text
    anew = load_model(calibrate(fitted, data, tmp_path / "anew", CalibrateConfig(spectrum="kept", held_out_share=0.4))).card.fidelity
    assert anew not in (None, first)
    monkeypatch.setattr(fidelity, "LEAST_PARTICLES", 10**6)
    unfitted = calibrate(fitted, data, tmp_path / "unfitted", CalibrateConfig(held_out_share=0.4))
    assert load_model(unfitted).card.fidelity == first
    assert "so it stays as it was" in caplog.text


@pytest.mark.usefixtures("few_are_enough")
def test_training_fits_it_on_held_out_particles(data: Path, tmp_path: Path) -> None:
    settings = [*tiny.TRAIN, "network.tasks=[class, mask, density]", "validation_share=0.7", "validation_particles=100"]
    found = load_model(train(data, tmp_path / "model", load_config(TrainConfig, None, settings))).card.fidelity
    assert found is not None
    store = open_store(data)
    _, held_out = split_rows(store, 0.7, 100, 0)
    assert found.particles == sum(store.class_names[k] != "none" for k in store["label"][:][held_out])


@pytest.mark.usefixtures("few_are_enough")
def test_a_model_that_names_no_classes_tells_it_too(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*tiny.TRAIN, "network.tasks=[mask, density]", "validation_share=0.7", "validation_particles=100"]
    model = train(data, tmp_path / "model", load_config(TrainConfig, None, settings))
    found = load_model(model).card.fidelity
    assert found is not None
    assert load_model(model).novelty is None
    table = read_star(predict(data, tmp_path / "out", model) / "particles.star")["particles"]
    assert table["triptychFidelity"].between(0, 1).all()
    anew = calibrate(model, data, tmp_path / "anew", CalibrateConfig(held_out_share=0.4))
    fitted = load_model(anew).card.fidelity
    assert fitted is not None
    assert fitted.particles > found.particles  # with those that are left to fit to, too
    assert replace(load_model(anew).card, fidelity=None) == replace(load_model(model).card, fidelity=None)
    print_calibration(anew)
    assert f"wrong by {fitted.error:.3f}" in capsys.readouterr().out
