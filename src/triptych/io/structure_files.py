"""Files of structures: what their names say they hold, and the index (CSV) that lists them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal

from triptych.errors import InputError
from triptych.io.files import read_text
from triptych.io.mrc import is_mrc_name

ATOMS = (".pdb", ".ent", ".cif", ".mmcif")


def structure_kind(path: Path) -> Literal["atoms", "map"] | None:
    """What a file holds by its name, compressed or not: atoms (PDB, mmCIF), a map (MRC, CCP4), or no structure."""
    if is_mrc_name(path):
        return "map"
    return "atoms" if path.name.lower().removesuffix(".gz").endswith(ATOMS) else None


def is_index(path: Path) -> bool:
    """Whether a CSV file is an index of structures, or cannot be read at all, rather than a list of particles."""
    try:
        columns = set(_read_rows(path).fieldnames or ())
    except (InputError, csv.Error):
        return True
    return {"name", "file"} <= columns or not ({"x", "y", "z"} <= columns or "CCC" in columns)  # the last of PEET


def read_index(path: Path) -> list[dict[str, str]]:
    """The rows of an index of structures, each with a name and a file (beside the index)."""
    if not path.is_file():
        raise InputError(f"{path} is not a file, but an index of structures (CSV) was expected there: check the name")
    try:
        rows = list(_read_rows(path))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV ({error}): correct it") from None
    if not rows or not {"name", "file"} <= rows[0].keys():
        columns = "the columns name and file, as an index of structures has (a list of particles has x, y and z)"
        raise InputError(f"{path} has no rows with {columns}: check the file")
    for row in rows:
        if not row["name"] or not row["file"]:
            raise InputError(f"{path} has the row {row}, but each needs a name and a file")
    return rows


def _read_rows(path: Path) -> csv.DictReader[str]:
    return csv.DictReader(io.StringIO(read_text(path, "CSV file"), newline=""), skipinitialspace=True)
