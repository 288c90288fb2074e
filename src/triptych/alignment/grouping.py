"""Particles of a kind, found by their embeddings and the shapes of their recovered densities: groups whose number the data decide.

No truth is asked; how stable the groups are is told by grouping random parts of the particles.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from triptych.config import GroupConfig
from triptych.errors import InputError, counted
from triptych.judging.metrics import principal_components
from triptych.recognition.novelty import NoveltyReference, unit_length

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]

NO_GROUP = -1


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of n particles, the largest first.

    Attributes
    ----------
    labels : (n,), number of each particle's group; -1 for none
    stability : (groups,) from 0 to 1, by resampling: see `measure_stability`; NaN without resamplings
    junk : (groups,) bool, whether the group is of what the model calls "none"
    points : (n, dimensions), where they were found: principal components of the embeddings, far ones drawn in
    """

    labels: IntArray
    stability: NDArray[np.float64]
    junk: NDArray[np.bool_]
    points: NDArray[np.float64]

    @property
    def count(self) -> int:
        return len(self.stability)

    def members(self, number: int) -> IntArray:
        """Rows of the particles of a group."""
        return np.flatnonzero(self.labels == number)


def no_groups(count: int) -> Groups:
    """So many particles, of which none is in a group."""
    return Groups(np.full(count, NO_GROUP, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.bool_), np.empty((count, 0)))


def group(
    embedding: FloatArray,
    rng: np.random.Generator,
    config: GroupConfig | None = None,
    reference: NoveltyReference | None = None,
    none_probability: FloatArray | None = None,
    shape: FloatArray | None = None,
) -> Groups:
    """Group particles by HDBSCAN (Campello, Moulavi & Sander 2013) on the principal components of their embeddings and of their shapes.

    Large groups are parted into what HDBSCAN finds in them (its "leaves") where that is stable; then particles that lie near a group join it.
    Of more particles than `sample`, whose time would grow with the square of their number, so many find the groups, and the others only join.

    Parameters
    ----------
    embedding : (n, e), as `predict` writes it
    reference : of the model; its whitening shrinks what changes within a class, such as pose and noise. None: both as they are
    none_probability : (n,), probability of the class "none", by which groups of junk are recognised
    shape : (n, s), `describe_shapes` of the recovered densities; None: groups by the embeddings alone
    rng : of the resampling

    Raises
    ------
    InputError
        If there are fewer particles than the smallest group has, or the numbers of rows differ.
    """
    config = config or GroupConfig()
    count = len(embedding)
    if count < config.smallest:
        raise InputError(f"{counted(count, 'particle')} came, but the smallest group has {config.smallest}: give more, or a lower smallest")
    if none_probability is not None and len(none_probability) != count:
        raise InputError(f"{len(none_probability)} probabilities of none came with {count} particles")
    points = find_points(embedding, shape, reference, config)
    labels, drawn = np.full(count, NO_GROUP, dtype=np.int64), draw_sample(count, config, rng)
    labels[drawn], stability = find_stable_groups(points[drawn], config, rng)
    labels, order = number_by_size(join_near(points, labels, config))
    none = np.zeros(count) if none_probability is None else np.asarray(none_probability)
    junk = np.array([none[labels == k].mean() >= config.junk_share for k in range(len(stability))], dtype=np.bool_)
    return Groups(labels, stability[order], junk, points)


def find_points(embedding: FloatArray, shape: FloatArray | None, reference: NoveltyReference | None, config: GroupConfig) -> NDArray[np.float64]:
    """Where particles lie (n, k): components of what the network makes of them, and as much of the shapes that it recovers."""
    parts = [unit_length(embedding) if reference is None else reference.whiten(embedding)]
    if shape is not None:
        parts.append(shape if reference is None or not reference.shape_common.size else shape @ reference.shape_common.T)
    components = [salient_components(part, config.dimensions) for part in parts]
    scales = [max(float(np.square(points).sum(1).mean()), 1e-12) for points in components]
    return draw_in(np.concatenate([points / np.sqrt(scale) for points, scale in zip(components, scales, strict=True)], axis=1))


def salient_components(values: FloatArray, most: int) -> NDArray[np.float64]:
    """Coordinates (n, k) along the axes whose variance stands out from noise; at least 2 axes, as far as there are so many.

    Noise alone, of variance s in each of e directions, gives n particles variances up to s (1 + sqrt(e / n))^2 (Marchenko & Pastur 1967);
    s is taken from the median of the variances.
    """
    count, size = values.shape
    points, shares = principal_components(np.asarray(values, dtype=np.float64), min(count, size))
    edge = np.median(shares) * (1 + np.sqrt(size / count)) ** 2
    return points[:, : min(max(int((shares > edge).sum()), 2), most)]


def draw_in(points: FloatArray) -> NDArray[np.float64]:
    """Points (n, k) divided by the root of their squared length and that of the median point.

    Otherwise a class that lies far out is found as one group, and all others together as a second.
    """
    squared = np.square(points).sum(1, keepdims=True)
    return np.asarray(points / np.sqrt(squared + max(float(np.median(squared)), 1e-12)))


