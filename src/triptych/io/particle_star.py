"""Particles as STAR files for RELION 3.1, 4 and 5 and for Warp; what their columns mean is told in `relion`.

Every column of a STAR file that was read is kept, in its place, but for those that say where a particle is and how it is turned:

- positions have the origin shifts applied, so the origins (rlnOriginX/Y/ZAngst) become 0;
- rlnTomoSubtomogramRot/Tilt/Psi stay where the dialect knows them (RELION 4 and 5), and rlnAngleRot/Tilt/Psi are what is then missing to the
  whole rotation;
- the columns of coordinates of another dialect go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.links import project_of
from triptych.io.numbering import are_numbers, number_classes
from triptych.io.output_names import OPTIMISATION_SET, PARTICLES, TOMOGRAMS
from triptych.io.outputs import output_folder
from triptych.io.relion import (
    ANGLES,
    AXES,
    BINNING,
    CENTERED,
    CLASSES,
    COORDINATES,
    ORIGINS,
    SCORES,
    SUBTOMOGRAM_ANGLES,
    UNBINNED_PIXEL_SIZES,
    angles_from_rotations,
    rotations_from_angles,
)
from triptych.io.star import Block, tables_with, write_star
from triptych.io.tomogram_names import TOMOSTAR, bare_tomogram_name
from triptych.particles import Frame, Particles

STAR_LABEL = re.compile(r"[a-z]+[A-Z]\w*")
_OF_IMAGES = ("rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality")
UNDERSTOOD = {
    *COORDINATES, *CENTERED, *ANGLES, *SUBTOMOGRAM_ANGLES, *CLASSES, *SCORES, *UNBINNED_PIXEL_SIZES, "rlnTomoName", "rlnMicrographName",
    *ORIGINS, "rlnOpticsGroup", "rlnPixelSize",
    "rlnDetectorPixelSize", "rlnMagnification",
}  # fmt: skip
"""Columns whose meaning is in the particles' positions, rotations, names, classes and scores."""
_SCORE = "rlnAutopickFigureOfMerit"


def star_of_folder(folder: Path) -> Path | None:
    """The list in a folder as RELION, `convert` to RELION 5, or one of our stages wrote it."""
    return next((folder / name for name in (OPTIMISATION_SET, PARTICLES) if (folder / name).is_file()), None)


def subtomogram_matrices(table: pd.DataFrame) -> NDArray[np.float64]:
    """Matrices (n, 3, 3) of rlnTomoSubtomogramRot/Tilt/Psi, the axes of RELION's 3-D images -> those of the tomogram; 1 without these columns."""
    if not set(SUBTOMOGRAM_ANGLES) <= set(table):
        return np.broadcast_to(np.eye(3), (len(table), 3, 3))
    return rotations_from_angles(table[list(SUBTOMOGRAM_ANGLES)].to_numpy(dtype=np.float64))


def _start_table(particles: Particles, knows_subtomograms: bool = True) -> pd.DataFrame:
    """The columns that may stay as they are, and all that is the same in every dialect.

    Where a dialect knows no rlnTomoSubtomogramRot/Tilt/Psi, rlnAngleRot/Tilt/Psi are the whole rotation; unless there are images, for their
    axes are those that these angles turn.
    """
    table = particles.table[[name for name in particles.table if STAR_LABEL.fullmatch(str(name))]].copy()
    if not knows_subtomograms and "rlnImageName" not in table:
        table = table.drop(columns=list(SUBTOMOGRAM_ANGLES), errors="ignore")
    for label in ORIGINS:
        if label in table:
            table[label] = 0.0
    if particles.rotations is not None:
        missing = subtomogram_matrices(table).swapaxes(1, 2) @ particles.rotations
        table[list(ANGLES)] = angles_from_rotations(missing)
    if particles.classes is not None and not set(CLASSES) & set(table):
        table["rlnClassNumber"] = number_classes(particles.classes, len(particles), keeps_names=True)
        if not are_numbers(particles.classes):
            table["triptychClass"] = particles.classes
    if particles.scores is not None:
        column = next((name for name in SCORES if name in table), _SCORE)
        if column not in table or pd.to_numeric(table[column], errors="coerce").isna().any():
            table[column] = particles.scores
    return table


