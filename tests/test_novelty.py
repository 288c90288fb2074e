"""Novelty: scores against independent code, the threshold, the model folder, and the stages that use it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from typer.testing import CliRunner

from triptych.cli import app
from triptych.config import UNKNOWN, CalibrateConfig, LossConfig, NoveltyConfig, PredictConfig, SimulateConfig, TrainConfig
from triptych.errors import InputError
from triptych.io.manifest import hash_file
from triptych.io.output_names import NOVELTY
from triptych.io.source import open_particles
from triptych.io.star import read_star
from triptych.io.store import known_labels, open_store
from triptych.recognition.model import BUILT_IN_MODEL, load_model
from triptych.recognition.network import TaskOutput
from triptych.recognition.novelty import (
    SCORES,
    NoveltyReference,
    Traits,
    add_class,
    balanced_accuracy,
    best_threshold,
    class_levels,
    class_means,
    fit_novelty,
    give_verdicts,
    load_reference,
    neighbour_distance,
    raw_score,
    save_reference,
    score_novelty,
    whiten,
)
from triptych.settings import load_config
from triptych.stages.calibrate import calibrate, warn_of_missing
from triptych.stages.predict import predict
from triptych.stages.simulate import simulate
from triptych.stages.train import train
from triptych.training.confidence import Look, Sample, SampleLooks, fit_reference
from triptych.training.dataset import split_rows
from triptych.training.losses import Truth, contrastive_loss, task_losses

CLASSES, SIZE = 4, 6
SPREAD = np.array([3, 3, 3, 0.2, 0.2, 0.2])
"""Particles of a class scatter in three directions far more than in the others."""
CENTRES = np.array([10, 0, 0, 0, 0, 0]) + 2.0 * np.eye(CLASSES, SIZE)


def draw_known(count: int, seed: int) -> tuple[Traits, np.ndarray]:
    """Particles of four classes, whose logits tell them apart."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, count)
    return as_traits(CENTRES[label] + SPREAD * rng.normal(size=(count, SIZE)), 5 * np.eye(CLASSES)[label], rng), label


def draw_novel(count: int, seed: int) -> Traits:
    """Particles that lie off all classes in a direction in which none of those scatters."""
    rng = np.random.default_rng(seed)
    place = np.array([10, 0, 0, 1, 2, 2])
    return as_traits(place + SPREAD * rng.normal(size=(count, SIZE)), 5 * np.eye(CLASSES)[rng.integers(0, CLASSES, count)], rng)


def as_traits(embedding: np.ndarray, logits: np.ndarray, rng: np.random.Generator) -> Traits:
    embedding = embedding * rng.uniform(0.5, 2, (len(embedding), 1))  # as clear and poor particles have them
    return Traits(embedding, logits + rng.normal(size=logits.shape), rng.normal(size=(len(embedding), 3)))


@pytest.fixture(scope="module")
def reference() -> NoveltyReference:
    return fit_novelty(*draw_known(400, 0), draw_known(400, 1)[0], config=NoveltyConfig(score="neighbours"))


# -------------------------------------------------------------------------------------------------------------- scores


def test_distances_are_those_of_independent_code(reference: NoveltyReference) -> None:
    traits, label = draw_known(400, 0)
    direction, others = normalize(traits.embedding), draw_novel(50, 2)
    within = direction - np.stack([direction[label == k].mean(0) for k in label])
    means = class_means(direction, label, CLASSES)[0]
    fitted = EmpiricalCovariance(assume_centered=True).fit(within).covariance_
    share = SIZE / (400 + SIZE)
    shrunk = (1 - share) * fitted + share * np.trace(fitted) / SIZE * np.eye(SIZE)
    whitening = whiten(fitted, share)
    other_direction = normalize(others.embedding)
    expected = cdist(other_direction, means, "mahalanobis", VI=np.linalg.inv(shrunk)).min(1)
    assert raw_score(reference, others, "mahalanobis") == pytest.approx(expected, rel=1e-4)
    distance, _ = NearestNeighbors(n_neighbors=10).fit(direction @ whitening.T).kneighbors(other_direction @ whitening.T)
    assert raw_score(reference, others, "neighbours") == pytest.approx(distance[:, -1], rel=1e-2)  # the sample is kept in half precision


