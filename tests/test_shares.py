"""How frequent classes are, estimated without labels: found again where it is known, and better names with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from triptych.config import AugmentConfig, NetworkConfig, PredictConfig
from triptych.errors import InputError
from triptych.io.star import probability_columns, read_star
from triptych.pages.report_page import shares_words
from triptych.recognition.class_shares import estimate_shares, reweigh
from triptych.recognition.model import Model, ModelCard, Predictions, load_model, read_card
from triptych.recognition.network import Network
from triptych.recognition.novelty import Traits, fit_novelty, novelty_by_class, score_novelty
from triptych.settings import load_config
from triptych.stages.add_class import OWN_SHARE, fit_row, with_class
from triptych.stages.predict import predict
from triptych.training.dataset import class_shares

CLASSES = 6
TRAINED = np.array([0.15, 0.15, 0.15, 0.15, 0.15, 0.25])
SKEWED = np.array([0.7, 0.02, 0.02, 0.02, 0.02, 0.22])


def draw(shares: NDArray[np.float64], count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What a right classifier, trained on `TRAINED`, says of particles of classes that are as frequent as `shares`; and their labels.

    A particle of class k shows a normal deviate around the unit vector k, so that its likelihoods are known.
    """
    rng = np.random.default_rng(seed)
    label = rng.choice(CLASSES, count, p=shares)
    seen = np.eye(CLASSES)[label] + rng.normal(size=(count, CLASSES)) * 0.7
    return softmax(seen / 0.7**2 + np.log(TRAINED), axis=1), label


def cross_entropy(probabilities: NDArray[np.floating[Any]], label: NDArray[np.int64]) -> float:
    return float(-np.log(probabilities[np.arange(len(label)), label]).mean())


# -------------------------------------------------------------------------------------------------------- pure functions


def test_shares_that_made_the_particles_are_found() -> None:
    probabilities, label = draw(SKEWED, 4000)
    shares = estimate_shares(probabilities, TRAINED)
    assert shares.sum() == pytest.approx(1)
    assert np.abs(shares - np.bincount(label) / len(label)).max() < 0.03
    assert np.abs(estimate_shares(draw(TRAINED, 4000)[0], TRAINED) - TRAINED).max() < 0.03


def test_particles_of_few_kinds_are_named_better() -> None:
    probabilities, label = draw(SKEWED, 300)
    after = reweigh(probabilities, TRAINED, estimate_shares(probabilities, TRAINED))
    assert after.sum(1) == pytest.approx(1)
    assert (after.argmax(1) == label).mean() > (probabilities.argmax(1) == label).mean() + 0.05
    assert cross_entropy(after, label) < 0.75 * cross_entropy(probabilities, label)
    ideal = reweigh(probabilities, TRAINED, SKEWED)
    assert cross_entropy(after, label) < cross_entropy(ideal, label) + 0.05


def test_few_particles_say_little() -> None:
    probabilities, _ = draw(SKEWED, 300)
    change = [np.abs(estimate_shares(probabilities[:count], TRAINED) - TRAINED).sum() for count in (0, 1, 10, 300)]
    assert change[0] == 0
    assert change == sorted(change)
    assert change[1] < 0.3


def test_the_order_of_the_particles_does_not_matter_and_no_class_is_impossible() -> None:
    probabilities, _ = draw(np.eye(CLASSES)[0], 500)
    shares = estimate_shares(probabilities, TRAINED)
    np.testing.assert_allclose(estimate_shares(probabilities[::-1], TRAINED), shares)
    assert shares.min() > 1e-4
    assert shares.argmax() == 0
    assert np.isfinite(estimate_shares(np.eye(CLASSES)[[0, 0, 5]], TRAINED)).all()


def test_the_trained_shares_change_nothing() -> None:
    probabilities, _ = draw(SKEWED, 20)
    np.testing.assert_allclose(reweigh(probabilities, TRAINED, TRAINED), probabilities)


def test_class_shares_count_what_augmentation_turns_into_none() -> None:
    label, names = np.array([0, 0, 0, 1, 2]), ("a", "b", "none")
    turning = AugmentConfig(inverted_share=0.1, scrambled_share=0.1)
    assert class_shares(label, names, turning, 0) == pytest.approx([0.8 * 0.6, 0.8 * 0.2, 0.8 * 0.2 + 0.2])
    assert class_shares(label, ("a", "b", "c"), turning, 0) == pytest.approx([0.6, 0.2, 0.2])
    assert class_shares(label, names, turning, 0.3) == pytest.approx([0.7 * 0.48 + 0.1, 0.7 * 0.16 + 0.1, 0.7 * 0.36 + 0.1])


