"""What another program predicted for the particles of a dataset store: arrays, or a folder of them, taken for what `predict` writes.

    predictions.csv   a row per particle: name (particle_000123), class, probability, and a column of probabilities named after each class
    masks.npy         (n, nz, ny, nx), probabilities, or 0 and 1
    densities.npy     (n, nz, ny, nx)

Each file, and each column, may be left out. Without names the rows are those of the store, all of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api.types import is_numeric_dtype

from triptych.errors import InputError, counted
from triptych.io.files import map_array
from triptych.io.manifest import describe_input
from triptych.io.output_names import MANIFEST
from triptych.io.particle_csv import read_table, text_column
from triptych.io.predictions import FloatArray, IntArray, Predicted
from triptych.io.star import numbers
from triptych.io.store import open_store

logger = logging.getLogger(__name__)

TABLE, MASKS, DENSITIES = FILES = ("predictions.csv", "masks.npy", "densities.npy")
OWN_COLUMNS = ("name", "class", "probability")
AXES = {"probabilities": 2, "masks": 4, "densities": 4}
SUM_TOLERANCE = 0.01
"""How far the probabilities of a particle may be from 1 in sum: they may be rounded."""


def is_of_other_program(folder: Path) -> bool:
    """Whether a folder holds what another program predicted: one of the files, and no manifest."""
    return not (folder / MANIFEST).exists() and any((folder / name).is_file() for name in FILES)


def read_other_predictions(folder: Path, truth: Path) -> Predicted:
    """A folder of another program's predictions for the particles of a store."""
    masks, densities = (map_array(folder / name, "write it anew") if (folder / name).is_file() else None for name in (MASKS, DENSITIES))
    path = folder / TABLE
    if not path.is_file():
        return gather_predictions(truth, masks=masks, densities=densities, folder=folder)
    table = read_table(path)
    names, classes = (text_column(table, name, path) for name in ("name", "class"))
    class_names = [str(name) for name in table if name not in OWN_COLUMNS]
    words = [name for name in class_names if not is_numeric_dtype(table[name])]
    if words and len(table):
        raise InputError(f"the column {words[0]} of {path} holds text, but one named after a class, with its probabilities, was expected; remove it")
    probability = numbers(table, "probability", path) if "probability" in table else None
    probabilities = np.stack([numbers(table, name, path) for name in class_names], axis=1) if class_names else None
    return gather_predictions(truth, names, classes, probability, probabilities, class_names or None, masks, densities, folder)


def gather_predictions(
    truth: Path,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    probability: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    masks: NDArray[Any] | None = None,
    densities: NDArray[Any] | None = None,
    folder: Path = Path("what was given"),
) -> Predicted:
    """Predictions as arrays, checked.

    Parameters
    ----------
    truth : the store whose particles were predicted
    names : n names, as the store's `particle_names`; default: all of these
    classes : n names of classes; default: the most probable ones
    probability : (n,), of the class that was named; default: from `probabilities`
    probabilities : (n, k), in the order of `class_names`
    class_names : k names; default: the store's, and after them others that occur in `classes`
    masks, densities : (n, nz, ny, nx)
    folder : where they come from, for messages and metrics.json
    """
    store = open_store(truth)
    names = store.particle_names if names is None else list(names)
    given = {"classes": classes, "probability": probability, "probabilities": probabilities, "masks": masks, "densities": densities}
    _check_shapes(names, {name: np.shape(value) for name, value in given.items() if value is not None}, folder)
    class_names = tuple(dict.fromkeys([*store.class_names, *(classes or ())]) if class_names is None else class_names)
    if len(set(class_names)) < len(class_names):
        raise InputError(f"{folder} names a class twice ({Counter(class_names).most_common(1)[0][0]}); give each once")
    strange = [name for name in class_names if name not in store.class_names]
    if strange:
        logger.warning("%s names classes that %s does not have (%s): what is called so counts as wrong", folder, truth, ", ".join(strange))
    chances = None if probabilities is None else _check_probabilities(np.asarray(probabilities, np.float64), class_names, folder)
    label = _find_labels(classes, class_names, folder) if classes is not None else None if chances is None else chances.argmax(axis=1)
    certainty = None if chances is None or label is None else chances[np.arange(len(names)), label]
    if probability is not None:
        certainty = _check_range(np.asarray(probability, np.float64), folder)
    particles = {"path": str(truth), "kind": "store", "count": len(store), "voxel_size": store.voxel_size, "contrast": store.contrast}
    model = {"name": "another program", "class_names": list(class_names), "voxel_size": store.voxel_size, "box_size": store.box_size}
    manifest = {"particles": particles, "model": model, "inputs": [describe_input(truth)]}
    table, embedding = pd.DataFrame({"triptychName": names}), np.zeros((len(names), 0), np.float32)
    return Predicted(folder, manifest, table, names, class_names, label, certainty, chances, None, None, masks, densities, embedding)


def _check_shapes(names: list[str], shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Every name once, and as many of everything."""
    if not names:
        raise InputError(f"{folder} has no particles, but at least one was expected; name those that were predicted")
    if len(set(names)) < len(names):
        raise InputError(f"{folder} names a particle twice ({Counter(names).most_common(1)[0][0]}); give each once")
    if not shapes.keys() - {"probability"}:
        raise InputError(f"{folder} holds no classes, probabilities of all classes, masks or densities; give at least one of these")
    for what, shape in shapes.items():
        axes = AXES.get(what, 1)
        if len(shape) != axes:
            raise InputError(f"{folder} holds {what} of shape {shape}, but an array of {counted(axes, 'axis', 'axes')} was expected")
        if shape[0] != len(names):
            raise InputError(f"{folder} holds {what} of {counted(shape[0], 'particle')}, but {len(names)} were expected; name those meant")


def _find_labels(classes: Sequence[str], class_names: Sequence[str], folder: Path) -> IntArray:
    label = np.asarray(pd.Index(class_names).get_indexer(list(classes)), np.int64)
    if (label < 0).any():
        raise InputError(f'{folder} calls a particle "{classes[int(label.argmin())]}", but has no probabilities of that class; add its column')
    return label


def _check_range(values: FloatArray, folder: Path) -> FloatArray:
    if not ((values >= 0) & (values <= 1 + 1e-5)).all():
        raise InputError(f"{folder} holds values that are no probabilities between 0 and 1; give probabilities, and no columns of other things")
    return values.clip(0, 1)


def _check_probabilities(values: FloatArray, class_names: Sequence[str], folder: Path) -> FloatArray:
    """Of every class, (n, k)."""
    if values.shape[1] != len(class_names):
        what = f"{folder}: probabilities have shape {values.shape}, but a column for each of {len(class_names)} classes was expected"
        raise InputError(f"{what}; class_names says what the columns stand for, the store's classes by default")
    values = _check_range(values, folder)
    wrong = np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE
    if wrong.any():
        row = int(wrong.argmax())
        others = f"; give those of all classes ({', '.join(class_names)}), and no columns of other things, or class and probability alone"
        raise InputError(f"{folder}: the probabilities of row {row + 1} add up to {values[row].sum():.3g} instead of 1{others}")
    return values
