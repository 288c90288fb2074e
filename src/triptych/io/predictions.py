"""A folder that `predict` wrote, read again: the table, the embedding, where maps lie, and the particles that it was made from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from triptych.config import UNKNOWN, PredictConfig
from triptych.errors import InputError, counted
from triptych.io.files import map_array
from triptych.io.manifest import check_stage, command_folder, has_changed, hash_file, is_written_by, manifest_entry, read_manifest
from triptych.io.mrc import read_mrc
from triptych.io.output_names import EMBEDDING, PARTICLES, WEIGHTS, map_file
from triptych.io.particle_source import ParticleSource
from triptych.io.source import open_particles
from triptych.io.star import numbers, probability_columns, read_star, tables_with
from triptych.volume import Volume

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

AGAIN = "run `triptych predict` again"
EMBEDDING_ROW = "triptychEmbeddingRow"
"""Column with the row of embedding.npy, from 1, so that the table may be sorted, and rows taken out of it."""

FIDELITY = "triptychFidelity"
"""Column with the correlation that recovered densities are expected to have with the true ones."""

MAP_COLUMNS = {"masks": "triptychMask", "densities": "triptychDensity"}
"""Columns with the ways to the maps of particles, by the maps' kinds."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a prediction folder says of its n particles.

    Attributes
    ----------
    folder, manifest : the folder and its manifest.json
    table : the particles block of particles.star
    names : (n,)
    class_names : the model's, in its order
    label : (n,), index of the predicted class; None without the class task
    probability : (n,), of the predicted class; None without the class task
    probabilities : (n, k); None without the class task
    novelty : (n,), 0 for known, 1 for new; None where the model cannot tell
    verdicts : n names of classes, or "unknown"; None where the model cannot tell
    fidelity : (n,), correlation with the true density that the recovered one is expected to have; None where the model cannot tell, or other
        densities were put in the place of those that it recovered
    masks, densities : n paths, or an array (n, nz, ny, nx) of another program; None where that was not predicted
    embedding : (n, e), mapped into memory where the table is as it was written; e = 0 of another program
    oriented : the manifest of `orient`, where masks and densities are those of known structures that it put there
    """

    folder: Path
    manifest: dict[str, Any]
    table: pd.DataFrame
    names: list[str]
    class_names: tuple[str, ...]
    label: IntArray | None
    probability: FloatArray | None
    probabilities: FloatArray | None
    novelty: FloatArray | None
    verdicts: list[str] | None
    masks: list[Path] | NDArray[Any] | None
    densities: list[Path] | NDArray[Any] | None
    embedding: NDArray[np.float32]
    oriented: dict[str, Any] | None = None
    fidelity: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def placed(self) -> bool:
        """Whether masks and densities are those of known structures."""
        return self.oriented is not None

    @cached_property
    def called(self) -> NDArray[np.str_]:
        """(n,), names of the predicted classes; (0,) without the class task."""
        return np.array(self.class_names)[np.empty(0, np.int64) if self.label is None else self.label]

    @cached_property
    def is_unknown(self) -> NDArray[np.bool_]:
        """(n,), which particles were called unknown; none where the model cannot tell."""
        return np.zeros(len(self), bool) if self.verdicts is None else np.array(self.verdicts) == UNKNOWN

    def read_mask(self, i: int) -> Volume | None:
        """The mask of a particle; above 0.5 lies what belongs to it."""
        return None if self.masks is None else self._read_map(self.masks, i)

    def read_density(self, i: int) -> Volume | None:
        """The recovered density of a particle."""
        return None if self.densities is None else self._read_map(self.densities, i)

    def _read_map(self, maps: list[Path] | NDArray[Any], i: int) -> Volume:
        if isinstance(maps, list):
            return read_mrc(maps[i])
        return Volume(np.asarray(maps[i], np.float32), manifest_entry(self.manifest, "model", "voxel_size"))

    @property
    def sign(self) -> float:
        """Factor that makes protein bright in the input."""
        return -1.0 if manifest_entry(self.manifest, "particles", "contrast") == "dark" else 1.0


def read_predictions(folder: Path, oriented: bool = False) -> Predicted:
    """Read and check a prediction folder; with `oriented`, a folder that `orient` made of one will do as well."""
    if not folder.exists():
        raise InputError(f"{folder} does not exist, but a folder that `triptych predict` wrote was expected; check the path")
    own = read_manifest(folder)
    origin = _read_origin(folder, own) if oriented and is_written_by(own, "orient") else None
    manifest = own if origin is None else origin.manifest
    check_stage(folder, manifest, "predict")
    star = folder / PARTICLES
    # A program through which the table went may call the block otherwise.
    table = next(iter(tables_with(read_star(star), "triptychName").values()), None)
    if table is None:
        raise InputError(f"{star} has no table with a column _triptychName, but the one that `triptych predict` wrote was expected; {AGAIN}")
    if table.empty:
        raise InputError(f"{star} has no particles, but at least one was expected; run `triptych predict` on some")
    names = [str(name) for name in table["triptychName"]]
    if len(set(names)) != len(names):
        raise InputError(f"{star} holds a particle twice ({_first_repeated(names)}), but each name must stand once; remove the repeated rows")
    class_names = tuple(str(name) for name in manifest_entry(manifest, "model", "class_names") or ())
    label, probability, probabilities = _read_classes(star, table, class_names)
    masks, densities = (_read_paths(folder, table, column) for column in MAP_COLUMNS.values())
    if label is None and masks is None and densities is None:
        raise InputError(f"{star} has no column _triptychClass, _triptychMask or _triptychDensity, so there is nothing to report; {AGAIN}")
    novelty = _numbers(star, table, "triptychNovelty") if "triptychNovelty" in table else None
    verdicts = [str(verdict) for verdict in table["triptychVerdict"]] if "triptychVerdict" in table else None
    embedding = _read_embedding(folder, star, table) if origin is None else origin.embedding[_find_names(names, origin)]
    classes = (label, probability, probabilities)
    if origin is not None:
        return Predicted(folder, manifest, table, names, class_names, *classes, novelty, verdicts, masks, densities, embedding, own)
    fidelity = _numbers(star, table, FIDELITY, -1, "correlations") if FIDELITY in table else None
    return Predicted(folder, manifest, table, names, class_names, *classes, novelty, verdicts, masks, densities, embedding, None, fidelity)


def are_listed(given: Predicted, star: Path | None) -> NDArray[np.bool_]:
    """(n,), which particles a STAR file lists by their _triptychName, such as one that `select` made of the predictions; without one, all."""
    if star is None:
        return np.ones(len(given), bool)
    tables = tables_with(read_star(star), "triptychName")
    if not tables:
        raise InputError(f"{star} has no column _triptychName: give a table that `triptych select` made of {given.folder}")
    listed = set(next(iter(tables.values()))["triptychName"].astype(str))
    if strange := listed - set(given.names):
        what = f"{star} lists {counted(len(strange), 'particle')} that {given.folder} does not have ({min(strange)})"
        raise InputError(f"{what}: give a table that was made of these predictions")
    return np.isin(given.names, list(listed))


def map_columns(kinds: Iterable[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Columns with the ways to maps of some kinds of particles with these names."""
    return {MAP_COLUMNS[kind]: [map_file(kind, name) for name in names] for kind in kinds}


