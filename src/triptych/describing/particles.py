"""Lists of particles, and of tomograms: whose rules apply, and what in them cannot be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.config import PredictConfig
from triptych.describing.description import Description
from triptych.describing.volumes import LOOKED_AT, add_contrast, compare_with_table, open_grey_values
from triptych.errors import InputError, counted
from triptych.io.em import read_em
from triptych.io.links import NOTHING, RECONSTRUCTED, find_file, search_folders, split_number
from triptych.io.motive_list import ROWS
from triptych.io.mrc import is_mrc_name, read_header, stated_voxel_size
from triptych.io.output_names import TOMOGRAMS
from triptych.io.particle_lists import Known, guess_format, read_particles
from triptych.io.relion import CENTERED, COORDINATES, RelionFile, read_relion, tomogram_table
from triptych.io.source import open_particles
from triptych.io.star import Block, read_star
from triptych.io.star_source import locate_tomograms
from triptych.io.stated import HALVES, VOXEL_SIZE_TOLERANCE, StatedTomogram, stated_tomograms
from triptych.io.tomogram import stated_frame
from triptych.missing_wedge import find_missing_wedge
from triptych.particles import Particles
from triptych.volume import spread_numbers

KINDS = {
    "stopgap": "STOPGAP motive list",
    "m": "M's particles of a species",
    "dynamo": "Dynamo table",
    "em": "motive list",
    "imod": "IMOD model",
    "copick": "copick project",
    "csv": "CSV file of particles",
}
SPECTRA = 3
"""Tomograms of a list whose power spectra are looked at; of the others, only the headers."""
HEADERS = 20
"""Images of a list whose headers are looked at."""


# ----------------------------------------------------------------------------------------------------------------- STAR


def describe_star(path: Path) -> Description:
    """A STAR file of particles or of tomograms, an optimisation set, or any other."""
    if guess_format(path) != "star":
        return describe_list(path)
    try:
        file = read_relion(path)
    except InputError as error:
        blocks = read_star(path)
        if tomogram_table(blocks) is not None:
            return _describe_tomograms(path, blocks)
        return _describe_blocks(blocks, error)

    result = Description("STAR file of particles" if file.path == path else "STAR optimisation set")
    if file.path != path:
        result.add("particles in", file.path)
    result.add("written for", file.dialect)
    result.add("particles", len(file))
    if file.tomogram_names is not None:
        result.add("tomograms", len(set(file.tomogram_names)))
    if file.optics is not None:
        result.add("optics groups", len(file.optics))
    if file.unset_pixel_size:
        result.warn(f"{file.unset_pixel_size}: if it is wrong, set voxel_size (of images) or coordinate_pixel_size to the right one.")
    labels = set(file.table.columns)
    result.guard(lambda: _add_images(result, file, path))
    if set(COORDINATES) <= labels or set(CENTERED) <= labels:
        result.guard(lambda: _add_coordinates(result, file))
    elif "rlnImageName" not in labels:
        result.warn("There are neither images nor coordinates in it.")
    return result


def _describe_blocks(blocks: dict[str, Block], error: InputError) -> Description:
    result = Description("STAR file")
    for name, block in blocks.items():
        columns = f", {counted(len(block.columns), 'column')}" if isinstance(block, pd.DataFrame) else ""
        result.add(f"data_{name}", counted(len(block), "row" if columns else "value") + columns)
    result.warn(f"It cannot be used as particles: {error}.")
    return result


def _add_images(result: Description, file: RelionFile, path: Path) -> None:
    if "rlnImageName" not in file.table:
        return
    sizes = file.image_voxel_size()
    stated = "not stated; their headers decide" if sizes is None else ", ".join(f"{size:g} Å" for size in np.unique(sizes))
    result.add("voxel size of the images", stated)
    names = [split_number(name)[1] for name in file.table["rlnImageName"].astype(str)]
    found = {name: find_file(name, file.folders) for name in dict.fromkeys(names)}
    missing = [name for name in names if found[name] is None]
    result.add("images", f"{len(names) - len(missing)} of {len(names)} found" + (", stacks of 2-D tilt images" if file.tilt_stacks else ""))
    if missing:
        result.warn(f"{counted(len(missing), 'missing image')}, the first {missing[0]}: copy them beside the STAR file or correct rlnImageName.")
        return
    if sizes is not None and not file.tilt_stacks:
        _compare_headers(result, [path for path in found.values() if path is not None], dict(zip(names, sizes, strict=True)))
    volumes = open_particles(path, PredictConfig(), 400.0).sample(LOOKED_AT)
    result.add("boxes", ", ".join(f"{size} voxels" for size in sorted({volume.shape[0] for volume in volumes})))
    add_contrast(result, volumes)


def _compare_headers(result: Description, paths: list[Path], sizes: dict[str, float]) -> None:
    """Warn where the headers of images state another voxel size than the STAR file."""
    pairs = list(zip(paths, sizes.values(), strict=True))
    chosen = [pairs[i] for i in spread_numbers(len(pairs), HEADERS)]
    own = [(path, stated_voxel_size(read_header(path)), size) for path, size in chosen]
    wrong = [(path, here, there) for path, here, there in own if here is not None and abs(here / there - 1) > VOXEL_SIZE_TOLERANCE]
    if wrong:
        path, here, there = wrong[0]
        result.warn(
            f"The header of {path.name} states {here:g} Å per voxel, but the STAR file {there:g} Å, which is what triptych takes: if it is wrong, "
            "say the right one with --set voxel_size=."
        )


def _add_coordinates(result: Description, file: RelionFile) -> None:
    centered = set(CENTERED) <= set(file.table.columns)
    rule = "Å from the tomogram's centre, N / 2 unbinned pixels from its corner as in RELION's C++" if centered else file.coordinate_rule()
    result.add("coordinates", rule)
    if not centered and file.counts_fractions:
        result.add("places", "known with the tomograms only: --set tomograms= (predict), --tomograms or --tomogram-size (convert)")
        return
    positions, _ = file.coordinates()
    result.add("extent", f"{extent(positions)}, origin shifts subtracted")
    centers = file.tomogram_centers()
    if centers is not None:
        places = positions + centers if centered else positions
        outside = int(((places < 0) | (places > 2 * centers)).any(axis=1).sum())
        if outside:
            result.warn(f"{counted(outside, 'particle')} outside the tomogram as the table of tomograms states its size: check the pixel size.")
    try:
        paths, numbers = locate_tomograms(file, PredictConfig())
    except InputError:
        result.add("tomograms' files", "not found beside it; predict and cut are told where with --set tomograms= or by their arguments")
        return
    result.add("tomograms' files", f"all {len(paths)} found, as {paths[0]}{' ...' if len(paths) > 1 else ''}")
    stated = stated_tomograms(file.tomogram_blocks or file.blocks, file.path.parent / TOMOGRAMS)
    for number, path in enumerate(paths):
        rows = np.flatnonzero(numbers == number)
        name = (file.tomogram_names or [path.name])[rows[0] if file.tomogram_names else 0]
        check_tomogram(result, path, stated.get(name), look=number < SPECTRA)
        _check_inside(result, path, positions[rows], centered, None if centers is None else centers[rows])


def extent(positions: NDArray[np.float64], unit: str = "Å") -> str:
    low, high = positions.min(axis=0), positions.max(axis=0)
    return ", ".join(f"{axis} {a:.0f} to {b:.0f} {unit}" for axis, a, b in zip("xyz", low, high, strict=True))


def _check_inside(result: Description, path: Path, positions: NDArray[np.float64], centered: bool, centers: NDArray[np.float64] | None) -> None:
    """Warn where particles lie outside the tomogram as its own header has it."""
    shape, size = stated_frame(path)
    if size is None:
        result.warn(f"The header of {path.name} states no usable voxel size: say it with --set tomogram_voxel_size=.")
        return
    sides = np.array(shape[::-1]) * size
    places = positions if not centered else positions + (sides / 2 if centers is None else centers)
    outside = int(((places < -size / 2) | (places > sides - size / 2)).any(axis=1).sum())
    if outside:
        result.warn(
            f"{outside} of {len(places)} particles lie outside {path.name} ({', '.join(f'{side:.0f}' for side in sides)} Å along x, y, z): check "
            "the pixel size of the coordinates (--set coordinate_pixel_size=), the tomogram's voxel size, and whether axes are exchanged."
        )


def check_tomogram(result: Description, path: Path, stated: StatedTomogram | None, look: bool) -> None:
    """Warn where a tomogram's header, or the spectrum where that is to be looked at, and its row in a table disagree."""
    if stated is None or not is_mrc_name(path):
        return
    header = read_header(path)
    wedge = find_missing_wedge(open_grey_values(path, header)) if look and not header.compression else None
    compare_with_table(result, path.name, header, wedge, stated)


