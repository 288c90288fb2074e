"""What is this file, as triptych reads it? Facts and warnings about anything that triptych reads or writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from triptych.describing.description import Description
from triptych.describing.particles import describe_em, describe_list, describe_star
from triptych.describing.results import describe_model, describe_predictions, describe_result, describe_store
from triptych.describing.structures import describe_atoms, describe_index, describe_library
from triptych.describing.volumes import describe_mrc, describe_volumes, describe_zarr
from triptych.errors import InputError
from triptych.io.copick import find_config
from triptych.io.mrc import is_mrc_name, mrc_files
from triptych.io.output_names import CARD, EMBEDDING, LIBRARY, MANIFEST, OPTIMISATION_SET
from triptych.io.particle_lists import LIST_ENDINGS
from triptych.io.structure_files import is_index, structure_kind
from triptych.io.tomogram import is_ome_zarr

UNFINISHED = re.compile(r"\..+\.part|.+\.training")
"""Names of the folders in which stages work until they are finished."""
OTHER_LISTS = tuple(ending for ending in LIST_ENDINGS if ending != ".star")


def describe_file(path: Path | str) -> Description:
    """Say what a file or folder is.

    Parameters
    ----------
    path : MRC, STAR, PDB or mmCIF file; any list of particles that `triptych convert` reads; index of structures (CSV); OME-Zarr group; folder of
        MRC files; dataset, model, structure library, predictions or picks of triptych
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist: check the name")
    if path.is_dir():
        return _describe_folder(path)
    if path.name == MANIFEST:
        return _describe_folder(path.parent)
    name = path.name.lower()
    if name.endswith(".star"):
        return describe_star(path)
    if structure_kind(path) == "atoms":
        return describe_atoms(path)
    if is_mrc_name(path):
        return describe_mrc(path)
    if name.endswith(".em"):
        return describe_em(path)
    if name.endswith(".csv") and is_index(path):
        return describe_index(path)
    if name.endswith(OTHER_LISTS):
        return describe_list(path)
    raise InputError(
        f"{path} is of no kind that triptych knows: give an MRC, STAR, PDB or mmCIF file, a list of particles ({', '.join(OTHER_LISTS)}), "
        "or a folder that triptych wrote"
    )


def _describe_folder(path: Path) -> Description:
    if is_ome_zarr(path):
        return describe_zarr(path)
    if UNFINISHED.fullmatch(path.name):
        raise InputError(f"{path} is what an unfinished run works in: the command that began it, given again, goes on with it")
    readers: tuple[tuple[str, Callable[[Path], Description]], ...] = (
        ("zarr.json", describe_store),
        (CARD, describe_model),
        (LIBRARY, describe_library),
        (EMBEDDING, describe_predictions),
        (MANIFEST, describe_result),
        (OPTIMISATION_SET, lambda folder: describe_star(folder / OPTIMISATION_SET)),
    )
    for name, reader in readers:
        if (path / name).is_file():
            return reader(path)
    if any(path.glob("*.mod")) or find_config(path) is not None:
        return describe_list(path)
    stars = sorted(path.glob("*.star"))
    if len(stars) == 1:
        return describe_star(stars[0])
    if stars:
        names = ", ".join(star.name for star in stars[:5])
        raise InputError(f"{path} is a folder with {len(stars)} STAR files ({names}): name the one that is meant")
    if mrc_files(path):
        return describe_volumes(path)
    raise InputError(f"{path} holds nothing that triptych knows: give a folder of MRC files, or one that triptych wrote")