def draw_sample(count: int, config: GroupConfig, rng: np.random.Generator) -> IntArray:
    """Rows of the particles that groups are found among: all, or where there are too many, some drawn evenly."""
    if count <= config.sample:
        return np.arange(count)
    text = "groups are found among %d of the %d particles, drawn evenly, and others join those near them: a kind of fewer than %d may be missed"
    logger.info(text, config.sample, count, config.smallest * count // config.sample)
    return np.sort(rng.choice(count, config.sample, replace=False))


def find_stable_groups(points: FloatArray, config: GroupConfig, rng: np.random.Generator) -> tuple[IntArray, NDArray[np.float64]]:
    """Groups, parted where the parts are stable; number of each particle's group, -1 for none, and the stability of each group."""
    whole, parts = (find_groups(points, method, config, len(points)) for method in ("eom", "leaf"))
    stability = measure_stability(points, whole, "eom", config, rng)
    stability_of_parts = measure_stability(points, parts, "leaf", config, rng)
    labels, found = np.full(len(points), NO_GROUP, dtype=np.int64), np.empty(0)
    for k in range(len(stability)):
        inside = np.setdiff1d(parts[whole == k], [NO_GROUP])
        if len(inside) > 1 and (stability_of_parts[inside] >= config.least_stability).all():
            pieces = [(parts == part, stability_of_parts[part]) for part in inside]
        else:
            pieces = [(whole == k, stability[k])]
        for members, value in pieces:
            labels[members] = len(found)
            found = np.append(found, value)
    return labels, found


def find_groups(points: FloatArray, method: Literal["eom", "leaf"], config: GroupConfig, total: int) -> IntArray:
    """Number of each particle's group, -1 for none. Of `total` particles, of which these may be a part."""
    from sklearn.cluster import HDBSCAN  # takes seconds to import

    smallest = max(2, round(config.smallest * len(points) / total))
    model = HDBSCAN(min_cluster_size=smallest, min_samples=min(config.neighbours, len(points)), cluster_selection_method=method, copy=True)
    return np.asarray(model.fit(points).labels_, dtype=np.int64)


def join_near(points: FloatArray, labels: IntArray, config: GroupConfig) -> IntArray:
    """Particles without a group join the nearest one, as far as its own particles lie from one another, times `reach`.

    Distances are those to the k-th nearest particle of the group, k being `neighbours`; own particles: up to the farthest twentieth.
    """
    free = np.flatnonzero(labels == NO_GROUP)
    if not len(free) or len(free) == len(labels):
        return labels
    distance = []
    for k in range(int(labels.max()) + 1):
        own = points[labels == k]
        tree, nth = cKDTree(own), min(config.neighbours, len(own) - 1)
        usual = max(float(np.quantile(tree.query(own, [nth + 1])[0], 0.95)), 1e-12)  # the nearest of each is itself
        bound = np.nextafter(1.001 * config.reach * usual, np.inf)  # infinitely far beyond, which is found sooner
        distance.append(tree.query(points[free], [nth], distance_upper_bound=bound)[0][:, 0] / usual)
    nearest = np.argmin(distance, axis=0)
    joined = labels.copy()
    joined[free] = np.where(np.min(distance, axis=0) <= config.reach, nearest, NO_GROUP)
    return joined


def number_by_size(labels: IntArray) -> tuple[IntArray, IntArray]:
    """The same groups, numbered from the largest on, and for each new number the old one."""
    numbers, sizes = np.unique(labels[labels >= 0], return_counts=True)
    order = numbers[np.argsort(-sizes, kind="stable")]
    result = np.full(len(labels), NO_GROUP, dtype=np.int64)
    for new, old in enumerate(order):
        result[labels == old] = new
    return result, order


def measure_stability(
    points: FloatArray, labels: IntArray, method: Literal["eom", "leaf"], config: GroupConfig, rng: np.random.Generator
) -> NDArray[np.float64]:
    """How well each group is found again in random parts of the particles (groups,).

    The mean, over the parts, of the largest Jaccard index |A n B| / |A u B| of the group's particles A in the part and any group B found there
    (C. Hennig, Comput. Stat. Data Anal. 52, 258, 2007).
    """
    groups = int(labels.max()) + 1
    size = max(2, round(config.resampled_share * len(points)))
    values = np.full((config.resamplings, groups), np.nan)
    for row in values:
        part = np.sort(rng.choice(len(points), size, replace=False))
        again = find_groups(points[part], method, config, len(points))
        for k in range(groups):
            row[k] = best_overlap(labels[part] == k, again)
    return values.mean(0) if config.resamplings else np.full(groups, np.nan)


def best_overlap(members: NDArray[np.bool_], labels: IntArray) -> float:
    """The largest Jaccard index of some particles and any of the groups."""
    overlaps = [(members & (labels == k)).sum() / (members | (labels == k)).sum() for k in range(int(labels.max()) + 1)]
    return float(max(overlaps, default=0.0))