def _describe_tomograms(path: Path, blocks: dict[str, Block]) -> Description:
    """A table of tomograms."""
    table = tomogram_table(blocks)
    assert table is not None
    result = Description("STAR file of tomograms")
    result.add("tomograms", len(table))
    stated = stated_tomograms(blocks, path)
    sizes = sorted({item.voxel_size for item in stated.values() if item.voxel_size is not None})
    result.add("voxel size", ", ".join(f"{size:g} Å" for size in sizes) or "not stated")
    if RECONSTRUCTED not in table:
        if HALVES[0] in table:
            result.warn("Tomograms are named in halves only: `triptych average-halves` makes whole ones.")
        return result
    ways = table[RECONSTRUCTED].astype(str).tolist()
    files = [find_file(way, search_folders(path)) for way in ways]
    later = sum(way in NOTHING for way in ways)
    result.add("files", f"{sum(file is not None for file in files)} of {len(files)} found" + (f", {later} not reconstructed yet" if later else ""))
    missing = [way for way, file in zip(ways, files, strict=True) if file is None and way not in NOTHING]
    if missing:
        result.warn(f"{counted(len(missing), 'missing tomogram')}, the first {missing[0]}: copy them there, or correct {RECONSTRUCTED}.")
    for number, (name, file) in enumerate(zip(table["rlnTomoName"].astype(str), files, strict=True)):
        if file is not None and file.is_file():
            check_tomogram(result, file, stated.get(name), look=number < SPECTRA)
    return result