@pytest.mark.parametrize("smoothing", [0.0, 0.03])
def test_a_class_that_was_never_shown_does_not_take_over(smoothing: float) -> None:
    """Its probability is not 0 for any particle, but the least that the smoothed labels allow; without smoothing, small all the same."""
    probabilities, label = draw(TRAINED, 500)
    least = smoothing / (CLASSES + 1) or 1e-3
    seen = np.column_stack([probabilities * (1 - least), np.full(len(label), least)])
    shares = np.array(class_shares(label, [f"c{k}" for k in range(CLASSES + 1)], AugmentConfig(), smoothing))
    assert estimate_shares(seen, shares)[-1] < 0.03
    after = reweigh(seen, shares, estimate_shares(seen, shares))
    assert (after.argmax(1) == label).mean() > (probabilities.argmax(1) == label).mean() - 0.02


def test_a_new_class_is_as_frequent_as_its_particles_count() -> None:
    """Its row is fitted with a free offset, so that its mean probability over what it is fitted to is that share."""
    rng = np.random.default_rng(0)
    own, others = (torch.from_numpy(rng.normal(size=(count, 5)) + shift) for count, shift in ((8, 0.4), (200, 0.0)))
    weight, bias = torch.from_numpy(rng.normal(size=(3, 5))), torch.zeros(3, dtype=torch.float64)
    row, offset = fit_row(own, others, weight, bias)
    logits = torch.cat([own, others]) @ torch.cat([weight, row[None]]).T + torch.cat([bias, offset[None]])
    probability = logits.softmax(1)[:, -1]
    encoded = OWN_SHARE * probability[:8].mean() + (1 - OWN_SHARE) * probability[8:].mean()
    card = ModelCard(NetworkConfig(), ("a", "none"), 10.0, 16, "dark", class_shares=(0.75, 0.25))
    grown = with_class(card, "b")
    assert grown.class_names == ("a", "none", "b")
    assert grown.class_shares == pytest.approx([0.9 * 0.75, 0.9 * 0.25, 0.1])
    assert grown.class_shares[-1] == pytest.approx(float(encoded), abs=0.01)
    assert with_class(replace(card, class_shares=()), "b").class_shares == pytest.approx([0.45, 0.45, 0.1])


# ------------------------------------------------------------------------------------------------------------ with models


def make_traits(count: int, seed: int = 0) -> tuple[Traits, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=count)
    embedding, shape = (np.eye(5)[label] + rng.normal(size=(count, 5)) * 0.2 for _ in range(2))
    return Traits(embedding, np.eye(3)[label] * 5 + rng.normal(size=(count, 3)), shape), label


def test_novelty_follows_the_class_where_the_score_asks_for_it() -> None:
    traits, label = make_traits(200)
    reference = fit_novelty(traits, label, make_traits(100, 1)[0])
    assert reference.rule.score == "density"
    table = novelty_by_class(reference, traits)
    rows = np.arange(len(label))
    np.testing.assert_array_equal(score_novelty(reference, traits), table[rows, traits.logits.argmax(1)])
    assert np.median(table[rows, label]) < 0.3
    assert np.median(table[rows, (label + 1) % 3]) > 0.9
    far = replace(reference, rule=replace(reference.rule, score="neighbours"))
    assert (np.ptp(novelty_by_class(far, traits), axis=1) == 0).all()


def make_predictions(probabilities: NDArray[np.float64], novelty: NDArray[np.float64] | None = None) -> Predictions:
    names = tuple(f"c{k}" for k in range(CLASSES))
    table = None if novelty is None else np.asarray(novelty, np.float32)
    return Predictions(names, probabilities.astype(np.float32), None, None, np.zeros((len(probabilities), 4), np.float32), table)


def make_model() -> Model:
    config = NetworkConfig(tasks=("class",), channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=4)
    card = ModelCard(config, tuple(f"c{k}" for k in range(CLASSES)), 10.0, 16, "bright", class_shares=tuple(TRAINED))
    return Model(Network(config, CLASSES), card, "cpu", "float32")


def test_unknown_particles_have_no_say_and_all_are_weighed() -> None:
    model = make_model()
    probabilities, _ = draw(SKEWED, 400)
    strange = np.zeros((400, CLASSES))
    strange[200:] = 0.9  # whatever they are called
    found = make_predictions(probabilities, strange)
    shares = model.estimate_shares(found)
    np.testing.assert_allclose(shares, estimate_shares(found.probabilities[:200], TRAINED))  # type: ignore[index]
    after = model.reweigh(found, shares)
    assert after.probabilities is not None
    np.testing.assert_allclose(after.probabilities, reweigh(probabilities, TRAINED, shares), atol=1e-5)
    assert after.verdicts[200:] == ["unknown"] * 200
    assert after.classes.count("c0") > found.classes.count("c0")
    np.testing.assert_allclose(model.estimate_shares(make_predictions(probabilities)), estimate_shares(probabilities, TRAINED), atol=1e-4)


