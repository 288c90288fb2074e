"""How sure a trained model may be, by labelled particles: whether its probabilities are right, and what it calls unknown."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from triptych.config import NoveltyConfig
from triptych.io.store import Store
from triptych.judging.metrics import expected_calibration_error
from triptych.parallel import Progress, in_batches
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


class SampleTraits(NamedTuple):
    """What a model says of the rows of a sample."""

    fitting: Traits
    held_out: Traits
    withheld: Traits


def look(model: Model, sample: Sample, batch_size: int = BATCH, on_progress: Progress | None = None) -> SampleTraits:
    """Run a model over the rows of a sample; `on_progress` is called with (particles done, particles in all)."""
    groups = (sample.fitting, sample.held_out, sample.withheld)
    total = sum(len(rows) for rows in groups)
    done, parts = 0, []
    for rows in groups:
        outputs = [empty_traits(model)]
        for some in in_batches(rows, batch_size):
            outputs.append(look_at_rows(model, sample.store, some))
            done += len(outputs[-1].embedding)
            if on_progress:
                on_progress(done, total)
        parts.append(Traits._make(np.concatenate(values) for values in zip(*outputs, strict=True)))
    return SampleTraits._make(parts)


def empty_traits(model: Model) -> Traits:
    """Of no particles."""
    network, size = model.card.network, model.card.box_size
    density = torch.empty(0, size, size, size) if "density" in network.tasks else None
    logits, embedding = torch.empty(0, len(model.card.class_names)), torch.empty(0, network.embedding_size)
    return traits(TaskOutput(class_logits=logits, mask_logits=None, density=density, embedding=embedding))


def look_at_rows(model: Model, store: Store, rows: Rows) -> Traits:
    sign = np.float32(1 if store.contrast == model.card.contrast else -1)
    return traits(model.run(standardise(sign * store.read_rows("subtomogram", rows).astype(np.float32))))


def choose_rows(rows: Rows, limit: int, seed: int) -> Rows:
    """At most so many of the rows, at random."""
    return np.sort(np.random.default_rng((seed, 7)).permutation(rows)[:limit])


def fit_reference(seen: SampleTraits, sample: Sample, config: NoveltyConfig) -> NoveltyReference:
    """The novelty reference of a model, from what it says of a sample; a line in the log tells how the threshold was chosen.

    Of the held-out particles those count that the model names rightly: a particle that is mistaken for another kind may well be called unknown.
    """
    right = seen.held_out.logits.argmax(1) == sample.label[sample.held_out]
    known = seen.held_out.take(right) if right.any() else seen.held_out
    reference = fit_novelty(seen.fitting, sample.label[sample.fitting], known, seen.withheld, sample.withheld_names, config)
    rule = reference.rule
    text = "novelty: threshold of the score %s chosen on %s, accepts %.3f of the held-out known particles"
    logger.info(text, rule.score, rule.chosen_on, rule.accepted_known)
    return reference


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
