"""The figures of merit against their definitions, worked out by hand or in another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.errors import InputError
from triptych.judging import metrics

labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(labels)
def test_confusion_matrix_counts_every_pair(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    confusion = metrics.confusion_matrix(truth, predicted, 4)
    assert confusion.tolist() == [[pairs.count((t, p)) for p in range(4)] for t in range(4)]
    assert metrics.accuracy(truth, predicted) == pytest.approx(np.trace(confusion) / len(pairs))


@given(labels)
def test_precision_is_the_recall_of_the_roles_exchanged(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    precision = metrics.precision_per_class(metrics.confusion_matrix(truth, predicted, 4))
    recall = metrics.recall_per_class(metrics.confusion_matrix(predicted, truth, 4))
    np.testing.assert_array_equal(precision, recall)


def test_precision_and_recall_by_hand() -> None:
    confusion = metrics.confusion_matrix([0, 0, 0, 1], [0, 0, 1, 1], 3)
    np.testing.assert_allclose(metrics.recall_per_class(confusion), [2 / 3, 1, np.nan])
    np.testing.assert_allclose(metrics.precision_per_class(confusion), [1, 1 / 2, np.nan])


def test_confusion_matrix_refuses_strange_labels() -> None:
    with pytest.raises(InputError, match=r"0 \.\.\. 1"):
        metrics.confusion_matrix([0, 2], [0, 1], 2)
    with pytest.raises(InputError, match="one of each"):
        metrics.confusion_matrix([0, 1], [0], 2)


def test_wilson_interval_against_published_values() -> None:
    # R. G. Newcombe, Statistics in Medicine 17, 857 (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    low, high = metrics.wilson_interval([81, 15, 0, 1], [263, 148, 20, 29], 1.959964)
    np.testing.assert_allclose(low, [0.2553, 0.0624, 0.0, 0.0061], atol=5e-5)
    np.testing.assert_allclose(high, [0.3662, 0.1605, 0.1611, 0.1718], atol=5e-5)


def test_wilson_interval_stays_within_0_and_1() -> None:
    trials = np.arange(1, 500)
    low, high = (metrics.wilson_interval(successes, trials)[end] for end, successes in enumerate((0 * trials, trials)))
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert np.isnan(metrics.wilson_interval(0, 0)).all()


def test_calibration_error_by_hand() -> None:
    # Two bins of 5: 0.9 stated, 3 of 4 right; 0.3 stated, 1 of 2 right.
    probability, correct = [0.9] * 4 + [0.3] * 2, [1, 1, 1, 0, 1, 0]
    assert metrics.expected_calibration_error(probability, correct, bins=5) == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.2)
    curve = metrics.reliability_curve(probability, correct, bins=5)
    assert curve.particles.tolist() == [0, 2, 0, 0, 4]
    np.testing.assert_allclose(curve.accuracy, [np.nan, 0.5, np.nan, np.nan, 0.75])
    np.testing.assert_allclose(curve.probability, [np.nan, 0.3, np.nan, np.nan, 0.9])


def test_calibration_error_of_honest_probabilities_is_small() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.2, 1, 50_000)
    assert metrics.expected_calibration_error(probability, rng.random(50_000) < probability) < 0.01
    assert metrics.expected_calibration_error(np.ones(10), np.zeros(10)) == 1
    assert np.isnan(metrics.expected_calibration_error([], []))


@pytest.mark.parametrize("strange", [np.nan, -0.1, 2.5])
def test_calibration_error_refuses_what_is_no_probability(strange: float) -> None:
    with pytest.raises(InputError, match=r"NaN or lie outside 0 \.\.\. 1"):
        metrics.expected_calibration_error([0.5, strange], [1, 0])


def test_reliability_curve_keeps_the_ends() -> None:
    assert metrics.reliability_curve([0.0, 1.0], [0, 1]).particles.sum() == 2


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_intersection_over_union(seed: int) -> None:
    a, b = np.random.default_rng(seed).random((2, 3, 4, 5, 6)) > 0.5
    for one, x, y in zip(metrics.intersection_over_union(a, b), a, b, strict=True):
        assert one == pytest.approx((x & y).sum() / (x | y).sum())
    np.testing.assert_array_equal(metrics.intersection_over_union(a, a), np.ones(3))
    np.testing.assert_array_equal(metrics.intersection_over_union(a, ~a), np.zeros(3))


def test_intersection_over_union_of_empty_masks() -> None:
    empty, full = np.zeros((4, 4, 4)), np.ones((4, 4, 4))
    assert metrics.intersection_over_union(empty, empty) == 1
    assert metrics.intersection_over_union(empty, full) == 0


@pytest.mark.parametrize("strange", [0.4, np.nan, 255])
def test_masks_are_of_zeros_and_ones(strange: float) -> None:
    mask, full = np.full((4, 4, 4), strange), np.ones((4, 4, 4))
    for pair in ((mask, full), (full, mask)):
        with pytest.raises(InputError, match="cut probabilities at a threshold first"):
            metrics.intersection_over_union(*pair)
    with pytest.raises(InputError, match="cut probabilities at a threshold first"):
        metrics.density_correlation(full, full, within=mask)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
def test_density_correlation_is_pearsons(seed: int, factor: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    a, b, within = *rng.normal(size=(2, 3, 5, 6, 7)), rng.random((3, 5, 6, 7)) > 0.4
    whole, inside = metrics.density_correlation(a, b), metrics.density_correlation(a, b, within)
    for i in range(3):
        assert whole[i] == pytest.approx(np.corrcoef(a[i].ravel(), b[i].ravel())[0, 1])
        assert inside[i] == pytest.approx(np.corrcoef(a[i][within[i]], b[i][within[i]])[0, 1])
    np.testing.assert_allclose(metrics.density_correlation(factor * a + offset, a), np.ones(3))


def test_density_correlation_without_contrast() -> None:
    data = np.random.default_rng(0).normal(size=(4, 4, 4))
    assert metrics.density_correlation(np.full((4, 4, 4), 0.1), data) == 0
    assert np.isnan(metrics.density_correlation(data, np.full((4, 4, 4), 0.1)))
    assert np.isnan(metrics.density_correlation(data, data, np.zeros((4, 4, 4))))


def test_a_density_that_is_no_number_counts_as_none() -> None:
    """Were it left out, the worst densities would best be NaN."""
    truth = np.random.default_rng(0).normal(size=(3, 4, 4, 4))
    density, within = truth.copy(), np.ones(truth.shape)
    density[0, 1, 2, 3], density[1, 0, 0, 0] = np.nan, np.inf
    np.testing.assert_allclose(metrics.density_correlation(density, truth), [0, 0, 1])
    within[0, 1, 2, 3] = 0
    np.testing.assert_allclose(metrics.density_correlation(density, truth, within), [1, 0, 1])
    assert np.isnan(metrics.density_correlation(density[0], np.zeros((4, 4, 4))))


def test_share_interval_holds_the_truth_as_often_as_it_says_where_tomograms_differ() -> None:
    rng = np.random.default_rng(0)
    held = {"by tomogram": 0, "each particle counts": 0}
    for _ in range(400):
        sizes = rng.integers(20, 60, 12)
        tomogram = np.repeat(np.arange(12), sizes)
        right = rng.random(tomogram.size) < np.repeat(rng.beta(8, 2, 12), sizes)  # 0.8 on average
        for name, groups in (("by tomogram", tomogram), ("each particle counts", None)):
            low, high = metrics.share_interval(right, groups)
            held[name] += low < 0.8 < high
    assert 0.93 < held["by tomogram"] / 400 < 0.98
    assert held["each particle counts"] / 400 < 0.7


def test_share_interval_where_tomograms_tell_nothing() -> None:
    plain = metrics.share_interval([1, 1, 0, 1])
    assert plain == pytest.approx(np.ravel(metrics.wilson_interval(3, 4)))
    assert metrics.share_interval([1, 1, 0, 1], [7, 7, 7, 7]) == plain  # a single one
    assert metrics.share_interval([1, 0, 0, 1], ["a", "a", "b", "b"]) == metrics.share_interval([1, 0, 0, 1])  # alike
    assert metrics.share_interval([1, 1, 1, 1], [0, 0, 1, 1]) == metrics.share_interval([1, 1, 1, 1])  # all right
    assert np.isnan(metrics.share_interval([], [])).all()
    low, high = metrics.share_interval([1, 1, 0, 0], [0, 0, 1, 1])  # two that have nothing in common: anything may be
    assert low < 0.01
    assert high > 0.99


def test_summary_leaves_none_out_of_masks_and_densities_only() -> None:
    summary = metrics.summarise(
        ["a", "b", "none"],
        truth=[0, 0, 1, 2],
        predicted=[0, 1, 1, 0],
        probability=[1.0, 1.0, 1.0, 1.0],
        iou=[0.9, 0.6, 0.3, 0.0],
        correlation=[0.8, np.nan, 0.4, 0.0],
        correlation_in_mask=[0.5, 0.5, 0.5, 0.0],
    )
    assert (summary.particles, summary.particles_not_none) == (4, 3)
    assert summary.accuracy == pytest.approx(0.5)
    assert summary.expected_calibration_error == pytest.approx(0.5)
    assert summary.mean_recall == pytest.approx((0.5 + 1 + 0) / 3)
    assert summary.mean_iou == pytest.approx(0.6)
    assert summary.median_iou == pytest.approx(0.6)
    assert summary.mean_density_correlation == pytest.approx(0.6)
    assert summary.mean_density_correlation_in_mask == pytest.approx(0.5)
    a, b, none = summary.classes
    assert (a.particles, a.predicted, a.precision, a.recall, a.mean_iou) == (2, 2, 0.5, 0.5, pytest.approx(0.75))
    assert (b.particles, b.predicted, b.precision, b.recall) == (1, 2, 0.5, 1.0)
    assert none.recall == 0
    assert np.isnan([none.precision, none.mean_iou, none.mean_density_correlation]).all()


def test_summary_of_what_was_not_predicted_is_nan() -> None:
    summary = metrics.summarise(["a", "b"], truth=[0, 1], iou=[0.5, 0.7])
    assert summary.mean_iou == pytest.approx(0.6)
    assert np.isnan([summary.accuracy, summary.expected_calibration_error, summary.mean_density_correlation, *summary.accuracy_interval]).all()


def test_trend_means_what_it_bins() -> None:
    position = np.geomspace(0.01, 1, 40)
    curve = metrics.trend(position[::-1], np.log10(position)[::-1], bins=4)
    assert curve.particles.tolist() == [10] * 4
    np.testing.assert_allclose(np.log10(curve.position), curve.mean)
    assert (curve.low < curve.mean).all()
    assert (curve.mean < curve.high).all()
    values = np.where(position < 0.1, np.nan, 1.0)
    assert np.isnan(metrics.trend(position, values, bins=4).mean).tolist() == [True, True, False, False]
