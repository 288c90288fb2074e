"""A library of one's own: the shape of each class of a labelled dataset, averaged from the masks of its particles.

Masks have neither noise nor a missing wedge: a dozen of them, aligned to each other, average to a shape that is sharper than any, and that
`orient` puts into its place in every other particle. It is as dense everywhere: what is inside the particle the labels do not say.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.alignment.align import consensus
from triptych.config import NONE_CLASS, AlignConfig
from triptych.errors import InputError, counted
from triptych.io.outputs import check_output_folder
from triptych.io.store import Store, open_store
from triptych.parallel import Progress
from triptych.simulation.library import write_library
from triptych.simulation.structures import HYDRATED_VOLUME, Structure, enclosing_level
from triptych.volume import Volume, crop_or_pad

logger = logging.getLogger(__name__)

MOST = 32
"""Particles of a class that are averaged, at most: masks have no noise, and more make it hardly sharper."""
ALIGN = AlignConfig(starts=2)
"""Masks are clear: hardly any of them is a bad one to begin with."""
FEW = 12
ALIKE, TENTH = 0.9, 10
"""Correlation with their average that all but a tenth of the masks reach where they are of one shape."""
CUT = 0.1
"""Share of the masks that may touch the faces of their boxes."""
ROUND = 0.98
"""Correlation of a shape with the same averaged over all rotations from which on it has no pose."""


class Shape(NamedTuple):
    """What the masks of a class have in common.

    Attributes
    ----------
    structure : its density is the share of the masks that hold a voxel, its contour encloses as much as they do on average
    particles : how many were averaged
    agreement : median correlation of the masks with it
    """

    structure: Structure
    particles: int
    agreement: float


def average_masks(dataset: Path | str, out: Path | str, seed: int = 0, on_progress: Progress | None = None) -> list[Shape]:
    """Write a structure library of the classes of a dataset.

    Parameters
    ----------
    dataset : store that `cut` or `simulate` wrote, with masks
    out : library folder to write
    seed : of the choice among many particles, and of the masks that the others are first aligned to
    on_progress : called with (classes done, classes in all)

    Raises
    ------
    InputError
        If the dataset has no masks, or no class has any.
    """
    store, rng = open_store(dataset), np.random.default_rng(seed)
    check_output_folder(Path(out))
    if "mask" not in store:
        raise InputError(f"{dataset} has no masks, whose shapes are averaged: cut it with label maps (--labels)")
    names = [name for name in store.class_names if name != NONE_CLASS]
    shapes = []
    for done, name in enumerate(names):
        if on_progress:
            on_progress(done, len(names))
        masks = read_masks(store, store.class_names.index(name), rng)
        if not len(masks):
            logger.warning("%s has no mask of a particle of %s: it is left out", dataset, name)
            continue
        shapes.append(average_shape(name, masks, store.voxel_size, rng, Path(dataset).name))
    if on_progress:
        on_progress(len(names), len(names))
    if not shapes:
        raise InputError(f"{dataset} has no mask that is not empty: cut it with label maps (--labels)")
    write_library([shape.structure for shape in shapes], out)
    return shapes


def read_masks(store: Store, label: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A mask of each particle of a class (n, d, d, d), of the box that has it nearest to its middle; of many particles, of some."""
    own = np.flatnonzero(store["label"][:] == label)
    table = pd.DataFrame(np.round(store["position"][:][own]), columns=list("xyz")).assign(tomogram=store["tomogram"][:][own], row=own)
    table["distance"] = np.linalg.norm(store["shift"][:][own], axis=1)
    rows = table.sort_values("distance", kind="stable").drop_duplicates(["tomogram", *"xyz"])["row"].to_numpy(copy=True)
    rows = np.sort(rng.permutation(rows)[:MOST])  # of a copy, since NumPy would write to what is empty
    masks = (store.read_rows("mask", rows) > 0).astype(np.float32)
    return masks[masks.any(axis=(1, 2, 3))]


def average_shape(name: str, masks: NDArray[np.float32], voxel_size: float, rng: np.random.Generator, dataset: str) -> Shape:
    """Align the masks (n, d, d, d) of a class to each other, and average them."""
    density, poses = consensus(masks, voxel_size, rng, ALIGN)
    side = 2 * (len(density) // 2)
    shape = Volume(crop_or_pad(density.clip(0, 1), (side,) * 3, 0.0), voxel_size)
    volume = float(masks.sum(axis=(1, 2, 3)).mean()) * voxel_size**3
    agreement = float(np.median(poses.scores))
    warn_of_masks(name, masks, float(np.percentile(poses.scores, TENTH)))
    if roundness(shape.data) >= ROUND:
        logger.warning("the shape of %s is a ball, as those are which `cut` draws around listed places: it tells no pose", name)
    source = f"average of the masks of {counted(len(masks), 'particle')} of {dataset}"
    structure = Structure(name, shape, volume / HYDRATED_VOLUME / 1e3, enclosing_level(shape, volume), source)
    return Shape(structure, len(masks), agreement)


def warn_of_masks(name: str, masks: NDArray[np.float32], least: float) -> None:
    """Say what speaks against taking the average of masks (n, d, d, d) for the shape of the particles, `least` being how badly a tenth fits it."""
    if len(masks) < FEW:
        logger.warning("the shape of %s comes from %s only: label a dozen or more", name, counted(len(masks), "particle"))
    inner = masks[:, 1:-1, 1:-1, 1:-1]
    cut = int((masks.sum(axis=(1, 2, 3)) > inner.sum(axis=(1, 2, 3))).sum())
    if cut > CUT * len(masks):
        logger.warning("%d of %d masks of %s reach the faces of their boxes, which cut them off: cut with a larger box_size", cut, len(masks), name)
    if least < ALIKE:
        text = "a tenth of the masks of %s correlate with their average by less than %.2f: they are cut off, or not all of one kind of particle"
        logger.warning(text, name, least)


def roundness(shape: NDArray[np.float32]) -> float:
    """Correlation of a shape (d, d, d), centred at index d // 2, with the same averaged over all rotations."""
    axis = (np.arange(len(shape)) - len(shape) // 2) ** 2
    squared = (axis[:, None, None] + axis[:, None] + axis).ravel()
    mean = np.bincount(squared, shape.ravel()) / np.maximum(np.bincount(squared), 1)
    return float(np.corrcoef(shape.ravel(), mean[squared])[0, 1])
