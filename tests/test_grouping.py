"""Grouping: mixtures whose groups are known, and embeddings of the shipped model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from triptych.alignment.grouping import best_overlap, draw_in, find_groups, find_stable_groups, group, join_near, number_by_size, salient_components
from triptych.config import AcquisitionConfig, GroupConfig, SimulateConfig, SpecimenConfig
from triptych.errors import InputError
from triptych.io.store import known_labels, open_store
from triptych.recognition.model import load_model
from triptych.recognition.novelty import Traits, fit_novelty, unit_length
from triptych.stages.simulate import simulate
from triptych.volume import standardise

SIZE = 32
AXES = np.linalg.qr(np.random.default_rng(7).normal(size=(SIZE, SIZE)))[0]


def mixture(counts: list[int], spread: float = 0.15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Groups around some of the axes, whose particles are of any length."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(counts)), counts)
    points = AXES[label] + spread * rng.normal(size=(len(label), SIZE)) / np.sqrt(SIZE) * 4
    return points * rng.uniform(0.5, 2, (len(label), 1)), label


@pytest.mark.parametrize("counts", [[40, 40], [25, 60, 40, 35], [30] * 7])
def test_the_number_of_groups_comes_from_the_data(counts: list[int]) -> None:
    embedding, label = mixture(counts)
    found = group(embedding, np.random.default_rng(0), GroupConfig(resamplings=4))
    assert found.count == len(counts)
    assert adjusted_rand_score(label, found.labels) > 0.95
    assert found.stability.min() > 0.9
    sizes = [len(found.members(k)) for k in range(found.count)]
    assert sizes == sorted(sizes, reverse=True)


def test_particles_of_no_kind_are_in_no_group() -> None:
    embedding, label = mixture([40] * 6)
    stray = np.random.default_rng(1).normal(size=(20, 6)) @ AXES[:6]
    found = group(np.concatenate([embedding, stray]), np.random.default_rng(0), GroupConfig(resamplings=0))
    assert (found.labels[240:] == -1).mean() > 0.5
    assert adjusted_rand_score(label, found.labels[:240]) > 0.9
    assert np.isnan(found.stability).all()


def test_junk_is_recognised() -> None:
    embedding, label = mixture([30, 50, 40])
    none = np.where(label == 2, 0.8, 0.1)
    found = group(embedding, np.random.default_rng(0), GroupConfig(resamplings=0), none_probability=none)
    assert found.junk.tolist() == [False, True, False]  # numbered by size: 50, 40, 30


def test_whitening_takes_the_scatter_within_classes_away() -> None:
    rng = np.random.default_rng(3)
    scatter = np.where(np.arange(SIZE) < SIZE // 2, 0.1, 4.0)  # what poses do to an embedding, say
    centres = 20 * np.eye(1, SIZE) + np.concatenate([rng.normal(size=(12, SIZE // 2)), np.zeros((12, SIZE // 2))], 1)

    def draw(classes: range, count: int) -> tuple[np.ndarray, np.ndarray]:
        label = np.repeat(classes, count)
        return centres[label] + scatter * rng.normal(size=(len(label), SIZE)), label

    known, label = draw(range(8), 60)
    traits = Traits(known, np.eye(12)[label], np.empty((len(known), 0)))
    reference = fit_novelty(traits, label, traits)
    novel, truth = draw(range(8, 12), 40)
    plain, whitened = (group(novel, rng, GroupConfig(resamplings=0), given) for given in (None, reference))
    assert adjusted_rand_score(truth, whitened.labels) > 0.95
    assert adjusted_rand_score(truth, plain.labels) < 0.8


def test_components_of_noise_are_left_out() -> None:
    noise = np.random.default_rng(0).normal(size=(500, 40))
    assert salient_components(noise, 20).shape == (500, 2)
    with_signal = noise + 6 * np.random.default_rng(1).normal(size=(500, 5)) @ np.eye(5, 40)
    points = salient_components(with_signal, 20)
    assert points.shape == (500, 5)
    assert salient_components(with_signal, 3).shape == (500, 3)
    assert np.allclose(np.cov(points.T) - np.diag(np.var(points, axis=0, ddof=1)), 0, atol=1e-8)


def test_a_group_that_is_none_is_not_stable() -> None:
    tight, _ = mixture([60, 60, 60])
    blob = np.concatenate([tight[:60], mixture([60])[0]]) + 3 * np.random.default_rng(2).normal(size=(120, SIZE))
    config = GroupConfig(smallest=5)
    loose, firm = (group(points, np.random.default_rng(0), config).stability for points in (blob, tight))
    assert firm[:3].min() > 0.9
    assert loose.max(initial=0) < firm[:3].min()


def test_a_far_class_does_not_hide_the_others() -> None:
    embedding, label = mixture([30] * 5)
    points = salient_components(unit_length(embedding) * np.where(label == 0, 5, 1)[:, None], 6)
    assert adjusted_rand_score(label, find_groups(draw_in(points), "eom", GroupConfig(), 150)) > 0.95
    assert np.linalg.norm(draw_in(points), axis=1).max() < 1


def test_overlap_and_numbers() -> None:
    labels = np.array([3, 3, 0, 0, 0, -1])
    numbered, order = number_by_size(labels)
    assert numbered.tolist() == [1, 1, 0, 0, 0, -1]
    assert order.tolist() == [0, 3]
    assert best_overlap(np.array([1, 1, 1, 0, 0, 0], bool), labels) == pytest.approx(2 / 3)
    assert best_overlap(np.ones(2, bool), np.array([-1, -1])) == 0


def test_shapes_part_what_embeddings_do_not() -> None:
    embedding, label = mixture([60, 60])
    kind = np.arange(120) % 2
    shape = np.abs(mixture([60, 60], seed=1)[0][np.argsort(np.argsort(kind, kind="stable"), kind="stable")])
    found = group(embedding, np.random.default_rng(0), GroupConfig(), shape=unit_length(shape))
    assert found.count == 4
    assert adjusted_rand_score(2 * label + kind, found.labels) > 0.95
    assert group(embedding, np.random.default_rng(0), GroupConfig()).count == 2


def test_a_group_is_parted_only_where_its_parts_are_stable() -> None:
    rng = np.random.default_rng(0)
    blob = rng.normal(size=(200, 2))
    pairs = np.concatenate([part + centre for centre in ([0, 0], [12, 0], [200, 0], [212, 0]) for part in [rng.normal(size=(40, 2))]])
    labels, stability = find_stable_groups(pairs, GroupConfig(), np.random.default_rng(0))
    assert len(stability) == 4
    assert adjusted_rand_score(np.repeat(range(4), 40), labels) > 0.9
    whole = find_groups(blob, "eom", GroupConfig(), 200)
    assert adjusted_rand_score(whole, find_stable_groups(blob, GroupConfig(), np.random.default_rng(0))[0]) == 1


def test_particles_near_a_group_join_it_and_far_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(50, 2)), rng.normal((20, 0), size=(50, 2)), [[1.0, 1.0], [18.5, 0.5], [10, 10]]])
    labels = np.repeat([0, 1, -1], [50, 50, 3])
    assert join_near(points, labels, GroupConfig())[-3:].tolist() == [0, 1, -1]
    assert (join_near(points, labels, GroupConfig(reach=0)) == labels).all()
    assert (join_near(points, np.full(103, -1), GroupConfig()) == -1).all()


def test_of_many_particles_a_sample_finds_the_groups_and_the_others_join(caplog: pytest.LogCaptureFixture) -> None:
    embedding, label = mixture([900, 300, 500, 700])
    stray = np.random.default_rng(1).normal(size=(100, 4)) @ AXES[:4]
    every = np.concatenate([embedding, stray])
    with caplog.at_level("INFO", "triptych"):
        full, sampled = (group(every, np.random.default_rng(0), GroupConfig(resamplings=2, sample=size)) for size in (2500, 500))
    assert sampled.count == full.count == 4
    assert adjusted_rand_score(full.labels, sampled.labels) > 0.95
    assert adjusted_rand_score(label, sampled.labels[:2400]) > 0.98
    assert (sampled.labels[2400:] == -1).mean() > 0.5
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["groups are found among 500 of the 2500 particles"]


def test_too_few_particles() -> None:
    with pytest.raises(InputError, match="smallest"):
        group(np.zeros((5, 3)), np.random.default_rng(0))
    with pytest.raises(InputError, match="probabilities of none"):
        group(np.zeros((20, 3)), np.random.default_rng(0), none_probability=np.zeros(3))


def test_structures_are_grouped_by_the_shipped_model(tmp_path: Path) -> None:
    config = SimulateConfig(
        particles=60,
        particles_per_tomogram=60,
        classes=("apoferritin", "ribosome_50s", "proteasome_20s"),
        none_share=0,
        tile_share=0,
        snr=(0.3, 0.3),
        workers=1,
        device="cpu",
        specimen=SpecimenConfig(shape=(64, 200, 200), vesicles=(0, 0)),
        acquisition=AcquisitionConfig(tilt_step=(6, 6)),
    )
    store = open_store(simulate(tmp_path / "data.zarr", config))
    model = load_model(device="cpu")
    boxes = standardise(np.asarray(store["subtomogram"][:], np.float32))
    out = model.run(boxes)
    assert out.class_logits is not None
    probability = out.class_logits.softmax(1)[:, model.card.class_names.index("none")]
    found = group(out.embedding.numpy(), np.random.default_rng(0), GroupConfig(resamplings=3), model.novelty, torch.Tensor(probability).numpy())
    truth = known_labels(store, model.card.class_names)
    assert found.count == 3
    assert adjusted_rand_score(truth, found.labels) > 0.8
    assert not found.junk.any()
