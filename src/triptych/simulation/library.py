"""Libraries of structures: folders of densities with an index; the built-in one, and those that are made of files or of PDB entries."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.fetch import PDB_URL, fetch_entries
from triptych.io.files import read_json
from triptych.io.mrc import read_mrc, write_mrc
from triptych.io.output_names import LIBRARY
from triptych.io.outputs import output_folder
from triptych.io.structure_files import read_index
from triptych.parallel import Progress
from triptych.simulation.structures import Structure, StructureSpec, check_class_names, parse_structure_spec, read_structure

logger = logging.getLogger(__name__)

BUILT_IN_LIBRARY = Path(__file__).parents[1] / "data" / "structures"
CLASS_ENTRIES = Path(__file__).parents[1] / "data" / "models" / "base" / "structures.csv"
"""Of the classes of the shipped model that the built-in library lacks: PDB entry, assembly, and mass of the structure that it was trained on."""
SAME_MASS = 1.5
"""Factor by which a class's structure may be heavier or lighter than that; its mass was estimated from a map."""
VOXEL_SIZES = (0.5, 50.0)
"""Å, from the finest to the coarsest that structures are prepared at."""


def load_library(path: Path | str | None = None) -> list[Structure]:
    """The structures of a library folder; None: the built-in ones."""
    index = (BUILT_IN_LIBRARY if path is None else Path(path)) / LIBRARY
    if not index.is_file():
        raise InputError(f"{index.parent} is not a structure library (it has no {index.name}): make one with `triptych structures make`")
    try:
        library = [
            Structure(
                name=str(item["name"]),
                density=read_mrc(index.parent / item["file"], float(item["voxel_size"])),
                mass_kda=float(item["mass_kda"]),
                contour=float(item["contour"]),
                source=str(item["source"]),
            )
            for item in read_json(index, "index of a structure library")
        ]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{index} is not the index of a structure library ({error!r}): make it again with `triptych structures make`") from error
    if not library:
        raise InputError(f"{index} lists no structures, but at least one was expected: make it again with `triptych structures make`")
    return library


def hash_structures(library: Iterable[Structure]) -> str:
    """SHA-256 of all that a simulation takes from a library."""
    digest = hashlib.sha256()
    for structure in library:
        density = structure.density
        digest.update(repr((structure.name, structure.contour, density.voxel_size, density.data.shape)).encode())
        digest.update(np.ascontiguousarray(density.data).tobytes())
    return digest.hexdigest()


def write_library(structures: Iterable[Structure], out: Path | str, half: bool = False) -> list[Structure]:
    """Write a library folder, whole or not at all; ``half``: as 16-bit floats. Returns the structures."""
    written: dict[str, Structure] = {}
    with output_folder(out) as part:
        for item in structures:
            check_class_names([item.name], written)
            written[item.name] = item
            values: NDArray[Any] = item.density.data.astype(np.float16 if half else np.float32)
            write_mrc(part / f"{item.name}.mrc", item.density.with_data(values))
        index = [
            {
                "name": item.name,
                "file": f"{item.name}.mrc",
                "mass_kda": round(item.mass_kda, 3),
                "contour": round(item.contour, 5),
                "source": item.source,
                "voxel_size": item.density.voxel_size,
            }
            for item in written.values()
        ]
        (part / LIBRARY).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return list(written.values())


def fetch_classes(
    out: Path | str, cache: Path | None = None, on_progress: Progress | None = None, pdb_url: str = PDB_URL
) -> list[Structure]:
    """Write a library of the classes of the shipped model: the built-in structures, and what is made of the PDB entries of the others.

    An entry out of which another structure comes than the model was trained on, by its mass, is left out with a warning. The arguments but `out`
    are those of `fetch_entries`.
    """
    return write_library(_class_structures(cache, on_progress, pdb_url), out)


def class_entries() -> list[dict[str, str]]:
    """The rows of `CLASS_ENTRIES`."""
    return list(csv.DictReader(CLASS_ENTRIES.read_text(encoding="utf-8").splitlines()))


def _class_structures(cache: Path | None, on_progress: Progress | None, pdb_url: str) -> Iterator[Structure]:
    yield from load_library()
    rows = class_entries()
    with TemporaryDirectory() as folder:
        for row, path in zip(rows, fetch_entries([row["entry"] for row in rows], folder, cache, on_progress, pdb_url), strict=True):
            try:
                structure = _read_class(path, row)
            except InputError as error:
                logger.warning("%s is left out: %s", row["name"], error)
            else:
                yield structure


def _read_class(path: Path, row: Mapping[str, str]) -> Structure:
    structure = read_structure(path, row["name"], assembly=row["assembly"], source=f"PDB {row['entry']}")
    wanted = float(row["mass_kda"])
    if not wanted / SAME_MASS < structure.mass_kda < wanted * SAME_MASS:
        what = f"{structure.source}, assembly {row['assembly']}, has {structure.mass_kda:,.0f} kDa, but the model was trained on {wanted:,.0f} kDa"
        raise InputError(f"{what}: choose the chains that belong to it with `triptych structures make {structure.name}=FILE:chains=...`")
    return structure


def make_library(specs: Sequence[str], out: Path | str, voxel_size: float = 10.0, half: bool = False) -> list[Structure]:
    """Read every structure that the specs name (`expand_specs`) and write them as a library folder."""
    if not VOXEL_SIZES[0] <= voxel_size <= VOXEL_SIZES[1]:
        raise InputError(f"the voxel size is {voxel_size:g} Å, but from {VOXEL_SIZES[0]:g} to {VOXEL_SIZES[1]:g} Å was expected: give another one")
    parsed = expand_specs(specs)
    return write_library((read_structure(voxel_size=voxel_size, **vars(spec)) for spec in parsed), out, half)


def expand_specs(specs: Iterable[str]) -> list[StructureSpec]:
    """Parse specs. A CSV file among them stands for its rows: columns ``name`` and ``file`` (beside the CSV file), and if wanted
    ``entry``, ``kind`` (atoms or density), ``voxel_size_A``, ``assembly``, ``model``, ``chains``, ``contour``, ``mass``."""
    found: list[StructureSpec] = []
    for spec in specs:
        found += _specs_of_index(Path(spec)) if spec.lower().endswith(".csv") else [parse_structure_spec(spec)]
    return found


def _specs_of_index(index: Path) -> list[StructureSpec]:
    specs = []
    for row in read_index(index):
        columns = {"voxel_size": "voxel_size_A"} | {key: key for key in ("assembly", "model", "chains", "contour", "mass")}
        options = [f":{key}={row[column]}" for key, column in columns.items() if row.get(column)]
        spec = parse_structure_spec("".join([f"{row['name']}=FILE", *options]))
        entry = row.get("entry") or ""
        source = f"PDB {entry}{' (map)' if row.get('kind') == 'density' else ''}" if re.fullmatch(r"\d\w{3}", entry) else entry
        specs.append(replace(spec, path=index.parent / row["file"], source=source or None))
    return specs
