"""Figures of merit: pure functions on numpy arrays, each with its definition.

Classes are given as indices 0 ... k-1. A figure that is not defined (a mean over nothing, the precision of a class that
was never predicted) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from scipy.stats import spearmanr

from triptych.config import NONE_CLASS
from triptych.errors import InputError

BOX = (-3, -2, -1)
ROUNDING = 1e-5
"""What a probability may lie beyond 0 and 1 by."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def share(part: ArrayLike, whole: ArrayLike) -> FloatArray:
    """part / whole, and NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result: FloatArray = np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole != 0)
    return result


def mean(values: ArrayLike) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    values = np.asarray(values, np.float64)
    return float(share(np.nansum(values), np.isfinite(values).sum()))


def median(values: ArrayLike) -> float:
    """Median of the values that are not NaN; NaN if there is none."""
    array = np.asarray(values, np.float64)
    return float(np.median(array[np.isfinite(array)])) if np.isfinite(array).any() else float("nan")


# ---------------------------------------------------------------------------------------------------- classification


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> IntArray:
    """How many particles of each true class were given each class.

    Parameters
    ----------
    truth, predicted : int arrays (n,), class indices

    Returns
    -------
    int array (n_classes, n_classes), [true class, predicted class]
    """
    truth, predicted = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    if truth.shape != predicted.shape:
        raise InputError(f"{truth.size} true classes came with {predicted.size} predicted ones; give one of each per particle")
    if truth.size and (min(truth.min(), predicted.min()) < 0 or max(truth.max(), predicted.max()) >= n_classes):
        raise InputError(f"class indices must lie in 0 ... {n_classes - 1}, but some lie outside; give labels of these {n_classes} classes")
    # scikit-learn's takes seconds to import, and leaves out what lies outside
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Share of the particles whose most probable class is the true one."""
    return mean(np.asarray(truth) == np.asarray(predicted))


def recall_per_class(confusion: IntArray) -> FloatArray:
    """Share of the particles of each true class that were given that class."""
    return share(np.diag(confusion), confusion.sum(axis=1))


def precision_per_class(confusion: IntArray) -> FloatArray:
    """Share of the particles given each class that are truly of that class."""
    return share(np.diag(confusion), confusion.sum(axis=0))


def wilson_interval(successes: ArrayLike, trials: ArrayLike, z: float = 1.96) -> tuple[FloatArray, FloatArray]:
    """Confidence interval of a share (E. B. Wilson, J. Am. Stat. Assoc. 22, 209, 1927); z = 1.96: 95 %.

    scipy's takes one whole number at a time, and none of 0 trials.
    """
    n = np.asarray(trials, np.float64)
    p = share(successes, n)
    centre = (p + share(z**2, 2 * n)) / (1 + share(z**2, n))
    half = z / (1 + share(z**2, n)) * np.sqrt(share(p * (1 - p), n) + share(z**2, 4 * n**2))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)  # which rounding errors may pass where all or none are successes


def share_interval(right: ArrayLike, tomogram: ArrayLike | None = None) -> tuple[float, float]:
    """95 % confidence interval of the share of particles that are right, among all that come from tomograms like these.

    Particles of one tomogram have dose, defocus and crowding in common, so they tell less than as many of different ones. The interval is
    Wilson's for as many particles as would tell as much (E. L. Korn and B. I. Graubard, Surv. Methodol. 24, 193, 1998). A single tomogram does
    not tell how much others differ: there each particle counts.

    Parameters
    ----------
    right : bool (n,)
    tomogram : (n,), number or name of each particle's tomogram; None: each particle counts
    """
    right = np.asarray(right, np.float64)
    counting = right.size if tomogram is None else independent_particles(right, tomogram)
    low, high = wilson_interval(mean(right) * counting, counting)
    return float(low), float(high)


def independent_particles(right: FloatArray, tomogram: ArrayLike) -> float:
    """How many particles of as many tomograms would tell their share that is right as well as these do; never more than there are."""
    names, places = np.unique(np.asarray(tomogram), return_inverse=True)
    share_right = mean(right)
    excess = np.bincount(places, right - share_right)  # right ones of each tomogram beyond what is usual
    if len(names) < 2 or not excess.any():
        return float(right.size)
    freedom = len(names) - 1
    variance = (freedom + 1) / freedom * (excess**2).sum() / right.size**2  # of the share; linearised
    few = (stdtrit(freedom, 0.975) / 1.96) ** 2
    return float(min(right.size, share_right * (1 - share_right) / (variance * few)))