def check_classes(given: Predicted, wanted: Sequence[str]) -> None:
    """InputError where the setting `classes` names one that the model does not know."""
    strange = sorted(set(wanted) - set(given.class_names))
    if strange:
        raise InputError(f"classes names {strange[0]!r}, but the model knows {', '.join(given.class_names)}: correct it")


def _read_origin(folder: Path, manifest: dict[str, Any]) -> Predicted:
    """The predictions that `orient` made a folder of."""
    place = command_folder(manifest) / str(manifest_entry(manifest, "arguments", "predictions"))
    try:
        return read_predictions(place)
    except InputError as error:
        raise InputError(f"{folder} was made from predictions that cannot be read any more: {error}") from None


def _find_names(names: list[str], origin: Predicted) -> IntArray:
    """Rows of particles among the predictions that they come from."""
    rows = pd.Index(origin.names).get_indexer(names)
    if (rows < 0).any():
        raise InputError(f"{origin.folder} holds no particle called {names[int(rows.argmin())]}, so the poses are not made from it: orient anew")
    return np.asarray(rows, np.int64)


def _first_repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _read_classes(star: Path, table: pd.DataFrame, class_names: tuple[str, ...]) -> tuple[IntArray | None, FloatArray | None, FloatArray | None]:
    if "triptychClass" not in table:
        return None, None, None
    if not class_names:
        raise InputError(f"the manifest.json beside {star} names no classes (model.class_names), but the table has _triptychClass; {AGAIN}")
    if len(set(class_names)) < len(class_names):
        raise InputError(f"the manifest.json beside {star} names a class twice (model.class_names); {AGAIN}")
    label = pd.Index(class_names).get_indexer([str(name) for name in table["triptychClass"]])
    if (label < 0).any():
        strange = str(table["triptychClass"].iloc[int(np.argmax(label < 0))])
        raise InputError(f'{star} calls a particle "{strange}", which is none of the {len(class_names)} classes in manifest.json; {AGAIN}')
    own, *columns = "triptychProbability", *probability_columns(class_names)
    missing = [name for name, column in zip(("", *class_names), (own, *columns), strict=True) if column not in table]
    if missing:
        what = "_triptychProbability" if missing[0] == "" else f'_triptychProbability for the class "{missing[0]}"'
        raise InputError(f"{star} has no column {what}, but the probability of every class was expected; {AGAIN}")
    probabilities = np.stack([_numbers(star, table, column) for column in columns], axis=1)
    return np.asarray(label, np.int64), _numbers(star, table, own), probabilities


