"""A table of particles -> the same with fewer rows, chosen by what the stages said of them, for the next program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.config import UNKNOWN
from triptych.errors import InputError
from triptych.io.links import RECONSTRUCTED, lead_from
from triptych.io.output_names import PARTICLES
from triptych.io.particle_star import star_of_folder
from triptych.io.predictions import FIDELITY
from triptych.io.relion import BINNING, SCORES, RelionFile, read_relion
from triptych.io.star import numbers, write_star
from triptych.io.tomogram_names import shared_name

CLASS, VERDICT, PROBABILITY, GROUP = "triptychClass", "triptychVerdict", "triptychProbability", "triptychGroup"
SCORE, ALIGNMENT_SCORE, POSE_PROBABILITY = "triptychScore", "triptychAlignmentScore", "triptychPoseProbability"
WRITTEN_BY = {
    CLASS: "pick and predict write",
    VERDICT: "pick and predict write with a model that has a novelty reference",
    PROBABILITY: "pick and predict write",
    SCORE: "pick writes",
    ALIGNMENT_SCORE: "orient writes, and discover of each group",
    POSE_PROBABILITY: "orient writes",
    FIDELITY: "pick and predict write with a model that can tell",
    GROUP: "discover writes",
}
OTHER_SCORES = tuple(name for name in SCORES if name not in (SCORE, PROBABILITY))
"""Of other programs: they may be any numbers."""
BEST_BY = (ALIGNMENT_SCORE, SCORE, PROBABILITY)
"""Columns that say how good a particle is; the first that is there counts."""
LISTED = 40
"""Names that a message lists at most."""


def select(
    table: Path | str,
    out: Path | str,
    *,
    classes: Sequence[str] = (),
    not_classes: Sequence[str] = (),
    verdict: str | None = None,
    groups: Sequence[int] = (),
    min_probability: float | None = None,
    min_score: float | None = None,
    min_alignment_score: float | None = None,
    min_pose_probability: float | None = None,
    min_fidelity: float | None = None,
    tomograms: Sequence[str] = (),
    best: int | None = None,
) -> pd.DataFrame:
    """Write the particles of a table that meet every condition, with all their columns, in the same order; paths lead to the same files.

    Parameters
    ----------
    table : STAR file that pick, predict, orient or discover wrote, or the folder with its particles.star
    out : STAR file to write
    classes, not_classes : names of classes that are kept, and that are left out
    verdict : "known" or "unknown"
    groups : numbers of groups that `discover` found; 0: the particles in none
    min_probability, min_score, min_alignment_score : least probability of the class, score of `pick` (or, without one, of the program that
        wrote the table), and score of `orient` or `discover`
    min_pose_probability : least probability, by `orient`, that the pose is right
    min_fidelity : least correlation with the true density that the recovered one is expected to have
    tomograms : names of tomograms
    best : so many of each class at most, of those that meet all else, by the first of `BEST_BY` that is there

    Returns
    -------
    How many particles of each class there were before, and are after.

    Raises
    ------
    InputError
        If `out` exists, a column that a condition needs is not there, a name is none of the table's, or nothing remains.
    """
    table, out = Path(table), Path(out)
    check_new_star(out)
    file = read_relion(star_of_folder(table) or table / PARTICLES if table.is_dir() else table)
    kept = np.ones(len(file), dtype=bool)
    if both := sorted(set(classes) & set(not_classes)):
        raise InputError(f'the class "{both[0]}" is both to be kept and to be left out: say one of them')
    if classes:
        kept &= is_among(find_column(file, CLASS), classes, "class", file.path)
    if not_classes:
        kept &= ~is_among(find_column(file, CLASS), not_classes, "class", file.path)
    if groups:
        kept &= is_among(find_column(file, GROUP), [str(number) for number in groups], "group", file.path)
    if tomograms:
        shared = pd.Series([shared_name(name) for name in file.tomogram_names or []], dtype=str)
        kept &= is_among(shared, [shared_name(name) for name in tomograms], "tomogram", file.path)
    if verdict is not None:
        kept &= (find_column(file, VERDICT) == UNKNOWN).to_numpy() == is_unknown(verdict)
    least_values = {
        PROBABILITY: min_probability,
        SCORE: min_score,
        ALIGNMENT_SCORE: min_alignment_score,
        POSE_PROBABILITY: min_pose_probability,
        FIDELITY: min_fidelity,
    }
    for column, least in least_values.items():
        if column == SCORE and column not in file.table:
            column = next((name for name in OTHER_SCORES if name in file.table), column)
        if least is not None:
            check_least(column, least)
            find_column(file, column)
            kept &= numbers(file.table, column, file.path) >= least
    if best is not None:
        kept &= is_best(file, kept, best)
    if not kept.any():
        raise InputError(f"none of the {len(file)} particles of {file.path} meets all that was asked for: ask for less")
    rows = lead_from(out, refer_to_tomograms(file)[kept].reset_index(drop=True), file.path)
    write_star(out, file.blocks | {file.block: rows})
    return count_classes(file.table, kept)


def check_new_star(path: Path) -> None:
    """InputError unless a STAR file may be written there; nothing is overwritten."""
    if path.suffix.lower() != ".star":
        raise InputError(f"the output is {path}, but the name of a STAR file ends in .star: name it so")
    if os.path.lexists(path):
        raise InputError(f"{path} exists already: choose another name or delete it")


# ---------------------------------------------------------------------------------------------------------- conditions


def find_column(file: RelionFile, label: str) -> pd.Series:
    if label not in file.table:
        raise InputError(f"{file.path} has no column _{label}, which {WRITTEN_BY[label]}: give such a table, or choose by something else")
    return file.table[label]


def check_least(label: str, least: float) -> None:
    if label not in OTHER_SCORES and not -1 <= least <= 1:
        raise InputError(f"_{label} is to be {least:g} at least, but no score or probability is outside of 0 to 1: ask for one within")


def is_among(values: pd.Series, wanted: Sequence[str], what: str, path: Path) -> NDArray[np.bool_]:
    """Which values are among some names; InputError for a name that no particle has."""
    there = sorted(set(values.astype(str)))
    missing = [name for name in wanted if name not in there]
    if missing:
        more = f" and {len(there) - LISTED} more" if len(there) > LISTED else ""
        known = f"it has {', '.join(there[:LISTED])}{more}" if there else f"it names no {what}"
        raise InputError(f'{path} has no particle of the {what} "{missing[0]}": {known}')
    return np.asarray(values.astype(str).isin(wanted), dtype=bool)


def is_unknown(verdict: str) -> bool:
    if verdict not in ("known", UNKNOWN):
        raise InputError(f"the verdict is {verdict!r}, but known or {UNKNOWN} was expected")
    return verdict == UNKNOWN


def is_best(file: RelionFile, kept: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Which of the particles that are kept are the best ones of their class, so many at most; of equals, the first."""
    label = next((label for label in BEST_BY if label in file.table), PROBABILITY)
    find_column(file, label)
    values = pd.Series(numbers(file.table, label, file.path)).where(kept)
    ranks = values.groupby(find_column(file, CLASS).to_numpy()).rank(method="first", ascending=False)
    return np.asarray(ranks <= count, dtype=bool)


def count_classes(table: pd.DataFrame, kept: NDArray[np.bool_]) -> pd.DataFrame:
    """Particles of each class before and after, most frequent ones first."""
    names = table.get(CLASS, pd.Series(["any"] * len(table)))
    counts = pd.DataFrame({"before": names.value_counts(), "after": names[kept].value_counts()}).fillna(0).astype(int)
    return counts.sort_values("before", ascending=False, kind="stable")


# --------------------------------------------------------------------------------------------------------------- paths


def refer_to_tomograms(file: RelionFile) -> pd.DataFrame:
    """The table with what a table of tomograms beside it says of their files, as `predict` writes it: it need not lie beside what is written."""
    names, ways = file.tomogram_names, file.reconstructed
    if {RECONSTRUCTED, "rlnImageName"} & set(file.table) or names is None or not set(names) <= set(ways):
        return file.table
    binning = file.values(BINNING)
    return file.table.assign(**{RECONSTRUCTED: [ways[name] for name in names]}, **({} if binning is None else {BINNING: binning}))
