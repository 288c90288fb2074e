"""Dynamo's tables of particles (.tbl): numbers in columns whose order is fixed.

- x, y, z are pixels from the *corner* of the first voxel, whose centre has the coordinates 0.5, 0.5, 0.5 (Dynamo's wiki, "Volume
  center"); the shifts dx, dy, dz are added to them. Some converters write whole numbers for centres instead: half a pixel elsewhere.
- tdrot, tilt, narot: see `angles`.
- Pixels are those of the tomogram that the particles were cropped from; column 36 (apix) may state their size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.angles import dynamo_from_rotations, rotations_from_dynamo
from triptych.io.files import read_numbers
from triptych.io.numbering import class_names, number_classes, number_tomograms, tomogram_names
from triptych.io.outputs import output_file
from triptych.particles import GIVE_PIXEL_SIZE, Particles

COLUMNS = [
    "tag", "aligned", "averaged", "dx", "dy", "dz", "tdrot", "tilt", "narot", "cc", "cc2", "cpu", "ftype", "ymintilt", "ymaxtilt",
    "xmintilt", "xmaxtilt", "fs1", "fs2", "tomo", "reg", "class", "annotation", "x", "y", "z", "dshift", "daxis", "dnarot", "dcc", "otag",
    "npar", "column33", "ref", "sref", "apix", "def",
]  # fmt: skip
LEAST = COLUMNS.index("z") + 1
PLACE, SHIFT, ANGLES = ["x", "y", "z"], ["dx", "dy", "dz"], ["tdrot", "tilt", "narot"]
UNDERSTOOD = [*PLACE, *SHIFT, *ANGLES, "cc", "tomo", "class", "apix"]
FIRST_VOXEL = 0.5
"""Coordinate of the centre of the first voxel."""


def particles_from_dynamo(path: Path | str, voxel_size: float | None = None) -> Particles:
    """Particles of a table; `voxel_size` in Å per pixel wins over what the table states."""
    path = Path(path)
    rows = np.array(read_numbers(path, "Dynamo table", COLUMNS))
    if rows.shape[1] < LEAST:
        raise InputError(f"{path} has {rows.shape[1]} columns, but a Dynamo table has at least {LEAST}: write it anew")
    names = [*COLUMNS, *(f"column{number}" for number in range(len(COLUMNS) + 1, rows.shape[1] + 1))]
    table = pd.DataFrame(rows, columns=names[: rows.shape[1]])
    for name in UNDERSTOOD:
        if name in table and not np.isfinite(table[name]).all():
            row = int(np.argmin(np.isfinite(table[name])))
            what = f"{name} of {path} (column {COLUMNS.index(name) + 1}) is {table[name][row]} in row {row + 1}"
            raise InputError(f"{what}, but a finite number was expected: write it anew")
    sizes = np.full(len(table), voxel_size) if voxel_size is not None else _stated_pixel_sizes(table, path)
    pixels = table[PLACE].to_numpy() + table[SHIFT].to_numpy() - FIRST_VOXEL
    return Particles(
        table.drop(columns=UNDERSTOOD, errors="ignore"),
        pixels * sizes[:, None],
        rotations_from_dynamo(table[ANGLES].to_numpy()),
        tomograms=tomogram_names(path, table["tomo"].to_numpy()),
        classes=class_names(table["class"].to_numpy()),
        scores=table["cc"].to_numpy() if table["cc"].any() else None,
        pixel_sizes=sizes,
    )


def _stated_pixel_sizes(table: pd.DataFrame, path: Path) -> NDArray[np.float64]:
    sizes = np.asarray(table["apix"]) if "apix" in table else np.zeros(len(table))
    if (sizes <= 0).any() or (sizes == 1).all():
        raise InputError(
            f"{path} counts in pixels, but does not state their size (column 36 is missing, 0 or 1): {GIVE_PIXEL_SIZE}"
        )
    return sizes


def write_dynamo(path: Path | str, particles: Particles, pixel_sizes: NDArray[np.float64]) -> None:
    """Write a table of 36 columns; what is not known is 0, as in Dynamo's own tables. Columns of a Dynamo table that was read are kept.

    Parameters
    ----------
    pixel_sizes : (n,), Å per pixel of the tomograms that Dynamo is to use
    """
    path = Path(path)
    assert particles.positions is not None
    count = len(particles)
    table = pd.DataFrame(0.0, index=range(count), columns=COLUMNS[: COLUMNS.index("apix") + 1])
    table["tag"], table["aligned"] = np.arange(1, count + 1), 1.0
    for name in particles.table:
        if name in COLUMNS and pd.api.types.is_numeric_dtype(particles.table[name]):
            table[name] = particles.table[name].to_numpy()
    if particles.rotations is not None:
        table[ANGLES] = dynamo_from_rotations(particles.rotations)
    table[PLACE] = particles.positions / pixel_sizes[:, None] + FIRST_VOXEL
    table[SHIFT] = 0.0
    table["cc"] = 0.0 if particles.scores is None else np.nan_to_num(particles.scores)
    table["class"] = number_classes(particles.classes, count, stated=particles.class_numbers)
    table["apix"] = pixel_sizes
    table["tomo"] = number_tomograms(path, particles.tomograms, count)
    lines = (" ".join(f"{value:.10g}" for value in row) + "\n" for row in table.to_numpy(dtype=np.float64))
    with output_file(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