def _numbers(star: Path, table: pd.DataFrame, column: str, least: int = 0, kind: str = "probabilities") -> FloatArray:
    values = np.asarray(pd.to_numeric(table[column], errors="coerce"), np.float64)
    if not ((values >= least) & (values <= 1 + 1e-5)).all():
        raise InputError(f"the column _{column} of {star} holds values that are no {kind} between {least} and 1; {AGAIN}")
    return values.clip(least, 1)


def _read_paths(folder: Path, table: pd.DataFrame, column: str) -> list[Path] | None:
    if column not in table:
        return None
    paths = [folder / str(value) for value in table[column]]
    for name, path in zip(table["triptychName"].astype(str), paths, strict=True):
        if path.stem != name:
            raise InputError(f"particles.star calls a particle {name}, but its _{column} is {path.name}, another's: restore the table or {AGAIN}")
        if not os.path.isfile(path):
            raise InputError(f"{path} is missing, though particles.star lists it (_{column}); copy the whole folder or {AGAIN}")
    return paths


def _read_embedding(folder: Path, star: Path, table: pd.DataFrame) -> NDArray[np.float32]:
    """The rows of embedding.npy in the order of the table."""
    path = folder / EMBEDDING
    embedding = map_array(path, f"copy the whole folder or {AGAIN}")
    every = np.arange(len(embedding))
    rows = numbers(table, EMBEDDING_ROW, star) - 1 if EMBEDDING_ROW in table else every
    if embedding.ndim != 2 or len(rows) != len(table):
        raise InputError(f"{path} has shape {embedding.shape}, but particles.star has {counted(len(table), 'particle')}; {AGAIN}")
    if len(np.unique(rows)) < len(rows) or not np.isin(rows, every).all():
        raise InputError(f"_{EMBEDDING_ROW} of {star} does not name a row of embedding.npy for each particle; {AGAIN}")
    return embedding if np.array_equal(rows, every) else embedding[rows.astype(np.int64)]


def find_model(given: Predicted) -> Path | None:
    """The folder of the model that made the predictions; None where it is gone or has changed."""
    weights = manifest_entry(given.manifest, "model", "sha256")
    for folder in described_inputs(given):
        if os.path.isfile(folder / WEIGHTS) and hash_file(folder / WEIGHTS) == weights:
            return folder
    return None


def changed_inputs(given: Predicted) -> list[str]:
    """Paths of the particles' files that are not any more what the predictions were made from. The model may change: it is not read again."""
    inputs = described_inputs(given).items()
    return [str(path) for path, entry in inputs if not (path / WEIGHTS).is_file() and has_changed(path, entry)]


def described_inputs(given: Predicted) -> dict[Path, dict[str, Any]]:
    """What the manifest says of each input; relative paths are those of the folder in which the command was given."""
    place = command_folder(given.manifest)
    return {place / str(manifest_entry(entry, "path")): entry for entry in given.manifest.get("inputs") or ()}


def open_input(given: Predicted) -> tuple[ParticleSource | None, str | None]:
    """The particles that the predictions list, in their order; where they are gone, None and the reason."""
    path = manifest_entry(given.manifest, "particles", "path")
    box_size, voxel_size = manifest_entry(given.manifest, "model", "box_size"), manifest_entry(given.manifest, "model", "voxel_size")
    if path is None or box_size is None or voxel_size is None:
        return None, "manifest.json does not say where it is"
    changed = changed_inputs(given)
    if changed:
        return None, f"{changed[0]} has changed since: predict again"
    try:
        config = PredictConfig.model_validate(given.manifest.get("config") or {}).from_anywhere(command_folder(given.manifest))
        source = open_particles(Path(path), config, float(box_size) * float(voxel_size))
    except (InputError, OSError) as error:
        return None, str(error)
    except ValidationError as error:
        return None, f"the settings in manifest.json are not understood ({error.errors()[0]['msg']})"
    if source.names == given.names:
        return source, None
    rows = pd.Index(source.names).get_indexer(given.names)  # the table may have been sorted, or rows taken out of it
    if (rows < 0).any():
        return None, f"{path} holds no particle called {given.names[int(rows.argmin())]}"
    return source.take(rows.astype(np.int64)), None