@pytest.mark.parametrize("shares", [np.zeros(CLASSES), np.full(CLASSES, np.nan), -TRAINED, np.array(0.5), TRAINED[1:], {"c0": 1.0}])
def test_what_are_no_shares(shares: Any) -> None:
    model, found = make_model(), make_predictions(draw(SKEWED, 5)[0])
    with pytest.raises(InputError, match="6 numbers above 0"):
        model.reweigh(found, shares)


def test_predictions_of_another_model_are_not_weighed() -> None:
    model, found = make_model(), make_predictions(draw(SKEWED, 5)[0])
    for other in (replace(found, class_names=("a", "b")), replace(found, probabilities=None)):
        with pytest.raises(InputError, match="by the model that made them"):
            model.reweigh(other, TRAINED)


def test_arrays_are_checked_as_files_are() -> None:
    model, boxes = make_model(), np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32)
    with pytest.raises(InputError, match="contrast is 'Bright', but must be one of"):
        model.predict(boxes, 10.0, contrast="Bright")  # type: ignore[arg-type]
    boxes[1, 3, 3, 3] = np.nan
    with pytest.raises(InputError, match="volume 1 holds values that are NaN"):
        model.predict(boxes, 10.0)


def test_verdicts_follow_the_new_class() -> None:
    """A particle that is strange as what it was called first, and usual as what it is called then."""
    model = make_model()
    probabilities = np.tile(np.array([0.45, 0.05, 0.0, 0.0, 0.0, 0.5]), (40, 1))
    probabilities[4:] = np.eye(CLASSES)[0]
    by_class = np.zeros((40, CLASSES))
    by_class[:, 5] = 0.9
    found = make_predictions(probabilities, by_class)
    assert found.verdicts[0] == "unknown"
    after = model.reweigh(found, model.estimate_shares(found))
    assert after.classes[0] == after.verdicts[0] == "c0"


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.5, 0.5, 0.0], [0.2, 0.2, 0.2], ["a", "b", "c"], 3])
def test_a_card_with_impossible_shares_is_refused(shares: Any, tmp_path: Path) -> None:
    path = tiny.write_model(tmp_path / "model") / "model.json"
    content = json.loads(path.read_text())
    assert read_card(path)[0].class_shares == ()
    path.write_text(json.dumps(content | {"class_shares": shares}))
    with pytest.raises(InputError, match=r"model\.json"):
        read_card(path)


def test_the_shipped_model_states_its_shares() -> None:
    card = load_model(device="cpu").card
    assert len(card.class_shares) == len(card.class_names)
    assert card.class_shares[-1] == pytest.approx(0.97 * (0.07 + 0.93 * 0.06) + 0.03 / 27, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------ the command


def test_predict_with_estimated_shares(tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "model")
    star = tiny.write_particles(tmp_path / "project", count=7)
    estimated = load_config(PredictConfig, None, ["class_shares=estimated"])
    plain, whole = predict(star, tmp_path / "plain", model), predict(star, tmp_path / "whole", model, estimated)
    tables = [read_star(out / "particles.star")["particles"] for out in (plain, whole)]
    before, after = (table[probability_columns(("a", "b", "none"))].to_numpy(float) for table in tables)
    uniform = np.full(3, 1 / 3)
    shares = json.loads((whole / "manifest.json").read_text())["class_shares"]
    np.testing.assert_allclose(list(shares.values()), estimate_shares(before, uniform), atol=1e-4)
    np.testing.assert_allclose(after, reweigh(before, uniform, np.array(list(shares.values()))), atol=1e-4)
    assert json.loads((plain / "manifest.json").read_text())["class_shares"] is None
    for number in (1, 2):
        parts = predict(star, tmp_path / "parts", model, estimated, part=(number, 2))
    assert tiny.hashes(parts) == tiny.hashes(whole)


def test_shares_want_classes(tmp_path: Path) -> None:
    config = NetworkConfig(tasks=("mask",), channels=(8, 8, 8), blocks=(1, 1, 1), embedding_size=8)
    card = ModelCard(config, ("a", "b", "none"), 10.0, 16, "dark")
    model = Model(Network(config, 3), card, "cpu", "float32")
    model.save(tmp_path / "model", None, [])
    star = tiny.write_particles(tmp_path / "project", count=2)
    with pytest.raises(InputError, match="leave out class_shares"):
        predict(star, tmp_path / "out", tmp_path / "model", PredictConfig(class_shares="estimated"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="without the class task"):
        model.estimate_shares(model.predict(np.zeros((1, 16, 16, 16), np.float32), 10.0))


def test_the_report_names_the_most_frequent_classes() -> None:
    expected = "estimated from these particles and those of the training data: b 70 %, a 20 %, others 10 %"
    assert shares_words({"class_shares": {"a": 0.2, "b": 0.7, "none": 0.1}}, 2) == expected
    assert shares_words({"class_shares": None}) == shares_words({}) == ""
