"""Is a particle of a kind that the model has never seen? Scores, their threshold, and the reference that they are made with.

Pure functions of what a network says of particles. Embeddings are compared by their direction alone (Sun et al., ICML 2022): their length
says how clear a particle is, and clear data would otherwise look new to a model that was calibrated on poor ones. Which score decides, and
where its threshold lies, is a `NoveltyRule`; what the score compares a particle with is a `NoveltyReference`. Both are kept in the model folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.spatial.distance import cdist
from scipy.special import expit, log_softmax, logsumexp

from triptych.config import UNKNOWN, NoveltyConfig, NoveltyScore
from triptych.errors import InputError
from triptych.io.output_names import NOVELTY
from triptych.parallel import in_batches

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

ARRAYS = ("means", "whitening", "sample", "shape_means", "shape_whitening", "shape_levels", "shape_common")
SCORES: tuple[NoveltyScore, ...] = get_args(NoveltyScore)
THRESHOLD = 0.5
"""The novelty from which on a particle is unknown."""
POOLED_SHARE, EVEN_SHARE = 0.2, 0.1
"""How far the scatter of the shapes of a class is drawn to that of all classes, and then to one that is the same along all axes."""
PRIOR_PARTICLES = 3
"""With how many particles the level of all classes counts for that of one."""
ROWS_AT_ONCE = 1024
"""Particles whose distances to the reference's sample are in memory at once."""


class Traits(NamedTuple):
    """What a network says of n particles, as far as it tells the known from the new.

    Attributes
    ----------
    embedding : (n, e)
    logits : (n, classes), not divided by the temperature
    shape : (n, s), `describe_shapes` of the recovered densities; (n, 0) without that task
    """

    embedding: FloatArray
    logits: FloatArray
    shape: FloatArray

    def take(self, rows: NDArray[np.int64] | BoolArray) -> Traits:
        return Traits._make(values[rows] for values in self)


