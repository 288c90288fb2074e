"""The gallery of a report: which particles to show, and their input, mask and density in orthogonal slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.config import ReportConfig
from triptych.errors import InputError
from triptych.fourier import low_pass
from triptych.io.predictions import Predicted, open_input
from triptych.judging.metrics import IntArray
from triptych.judging.scoring import Scores, Truth
from triptych.pages.page import Panel, density_limits, draw_panel, eye_resolution
from triptych.volume import Volume


@dataclass(frozen=True)
class Card:
    """One particle of the gallery; `right`: whether its class is, None where that is not known."""

    name: str
    why: str
    called: str
    right: bool | None
    facts: list[tuple[str, str]]
    panels: list[Panel]


def draw_evenly(label: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Up to `count` particles at random, as evenly over the labels as can be, ordered by label."""
    order = rng.permutation(len(label))
    shuffled = label[order]
    rank = np.zeros(len(label), np.int64)  # how many of the same label stand before it
    for k in np.unique(shuffled):
        rank[shuffled == k] = np.arange((shuffled == k).sum())
    chosen = order[np.argsort(rank, kind="stable")[:count]]
    return np.asarray(chosen[np.argsort(label[chosen], kind="stable")], np.int64)


def choose_gallery(given: Predicted, truth: Truth | None, scores: Scores | None, config: ReportConfig) -> list[tuple[int, str]]:
    """Which particles to show, and why: two thirds at random over the classes, the rest the doubtful or the worst ones."""
    rng = np.random.default_rng(config.seed)
    count = min(config.gallery, len(given))
    worst = pick_in_turn(worst_lists(given, truth, scores), count // 3 if len(given) > 3 else 0)
    taken = np.array([i for i, _ in worst], dtype=np.int64)
    rest = np.setdiff1d(np.arange(len(given)), taken)
    groups = truth.label if truth is not None else given.label if given.label is not None else np.zeros(len(given), np.int64)
    return [(int(i), "at random") for i in rest[draw_evenly(groups[rest], count - len(worst), rng)]] + worst


def worst_lists(given: Predicted, truth: Truth | None, scores: Scores | None) -> list[tuple[str, IntArray]]:
    """Reasons to look at a particle, each with the particles from the worst on."""
    if truth is None or scores is None:
        doubts = [("least certain class", given.probability), ("lowest fidelity", given.fidelity)]
        return [(why, np.argsort(values)[np.sort(values) > 0]) for why, values in doubts if values is not None]
    lists = []
    if given.label is not None and given.probability is not None:
        wrong = np.flatnonzero(given.label != truth.label)
        lists.append(("wrong and most certain", wrong[np.argsort(-given.probability[wrong])]))
    kept = truth.not_none
    for why, values in (("lowest IoU", scores.iou), ("lowest correlation", scores.correlation)):
        if values is not None:
            candidates = np.flatnonzero(kept & np.isfinite(values))
            lists.append((why, candidates[np.argsort(values[candidates])]))
    return lists


def pick_in_turn(lists: list[tuple[str, IntArray]], count: int) -> list[tuple[int, str]]:
    """The best of each list in turn, none twice, until there are `count`; ordered by list."""
    chosen: dict[int, str] = {}
    queues = [(why, iter(order.tolist())) for why, order in lists]
    while queues and len(chosen) < count:
        for queue in list(queues):
            why, items = queue
            item = next((i for i in items if i not in chosen), None)
            if item is None:
                queues.remove(queue)
            elif len(chosen) < count:
                chosen[item] = why
    return [(i, why) for why, _ in lists for i, reason in chosen.items() if reason == why]


def read_truth(truth: Truth, i: int) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """True mask and, where the store has them, density of a particle."""
    row = int(truth.row[i])
    return np.asarray(truth.store["mask"][row]) > 0, np.asarray(truth.store["density"][row], np.float32) if "density" in truth.store else None


def draw_input(subtomogram: Volume | None, mask: Volume | None, true_mask: NDArray[np.bool_] | None) -> list[Panel]:
    """The subtomogram, low-passed, and with the masks' outlines; the outlines alone where it cannot be read."""
    outlines = [] if mask is None else [*([] if true_mask is None else [("rim", true_mask)]), ("predicted", mask.data > 0.5)]
    if subtomogram is None:
        return [] if mask is None else [draw_panel("Mask", mask.data * 0, (0, 1), outlines, mask.voxel_size)]
    resolution = eye_resolution(subtomogram.voxel_size)
    smooth = low_pass(subtomogram, resolution, edge=1.0).data
    return [
        draw_panel("Input", subtomogram.data, scale=subtomogram.voxel_size),
        draw_panel(f"Low-passed, {resolution:.0f} Å", smooth),
        *([draw_panel("Mask", smooth, outlines=outlines)] if outlines else []),
    ]


def draw_densities(
    title: str, density: Volume | None, true_density: NDArray[np.float32] | None, true_mask: NDArray[np.bool_] | None
) -> list[Panel]:
    """A density and the true one in one grey scale."""
    limits = density_limits(density, true_density)
    panels = [] if density is None else [draw_panel(title, density.data, limits)]
    if true_density is not None:
        panels.append(draw_panel("True density", true_density, limits, [] if true_mask is None else [("true", true_mask)]))
    return panels


class Gallery:
    """Draws the cards; opens the input again, and says so where that is not possible."""

    def __init__(self, given: Predicted, truth: Truth | None, scores: Scores | None) -> None:
        self.given, self.truth, self.scores = given, truth, scores
        self.source, self.trouble = open_input(given)

    def card(self, i: int, why: str) -> Card:
        given, truth = self.given, self.truth
        called = "" if given.label is None else str(given.called[i])
        right = None if truth is None or given.label is None else bool(truth.label[i] == given.label[i])
        return Card(given.names[i], why, called, right, self.facts(i), self.panels(i))

    def panels(self, i: int) -> list[Panel]:
        """What there is of input, mask, recovered and true density."""
        mask, density = self.given.read_mask(i), self.given.read_density(i)
        true_mask, true_density = (None, None) if self.truth is None else read_truth(self.truth, i)
        subtomogram = self.read_input(i, density or mask)
        title = "Structure in its pose" if self.given.placed else "Recovered density"
        return [*draw_input(subtomogram, mask, true_mask), *draw_densities(title, density, true_density, true_mask)]

    def read_input(self, i: int, like: Volume | None) -> Volume | None:
        """The particle's subtomogram, protein bright; None where it cannot be read any more or has another shape."""
        if self.source is None:
            return None
        try:
            volume = self.source.read(i)
        except InputError as error:
            self.trouble = self.trouble or str(error)
            return None
        if like is not None and volume.shape != like.shape:
            self.trouble = self.trouble or f"the box of {self.given.names[i]} is now {volume.shape}, but was {like.shape} when it was predicted"
            return None
        return volume.with_data(np.asarray(self.given.sign * volume.data, np.float32))

    def facts(self, i: int) -> list[tuple[str, str]]:
        given, truth, scores = self.given, self.truth, self.scores
        facts: list[tuple[str, str]] = []
        if given.label is not None and given.probability is not None and given.probabilities is not None:
            facts.append(("probability", f"{given.probability[i]:.2f}"))
            order = np.argsort(-given.probabilities[i])
            second = next((int(k) for k in order if k != given.label[i]), None)
            if second is not None and given.probabilities[i, second] >= 0.005:
                facts.append(("next best", f"{given.class_names[second]} ({given.probabilities[i, second]:.2f})"))
        if given.novelty is not None and given.verdicts is not None:
            facts.append(("novelty", f"{given.novelty[i]:.2f}{' (unknown)' if given.is_unknown[i] else ''}"))
        if given.fidelity is not None:
            facts.append(("fidelity", f"{given.fidelity[i]:.2f}"))
        if truth is not None and scores is not None:
            facts.insert(0, ("truth", truth.class_names[truth.label[i]]))
            values = (("SNR", truth.snr, ".2g"), ("IoU", scores.iou, ".2f"), ("correlation", scores.correlation, ".2f"))
            facts += [(title, format(column[i], form)) for title, column, form in values if column is not None and np.isfinite(column[i])]
        return facts