class ReliabilityCurve(NamedTuple):
    """Stated against observed certainty, in bins of equal width from 0 to 1.

    Attributes
    ----------
    edges : (bins + 1,), borders of the bins
    probability : (bins,), mean stated probability; NaN in an empty bin
    accuracy : (bins,), share of the particles that are right; NaN in an empty bin
    particles : (bins,), their number
    """

    edges: FloatArray
    probability: FloatArray
    accuracy: FloatArray
    particles: IntArray


def reliability_curve(probability: ArrayLike, correct: ArrayLike, bins: int = 15) -> ReliabilityCurve:
    """How often the most probable class is right, against the probability it was given.

    Parameters
    ----------
    probability : (n,), probability of the predicted class
    correct : bool (n,), whether it is the true one
    """
    probability, correct = np.asarray(probability, np.float64), np.asarray(correct, np.float64)
    if not ((probability > -ROUNDING) & (probability < 1 + ROUNDING)).all():
        raise InputError("some probabilities are NaN or lie outside 0 ... 1: give those of a softmax, say, and no logits or per cent")
    index = np.clip((probability * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    return ReliabilityCurve(
        np.linspace(0, 1, bins + 1),
        share(np.bincount(index, probability, minlength=bins), count),
        share(np.bincount(index, correct, minlength=bins), count),
        count,
    )


def expected_calibration_error(probability: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Mean distance |accuracy - stated probability| over the bins of `reliability_curve`, weighted by their particles.

    0: of the particles called with probability p, a share p is right. (Guo et al., ICML 2017, arXiv:1706.04599.)
    """
    curve = reliability_curve(probability, correct, bins)
    filled = curve.particles > 0
    return float(share((curve.particles * np.abs(curve.accuracy - curve.probability))[filled].sum(), curve.particles.sum()))


# -------------------------------------------------------------------------------------------------- masks, densities


def intersection_over_union(mask: ArrayLike, truth: ArrayLike) -> FloatArray:
    """Voxels in both masks over voxels in either, for each particle.

    Parameters
    ----------
    mask, truth : bool or 0/1 arrays, shape (..., nz, ny, nx); probabilities are to be cut at a threshold first

    Returns
    -------
    array of the leading shape (a 0-d array for one particle). Two empty masks agree: 1.

    Raises
    ------
    InputError
        If there are values other than 0 and 1.
    """
    mask, truth = _as_mask(mask), _as_mask(truth)
    both = np.count_nonzero(mask & truth, axis=BOX)
    either = np.count_nonzero(mask | truth, axis=BOX)
    return np.where(either == 0, 1.0, share(both, either))


def _as_mask(values: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(values)
    mask = array.astype(bool)
    if not (array == mask).all():
        raise InputError("a mask has values other than 0 and 1: cut probabilities at a threshold first, as triptych does with mask > 0.5")
    return mask


def density_correlation(density: ArrayLike, truth: ArrayLike, within: ArrayLike | None = None) -> FloatArray:
    """Pearson correlation of the voxel values of two densities, for each particle.

    Parameters
    ----------
    density, truth : arrays, shape (..., nz, ny, nx)
    within : bool or 0/1 array of that shape; only these voxels count. Default: the whole box.

    Returns
    -------
    array of the leading shape. A constant `density` tells nothing about the truth: 0; nor does one that is NaN or infinite somewhere that
    counts. A constant `truth` (an empty box) leaves nothing to correlate with: NaN.
    """
    density, truth = np.asarray(density, np.float64), np.asarray(truth, np.float64)
    weight = np.ones(truth.shape) if within is None else _as_mask(within).astype(np.float64)
    strange = ~np.isfinite(density)
    broken = (strange & (weight > 0)).any(axis=BOX, keepdims=True)
    density = np.where(strange | broken, 0.0, density)
    a, b = _centre(density, weight), _centre(truth, weight)
    spread_a, spread_b = np.sqrt((a * a).sum(axis=BOX)), np.sqrt((b * b).sum(axis=BOX))
    # Below the rounding error of the mean a spread is no spread.
    floor_a, floor_b = _rounding(density, weight), _rounding(truth, weight)
    correlation = share((a * b).sum(axis=BOX), spread_a * spread_b)
    return np.where(spread_b <= floor_b, np.nan, np.where(spread_a <= floor_a, 0.0, correlation))


def _centre(data: FloatArray, weight: FloatArray) -> FloatArray:
    """Data minus its weighted mean, and 0 where the weight is 0."""
    middle = share((data * weight).sum(axis=BOX, keepdims=True), weight.sum(axis=BOX, keepdims=True))
    return np.where(weight > 0, data - np.nan_to_num(middle), 0.0)


def _rounding(data: FloatArray, weight: FloatArray) -> FloatArray:
    """Size of the rounding error of `_centre`, as a root of a sum of squares."""
    return np.asarray(1e-12 * np.sqrt((data * data * weight).sum(axis=BOX)))


class Expectation(NamedTuple):
    """How right an expected figure of each particle is: root mean square error, mean error (expected less found), Spearman's rank correlation."""

    error: float
    bias: float
    rank_correlation: float


def judge_expectation(expected: ArrayLike, found: ArrayLike) -> Expectation:
    """Expected and found figures (n,); particles where one of them is NaN are left out."""
    pairs = np.stack([np.asarray(expected, np.float64), np.asarray(found, np.float64)])
    told, true = pairs[:, np.isfinite(pairs).all(0)]
    varies = len(true) > 1 and np.ptp(told) > 0 and np.ptp(true) > 0
    ranks = float(spearmanr(told, true).statistic) if varies else float("nan")
    return Expectation(mean((told - true) ** 2) ** 0.5, mean(told - true), ranks)


# ------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class ClassSummary:
    """One row of the table per class; see `summarise`."""

    name: str
    particles: int
    predicted: int
    precision: float
    recall: float
    mean_iou: float
    mean_density_correlation: float


@dataclass(frozen=True)
class Summary:
    """Headline figures and the table per class; see `summarise` for the definitions."""

    particles: int
    particles_of_known_classes: int
    particles_not_none: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    mean_recall: float
    expected_calibration_error: float
    mean_iou: float
    median_iou: float
    mean_density_correlation: float
    median_density_correlation: float
    mean_density_correlation_in_mask: float
    classes: tuple[ClassSummary, ...]


_AVERAGED = "mean over the particles that are not “none” in truth, whether or not their class was predicted right"
DEFINITIONS: dict[str, str] = {
    "accuracy": "share of all particles of classes that the model knows, “none” included, whose most probable class is the true one; "
    "the 95 % interval is for other particles of tomograms like these, or, where there is only one, of this one",
    "mean_recall": "mean of the recalls of the classes that occur in truth and that the model knows (balanced accuracy)",
    "precision": "share of the particles given a class that are truly of that class",
    "recall": "share of the particles of a class that were given that class",
    "expected_calibration_error": "mean of |accuracy − stated probability of the predicted class| over 15 bins of equal width from 0 to 1, "
    "weighted by their particles; all particles of classes that the model knows",
    "called_unknown": "share of the particles whose verdict is “unknown”: of classes that the model does not know, and of those that it knows",
    "mean_iou": f"voxels in both the predicted mask (probability above 0.5) and the true one over voxels in either, per particle; {_AVERAGED}",
    "mean_density_correlation": f"Pearson correlation of recovered and true density over the whole box, per particle; {_AVERAGED}",
    "mean_density_correlation_in_mask": "the same over the voxels of the true mask only",
    "fidelity": "expected correlation of recovered and true density, by _triptychFidelity, against the found one: root mean square error, mean of "
    f"expected less found, Spearman’s rank correlation; {_AVERAGED}",
    "fourier_shell_correlation": f"of recovered and true density, whole box, no further mask, per particle; {_AVERAGED}",
    "snr": "var(signal) / var(noise) over the whole box, after CTF, missing wedge and band limit; the neighbours belong to the signal",
}


def summarise(
    class_names: Sequence[str],
    truth: ArrayLike,
    predicted: ArrayLike | None = None,
    probability: ArrayLike | None = None,
    iou: ArrayLike | None = None,
    correlation: ArrayLike | None = None,
    correlation_in_mask: ArrayLike | None = None,
    known: int | None = None,
    tomogram: ArrayLike | None = None,
) -> Summary:
    """Headline figures and a table per class.

    Accuracy and calibration error are over all particles of classes that the model knows. IoU and density correlation are averaged over the particles
    that are not "none" in truth, whatever class they were given, because a box without a particle has no density to
    recover; NaN values are left out. What was not predicted (None) gives NaN. `DEFINITIONS` has the words.

    Parameters
    ----------
    class_names : names of the k classes
    truth, predicted : (n,), class indices
    probability : (n,), probability of the predicted class
    iou, correlation, correlation_in_mask : (n,), of each particle
    known : the model knows the first so many classes; default: all
    tomogram : (n,), from which each particle comes; for the accuracy's interval, see `share_interval`
    """
    truth, known = np.asarray(truth, np.int64), len(class_names) if known is None else known
    judged = truth < known
    missing = np.full(truth.shape, np.nan)
    values = [missing if v is None else np.asarray(v, np.float64) for v in (iou, correlation, correlation_in_mask)]
    none = class_names.index(NONE_CLASS) if NONE_CLASS in class_names else -1
    iou_kept, correlation_kept, in_mask_kept = (np.where(truth == none, np.nan, v) for v in values)
    called = None if predicted is None else np.asarray(predicted, np.int64)
    right = None if called is None else (truth == called)[judged]
    stated = None if probability is None else np.asarray(probability)[judged]
    classes = _summarise_classes(class_names, truth, called, iou_kept, correlation_kept, known)
    return Summary(
        particles=truth.size,
        particles_of_known_classes=int(judged.sum()),
        particles_not_none=int((truth != none).sum()),
        accuracy=np.nan if right is None else mean(right),
        accuracy_interval=(np.nan, np.nan) if right is None else share_interval(right, None if tomogram is None else np.asarray(tomogram)[judged]),
        mean_recall=mean([row.recall for row in classes]),
        expected_calibration_error=np.nan if right is None or stated is None else expected_calibration_error(stated, right),
        mean_iou=mean(iou_kept),
        median_iou=median(iou_kept),
        mean_density_correlation=mean(correlation_kept),
        median_density_correlation=median(correlation_kept),
        mean_density_correlation_in_mask=mean(in_mask_kept),
        classes=classes,
    )


def _summarise_classes(
    class_names: Sequence[str], truth: IntArray, called: IntArray | None, iou: FloatArray, correlation: FloatArray, known: int
) -> tuple[ClassSummary, ...]:
    """A row per class; precision and recall are NaN where nothing was called, and recall is of a class that the model does not know."""
    precision = recall = np.full(len(class_names), np.nan)
    predicted = np.zeros(len(class_names), np.int64)
    if called is not None:
        confusion = confusion_matrix(truth, called, len(class_names))
        precision, recall, predicted = precision_per_class(confusion), recall_per_class(confusion), confusion.sum(axis=0)
        recall[known:] = np.nan
    return tuple(
        ClassSummary(
            name=name,
            particles=int((truth == k).sum()),
            predicted=int(predicted[k]),
            precision=float(precision[k]),
            recall=float(recall[k]),
            mean_iou=mean(iou[truth == k]),
            mean_density_correlation=mean(correlation[truth == k]),
        )
        for k, name in enumerate(class_names)
    )


class Trend(NamedTuple):
    """Means in bins of something.

    Attributes
    ----------
    position : (bins,), geometric mean of the positions in the bin
    mean : (bins,)
    low, high : (bins,), 95 % interval of the mean (normal approximation, +- 1.96 standard errors)
    particles : (bins,), number of values that are not NaN
    """

    position: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    particles: IntArray


def trend(position: ArrayLike, values: ArrayLike, bins: int = 6) -> Trend:
    """Mean of the values in bins of equal numbers of particles, ordered by a positive position (such as the SNR).

    NaN values are left out; a bin without values is NaN.
    """
    position, values = np.asarray(position, np.float64), np.asarray(values, np.float64)
    groups = np.array_split(np.argsort(position, kind="stable"), bins)
    rows = []
    for group in groups:
        kept = group[np.isfinite(values[group])]
        middle = mean(values[kept])
        error = 1.96 * float(np.std(values[kept], ddof=1)) / np.sqrt(kept.size) if kept.size > 1 else np.nan
        centre = float(np.exp(np.log(position[group]).mean())) if group.size else np.nan
        rows.append((centre, middle, middle - error, middle + error, kept.size))
    columns = np.array(rows, dtype=np.float64).T
    return Trend(columns[0], columns[1], columns[2], columns[3], columns[4].astype(np.int64))


def principal_components(vectors: FloatArray, count: int = 2) -> tuple[FloatArray, FloatArray]:
    """Coordinates (n, count) along the directions of largest variance, and the share of the variance of each.

    The sign of a direction is free; it is set so that the largest component of its vector is positive.
    """
    from sklearn.decomposition import PCA  # takes seconds to import

    found = min(count, *vectors.shape)
    with np.errstate(invalid="ignore", divide="ignore"):  # vectors that are all the same have no variance to share
        pca = PCA(found, svd_solver="full").fit(vectors)
    points, shares = np.zeros((len(vectors), count)), np.zeros(count)
    points[:, :found], shares[:found] = pca.transform(vectors), np.nan_to_num(pca.explained_variance_ratio_)
    return points, shares
