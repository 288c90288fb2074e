"""The page of oriented particles: the average of each class beside its structure, and which classes were taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from triptych.alignment.boxes import ASSUMED
from triptych.fourier import low_pass
from triptych.pages.page import Panel, draw_panel, render_page
from triptych.volume import Volume

PAIRS = 20
"""Of classes that were taken for each other: the page shows so many."""
FEW = 10
"""Particles below which it says little how far average and structure agree."""


class ClassAverage(NamedTuple):
    """The particles of a class, averaged in their poses, beside its structure.

    Attributes
    ----------
    name : of the class
    particles : how many
    score : their median alignment score
    sure : their median pose probability; NaN where poses are by recovered densities alone
    density, structure : (d, d, d), solvent about 0 in the structure
    resolution : Å, where their shell correlation falls below 0.5
    """

    name: str
    particles: int
    score: float
    sure: float
    density: Volume
    structure: Volume
    resolution: float


def render(name: str, averages: Sequence[ClassAverage], coarse: float, pairs: Mapping[tuple[str, str], int], about: Mapping[str, Any]) -> str:
    """The page.

    Parameters
    ----------
    name : of the predictions
    coarse : Å, down to which the search compares particles with structures
    pairs : how many particles were named anew, by what they were and what they became
    about : of the manifest
    """
    commonest = sorted(pairs.items(), key=lambda pair: -pair[1])
    return render_page(
        "orient.html.jinja",
        name=name,
        about=about,
        assumed=about["tilt_ranges_are"] == ASSUMED,
        classes=[(item, draw_average(item, coarse)) for item in averages],
        few=FEW,
        worst=coarse,
        renamed=[(*names, count) for names, count in commonest[:PAIRS]],
        others=max(len(pairs) - PAIRS, 0),
    )


def draw_average(item: ClassAverage, coarse: float) -> tuple[Panel, Panel]:
    """An average, down to the detail in which it agrees with its structure, or to `coarse` (Å) where that is finer, and the structure."""
    detail = max(min(item.resolution, coarse), 2 * item.density.voxel_size)
    seen = low_pass(item.density, detail).data
    return draw_panel(f"Average, {detail:.0f} Å", seen), draw_panel("Structure", item.structure.data, scale=item.structure.voxel_size)