def test_logit_scores_are_those_of_torch(reference: NoveltyReference) -> None:
    traits = draw_novel(20, 3)
    logits = torch.from_numpy(traits.logits)
    assert raw_score(reference, traits, "energy") == pytest.approx(-torch.logsumexp(logits, 1).numpy())
    assert np.exp(-raw_score(reference, traits, "probability")) == pytest.approx(logits.softmax(1).amax(1).numpy())


def test_whitened_distances_see_what_plain_ones_miss(reference: NoveltyReference) -> None:
    known, novel = draw_known(400, 1)[0], draw_novel(400, 2)
    truth = np.repeat([0, 1], 400)
    plain = cdist(normalize(np.concatenate([known.embedding, novel.embedding])), reference.means).min(1)
    assert roc_auc_score(truth, plain) < 0.8
    for score in ("mahalanobis", "neighbours"):
        assert roc_auc_score(truth, np.concatenate([raw_score(reference, traits, score) for traits in (known, novel)])) > 0.99


def test_a_sample_smaller_than_k_has_its_farthest() -> None:
    points, sample = np.zeros((1, 2), np.float32), np.array([[3, 4], [0, 1]], np.float32)
    assert neighbour_distance(points, sample, 10) == pytest.approx([5])


def test_density_finds_the_shape_that_no_class_has() -> None:
    """Classes whose shapes scatter unlike one another; what lies where the widest class would is new to a narrow one."""
    rng = np.random.default_rng(0)
    label, scatter = rng.integers(0, 2, 800), np.array([0.02, 0.2])
    shape = np.eye(2, 8)[label] + scatter[label, None] * rng.normal(size=(800, 8))
    traits = Traits(rng.normal(size=(800, SIZE)), 5 * np.eye(2)[label], shape)
    half = np.arange(800) < 400
    found = fit_novelty(traits.take(half), label[half], traits.take(~half))
    assert found.rule.score == "density"
    odd = traits.take(np.flatnonzero(label == 0)[:50])._replace(shape=np.eye(2, 8)[np.zeros(50, int)] + 0.2 * rng.normal(size=(50, 8)))
    assert (score_novelty(found, odd) >= 0.5).mean() > 0.9
    for k in (0, 1):
        assert (score_novelty(found, traits.take(~half & (label == k))) < 0.5).mean() == pytest.approx(0.95, abs=0.04)


def test_data_unlike_any_are_unknown_whatever_the_density() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 800)
    shape, embedding = np.eye(2, 8)[label] + 0.1 * rng.normal(size=(800, 8)), np.eye(SIZE)[0] + 0.1 * rng.normal(size=(800, SIZE))
    traits, half = Traits(embedding, 5 * np.eye(2)[label], shape), np.arange(800) < 400
    strange = traits.take(half)._replace(embedding=embedding[half] - 2 * np.eye(SIZE)[0])
    found = fit_novelty(traits.take(half), label[half], traits.take(~half))
    assert found.rule.far is not None
    assert found.rule.accepted_known == pytest.approx(0.95, abs=0.005)
    assert (score_novelty(found, strange) >= 0.5).all()
    unlimited = fit_novelty(traits.take(half), label[half], traits.take(~half), config=NoveltyConfig(far_share=0))
    assert unlimited.rule.far is None
    assert unlimited.rule.accepted_known == pytest.approx(0.95, abs=0.005)
    assert (score_novelty(unlimited, strange) < 0.5).mean() > 0.9


