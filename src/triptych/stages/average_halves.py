"""Tomograms that were reconstructed in two halves -> whole ones, and a table that names them.

RELION 5 reconstructs halves alone where tomograms are to be denoised, each from every other frame of the tilt images. Their mean is the
tomogram of all frames, which a network that knows noise sees more in than in a denoised one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from triptych.errors import InputError
from triptych.io.files import different_files
from triptych.io.links import RECONSTRUCTED, lead_from
from triptych.io.manifest import Stage, recognise_input, write_manifest
from triptych.io.mrc import check_values, new_mrc
from triptych.io.output_names import TOMOGRAMS
from triptych.io.outputs import check_apart
from triptych.io.relion import BINNING, UNBINNED_PIXEL_SIZES
from triptych.io.star import write_star
from triptych.io.stated import (
    HALVES,
    VOXEL_SIZE_TOLERANCE,
    NamedTomogram,
    leave_out_unmade,
    locate_tomogram,
    read_tomogram_table,
    stated_voxel_sizes,
)
from triptych.io.tomogram import check_unique, open_tomogram, stated_frame
from triptych.parallel import Progress
from triptych.workspace import Workspace, open_workspace

STAGE: Stage = "average-halves"
FOLDER = "tomograms"
SECTIONS = 16
"""That are averaged at once."""

Halves = tuple[NamedTomogram, NamedTomogram]


def average_halves(table: Path | str, out: Path | str, on_progress: Progress | None = None) -> Path:
    """Write the means of tomograms' halves, and a table of tomograms that names them.

    The folder then holds ``tomograms/`` (MRC, float32) and ``tomograms.star``: the rows of `table`, with where the means are.
    Finished tomograms are kept in a working folder beside `out`: the same call goes on after a kill.

    Parameters
    ----------
    table : STAR file with rlnTomoReconstructedTomogramHalf1 and ...Half2, or an optimisation set that names one
    out : the folder to make
    on_progress : called with (tomograms done, tomograms in all)

    Raises
    ------
    InputError
        If the table names no halves, one is missing, or two of a tomogram do not fit.
    """
    star, rows = read_tomogram_table(Path(table))
    rows = choose_rows(star, rows)
    halves = list_halves(star, rows)
    inputs = different_files([Path(table), star, *(half.path for pair in halves for half in pair)])
    check_apart(Path(out), inputs)
    settings = {"inputs": [recognise_input(path) for path in inputs]}
    workspace = open_workspace(Path(out), settings, lambda folder: (folder / FOLDER).mkdir(parents=True))
    with workspace.until_finished():
        workspace.fill(range(len(halves)), partial(write_mean, workspace, halves), lambda _: 1, 1, None, on_progress)
        workspace.finish(partial(write_tables, workspace, star, rows, inputs, {"table": table}))
    return Path(out)


def choose_rows(star: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of tomograms that name both halves; InputError where none does."""
    if not set(HALVES) <= set(table):
        raise InputError(f"{star} names no halves of tomograms ({', '.join(HALVES)}): give the table of a job that reconstructed tomograms in halves")
    for column in HALVES:
        table = leave_out_unmade(table, column, star)
    return table


def list_halves(star: Path, table: pd.DataFrame) -> list[Halves]:
    """The halves that the rows of a table name."""
    rows = zip(table["rlnTomoName"].astype(str), *(table[column].astype(str) for column in HALVES), stated_voxel_sizes(table, star), strict=True)
    found = [(locate_tomogram(name, first, size, star), locate_tomogram(name, second, size, star)) for name, first, second, size in rows]
    check_unique((first.name, first.path) for first, _ in found)
    for pair in found:
        check_halves(pair, star)
    return found


def check_halves(pair: Halves, star: Path) -> None:
    """InputError where the files of a tomogram's halves are the same, or do not fit each other."""
    if pair[0].path.samefile(pair[1].path):
        raise InputError(f"{star} names {pair[0].path} as both halves of the tomogram {pair[0].name}: correct the table")
    shapes, voxels = zip(*(stated_frame(half.path) for half in pair), strict=True)
    sizes = [own or half.voxel_size or 0.0 for own, half in zip(voxels, pair, strict=True)]
    for half, size in zip(pair, sizes, strict=True):
        if not size:
            labels = f"{UNBINNED_PIXEL_SIZES[0]}, {BINNING}"
            raise InputError(f"neither {half.path} nor {star} ({labels}) says how many Å a voxel has: correct one of them")
    if shapes[0] != shapes[1] or abs(sizes[0] / sizes[1] - 1) > VOXEL_SIZE_TOLERANCE:
        frames = (f"{'{} x {} x {}'.format(*shape[::-1])} voxels of {size:g} Å" for shape, size in zip(shapes, sizes, strict=True))
        stated = " and ".join(f"{half.path} has {frame}" for half, frame in zip(pair, frames, strict=True))
        raise InputError(f"{stated}, but two halves of the tomogram {pair[0].name} were expected: correct the table, or reconstruct them anew")


def write_mean(workspace: Workspace, halves: Sequence[Halves], number: int) -> int:
    """Put the mean of two halves into the result and note that it is there; return 1."""
    pair = halves[number]
    first, second = (open_tomogram(half.path, half.voxel_size) for half in pair)
    path = workspace.result / FOLDER / f"{pair[0].name}.mrc"
    with new_mrc(path, first.data.shape, "f4", first.voxel_size, first.origin) as mean:
        for z in range(0, len(mean), SECTIONS):
            here = slice(z, z + SECTIONS)
            parts = [np.asarray(half.data[here], np.float32) for half in (first, second)]
            for values, half in zip(parts, pair, strict=True):
                check_values(values, half.path)
            mean[here] = (parts[0] + parts[1]) / 2
    workspace.mark(number)
    return 1


def write_tables(
    workspace: Workspace, star: Path, rows: pd.DataFrame, inputs: Sequence[Path], arguments: Mapping[str, Any], folder: Path
) -> None:
    """The table of the tomograms, and the manifest."""
    ways = [f"{FOLDER}/{name}.mrc" for name in rows["rlnTomoName"].astype(str)]
    write_star(folder / TOMOGRAMS, {"global": lead_from(workspace.out / TOMOGRAMS, rows, star).assign(**{RECONSTRUCTED: ways})})
    write_manifest(folder, STAGE, None, inputs, None, None, arguments)
