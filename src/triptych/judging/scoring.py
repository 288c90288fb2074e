"""Predictions against the truth: which row of a dataset each particle is, and how well it was segmented and recovered.

Masks and densities are read one particle at a time, so memory does not grow with their number.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.config import NONE_CLASS
from triptych.errors import InputError, counted
from triptych.fourier import fourier_shell_correlation
from triptych.io.manifest import describe_input, history, input_listings, manifest_entry, read_manifest
from triptych.io.predictions import Predicted, find_model
from triptych.io.store import Store, known_labels, open_store, particle_name
from triptych.judging import metrics
from triptych.judging.metrics import FloatArray, IntArray
from triptych.parallel import Progress
from triptych.volume import Volume

logger = logging.getLogger(__name__)


SAME_STORE = "give the store that the predictions were made from"


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth of n particles.

    Attributes
    ----------
    path, store : the dataset
    row : (n,), row of each particle in the store
    class_names : the model's class names, then those of the store's that it does not know; those of the store where the model has no class task
    known_classes : the model knows the first so many
    label : (n,), index of the true class
    snr, tomogram : (n,) or None
    doubt : a sentence if the store may be another one than the predictions were made from, or is one that the model has learned from
    """

    path: Path
    store: Store
    row: IntArray
    class_names: tuple[str, ...]
    known_classes: int
    label: IntArray
    snr: FloatArray | None
    tomogram: IntArray | None
    doubt: str | None

    @property
    def not_none(self) -> NDArray[np.bool_]:
        """(n,), which particles are of a class other than "none"."""
        return np.array([self.class_names[k] != NONE_CLASS for k in self.label])

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Whether each particle is of a class that the model knows."""
        return self.label < self.known_classes


def match_truth(given: Predicted, path: Path) -> Truth:
    """Find each particle (particle_000123) in the store and translate its label into the model's classes, and others after them."""
    store = open_store(path)
    count, predicted = len(store), manifest_entry(given.manifest, "particles", "count") or len(given)  # rows may have been taken out since
    if count != predicted:
        raise InputError(f"{path} holds {counted(count, 'particle')}, but {given.folder} was predicted from {predicted}; {SAME_STORE}")
    found = [re.fullmatch(r"particle_(\d+)", name) for name in given.names]
    strange = [name for name, match in zip(given.names, found, strict=True) if match is None or int(match[1]) >= count]
    if strange:
        raise InputError(f'the predicted particle "{strange[0]}" is not in {path}, which ends with {particle_name(count - 1)}; {SAME_STORE}')
    row = np.array([int(match[1]) for match in found if match is not None], dtype=np.int64)
    label = np.asarray(store["label"][:], np.int64)[row]
    names = store.class_names if given.label is None else given.class_names
    class_names = (*names, *(name for k, name in enumerate(store.class_names) if name not in names and (label == k).any()))
    snr = np.asarray(store["snr"][:], np.float64)[row] if "snr" in store else None
    tomogram = np.asarray(store["tomogram"][:], np.int64)[row] if "tomogram" in store else None
    listing = describe_input(path).get("sha256_of_listing")
    if listing not in input_listings(given.manifest) and given.manifest.get("particles", {}).get("kind") == "store":
        raise InputError(f"{given.folder} was predicted from another store than {path}; {SAME_STORE}")
    doubt = _doubt(given, path, listing)
    if doubt:
        logger.warning(doubt)
    return Truth(path, store, row, class_names, len(names), known_labels(store, class_names)[row], snr, tomogram, doubt)


def _doubt(given: Predicted, path: Path, listing: Any) -> str | None:
    """A sentence if none of the inputs that the manifest lists is this store, or if one of the model's is."""
    if listing not in input_listings(given.manifest):
        what = f"The predictions were made from something else than the truth in {path}"
        return f"{what}: the figures mean nothing unless both are of the same particles."
    model = find_model(given)
    if model is not None and any(listing in input_listings(made) for made in history(read_manifest(model))):
        return f"The model was trained or calibrated on {path}: the figures tell what it remembers, not how well it does on new particles."
    return None


@dataclass(frozen=True, eq=False)
class Scores:
    """How well each of n particles was segmented and recovered; NaN where there is nothing to compare.

    Attributes
    ----------
    iou, correlation, correlation_in_mask : (n,); None where masks or densities were not predicted
    frequency, shell_correlation : mean Fourier shell correlation against spatial frequency (1/Å), or None
    """

    iou: FloatArray | None
    correlation: FloatArray | None
    correlation_in_mask: FloatArray | None
    frequency: FloatArray | None
    shell_correlation: FloatArray | None


def score_particles(given: Predicted, truth: Truth, on_progress: Progress) -> Scores:
    """Compare masks and densities with the truth, one particle at a time, in the order of the store."""
    order = np.argsort(truth.row)
    n = len(given)
    iou, correlation, within = (np.full(n, np.nan) for _ in range(3))
    shells = ShellMean()
    shown = truth.not_none
    true_masks = truth.store["mask"]
    compares = given.densities is not None and "density" in truth.store  # stores cut from real tomograms have none
    true_densities = truth.store["density"] if compares else None
    for done, i in enumerate(order, 1):
        true_mask = np.asarray(true_masks[int(truth.row[i])]) > 0
        mask, recovered = given.read_mask(i), given.read_density(i) if compares else None
        if mask is not None:
            iou[i] = metrics.intersection_over_union(_check_map("mask", mask, true_mask, given.names[i]) > 0.5, true_mask)
        if recovered is not None and true_densities is not None:
            density = _check_map("density", recovered, true_mask, given.names[i])
            true_density = np.asarray(true_densities[int(truth.row[i])], np.float32)
            correlation[i] = metrics.density_correlation(density, true_density)
            within[i] = metrics.density_correlation(density, true_density, true_mask)
            if shown[i]:
                shells.add(density, true_density, truth.store.voxel_size)
        on_progress(done, n)
    return Scores(
        None if given.masks is None else iou,
        correlation if compares else None,
        within if compares else None,
        shells.frequency,
        shells.mean(),
    )


class ShellMean:
    """Running mean of Fourier shell correlations."""

    def __init__(self) -> None:
        self.frequency: FloatArray | None = None
        self.total: FloatArray | None = None
        self.count = 0

    def add(self, density: NDArray[np.float32], truth: NDArray[np.float32], voxel_size: float) -> None:
        """Take in one particle; an empty truth or a constant density has no shells to correlate."""
        if not (np.ptp(truth) > 0 and np.ptp(density) > 0):
            return
        self.frequency, correlation = fourier_shell_correlation(density, truth, voxel_size)
        self.total = correlation if self.total is None else self.total + correlation
        self.count += 1

    def mean(self) -> FloatArray | None:
        return None if self.total is None else self.total / self.count


def _check_map(what: str, volume: Volume, like: NDArray[Any], name: str) -> NDArray[np.float32]:
    if volume.shape != like.shape:
        raise InputError(f"the {what} of {name} has shape {volume.shape}, but the truth of that particle has {like.shape}; {SAME_STORE}")
    if not np.isfinite(volume.data).all():
        raise InputError(f"the {what} of {name} holds NaN or infinity; replace these, for nothing can be compared with them")
    if what == "mask" and (volume.data.min() < 0 or volume.data.max() > 1):
        span = f"{volume.data.min():g} to {volume.data.max():g}"
        raise InputError(f"the mask of {name} holds {span}, but probabilities (above 0.5 counts as within), or 0 and 1, were expected; give these")
    return volume.data