def test_one_held_out_particle_is_enough_for_a_rule() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40)
    traits = Traits(rng.normal(size=(40, SIZE)), 5 * np.eye(2)[label], np.eye(2, 8)[label] + 0.1 * rng.normal(size=(40, 8)))
    assert np.isfinite(fit_novelty(traits, label, traits.take(np.array([0]))).rule.threshold)


def test_a_threshold_from_few_particles_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Of so few the highest value is below the quantile that the settings ask for, and others of the same kind often lie beyond it."""
    training, label = draw_known(400, 0)
    nobody, accepted = training.take(np.empty(0, np.int64)), []
    for count in (4, 100):
        caplog.clear()
        held_out, own = draw_known(count, 1)
        looks = (Look(part, np.empty((0, 0), np.float32), np.empty(0)) for part in (training, held_out, nobody))
        everyone = np.concatenate([label, own])
        store: Any = {"label": everyone}
        sample = Sample(store, everyone, np.arange(400), np.arange(400, 400 + count), np.empty(0, np.int64))
        reference = fit_reference(SampleLooks(*looks), sample, NoveltyConfig(score="neighbours"))
        accepted.append((score_novelty(reference, draw_known(2000, 4)[0]) < 0.5).mean())
        assert ("rests on 4 held-out particles, too few to accept 95 % of known ones" in caplog.text) == (count == 4)
    assert accepted[0] < 0.85 < 0.9 < accepted[1]


def test_levels_of_few_particles_are_drawn_to_those_of_all() -> None:
    values, label = np.array([0.0, 2.0] * 50 + [11.0]), np.array([0] * 100 + [1])
    levels = class_levels(values, label, 3)
    assert levels[0] == pytest.approx([1, 1], abs=0.1)
    assert values.mean() < levels[1, 0] < 11
    assert levels[2] == pytest.approx([values.mean(), values.std()])


# ----------------------------------------------------------------------------------------------------------- threshold


def test_without_other_structures_a_share_is_accepted(reference: NoveltyReference) -> None:
    assert reference.rule.chosen_on == "known particles"
    novelty = score_novelty(reference, draw_known(4000, 4)[0])
    assert (novelty < 0.5).mean() == pytest.approx(0.95, abs=0.03)
    raw = raw_score(reference, draw_known(4000, 4)[0], reference.rule.score)
    assert (np.diff(novelty[np.argsort(raw)]) >= 0).all()
    assert ((raw >= reference.rule.threshold) == (novelty >= 0.5)).all()
    assert give_verdicts(["a", "b"], np.array([0.49, 0.5])) == ["a", UNKNOWN]


def test_with_other_structures_the_best_score_is_chosen() -> None:
    config = NoveltyConfig(score="probability")
    rule = fit_novelty(*draw_known(400, 0), draw_known(400, 1)[0], draw_novel(200, 2), ("odd",), config).rule
    assert rule.score in ("mahalanobis", "neighbours")  # the logits and shapes of the novel ones are as those of the known
    assert rule.chosen_on == "withheld structures"
    assert rule.withheld == ("odd",)
    assert rule.rejected_withheld is not None
    assert min(rule.accepted_known, rule.rejected_withheld) > 0.9
    assert set(rule.balanced_accuracy) == set(SCORES)


def test_best_threshold_is_that_of_an_exhaustive_search() -> None:
    rng = np.random.default_rng(0)
    known, novel = rng.normal(size=37), rng.normal(1, 1, size=23)
    exhaustive = max(balanced_accuracy(known, novel, value) for value in np.linspace(-5, 5, 5000))
    assert balanced_accuracy(known, novel, best_threshold(known, novel)) == pytest.approx(exhaustive)


def test_density_needs_densities() -> None:
    traits, label = draw_known(50, 0)
    bare = traits._replace(shape=np.empty((50, 0)))
    with pytest.raises(InputError, match="recovers no densities"):
        fit_novelty(bare, label, bare, config=NoveltyConfig(score="density"))
    assert fit_novelty(bare, label, bare).shape_means.shape == (CLASSES, 0)


def test_an_added_class_is_known(reference: NoveltyReference) -> None:
    novel = draw_novel(200, 5)
    grown = add_class(reference, novel.embedding[:20], novel.shape[:20], np.random.default_rng(0))
    assert len(grown.means) == CLASSES + 1
    assert (score_novelty(reference, novel.take(np.arange(20, 200))) >= 0.5).mean() > 0.9
    assert (score_novelty(grown, novel.take(np.arange(20, 200))) >= 0.5).mean() < 0.4


def test_a_class_without_particles_and_one_particle_do_no_harm() -> None:
    traits, label = draw_known(5, 0)
    result = fit_novelty(traits, np.zeros_like(label), traits)
    for score in SCORES:
        assert np.isfinite(raw_score(result, traits, score)).all()


def test_reference_is_kept_as_it_is(reference: NoveltyReference, tmp_path: Path) -> None:
    path = save_reference(reference, tmp_path)
    path.with_name("plain").touch()
    assert path.stat().st_mode == path.with_name("plain").stat().st_mode  # whoever may read the folder may read the model
    again = load_reference(tmp_path, reference.rule, CLASSES, SIZE)
    traits = draw_novel(10, 0)
    assert np.array_equal(score_novelty(again, traits), score_novelty(reference, traits))
    with pytest.raises(InputError, match="fits the model"):
        load_reference(tmp_path, reference.rule, CLASSES + 1, SIZE)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="cannot be read"):
        load_reference(tmp_path, reference.rule, CLASSES, SIZE)


# --------------------------------------------------------------------------------------------------- contrastive loss


def test_contrastive_loss_is_its_formula() -> None:
    embedding, label = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 1, 1, 2])
    z, terms = embedding / embedding.norm(dim=1, keepdim=True), []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        total = sum(torch.exp(z[i] @ z[j] / 0.2) for j in others)
        same = [torch.log(torch.exp(z[i] @ z[j] / 0.2) / total) for j in others if label[j] == label[i]]
        terms += [-sum(same) / len(same)] if same else []
    assert float(contrastive_loss(embedding, label, 0.2)) == pytest.approx(float(sum(terms) / len(terms)), rel=1e-5)
    assert float(contrastive_loss(embedding, torch.arange(6), 0.2)) == 0


def test_contrastive_loss_has_its_gradient_in_a_half_precision_training_too() -> None:
    torch.manual_seed(0)
    label = torch.arange(32) % 4
    embedding = (torch.randn(4, 64)[label] + 0.1 * torch.randn(32, 64)).requires_grad_()  # of classes that are tight already
    (expected,) = torch.autograd.grad(contrastive_loss(embedding, label, 0.1), embedding)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(embedding, label, 0.1)
    (found,) = torch.autograd.grad(loss, embedding)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_contrastive_loss_draws_classes_together_and_apart() -> None:
    embedding = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    label = torch.arange(3).repeat(4)
    optimiser = torch.optim.Adam([embedding], 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        contrastive_loss(embedding, label, 0.1).backward()
        optimiser.step()
    similarity = torch.nn.functional.normalize(embedding.detach(), dim=1)
    similarity = similarity @ similarity.T
    same = label[:, None] == label
    assert float(similarity[same].min()) > float(similarity[~same].max())


def test_contrastive_term_is_off_by_default_and_part_of_the_class_task() -> None:
    output = TaskOutput(torch.randn(4, 2), None, None, torch.randn(4, 3))
    truth = Truth(torch.tensor([0, 0, 1, 1]), torch.zeros(4, 1, 1, 1), None)
    plain, off, on = (
        float(task_losses(output, truth, config)["class"])
        for config in (LossConfig(), LossConfig(contrastive_weight=0), LossConfig(contrastive_weight=0.5))
    )
    assert plain == off
    assert on == pytest.approx(plain + 0.5 * float(contrastive_loss(output.embedding, truth.label, LossConfig().contrastive_temperature)))


# -------------------------------------------------------------------------------------------------------------- stages


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("data") / "data.zarr", load_config(SimulateConfig, None, tiny.SIMULATE))


TRAIN = [*tiny.TRAIN, "network.tasks=[class, mask, density]", "validation_share=0.6", "validation_particles=100"]


def held_out_class(data: Path) -> str:
    """A structure that is among the held-out particles."""
    store = open_store(data)
    _, held_out = split_rows(store, 0.6, 100, 0)
    return next(store.class_names[k] for k in store["label"][:][held_out] if store.class_names[k] != "none")


@pytest.fixture(scope="module")
def partial_model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model from which a structure was withheld."""
    settings = [*TRAIN, f"withheld=[{held_out_class(data)}]", "loss.contrastive_weight=0.1"]
    return train(data, tmp_path_factory.mktemp("model") / "model", load_config(TrainConfig, None, settings))