@dataclass(frozen=True)
class NoveltyRule:
    """How novelty is judged.

    Attributes
    ----------
    score : name of the score
    threshold : the score from which on a particle is unknown
    scale : change of the score over which the novelty goes from 1/2 to 0.73
    neighbours : which nearest neighbour the score of that name looks at
    far, far_scale : the distance ("neighbours") from which on a particle is unknown whatever its score, and the scale of it; None: no limit
    chosen_on : "withheld structures" (best balanced accuracy) or "known particles" (a stated share is accepted)
    withheld : names of those structures
    accepted_known, rejected_withheld : shares of the held-out particles on the right side of the threshold; None where no structures were withheld
    balanced_accuracy : of every score at its own best threshold; empty where no structures were withheld
    """

    score: NoveltyScore
    threshold: float
    scale: float
    neighbours: int
    chosen_on: str
    far: float | None = None
    far_scale: float = 1.0
    withheld: tuple[str, ...] = ()
    accepted_known: float = 1.0
    rejected_withheld: float | None = None
    balanced_accuracy: Mapping[NoveltyScore, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class NoveltyReference:
    """What particles of known classes look like to a model.

    Attributes
    ----------
    means : (classes, e) float32, mean direction of the embeddings of each class; the mean of all for a class without particles
    whitening : (e, e) float32, turns the pooled covariance within the classes into the identity: W with W' W = inverse covariance
    sample : (m, e) float16, whitened embeddings of known particles
    shape_means : (classes, s) float32, mean shape of the recovered densities; (classes, 0) for a model without the density task
    shape_whitening : (classes, s, s) float16, turns the covariance of each class's shapes, drawn a little to that of all, into the identity
    shape_levels : (classes, 2) float32, mean and standard deviation of the logarithm of the distance of held-out particles from their class
    shape_common : (s, s) float32, whitening of the covariance within the classes, the same for all
    rule : how they are used
    """

    means: NDArray[np.float32]
    whitening: NDArray[np.float32]
    sample: NDArray[np.float16]
    shape_means: NDArray[np.float32]
    shape_whitening: NDArray[np.float16]
    shape_levels: NDArray[np.float32]
    shape_common: NDArray[np.float32]
    rule: NoveltyRule

    def whiten(self, embedding: FloatArray) -> NDArray[np.float32]:
        """Directions of embeddings (n, e), in coordinates in which particles of one class scatter alike, by 1, along all axes."""
        return np.asarray(unit_length(embedding) @ self.whitening.T, dtype=np.float32)


# ----------------------------------------------------------------------------------------------------------------- traits


def unit_length(embedding: FloatArray) -> FloatArray:
    """Embeddings (n, e) divided by their length; one of length 0 stays."""
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(embedding / np.where(length > 0, length, 1))


# ----------------------------------------------------------------------------------------------------------------- scores


def raw_score(reference: NoveltyReference, traits: Traits, score: NoveltyScore) -> NDArray[np.float64]:
    """One of the scores (n,): the higher, the more novel. In units of its own."""
    if score == "probability":
        return np.asarray(-log_softmax(traits.logits, axis=1).max(1), dtype=np.float64)
    if score == "energy":
        return np.asarray(-logsumexp(traits.logits, axis=1), dtype=np.float64)
    if score == "density":
        return density_score(reference, traits.shape, traits.logits.argmax(1))
    whitened = reference.whiten(traits.embedding)
    if score == "mahalanobis":
        return np.asarray(cdist(whitened, reference.means @ reference.whitening.T).min(1))
    return neighbour_distance(whitened, reference.sample.astype(np.float32), reference.rule.neighbours)


def density_score(reference: NoveltyReference, shape: FloatArray, label: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much farther shapes (n, s) lie from the classes (n,) that they were called than held-out particles do, in standard deviations of these."""
    level, deviation = reference.shape_levels[label].astype(np.float64).T
    return np.asarray((shape_distances(reference, shape, label) - level) / deviation)


def shape_distances(reference: NoveltyReference, shape: FloatArray, label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithm of the distance of shapes (n, s) from the mean of the classes (n,) that they were called, in units of these classes' scatter."""
    distance = np.empty(len(shape))
    for k in np.unique(label):
        rows = label == k
        whitened = (shape[rows] - reference.shape_means[k]) @ reference.shape_whitening[k].astype(np.float32).T
        distance[rows] = np.linalg.norm(whitened, axis=1)
    return np.log(np.maximum(distance, 1e-6))


def neighbour_distance(points: NDArray[np.float32], sample: NDArray[np.float32], number: int) -> NDArray[np.float64]:
    """Distance of each point (n, e) to its k-th nearest in a sample (m, e); to the farthest where the sample is smaller."""
    place = min(number, len(sample)) - 1
    return np.concatenate([np.empty(0), *(np.partition(cdist(part, sample), place, axis=1)[:, place] for part in in_batches(points, ROWS_AT_ONCE))])


def possible_scores(traits: Traits) -> list[NoveltyScore]:
    """The scores for which there is what they need."""
    return [score for score in SCORES if score != "density" or traits.shape.shape[1]]


def score_novelty(reference: NoveltyReference, traits: Traits) -> NDArray[np.float32]:
    """Novelty (n,) from 0 to 1 by the reference's rule, of particles of their likeliest class; from 1/2 on, a particle is unknown."""
    novelty: NDArray[np.float32] = novelty_by_class(reference, traits)[np.arange(len(traits.logits)), traits.logits.argmax(1)]
    return novelty


def novelty_by_class(reference: NoveltyReference, traits: Traits) -> NDArray[np.float32]:
    """Novelty (n, classes) from 0 to 1 that particles have if they are called each of the classes: another one where the score asks which."""
    rule = reference.rule
    if rule.score == "density":
        every = range(traits.logits.shape[1])
        raw = np.stack([density_score(reference, traits.shape, np.full(len(traits.shape), k)) for k in every], axis=1)
    else:
        raw = raw_score(reference, traits, rule.score)[:, None].repeat(traits.logits.shape[1], axis=1)
    novelty = expit((raw - rule.threshold) / rule.scale)
    if rule.far is not None:
        novelty = np.maximum(novelty, expit((raw_score(reference, traits, "neighbours") - rule.far) / rule.far_scale)[:, None])
    return np.asarray(novelty, dtype=np.float32)


def give_verdicts(classes: Sequence[str], novelty: FloatArray) -> list[str]:
    """Class, or "unknown" where the novelty says so."""
    return [UNKNOWN if value >= THRESHOLD else name for name, value in zip(classes, novelty, strict=True)]


# ---------------------------------------------------------------------------------------------------------------- fitting


def fit_novelty(
    training: Traits,
    label: NDArray[np.int64],
    known: Traits,
    withheld: Traits | None = None,
    withheld_names: Sequence[str] = (),
    config: NoveltyConfig | None = None,
) -> NoveltyReference:
    """What known particles look like, and which score and threshold tell them from others.

    With particles of withheld structures: the score and threshold of the best balanced accuracy (mean of the shares of known and of withheld
    particles on the right side). Without: the threshold that accepts a share of the known particles, of the score that the settings name.
    A score other than "neighbours" may not see that the data themselves are strange. What is farther from the known particles than nearly all
    held-out ones are is therefore unknown as well.

    Parameters
    ----------
    training, label : particles that the reference is made from, and their classes
    known : held-out particles of known classes, "none" among them: junk is not new
    withheld : particles of structures that the model has not been trained on
    """
    config = config or NoveltyConfig()
    start = NoveltyRule(possible_score(config, known), 0.0, 1.0, config.neighbours, "")
    reference = describe_known(training, label, known, start)
    if withheld is None or not len(withheld.embedding):
        rule = choose_by_share(reference, known, config)
        return count_accepted(replace(reference, rule=rule), known)
    rule = choose_by_structures(reference, known, withheld, config)
    return count_accepted(replace(reference, rule=replace(rule, withheld=tuple(withheld_names))), known, withheld)


def count_accepted(reference: NoveltyReference, known: Traits, withheld: Traits | None = None) -> NoveltyReference:
    """The reference whose rule says which shares of the held-out particles are on the right side."""
    accepted = float((score_novelty(reference, known) < THRESHOLD).mean())
    rejected = None if withheld is None else float((score_novelty(reference, withheld) >= THRESHOLD).mean())
    return replace(reference, rule=replace(reference.rule, accepted_known=accepted, rejected_withheld=rejected))


def choose_by_share(reference: NoveltyReference, known: Traits, config: NoveltyConfig) -> NoveltyRule:
    """The threshold that, with the limit of the distance, accepts a share of the held-out known particles."""
    rule = limit_distance(reference, known, reference.rule, config)
    values = raw_score(reference, known, rule.score)
    near = values if rule.far is None else values[raw_score(reference, known, "neighbours") <= rule.far]
    threshold = float(np.quantile(near, min(1.0, config.accepted_share * len(values) / len(near))))
    return replace(rule, threshold=threshold, scale=novelty_scale(values), chosen_on="known particles")


def limit_distance(reference: NoveltyReference, known: Traits, rule: NoveltyRule, config: NoveltyConfig) -> NoveltyRule:
    """The rule with the distance that all but a small share of the held-out known particles keep; as it is where its score is that distance."""
    if rule.score == "neighbours" or config.far_share == 0:
        return rule
    distance = raw_score(reference, known, "neighbours")
    return replace(rule, far=float(np.quantile(distance, 1 - config.far_share)), far_scale=novelty_scale(distance))


def possible_score(config: NoveltyConfig, traits: Traits) -> NoveltyScore:
    """The score that the settings name; InputError where the model lacks what it needs."""
    possible = possible_scores(traits)
    if config.score is None:
        return "density" if "density" in possible else "neighbours"
    if config.score not in possible:
        raise InputError(f"novelty.score is {config.score}, but the model recovers no densities: choose one of {', '.join(possible)}")
    return config.score


def describe_known(training: Traits, label: NDArray[np.int64], known: Traits, rule: NoveltyRule) -> NoveltyReference:
    """Means, covariances and a sample of the known classes; how far held-out particles of theirs lie from them."""
    classes = training.logits.shape[1]
    direction = unit_length(training.embedding)
    means, within = class_means(direction, label, classes)
    size, count = direction.shape[1], len(direction)
    whitening = whiten(within.T @ within / count, size / (count + size))
    sample = (direction @ whitening.T).astype(np.float16)
    reference = NoveltyReference(means.astype(np.float32), whitening, sample, *describe_class_shapes(training.shape, label, classes), rule)
    called = known.logits.argmax(1)
    levels = class_levels(shape_distances(reference, known.shape, called), called, classes)
    return replace(reference, shape_levels=levels)


def class_means(values: FloatArray, label: NDArray[np.int64], classes: int) -> tuple[FloatArray, FloatArray]:
    """Mean of each class (classes, e), of a class without particles that of all, and the values (n, e) less those of their class."""
    means = np.repeat(values.mean(0, keepdims=True), classes, axis=0).astype(np.float64)
    for k in np.unique(label):
        means[k] = values[label == k].mean(0)
    return means, values - means[label]


def whiten(covariance: FloatArray, share: float) -> NDArray[np.float32]:
    """Whitening (e, e) of a covariance drawn by a share towards a multiple of the identity, without which few particles make it singular."""
    size = len(covariance)
    if not size:
        return np.empty((0, 0), np.float32)
    level = max(np.trace(covariance) / size, 1e-6)
    variance, axes = np.linalg.eigh((1 - share) * covariance + share * level * np.eye(size))
    return np.asarray((axes / np.sqrt(variance)) @ axes.T, dtype=np.float32)


class ClassShapes(NamedTuple):
    """Of the shapes of the classes: the fields of a `NoveltyReference` of the same names."""

    means: NDArray[np.float32]
    whitening: NDArray[np.float16]
    levels: NDArray[np.float32]
    common: NDArray[np.float32]


def describe_class_shapes(shape: FloatArray, label: NDArray[np.int64], classes: int) -> ClassShapes:
    """Mean and whitening of the shapes of each class, as if each scattered by 1."""
    means, within = class_means(shape, label, classes)
    pooled = within.T @ within / len(within)
    total = max(float(np.trace(pooled)), 1e-12)
    whitening = []
    for k in range(classes):
        own = within[label == k]
        scatter = own.T @ own / len(own) if len(own) > 1 else pooled
        mixed = (1 - POOLED_SHARE) * scatter + POOLED_SHARE * pooled * np.trace(scatter) / total
        whitening.append(whiten(mixed, EVEN_SHARE).astype(np.float16))
    levels = np.tile(np.array([0, 1], np.float32), (classes, 1))
    return ClassShapes(means.astype(np.float32), np.stack(whitening), levels, whiten(pooled, EVEN_SHARE))


def class_levels(values: FloatArray, label: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Mean and standard deviation of each class's values (classes, 2), those of all counting for `PRIOR_PARTICLES` of its own."""
    middle, variance = values.mean(), max(float(values.var()), 1e-6)
    levels = np.empty((classes, 2), np.float32)
    for k in range(classes):
        own, weight = values[label == k], PRIOR_PARTICLES + (label == k).sum()
        mean = (own.sum() + PRIOR_PARTICLES * middle) / weight
        levels[k] = mean, np.sqrt((np.square(own - mean).sum() + PRIOR_PARTICLES * variance) / weight)
    return levels


def choose_by_structures(reference: NoveltyReference, known: Traits, withheld: Traits, config: NoveltyConfig) -> NoveltyRule:
    """The score and the threshold that best tell held-out known particles from withheld structures."""
    scores = {score: (raw_score(reference, known, score), raw_score(reference, withheld, score)) for score in possible_scores(known)}
    thresholds = {score: best_threshold(*values) for score, values in scores.items()}
    accuracy = {score: balanced_accuracy(*values, thresholds[score]) for score, values in scores.items()}
    best = max(accuracy, key=lambda score: accuracy[score])
    chosen = "withheld structures"
    rule = NoveltyRule(best, thresholds[best], novelty_scale(scores[best][0]), config.neighbours, chosen, balanced_accuracy=accuracy)
    return limit_distance(reference, known, rule, config)


def best_threshold(known: FloatArray, novel: FloatArray) -> float:
    """The threshold of the best balanced accuracy: half-way between two neighbouring values of the score."""
    values = np.unique(np.concatenate([known, novel]))
    middles = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    accepted = np.searchsorted(np.sort(known), middles) / len(known)
    rejected = 1 - np.searchsorted(np.sort(novel), middles) / len(novel)
    return float(middles[(accepted + rejected).argmax()])


def balanced_accuracy(known: FloatArray, novel: FloatArray, threshold: float) -> float:
    """Mean of the shares of known and of novel particles that are on their side of a threshold."""
    return float(((known < threshold).mean() + (novel >= threshold).mean()) / 2)


def novelty_scale(values: FloatArray) -> float:
    """A third of the way from the median to the 95th percentile: a particle as far from the threshold has a novelty of 0.27 or 0.73."""
    return max(float(np.quantile(values, 0.95) - np.median(values)) / 3, 1e-6)


def add_class(reference: NoveltyReference, embedding: FloatArray, shape: FloatArray, rng: np.random.Generator) -> NoveltyReference:
    """The reference with one class more, after the others, from the embeddings (n, e) and shapes (n, s) of its particles; the rule stays.

    Few particles lie far apart, and would be far from others of their class. As many as the other classes have on average are therefore
    drawn around their mean, with the scatter of 1 that whitening gives to any class; and their shapes scatter as those of all classes do.
    """
    own = reference.whiten(embedding)
    drawn = rng.normal(own.mean(0), 1.0, (max(0, len(reference.sample) // len(reference.means) - len(own)), own.shape[1]))
    sample = np.concatenate([reference.sample, own.astype(np.float16), drawn.astype(np.float16)])
    means = np.concatenate([reference.means, unit_length(embedding).mean(0, keepdims=True)]).astype(np.float32)
    shape_means = np.concatenate([reference.shape_means, shape.mean(0, keepdims=True)]).astype(np.float32)
    whitening = np.concatenate([reference.shape_whitening, reference.shape_common[None].astype(np.float16)])
    grown = replace(reference, means=means, sample=sample, shape_means=shape_means, shape_whitening=whitening)
    return replace(grown, shape_levels=np.concatenate([reference.shape_levels, newcomer_level(grown, shape)[None]]))


def newcomer_level(reference: NoveltyReference, shape: FloatArray) -> NDArray[np.float32]:
    """Mean and standard deviation (2,) of the log distance of the last class's particles, as others of that class will have them.

    From their own mean, n particles are nearer by sqrt(1 - 1 / n) than others, which are farther from it by sqrt(1 + 1 / n).
    """
    count = len(shape)
    own = shape_distances(reference, shape, np.full(count, len(reference.shape_means) - 1)).mean()
    correction = 0.5 * np.log((count + 1) / (count - 1)) if count > 1 else 0.0
    return np.array([own + correction, np.median(reference.shape_levels[:, 1])], np.float32)


# ------------------------------------------------------------------------------------------------------------------ files


def save_reference(reference: NoveltyReference, folder: Path) -> Path:
    """Write the arrays into a model folder; the rule belongs into its model.json."""
    path = folder / NOVELTY
    path.write_bytes(save({name: np.ascontiguousarray(getattr(reference, name)) for name in ARRAYS}))  # save_file lets nobody else read it
    return path


def load_reference(folder: Path, rule: NoveltyRule, classes: int, embedding_size: int) -> NoveltyReference:
    """Read what `save_reference` wrote; InputError unless it is just that, for so many classes and such embeddings."""
    path = folder / NOVELTY
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}): use the folder as triptych wrote it") from error
    if set(arrays) != set(ARRAYS):
        raise InputError(f"{path} holds {sorted(arrays)}, but {sorted(ARRAYS)} was expected: use the folder as triptych wrote it")
    size = arrays["shape_means"].shape[-1]
    sample, shapes = (len(arrays["sample"]), embedding_size), ((classes, size), (classes, size, size), (classes, 2), (size, size))
    expected = ((classes, embedding_size), (embedding_size,) * 2, sample, *shapes)
    for name, shape in zip(ARRAYS, expected, strict=True):
        if arrays[name].shape != shape:
            raise InputError(f"{name} in {path} has the shape {arrays[name].shape}, but {shape} fits the model: use the folder as triptych wrote it")
    return NoveltyReference(**arrays, rule=rule)


def read_rule(entry: Mapping[str, Any]) -> NoveltyRule:
    """The entry "novelty" of a model.json; ValueError or TypeError unless it is one."""
    rule = NoveltyRule(**{**entry, "withheld": tuple(entry.get("withheld", ()))})
    numbers = (rule.threshold, rule.scale, rule.neighbours, rule.far_scale, 0.0 if rule.far is None else rule.far)
    if rule.score not in SCORES or not np.isfinite(numbers).all() or not min(rule.scale, rule.neighbours, rule.far_scale) > 0:
        raise ValueError(f"novelty is {dict(entry)}")
    return rule