def add_poses(
    table: pd.DataFrame,
    rotations: NDArray[np.float64],
    shifts: NDArray[np.float64],
    *,
    lies_as_tomogram: bool = True,
    offsets: NDArray[np.float64] | None = None,
    origins: NDArray[np.float64] | None = None,
) -> pd.DataFrame:
    """The table with rlnAngleRot/Tilt/Psi and rlnOriginX/Y/ZAngst of poses found within the particles' boxes; coordinates stay.

    Parameters
    ----------
    table : n particles
    rotations : (n, 3, 3), reference -> box on (x, y, z)
    shifts : (n, 3), x, y, z in Å of the particle from the centre of its box
    lies_as_tomogram : whether the boxes' axes are those of the tomogram, else of rlnTomoSubtomogramRot/Tilt/Psi, where the table has these
    offsets : (n, 3), x, y, z in Å from the centre of the box to the position that the table states; default: 0
    origins : (n, 3), rlnOriginX/Y/ZAngst that this position has applied; default: 0
    """
    frames = subtomogram_matrices(table) if lies_as_tomogram else np.broadcast_to(np.eye(3), (len(table), 3, 3))
    to_frames = frames.swapaxes(1, 2)
    # position = coordinate - A_subtomogram . origin, so what is to be added to a position is taken from the origin.
    moved = (0 if offsets is None else offsets) - shifts
    new_origins = (0 if origins is None else origins) + np.einsum("nij,nj->ni", to_frames, moved)
    table = table.drop(columns=[f"rlnOrigin{axis}" for axis in AXES], errors="ignore")
    columns = dict(zip(ANGLES, angles_from_rotations(to_frames @ rotations).T, strict=True))
    columns |= {f"rlnOrigin{axis}Angst": values for axis, values in zip(AXES, new_origins.T, strict=True)}
    return table.assign(**columns)


def _tomogram_names(particles: Particles) -> list[str]:
    if particles.tomograms is None:
        raise InputError("a STAR file names the tomogram of each particle, but the input does not tell it: give it with --tomogram")
    return particles.tomograms


def _optics(particles: Particles, groups: NDArray[np.int64], sizes: NDArray[np.float64], label: str) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """A table of optics in which a group has one pixel size, and each particle's group; groups stay where that is so already."""
    old = tables_with(particles.blocks, "rlnOpticsGroup").get("optics", pd.DataFrame({"rlnOpticsGroup": np.unique(groups)}))
    missing = np.flatnonzero(~np.isin(groups, old["rlnOpticsGroup"]))
    if len(missing):
        what = f"row {missing[0] + 1} of the particles names the optics group {groups[missing[0]]}"
        raise InputError(f"{what}, which data_optics of the input does not have: export the file again")
    keys = list(dict.fromkeys(zip(groups.tolist(), sizes.tolist(), strict=True)))
    keeps = len({group for group, _ in keys}) == len(keys)
    rows, numbers = [], {}
    for number, (group, size) in enumerate(sorted(keys), 1):
        row = old[old["rlnOpticsGroup"] == group].iloc[0].to_dict()
        numbers[group, size] = group if keeps else number
        rows.append(row | {"rlnOpticsGroup": numbers[group, size], label: size})
    for row in rows:
        name = row.get("rlnOpticsGroupName")
        row["rlnOpticsGroupName"] = name if isinstance(name, str) and keeps else f"opticsGroup{row['rlnOpticsGroup']}"
    new = pd.DataFrame(rows).drop(columns=[name for name in UNBINNED_PIXEL_SIZES if name != label], errors="ignore")
    return new, np.array([numbers[key] for key in zip(groups.tolist(), sizes.tolist(), strict=True)], dtype=np.int64)


def _says_of_optics(particles: Particles) -> bool:
    """Whether the input's optics groups say more than that they are there, and how large their pixels are."""
    said = set(tables_with(particles.blocks).get("optics", ()))
    return bool(said - {"rlnOpticsGroup", "rlnOpticsGroupName", *UNBINNED_PIXEL_SIZES})