def test_withheld_structures_choose_the_threshold_and_are_no_classes(data: Path, partial_model: Path) -> None:
    model, name = load_model(partial_model), held_out_class(data)
    assert name not in model.card.class_names
    assert len(model.card.class_names) == len(open_store(data).class_names) - 1
    assert model.novelty is not None
    assert model.novelty.rule.chosen_on == "withheld structures"
    assert model.novelty.rule.withheld == (name,)
    label = known_labels(open_store(data), model.card.class_names)
    assert ((label < 0) == (open_store(data)["label"][:] == open_store(data).class_names.index(name))).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["withheld=[nothing]"], "withheld names nothing"),
        (["withheld=[groel]", "network.tasks=[class, pick]"], "without pick"),
        (["withheld=[none]"], 'class "none"'),
    ],
)
def test_what_cannot_be_withheld(settings: list[str], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "model", load_config(TrainConfig, None, [*TRAIN, *settings]))
    assert not list(tmp_path.iterdir())


def test_calibration_changes_what_it_fits_and_nothing_else(
    data: Path, partial_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["calibrate", str(partial_model), str(data), str(tmp_path / "new"), "--set", "held_out_share=0.5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "withheld structures" in result.output
    old, new = load_model(partial_model), load_model(tmp_path / "new")
    assert all(torch.equal(a, b) for a, b in zip(old.network.state_dict().values(), new.network.state_dict().values(), strict=True))
    assert replace(new.card, temperature=old.card.temperature) == old.card
    assert new.novelty is not None
    manifest = json.loads((tmp_path / "new/manifest.json").read_text())
    assert manifest["trained"]["files"] == json.loads((partial_model / "manifest.json").read_text())["files"]
    assert manifest["calibration"]["withheld_particles"] == (known_labels(open_store(data), new.card.class_names) < 0).sum()
    kept = load_model(calibrate(partial_model, data, tmp_path / "kept", CalibrateConfig(fit_temperature=False, held_out_share=0.5)))
    assert kept.card == old.card
    same = load_model(calibrate(tmp_path / "new", data, tmp_path / "same", CalibrateConfig(fit_novelty=False, held_out_share=0.5)))
    assert (tmp_path / "same/novelty.safetensors").read_bytes() == (tmp_path / "new/novelty.safetensors").read_bytes()
    assert same.card == new.card
    assert old.card.network.spectrum == "particles"
    other = CalibrateConfig(spectrum="kept", fit_temperature=False, held_out_share=0.5)
    assert "the model's temperature is kept" not in caplog.text
    switched = load_model(calibrate(partial_model, data, tmp_path / "switched", other))
    assert switched.card.network.spectrum == "kept"
    assert "the model's temperature is kept" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(old.network.state_dict().values(), switched.network.state_dict().values(), strict=True))
    boxes = np.random.default_rng(0).normal(size=(2, *[old.card.box_size] * 3)).astype(np.float32)
    assert not torch.allclose(old.run(boxes).embedding, switched.run(boxes).embedding, atol=1e-3)


def test_calibration_names_the_classes_that_its_data_do_not_show(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = np.arange(4)
    warn_of_missing(Sample(open_store(data), np.array([0, 2, 0, 1]), rows[:3], rows[3:], rows[:0]), ("rod", "ball", "none"))
    warn_of_missing(Sample(open_store(data), np.array([0, 2, 1, 1]), rows[:3], rows[3:], rows[:0]), ("rod", "ball", "none"))
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["the novelty reference is made from no particles of ball"]


def test_calibration_wants_boxes_of_the_models_size(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model looks at 40"):
        calibrate(None, data, tmp_path / "new")


@pytest.mark.parametrize("shares", ["trained", "estimated"])
def test_predictions_have_novelty_and_verdict(shares: str, partial_model: Path, tmp_path: Path) -> None:
    star = tiny.write_particles(tmp_path / "project", count=3)
    config = load_config(PredictConfig, None, [f"class_shares={shares}"])
    table = read_star(predict(star, tmp_path / "out", partial_model, config) / "particles.star")["particles"]
    model = load_model(partial_model)
    found = model.predict([open_particles(star, config, 400.0).read(row) for row in range(3)])
    found = model.reweigh(found, model.estimate_shares(found)) if shares == "estimated" else found
    assert table["triptychClass"].tolist() == found.classes
    np.testing.assert_allclose(table["triptychNovelty"], found.novelty, atol=1e-4)
    assert table["triptychNovelty"].between(0, 1).all()
    expected = np.where(table["triptychNovelty"] >= 0.5, UNKNOWN, table["triptychClass"])
    assert table["triptychVerdict"].tolist() == expected.tolist()
    described = json.loads((tmp_path / "out/manifest.json").read_text())["model"]
    assert described["novelty"]["chosen_on"] == "withheld structures"


def forget_novelty(folder: Path, target: Path) -> Path:
    """The folder as an older version wrote it."""
    shutil.copytree(folder, target)
    (target / NOVELTY).unlink()
    card = json.loads((target / "model.json").read_text())
    del card["novelty"]
    (target / "model.json").write_text(json.dumps(card))
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"] = {name: hash_file(target / name) for name in ("weights.safetensors", "model.json")}
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def test_an_older_model_calls_nothing_unknown(partial_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    older = forget_novelty(partial_model, tmp_path / "older")
    star = tiny.write_particles(tmp_path / "project", count=2)
    with_novelty = predict(star, tmp_path / "first", partial_model)
    table = read_star(predict(with_novelty / "particles.star", tmp_path / "second", older) / "particles.star")["particles"]
    assert "no novelty reference" in caplog.text
    assert not {"triptychNovelty", "triptychVerdict"} & set(table)
    with pytest.raises(InputError, match="no novelty reference"):
        _ = load_model(older).predict(np.zeros((1, 16, 16, 16), np.float32), 10.0).verdicts


def test_a_lost_altered_or_foreign_reference_is_refused(partial_model: Path, tmp_path: Path) -> None:
    for name in ("altered", "lost", "foreign"):
        shutil.copytree(partial_model, tmp_path / name)
    path = tmp_path / "altered" / NOVELTY
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="altered"):
        load_model(tmp_path / "altered")
    (tmp_path / "lost" / NOVELTY).unlink()
    with pytest.raises(InputError, match=f"{NOVELTY} is missing"):
        load_model(tmp_path / "lost")
    older = forget_novelty(partial_model, tmp_path / "older")
    shutil.copy(partial_model / NOVELTY, older)
    with pytest.raises(InputError, match="altered"):
        load_model(older)


def test_shipped_model_has_a_reference_that_is_small() -> None:
    assert (BUILT_IN_MODEL / NOVELTY).stat().st_size < 3_000_000
    reference = load_model(device="cpu").novelty
    assert reference is not None
    assert reference.rule.accepted_known == pytest.approx(0.95, abs=0.01)
