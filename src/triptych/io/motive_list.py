"""Motive lists of the TOM toolbox, AV3, novaSTA and cryoCAT: an EM file of 20 rows, a column for each particle; of STOPGAP: a STAR file.

Programs disagree about some rows; this is AV3's and cryoCAT's reading (rows counted from 1): 1 score, 4 particle, 5 tomogram,
6 object, 8 to 10 x, y, z, 11 to 13 shifts, 17 phi, 18 psi, 19 theta, 20 class. The old TOM naming (class in row 20, tomogram in
row 5 and angles alike) reads the same; Artiatomi's row 6 (particle) and row 7 (wedge) come through as they are. STOPGAP's columns have names,
and the meaning of AV3's rows (its own sg_motl_stopgap_to_av3); cryoCAT's tables may also come as CSV, with names of its own.

- x, y, z are voxels counted from 1, so the centre of the first voxel is 1, 1, 1; the shifts are added to them.
- phi, theta, psi: see `angles`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.angles import rotations_from_zxz, zxz_from_rotations
from triptych.io.em import read_em, write_em
from triptych.io.numbering import class_names, number_classes, number_tomograms, tomogram_names
from triptych.io.star import numbers, read_star, tables_with
from triptych.particles import GIVE_PIXEL_SIZE, Particles

ROWS = [
    "score", "geom1", "geom2", "subtomogram_id", "tomogram_id", "object_id", "subtomogram_mean", "x", "y", "z", "shift_x", "shift_y",
    "shift_z", "geom3", "geom4", "geom5", "phi", "psi", "theta", "class",
]  # fmt: skip
PLACE, SHIFT, ANGLES = ["x", "y", "z"], ["shift_x", "shift_y", "shift_z"], ["phi", "theta", "psi"]
UNDERSTOOD = [*PLACE, *SHIFT, *ANGLES, "score", "tomogram_id", "class"]
CRYOCAT = {"subtomo_id": "subtomogram_id", "tomo_id": "tomogram_id", "subtomo_mean": "subtomogram_mean"}
"""What cryoCAT calls some rows."""
STOPGAP = {
    "orig_x": "x", "orig_y": "y", "orig_z": "z", "x_shift": "shift_x", "y_shift": "shift_y", "z_shift": "shift_z", "the": "theta",
    "tomo_num": "tomogram_id", "subtomo_num": "subtomogram_id", "object": "object_id",
}  # fmt: skip
STOPGAP_BLOCK = "stopgap_motivelist"
HALVES, RELION_HALF = {"A": 1, "B": 2}, "rlnRandomSubset"
FIRST_VOXEL = 1.0


def particles_from_motive_list(path: Path | str, voxel_size: float | None = None) -> Particles:
    """Particles of a motive list; `voxel_size` in Å per voxel is in no such file."""
    path = Path(path)
    data = read_em(path)
    if data.shape[2] != len(ROWS) or data.shape[0] != 1:
        nz, ny, nx = data.shape
        raise InputError(f"{path} holds {nx} x {ny} x {nz} values, but a motive list holds 20 for each particle: check the name")
    return particles_from_motives(pd.DataFrame(data[0].astype(np.float64), columns=ROWS), path, voxel_size)


def particles_from_stopgap(path: Path | str, voxel_size: float | None = None) -> Particles:
    """Particles of STOPGAP's motive list; its half sets A and B become RELION's rlnRandomSubset 1 and 2."""
    path = Path(path)
    table = tables_with(read_star(path)).get(STOPGAP_BLOCK)
    if table is None or table.empty:
        raise InputError(f"{path} lists no particles (its block data_{STOPGAP_BLOCK} is no table, or empty): write it anew")
    if "halfset" in table and set(table["halfset"]) <= set(HALVES):
        table = table.assign(halfset=table["halfset"].map(HALVES)).rename(columns={"halfset": RELION_HALF})
    return particles_from_motives(table.rename(columns=STOPGAP), path, voxel_size)


def particles_from_motives(table: pd.DataFrame, path: Path, voxel_size: float | None) -> Particles:
    """Particles of a table whose columns are called as `ROWS`; others are kept. `path` is that of its file."""
    missing = [name for name in UNDERSTOOD if name not in table]
    if missing:
        raise InputError(f"{path} is a motive list, but says nothing of {', '.join(missing)}: write it anew with all of its columns")
    if voxel_size is None:
        raise InputError(f"{path} counts in voxels, and a motive list never states their size: {GIVE_PIXEL_SIZE}")
    known = pd.DataFrame({name: numbers(table, name, path) for name in UNDERSTOOD})
    voxels = known[PLACE].to_numpy() + known[SHIFT].to_numpy() - FIRST_VOXEL
    return Particles(
        table.drop(columns=UNDERSTOOD),
        voxels * voxel_size,
        rotations_from_zxz(known[ANGLES].to_numpy()),
        tomograms=tomogram_names(path, known["tomogram_id"].to_numpy()),
        classes=class_names(known["class"].to_numpy()),
        scores=known["score"].to_numpy() if known["score"].any() else None,
        pixel_sizes=np.full(len(table), voxel_size),
    )


def write_motive_list(path: Path | str, particles: Particles, pixel_sizes: NDArray[np.float64]) -> None:
    """Write a motive list of 4-byte floats: whole voxels in rows 8 to 10, the rest in the shifts, as cryoCAT and AV3 have it.

    Parameters
    ----------
    pixel_sizes : (n,), Å per voxel of the tomograms that the list is for
    """
    path = Path(path)
    assert particles.positions is not None
    count = len(particles)
    table = pd.DataFrame(0.0, index=range(count), columns=ROWS)
    table["subtomogram_id"] = np.arange(1, count + 1)
    for name in particles.table:
        if name in ROWS and pd.api.types.is_numeric_dtype(particles.table[name]):
            table[name] = particles.table[name].to_numpy()
    voxels = particles.positions / pixel_sizes[:, None] + FIRST_VOXEL
    whole = np.floor(voxels + 0.5)
    table[PLACE], table[SHIFT] = whole, voxels - whole
    table[ANGLES] = 0.0 if particles.rotations is None else zxz_from_rotations(particles.rotations)
    table["score"] = 0.0 if particles.scores is None else np.nan_to_num(particles.scores)
    table["class"] = number_classes(particles.classes, count, stated=particles.class_numbers)
    table["tomogram_id"] = number_tomograms(path, particles.tomograms, count)
    write_em(path, table.to_numpy(dtype=np.float32)[None])
