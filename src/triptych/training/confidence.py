"""How sure a trained model may be, by labelled particles: whether its probabilities are right, what is unknown to it, what densities are worth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from triptych.config import NoveltyConfig
from triptych.errors import counted
from triptych.io.store import Store
from triptych.judging.metrics import density_correlation, expected_calibration_error
from triptych.parallel import Progress, in_batches
from triptych.recognition.fidelity import Fidelity, describe_recovery, fit_fidelity
from triptych.recognition.model import Model, traits
from triptych.recognition.network import TaskOutput
from triptych.recognition.novelty import NoveltyReference, Traits, fit_novelty
from triptych.recognition.temperature import Temperature
from triptych.volume import standardise

Rows = NDArray[np.int64]
BATCH = 32
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of a store for fitting.

    Attributes
    ----------
    store : labelled subtomograms with the model's box and voxel size
    label : (all rows,) the model's number of each row's class, -1 for a class that it does not know
    fitting, held_out : rows of known classes, from different tomograms
    withheld : rows of classes that the model has not been trained on
    """

    store: Store
    label: NDArray[np.int64]
    fitting: Rows
    held_out: Rows
    withheld: Rows

    @property
    def withheld_names(self) -> tuple[str, ...]:
        present = np.unique(np.asarray(self.store["label"][:])[self.withheld])
        return tuple(self.store.class_names[k] for k in present)


class Look(NamedTuple):
    """What a model says of n particles, and how near the densities that it recovers come to the truth.

    Attributes
    ----------
    traits : what their novelty is judged by; without logits and shapes where the model has no class task
    recovery : (n, TRAITS), `describe_recovery` of masks and densities; (n, 0) without densities
    correlation : (n,), of recovered and true density; NaN where there is none of either
    """

    traits: Traits
    recovery: NDArray[np.float32]
    correlation: NDArray[np.float64]


class SampleLooks(NamedTuple):
    """What a model says of the rows of a sample."""

    fitting: Look
    held_out: Look
    withheld: Look


def look(model: Model, sample: Sample, batch_size: int = BATCH, on_progress: Progress | None = None) -> SampleLooks:
    """Run a model over the rows of a sample; `on_progress` is called with (particles done, particles in all)."""
    groups = (sample.fitting, sample.held_out, sample.withheld)
    total = sum(len(rows) for rows in groups)
    done, parts = 0, []
    for rows in groups:
        looks = [look_at_nothing(model)]
        for some in in_batches(rows, batch_size):
            looks.append(look_at_rows(model, sample.store, some))
            done += len(some)
            if on_progress:
                on_progress(done, total)
        parts.append(join_looks(looks))
    return SampleLooks._make(parts)


def join_looks(looks: Sequence[Look]) -> Look:
    """Looks at some particles and at others as one."""
    each, recovery, correlation = zip(*looks, strict=True)
    joined = Traits._make(np.concatenate(values) for values in zip(*each, strict=True))
    return Look(joined, np.concatenate(recovery), np.concatenate(correlation))


def look_at_nothing(model: Model) -> Look:
    """A look at no particles."""
    network, size = model.card.network, model.card.box_size
    density = torch.empty(0, size, size, size) if "density" in network.tasks else None
    logits = torch.empty(0, len(model.card.class_names)) if "class" in network.tasks else None
    return look_at(TaskOutput(logits, None, density, torch.empty(0, network.embedding_size)), None)


def look_at_rows(model: Model, store: Store, rows: Rows) -> Look:
    sign = np.float32(1 if store.contrast == model.card.contrast else -1)
    output = model.run(standardise(sign * store.read_rows("subtomogram", rows).astype(np.float32)))
    return look_at(output, store.read_rows("density", rows).astype(np.float32) if "density" in store else None)


def look_at(output: TaskOutput, truth: NDArray[np.float32] | None) -> Look:
    """What a network's output says of particles, whose true densities (n, d, h, w) are known or not."""
    nothing, correlation = np.empty((len(output.embedding), 0), np.float32), np.full(len(output.embedding), np.nan)
    recovery, told = nothing, Traits(output.embedding.numpy(), nothing, nothing)
    if output.class_logits is not None:
        told = traits(output)
    if output.density is not None:
        recovery = describe_recovery(output.density, output.mask_logits)
        correlation = correlation if truth is None else density_correlation(output.density.numpy(), truth)
    return Look(told, recovery, correlation)


def choose_rows(rows: Rows, limit: int, seed: int) -> Rows:
    """At most so many of the rows, at random."""
    return np.sort(np.random.default_rng((seed, 7)).permutation(rows)[:limit])


def fit_reference(seen: SampleLooks, sample: Sample, config: NoveltyConfig) -> NoveltyReference:
    """The novelty reference of a model, from what it says of a sample; a line in the log tells how the threshold was chosen.

    Of the held-out particles those count that the model names rightly: a particle that is mistaken for another kind may well be called unknown.
    """
    fitting, held_out, withheld = (part.traits for part in seen)
    right = held_out.logits.argmax(1) == sample.label[sample.held_out]
    known = held_out.take(right) if right.any() else held_out
    reference = fit_novelty(fitting, sample.label[sample.fitting], known, withheld, sample.withheld_names, config)
    rule = reference.rule
    text = "novelty: threshold of the score %s chosen on %s, accepts %.3f of the held-out known particles"
    logger.info(text, rule.score, rule.chosen_on, rule.accepted_known)
    count = len(known.embedding)
    if not rule.withheld and count * (1 - config.accepted_share) < 1:  # all values are on one side of the quantile, but for the highest
        text = "the threshold of the novelty rests on %s, too few to accept %g %% of known ones: more of these will be called unknown; hold out more"
        logger.warning(text, counted(count, "held-out particle"), 100 * config.accepted_share)
    return reference


def fit_recovery(looks: Sequence[Look]) -> Fidelity | None:
    """What is to be expected of recovered densities, from looks at particles that the network was not trained on; None where they are too few, or
    nothing was recovered; a line in the log tells how right it is."""
    joined = join_looks(looks)
    fidelity = fit_fidelity(joined.recovery, joined.correlation) if joined.recovery.shape[1] else None
    if fidelity is not None:
        text = "fidelity: the expected correlation of recovered densities is wrong by %.3f (root mean square of %d particles)"
        logger.info(text, fidelity.error, fidelity.particles)
    return fidelity


def class_figures(logits: Tensor, label: Tensor, temperature: Temperature) -> dict[str, float]:
    """Accuracy, cross-entropy and calibration error of logits (n, classes) at a temperature."""
    scaled = temperature.scale(logits)
    probability, choice = scaled.softmax(1).max(1)
    correct = choice == label
    return {
        "accuracy": float(correct.float().mean()),
        "cross_entropy": float(F.cross_entropy(scaled, label)),
        "calibration_error": expected_calibration_error(probability.numpy(), correct.numpy()),
    }
