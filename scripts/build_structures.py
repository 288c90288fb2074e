"""Build the structure library that comes with triptych: 18 complexes from their PDB entries, at 10 Å.

    python scripts/build_structures.py FOLDER [OUT]

FOLDER holds the coordinate files (``<entry>.cif``, ``.pdb``, also ``.gz`` and with a suffix after the entry, as in
``4v4r_30s.pdb.gz``); an entry that is not there is downloaded into it. OUT, by default the package's own data folder, is replaced.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

from triptych.errors import InputError
from triptych.io.fetch import fetch_entries
from triptych.simulation.library import BUILT_IN_LIBRARY, make_library

# name, PDB entry, options. What an entry needs said about it stands here, not in the library's code.
STRUCTURES = (
    ("ribosome_70s", "4v5d", ""),
    ("ribosome_80s", "6zu5", ""),
    ("ribosome_50s", "1ffk", ""),  # its proteins are CA only
    ("ribosome_30s", "4v4r", ""),  # the 30S subunit alone: the full entry holds a whole 70S ribosome
    ("proteasome_20s", "3j9i", ""),
    ("tric", "4v8r", ":chains=first16"),  # two complexes in one entry
    ("groel", "1mnf", ":assembly=none"),  # the assembly record leaves out half of the 14-mer
    ("groel_groes", "1aon", ""),
    ("apoferritin", "4v1w", ""),
    ("rubisco", "1bxn", ":assembly=1"),  # L8S8 from a half in the file
    ("rna_polymerase_2", "1wcm", ""),
    ("aminopeptidase_a", "1gyt", ":chains=first6"),  # one hexamer, also where the file holds two
    ("nucleosome", "1aoi", ""),
    ("cand1_cul1", "1u6g", ""),
    ("hsp90_sba1", "2cg9", ""),
    ("hsp110_hsc70", "3d2f", ":assembly=1"),  # two 1:1 complexes that hardly touch in the crystal
    ("spike", "6xlu", ""),
    ("rymv_capsid", "1f2n", ":assembly=1"),  # 60 copies of the three subunits in the file
)
SUBUNIT_FILES = {"4v4r": "4v4r_30s"}


def find_file(folder: Path, entry: str) -> Path:
    """The file of an entry in the folder, downloaded if need be."""
    stem = SUBUNIT_FILES.get(entry, entry)
    for suffix in (".cif.gz", ".pdb.gz", ".cif", ".pdb"):
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    if stem != entry:
        raise InputError(f"{folder} has no {stem}.pdb or .cif: extract the subunit from entry {entry.upper()} and store it under that name")
    return fetch_entries([entry], folder)[0]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=BUILT_IN_LIBRARY)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    specs = [f"{name}={find_file(arguments.folder, entry)}:source=PDB {entry.upper()}{options}" for name, entry, options in STRUCTURES]
    new = arguments.out.with_name(f".{arguments.out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    make_library(specs, new, half=True)
    shutil.rmtree(arguments.out, ignore_errors=True)
    new.rename(arguments.out)


if __name__ == "__main__":
    main()