def _rebinned(table: pd.DataFrame, particles: Particles, sizes: NDArray[np.float64]) -> pd.DataFrame:
    """The table with binnings that belong to the pixel sizes (n,) that are written; without them where those before are not stated."""
    label, before = UNBINNED_PIXEL_SIZES[0], particles.unbinned_pixel_sizes
    optics = tables_with(particles.blocks, "rlnOpticsGroup", label).get("optics")
    if BINNING not in table:
        return table
    if optics is not None:
        before = pd.Series(_groups(table)).map(dict(zip(optics["rlnOpticsGroup"], optics[label], strict=True))).to_numpy(np.float64)
    if before is None:
        return table.drop(columns=BINNING)
    return table.assign(**{BINNING: table[BINNING].to_numpy(np.float64) * before / sizes})


def _groups(table: pd.DataFrame) -> NDArray[np.int64]:
    if "rlnOpticsGroup" not in table:
        return np.ones(len(table), dtype=np.int64)
    groups = table["rlnOpticsGroup"]
    if not pd.api.types.is_integer_dtype(groups):
        raise InputError(f"rlnOpticsGroup is {str(groups.iloc[0])[:60]!r} in the first row, but whole numbers were expected: correct it")
    return np.asarray(groups, dtype=np.int64)


def _blocks(particles: Particles, optics: pd.DataFrame | None, table: pd.DataFrame) -> dict[str, Block]:
    """The blocks of the source in their order, with other optics, and the particles last."""
    others: dict[str, Block] = {name: block for name, block in particles.blocks.items() if name != "optics"}
    return {**others, **({} if optics is None else {"optics": optics}), "particles": table}


def write_relion_3_or_4(path: Path | str, particles: Particles, pixel_sizes: NDArray[np.float64], version: str) -> None:
    """Write coordinates in pixels from the centre of the first voxel.

    Parameters
    ----------
    pixel_sizes : (n,), Å per pixel of the unbinned tilt series (micrograph)
    version : "relion3.1" (rlnMicrographName) or "relion4" (rlnTomoName)
    """
    assert particles.positions is not None
    name, size = ("rlnTomoName", UNBINNED_PIXEL_SIZES[0]) if version == "relion4" else ("rlnMicrographName", UNBINNED_PIXEL_SIZES[1])
    table = _start_table(particles, knows_subtomograms=version == "relion4")
    # Warp's ending would say that pixels are counted as Warp does
    table[name] = [tomogram.removesuffix(TOMOSTAR) for tomogram in _tomogram_names(particles)]
    table[list(COORDINATES)] = particles.positions / pixel_sizes[:, None]
    unwanted = [*CENTERED, *UNBINNED_PIXEL_SIZES, *(["rlnTomoName"] if name != "rlnTomoName" else [])]
    table = _rebinned(table, particles, pixel_sizes)
    optics, table["rlnOpticsGroup"] = _optics(particles, _groups(table), pixel_sizes, size)
    write_star(path, _blocks(particles, optics, table.drop(columns=unwanted, errors="ignore")))


def write_warp(path: Path | str, particles: Particles, pixel_sizes: NDArray[np.float64]) -> None:
    """Write coordinates in pixels of the export, whose size is that of the particles' images if there are any.

    Parameters
    ----------
    pixel_sizes : (n,), Å per pixel
    """
    assert particles.positions is not None
    table = _start_table(particles, knows_subtomograms=False)
    optics = tables_with(particles.blocks).get("optics")
    if optics is not None:
        keep = ("rlnImageName",) if "rlnImageName" in table else ()
        optics = optics.drop(columns=[*UNBINNED_PIXEL_SIZES, *(() if keep else _OF_IMAGES)], errors="ignore")
    table["rlnMicrographName"] = [bare_tomogram_name(name) + TOMOSTAR for name in _tomogram_names(particles)]
    table[list(COORDINATES)] = particles.positions / pixel_sizes[:, None]
    table["rlnMagnification"], table["rlnDetectorPixelSize"], table["rlnPixelSize"] = 10000.0, pixel_sizes, pixel_sizes
    unwanted = [*CENTERED, *UNBINNED_PIXEL_SIZES, "rlnTomoName"]
    write_star(path, _blocks(particles, optics, table.drop(columns=unwanted, errors="ignore")))


