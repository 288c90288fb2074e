"""The page of what was picked: how many of what, by which score, and where, on slices of the tomograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.config import UNKNOWN
from triptych.judging.metrics import median
from triptych.pages import figures
from triptych.pages.page import render_page, scale_bar
from triptych.volume import Volume

SHOWN = 6
"""Tomograms, those with the most particles, of which the page shows slices."""
COLOURED = len(figures.CLASS_COLOURS)
"""Classes, the commonest, that have a colour of their own on the slices."""
WIDEST = 800
"""Pixels of a slice, to which larger ones are binned."""
SLAB = 50.0
"""Å of a tomogram that are averaged for the eye."""
SCORES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Picked:
    """A tomogram, its label map, and where its particles are: (n, 3) voxels, z, y, x."""

    name: str
    tomogram: Volume
    labels: NDArray[Any]
    places: NDArray[np.float64]


def render(table: pd.DataFrame, picked: Sequence[Picked], names: Sequence[str], about: Mapping[str, Any]) -> str:
    """The page.

    Parameters
    ----------
    table : of particles.star
    names : what the label maps' numbers stand for, from 1
    about : of the manifest
    """
    counts = table["triptychClass"].value_counts()
    coloured = {kind: f"k{i}" for i, kind in enumerate(counts.index[:COLOURED])}
    styles = {number: coloured.get(kind, "rest" if kind in counts else "structure") for number, kind in enumerate(names, start=1)}
    most = sorted(picked, key=lambda item: -len(item.places))[:SHOWN]
    score = table["triptychScore"].to_numpy(np.float64)
    unknown = is_unknown(table)
    return render_page(
        "picks.html.jinja",
        name=picked[0].name if len(picked) == 1 else f"{picked[0].name} and {len(picked) - 1} more",
        about=about,
        count=len(table),
        unknown=None if unknown is None else int(unknown.sum()),
        classes=[describe(kind, table[table["triptychClass"] == kind], coloured.get(kind)) for kind in counts.index],
        tomograms=[describe(item.name, table[table["rlnTomoName"] == item.name]) for item in picked],
        scores=[(least, int((score >= least).sum())) for least in SCORES if least == 0 or least > score.min(initial=1.0)],
        histogram=figures.draw_probabilities(score, None, "score") if len(table) else None,
        slices=[(item.name, *draw(item, styles)) for item in most],
        colours=figures.CLASS_COLOURS,
    )


def is_unknown(table: pd.DataFrame) -> pd.Series | None:
    return table["triptychVerdict"] == UNKNOWN if "triptychVerdict" in table else None


def describe(name: str, rows: pd.DataFrame, style: str | None = None) -> dict[str, Any]:
    """Figures of the particles of a class or of a tomogram."""
    unknown = is_unknown(rows)
    score, probability = (median(rows[f"triptych{column}"].to_numpy(np.float64)) for column in ("Score", "Probability"))
    count = None if unknown is None else int(unknown.sum())
    return {"name": name, "count": len(rows), "score": score, "probability": probability, "unknown": count, "style": style}


def draw(item: Picked, styles: Mapping[int, str]) -> tuple[str, str]:
    """An xy and an xz slice of a tomogram where many of its particles lie, with the outlines of what was found there."""
    found = []
    for axis in (0, 1):
        half = max(1, round(SLAB / 2 / item.tomogram.voxel_size))
        length = item.tomogram.shape[axis]
        middle = fullest(item.places[:, axis], half, length)
        within = slice(max(middle - half, 0), middle + half + 1)
        slab = item.tomogram.data[within] if axis == 0 else item.tomogram.data[:, within]  # so that only these are read
        image = np.asarray(slab, np.float32).mean(axis=axis)
        step = -(-max(image.shape) // WIDEST)
        image = bin_image(image, step)
        labels = np.moveaxis(item.labels, axis, 0)[middle][step // 2 :: step, step // 2 :: step][: image.shape[0], : image.shape[1]]
        outlines = [(style, np.isin(labels, [number for number, own in styles.items() if own == style])) for style in sorted(set(styles.values()))]
        width = item.tomogram.voxel_size * step
        bar = None if axis else scale_bar(width * image.shape[1]) / width
        found.append(figures.draw_slice(image, figures.grey_limits([image]), outlines, bar))
    return found[0], found[1]


def fullest(places: NDArray[np.float64], half: int, length: int) -> int:
    """The slice of so many that has the most places within `half` of it, near ones first; the middle one where there are none."""
    if not len(places):
        return length // 2
    counts = np.histogram(places, bins=length, range=(-0.5, length - 0.5))[0]
    return int(np.convolve(counts, np.bartlett(2 * half + 3))[half + 1 :][:length].argmax())


def bin_image(image: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Mean of squares of so many pixels; what is left over at the end is cut off."""
    rows, columns = (n // step for n in image.shape)
    parts = image[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return np.asarray(parts.mean(axis=(1, 3)), np.float32)
