"""What triptych simulates from: files of atoms, tables of sources, libraries."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from triptych.describing.description import Description
from triptych.errors import InputError, first_line
from triptych.io.files import read_json
from triptych.io.output_names import LIBRARY
from triptych.io.structure_files import read_index


def describe_index(path: Path) -> Description:
    """The table of sources that `triptych structures make` takes."""
    rows = read_index(path)
    result = Description("index of structures")
    counts = Counter(row["name"] for row in rows)
    result.add("structures", f"{len(rows)}: {', '.join(counts)}")
    result.add("use", f"triptych structures make {path} LIBRARY makes a library of them to simulate from")
    missing = [row["file"] for row in rows if not os.path.isfile(path.parent / row["file"])]
    if missing:
        some = ", ".join(missing[:3])
        result.warn(f"{len(missing)} of their files are not beside it ({some}): fetch them with `triptych structures fetch`.")
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        result.warn(f"More than one is called {', '.join(twice)}: give each its own name.")
    return result


def describe_library(path: Path) -> Description:
    entries = read_json(path / LIBRARY, "index of structures")
    result = Description("triptych structure library")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path / 'library.json'} is no index of structures: make the library anew with `triptych structures make`")
    result.add("structures", len(entries))
    for entry in entries:
        result.add(str(entry.get("name")), f"{entry.get('mass_kda')} kDa, {entry.get('voxel_size')} Å, {entry.get('source')}")
        if not os.path.isfile(path / Path(str(entry.get("file"))).name):
            result.warn(f"The map {entry.get('file')} is missing: make the library anew.")
    return result


def describe_atoms(path: Path) -> Description:
    import gemmi

    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as PDB or mmCIF ({first_line(error)}): fetch it again") from None
    if not len(structure):
        raise InputError(f"{path} holds no model with atoms: fetch it again")
    model = structure[0]
    atoms = model.count_atom_sites()
    result = Description("PDB or mmCIF file of atoms")
    result.add("entry", structure.name or "not named")
    result.add("models", len(structure))
    result.add("chains", f"{len(model)} in the first model")
    result.add("atoms", f"{atoms} in the first model")
    assemblies = [f"{item.name} ({sum(len(part.operators) for part in item.generators)} operators)" for item in structure.assemblies[:6]]
    result.add("assemblies", ", ".join(assemblies) or "none")
    residues = sum(len(chain) for chain in model)
    if residues and atoms < 2 * residues:
        result.warn("Most residues have one atom: only the chain's trace (CA or P) is there, and its density is an estimate.")
    if not atoms:
        result.warn("There are no atoms in it.")
    return result