def _tomogram_blocks(particles: Particles, frames: Mapping[str, Frame]) -> dict[str, Any]:
    """The tomograms' blocks as they were, with the boxes that are used; rows for the tomograms that had none."""
    blocks = dict(particles.tomogram_blocks)
    tables = tables_with(blocks, "rlnTomoName")
    key = next((name for name in ("global", "tomograms", "") if name in tables), "global")
    old = tables.get(key, pd.DataFrame({"rlnTomoName": pd.Series([], dtype="str")}))
    new = [name for name in frames if name not in set(old["rlnTomoName"].astype(str))]
    table = pd.concat([old, pd.DataFrame({"rlnTomoName": new})], ignore_index=True) if new else old.copy()
    columns: dict[str, dict[str, float]] = {UNBINNED_PIXEL_SIZES[0]: {name: frame.voxel_size for name, frame in frames.items()}}
    columns |= {f"rlnTomoSize{axis}": {name: frame.size[number] for name, frame in frames.items()} for number, axis in enumerate(AXES)}
    if {BINNING, UNBINNED_PIXEL_SIZES[0]} <= set(table):  # the files stay as they are, whatever pixels are counted in
        now = table["rlnTomoName"].astype(str).map(columns[UNBINNED_PIXEL_SIZES[0]]).fillna(table[UNBINNED_PIXEL_SIZES[0]])
        table[BINNING] = table[BINNING].astype(float) * table[UNBINNED_PIXEL_SIZES[0]].astype(float) / now.astype(float)
    for label, values in columns.items():
        before = table[label] if label in table else pd.Series([None] * len(table))
        table[label] = [values.get(str(name), value) for name, value in zip(table["rlnTomoName"], before, strict=True)]
    # Tomograms without particles stay where they have all that the others have; of those that were not in the table, only this is known.
    table = table[table[list(columns)].notna().all(axis=1)].reset_index(drop=True).infer_objects()
    table = table.dropna(axis=1) if new else table
    return {**({key: table} if key not in blocks else {}), **{name: table if name == key else block for name, block in blocks.items()}}


def write_relion_5(path: Path | str, particles: Particles, frames: Mapping[str, Frame]) -> None:
    """Write a folder with the particles (Å from the tomogram's centre, N / 2), their tomograms, and an optimisation set of both.

    Parameters
    ----------
    frames : the box of each tomogram, by its name; best in unbinned pixels of the tilt series, as RELION has it
    """
    assert particles.positions is not None
    names = _tomogram_names(particles)
    table = _start_table(particles)
    table["rlnTomoName"] = names
    table[list(CENTERED)] = particles.positions - np.stack([frames[name].center for name in names])
    sizes = np.array([frames[name].voxel_size for name in names])
    table = _rebinned(table, particles, sizes)
    table = table.drop(columns=[*COORDINATES, *UNBINNED_PIXEL_SIZES], errors="ignore")
    optics: pd.DataFrame | None = None
    if _says_of_optics(particles):
        optics, table["rlnOpticsGroup"] = _optics(particles, _groups(table), sizes, UNBINNED_PIXEL_SIZES[0])
    else:  # RELION takes them from the table of tomograms then
        table = table.drop(columns="rlnOpticsGroup", errors="ignore")
    blocks, tomograms = _blocks(particles, optics, table), _tomogram_blocks(particles, frames)
    project, place = project_of(Path(path) / TOMOGRAMS, tomograms.values()), Path(path).absolute()
    way = place.relative_to(project) if project is not None else Path()
    with output_folder(path) as folder:
        write_star(folder / PARTICLES, blocks)
        write_star(folder / TOMOGRAMS, tomograms)
        write_star(folder / OPTIMISATION_SET, {"": {"rlnTomoParticlesFile": str(way / PARTICLES), "rlnTomoTomogramsFile": str(way / TOMOGRAMS)}})