# --------------------------------------------------------------------------------------------------------- other lists


def describe_em(path: Path) -> Description:
    """An EM file: a motive list, or a volume."""
    data = read_em(path)
    nz, ny, nx = data.shape
    if nx == len(ROWS) and nz == 1:
        return describe_list(path)
    result = Description("EM volume")
    result.add("size", f"{nx} x {ny} x {nz} voxels (x, y, z)")
    result.warn(
        "triptych reads EM files as motive lists only, and their headers state no voxel size: convert it to MRC (IMOD: em2em, EMAN2: e2proc3d.py)."
    )
    return result


def describe_list(path: Path) -> Description:
    """A Dynamo table, motive list, IMOD model, copick project, CSV or other program's STAR file of particles."""
    kind = guess_format(path)
    result = Description(KINDS[kind])
    unit = "Å"
    try:
        particles = read_particles(path)
    except InputError as error:
        particles, unit = read_particles(path, Known(input_voxel_size=1.0)), "pixels"  # raises again where it is not the unit that is missing
        result.warn(f"{error}.")
    result.add("particles", len(particles))
    _add_columns(result, particles)
    assert particles.positions is not None
    result.add("extent", f"{extent(particles.positions, unit)} from the first voxel")
    if unit == "Å" and particles.pixel_sizes is not None:
        result.add("pixel size", ", ".join(f"{size:g} Å" for size in np.unique(particles.pixel_sizes)))
    below = int((particles.positions < -0.5 * (1.0 if particles.pixel_sizes is None else particles.pixel_sizes[:, None])).any(axis=1).sum())
    if below:
        result.warn(f"{counted(below, 'particle')} before the tomogram's first voxel: check the pixel size, or whether they count from its centre.")
    result.add("use", f"triptych convert {path} OUT --to relion5 writes them as STAR files, which predict and cut read")
    return result


def _add_columns(result: Description, particles: Particles) -> None:
    for label, names in (("tomograms", particles.tomograms), ("classes", particles.classes)):
        if names is not None:
            unique = list(dict.fromkeys(names))
            result.add(label, f"{len(unique)}: {', '.join(unique[:8])}{', ...' if len(unique) > 8 else ''}")
        elif label == "tomograms":
            result.warn("It does not name the particles' tomogram: say which with --tomogram when you convert it.")
    result.add("angles", "none" if particles.rotations is None else "yes")
    if particles.scores is not None and np.isfinite(particles.scores).any():
        result.add("scores", f"{np.nanmin(particles.scores):.3g} to {np.nanmax(particles.scores):.3g}")
