"""A STAR file of images, tilt stacks or coordinates -> a stream of subtomograms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from triptych.config import Contrast, PredictConfig
from triptych.errors import InputError, counted
from triptych.io.files import different_files
from triptych.io.links import find_file, split_number
from triptych.io.manifest import manifest_entry, read_manifest
from triptych.io.mrc import bare_stem
from triptych.io.output_names import MANIFEST
from triptych.io.particle_names import safe_name, unique_names
from triptych.io.particle_source import ParticleSource
from triptych.io.readers import Crops, Images, Reader, check_images
from triptych.io.relion import BINNING, CENTERED, COORDINATES, RelionFile, agrees, read_relion
from triptych.io.star import Block
from triptych.io.stated import VOXEL_SIZE_TOLERANCE, StatedTomogram, find_stated, list_tomograms
from triptych.io.tilt_stacks import open_tilt_stacks
from triptych.io.tomogram import is_tomogram, open_tomogram, stated_frame, tomogram_files
from triptych.io.tomogram_names import (
    LOOK_ELSEWHERE,
    bare_tomogram_name,
    by_name,
    find_tomogram,
    point_to_table,
    shared_name,
    warn_of_other_name,
)
from triptych.io.transfers import Transfers, check_treatment, named_transfers, stated_ctf, tabled_transfers
from triptych.particles import Frame
from triptych.transfer import CtfTransfers
from triptych.volume import MAX_BOX

logger = logging.getLogger(__name__)

CONTRAST = "triptychContrast"
"""Column with the sign of the grey values of the tomogram in which a particle lies, as it was taken."""
CONTRAST_ENTRIES = (("particles", "contrast"), ("config", "contrast"))
"""Where manifests of `predict` and `simulate-tomograms` say it; that of `pick` says it of each tomogram."""
CHECK_SIZES = "check the pixel size of the coordinates (--set coordinate_pixel_size=) and the tomogram's voxel size (--set tomogram_voxel_size=)"


def _locate_images(file: RelionFile) -> tuple[list[str], list[int | None]]:
    """Path and number in its stack of each particle's image."""
    paths: list[str] = []
    counts: list[int | None] = []
    known: dict[str, str] = {}
    folders = list(file.folders)
    for row, text in enumerate(file.table["rlnImageName"], 1):
        number, name = split_number(str(text))
        if name not in known:
            found = find_file(name, folders)
            if found is None or found.is_dir():
                looked = file.path.absolute().parent
                raise InputError(
                    f"row {row} of {file.path} names the image {name}, which is neither under {looked} nor under a folder above it: "
                    "copy the images there, or correct rlnImageName"
                )
            known[name] = str(found)
            # nearly always all images start at the same folder: look there first
            base = next((folder for folder in folders if str(folder / name) == str(found)), None)
            if base is not None and base != folders[0]:
                folders.remove(base)
                folders.insert(0, base)
        paths.append(known[name])
        counts.append(number)
    return paths, counts


def _open_star_images(file: RelionFile, config: PredictConfig) -> ParticleSource:
    paths, counts = _locate_images(file)
    reader: Reader
    transfers: Transfers | None
    if file.tilt_stacks:
        reader = stacks = open_tilt_stacks(file, paths)
        transfers, tilt_ranges = stacks.transfers, stacks.tilt_ranges
    else:
        stated = file.image_voxel_size() if config.voxel_size is None else np.full(len(file), config.voxel_size)
        check_images(paths, counts, stated, config.voxel_size, lambda index: f"the image of row {index + 1} of {file.path}")
        reader = Images(paths, counts, stated)
        transfers, tilt_ranges = named_transfers(file, stated), file.tilt_ranges()
    stems = [bare_stem(path) if number is None else f"{bare_stem(path)}_{number:06d}" for path, number in zip(paths, counts, strict=True)]
    prefixes = [bare_tomogram_name(name) for name in file.tomogram_names or [Path(path).parent.name for path in paths]]
    kind = ("stack of tilt images", "stacks of tilt images") if file.tilt_stacks else ("3-D image",)
    return ParticleSource(
        kind="star",
        names=unique_names(stems, prefixes),
        blocks=file.blocks,
        block=file.block,
        reader=reader,
        files=different_files([file.path, *file.tables]),
        tilt_ranges=tilt_ranges,
        transfers=transfers,
        description=f"{file.dialect} STAR file of {counted(len(file), *kind)}",
    )


def _tilt_ranges(file: RelionFile, beside: Sequence[StatedTomogram | None]) -> NDArray[np.float64] | None:
    """Lowest and highest tilt of each particle, degrees, (n, 2), as its own files or a table beside its tomogram say; None unless all are known."""
    ranges = file.tilt_ranges()
    if ranges is not None:
        return ranges
    known = [about.tilts for about in beside if about is not None and about.tilts is not None]
    return np.array(known) if len(known) == len(beside) else None


def locate_tomograms(file: RelionFile, config: PredictConfig) -> tuple[list[Path], NDArray[np.int64]]:
    """The tomograms' files, and which one each particle is in; InputError where one is not found."""
    place = config.tomograms
    if place is not None and not place.exists():
        raise InputError(f"the tomograms' folder {place} does not exist: correct --set tomograms=")
    if place is not None and place.is_file() and not is_tomogram(place) and place.suffix.lower() != ".star":
        raise InputError(f"--set tomograms= is {place}, but a tomogram, a folder of tomograms, or a table of them (STAR) was expected")
    names = file.tomogram_names
    if place is not None and (is_tomogram(place) or names is None):
        files = [place] if is_tomogram(place) else tomogram_files(place)
        if len(files) != 1 or len(set(names or [""])) != 1:
            raise InputError(f"{file.path} must name the tomogram of each particle (rlnTomoName), because there is more than one: export it again")
        warn_of_other_name((names or [])[:1], files[0])
        return files, np.zeros(len(file), dtype=np.int64)
    if names is None:
        raise InputError(f"{file.path} has coordinates, but neither rlnTomoName nor rlnMicrographName: say which tomogram with --set tomograms=FILE")
    unique = list(dict.fromkeys(names))
    paths = _listed_paths(unique, place, file) if place is not None and place.suffix.lower() == ".star" else _found_paths(unique, place, file)
    number = {name: index for index, name in enumerate(unique)}
    return paths, np.array([number[name] for name in names], dtype=np.int64)


def _listed_paths(names: Sequence[str], table: Path, file: RelionFile) -> list[Path]:
    """The tomograms' files as a table of tomograms names them."""
    listed = {shared_name(tomogram.name): tomogram.path for tomogram in list_tomograms([table])}
    missing = [name for name in names if shared_name(name) not in listed]
    if missing:
        raise InputError(f"{table} does not list the tomogram {missing[0]}, in which particles of {file.path} are: give a table that does")
    return [listed[shared_name(name)] for name in names]


def _found_paths(names: Sequence[str], place: Path | None, file: RelionFile) -> list[Path]:
    """The tomograms' files in a folder; without one, where the particles' file says, or beside it."""
    stated = {} if place is not None else file.reconstructed
    folder = place if place is not None else file.path.absolute().parent
    candidates = by_name(tomogram_files(folder))
    paths = []
    for name in names:
        found = find_file(stated.get(name, name), file.folders) if place is None else None
        found = found if found is not None and is_tomogram(found) else None
        if name in stated and found is None:
            raise InputError(f"the tomogram {stated[name]} of {name} is not where the STAR file says: give its folder with --set tomograms=")
        paths.append(found or find_tomogram(name, candidates, folder, LOOK_ELSEWHERE if place is None else point_to_table(place)))
    return paths


def _stated_tomogram_voxel_sizes(file: RelionFile) -> NDArray[np.float64] | None:
    """Pixel size of the tilt series times the binning of the tomogram, per particle, where a table of tomograms has both, above 0."""
    pixel, binning = file.values("rlnTomoTiltSeriesPixelSize"), file.values(BINNING)
    return None if pixel is None or binning is None or min(pixel.min(), binning.min()) <= 0 else pixel * binning


def _with_binning(file: RelionFile, voxel_sizes: NDArray[np.float64]) -> dict[str, Block]:
    """The blocks of a file that comes with a table of tomograms, with what that says of their voxels: the table stays where it is."""
    pixel = file.values("rlnTomoTiltSeriesPixelSize")
    assert pixel is not None  # or nothing would be stated
    return file.blocks | {file.block: file.table.assign(**{BINNING: voxel_sizes / pixel})}


def _open_star_coordinates(file: RelionFile, config: PredictConfig, box_size_angstrom: float) -> ParticleSource:
    positions, centered = file.coordinates(config.coordinate_pixel_size, _sides(file, config) if file.counts_fractions else None)
    centers = file.tomogram_centers() if centered else None
    paths, tomogram = locate_tomograms(file, config)
    stated = _stated_tomogram_voxel_sizes(file)
    is_named = config.tomograms is None and bool(file.reconstructed)
    rows = [np.flatnonzero(tomogram == number) for number in range(len(paths))]
    frames = [
        _tomogram_frame(path, config, None if stated is None else float(stated[own[0]]), is_named) for path, own in zip(paths, rows, strict=True)
    ]
    sizes = [size for _, size in frames]
    boxes = [_box_voxels(box_size_angstrom, size, path) for path, size in zip(paths, sizes, strict=True)]
    voxel_sizes = np.array(sizes)[tomogram]
    if centered:
        positions = positions + (_found_centers(file, frames, tomogram) if centers is None else centers)
    exact = positions / voxel_sizes[:, None]
    nearest = np.floor(exact + 0.5).astype(np.int64)
    for path, own, (shape, _), box in zip(paths, rows, frames, boxes, strict=True):
        check_inside(nearest[own], shape, box, own, file.path, path, CHECK_SIZES)
    tables = find_stated(paths)
    beside = [tables[number] for number in tomogram]
    transfers, tilt_ranges, ctf = tabled_transfers(beside), _tilt_ranges(file, beside), _ctf(file, config, beside)
    check_treatment(config, transfers, file.path)
    read = [] if config.tomograms is None or config.tomograms.suffix.lower() != ".star" else [config.tomograms]
    read += [path for about in tables if about is not None for path in about.tables.files(about.name)]
    names = [bare_tomogram_name(name) for name in file.tomogram_names or [paths[0].name] * len(file)]
    width = max(6, len(str(len(file))))
    rule = "Å from the tomogram's centre (N / 2)" if centered else file.coordinate_rule(config.coordinate_pixel_size)
    return ParticleSource(
        kind="coordinates",
        names=unique_names([f"{safe_name(name)}_{row:0{width}d}" for row, name in enumerate(names, 1)], names),
        blocks=file.blocks if stated is None else _with_binning(file, voxel_sizes),
        block=file.block,
        reader=Crops(paths, tomogram, sizes, nearest[:, ::-1], boxes),
        files=different_files([file.path, *paths, *file.tables, *read]),
        offsets=(exact - nearest) * voxel_sizes[:, None],
        origins=file.origins(),
        tilt_ranges=tilt_ranges,
        contrast=picked_contrast(file),
        transfers=transfers,
        ctf=ctf,
        description=f"{file.dialect} STAR file of {counted(len(file), 'position')} ({rule}) in {counted(len(paths), 'tomogram')}",
    )


def _sides(file: RelionFile, config: PredictConfig) -> NDArray[np.float64]:
    """Å along x, y, z of each particle's tomogram, (n, 3)."""
    paths, tomogram = locate_tomograms(file, config)
    frames = [_tomogram_frame(path, config, None, is_named=False) for path in paths]
    return np.array([np.array(shape[::-1]) * size for shape, size in frames])[tomogram]


def _tomogram_frame(path: Path, config: PredictConfig, stated: float | None, is_named: bool) -> tuple[tuple[int, int, int], float]:
    """Shape (nz, ny, nx) and voxel size of a tomogram.

    The size is that of the settings, else the one that a table of tomograms states of this very file. Of a file that was found otherwise, which
    may be binned differently, its own counts first.
    """
    shape, own = stated_frame(path)
    given = config.tomogram_voxel_size or config.voxel_size
    size = given or (stated if is_named else None) or own or stated
    size = size or open_tomogram(path, setting="tomogram_voxel_size").voxel_size  # says what is wrong with the file's own
    for who, other in (("the table of tomograms", stated), ("the file itself", None if given else own)):
        if other is not None and abs(size / other - 1) > VOXEL_SIZE_TOLERANCE:
            how = "" if given else " (--set tomogram_voxel_size= decides otherwise)"
            logger.warning("%s is taken to have %g Å per voxel, but %s states %g Å%s", path, size, who, other, how)
    return shape, size


def _found_centers(
    file: RelionFile, frames: Sequence[tuple[tuple[int, int, int], float]], tomogram: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Å from the first voxel to the centre of each particle's tomogram, (n, 3), by the tomograms' files.

    Those have whole voxels, though the tilt series may be larger or smaller by a part of one. Where particles state their places from the corner,
    too, and to a voxel the same, these are exact.
    """
    boxes, implied = [Frame.of(shape, size) for shape, size in frames], file.implied_centers()
    centers = []
    for name, number in zip(file.tomogram_names or [""] * len(file), tomogram, strict=True):
        told = implied.get(name)
        centers.append(boxes[number].center if told is None or not agrees(boxes[number], told) else told.round(6))
    return np.array(centers)


def _box_voxels(width: float, voxel_size: float, path: Path) -> int:
    """The even number of voxels that hold a width in Å."""
    box = 2 * int(np.ceil(width / voxel_size / 2 - 1e-6))
    if box > MAX_BOX:
        raise InputError(
            f"a box of {width:g} Å has {box} voxels in {path}, more than {MAX_BOX}: check its voxel size of {voxel_size:g} Å "
            "(--set tomogram_voxel_size=), or bin the tomogram"
        )
    return box


def check_inside(
    nearest: NDArray[np.int64], shape: tuple[int, int, int], box: int, rows: NDArray[np.int64], listed: Path, path: Path, how: str
) -> None:
    """InputError where a box has no voxel in common with its tomogram; a warning where only the centre lies outside.

    Parameters
    ----------
    nearest : (n, 3), voxel x, y, z that becomes index ``box // 2`` of each axis
    shape : (nz, ny, nx), of the tomogram `path`
    rows : (n,), of the particles in the file `listed`, from 0
    how : what to do about it
    """
    size = np.array(shape[::-1])
    start = nearest - box // 2
    outside = ((start + box <= 0) | (start >= size)).any(axis=1)
    if outside.any():
        first = int(np.argmax(outside))
        place = f"at voxel {tuple(nearest[first].tolist())} of {tuple(size.tolist())} (x, y, z)"
        raise InputError(f"row {rows[first] + 1} of {listed} ({int(outside.sum())} of its rows in all) lies outside {path}, {place}: {how}")
    beyond = int(((nearest < 0) | (nearest >= size)).any(axis=1).sum())
    if beyond:
        logger.warning("the centres of %d of %d particles lie outside %s: check pixel size and tomogram", beyond, len(rows), path)


def open_star(path: Path, config: PredictConfig, box_size_angstrom: float) -> ParticleSource:
    file = read_relion(path)
    if file.unset_pixel_size and config.voxel_size is None and config.coordinate_pixel_size is None:
        logger.warning("%s; if it is wrong, set voxel_size (of images) or coordinate_pixel_size", file.unset_pixel_size)
    labels = set(file.table.columns)
    has_coordinates = set(COORDINATES) <= labels or set(CENTERED) <= labels
    if "triptychName" in labels and "rlnImageName" not in labels and not has_coordinates:
        what = f"{file.path} lists predictions of a dataset by name (triptychName), without the subtomograms or where they are"
        raise InputError(f"{what}: predict the dataset itself, and choose from these predictions (triptych select, or only= of orient and discover)")
    if "rlnImageName" in labels and not (config.tomograms is not None and has_coordinates):
        return replace(_open_star_images(file, config), ctf=_ctf(file, config))
    return _open_star_coordinates(file, config, box_size_angstrom)


def _ctf(file: RelionFile, config: PredictConfig, beside: Sequence[StatedTomogram | None] = ()) -> CtfTransfers | None:
    """What is known of the CTF where it is to be undone."""
    return None if config.deconvolve == "nothing" else stated_ctf(file, config.defocus_um, config.voltage_kv, beside)


def picked_contrast(file: RelionFile) -> Contrast | None:
    """The contrast of the tomograms in which particles lie, as `pick` or another stage says in their table, or in the manifest beside it."""
    stated = file.table[CONTRAST] if CONTRAST in file.table else manifest_contrasts(file.path.parent)
    found = sorted({value for value in stated if value in get_args(Contrast)})
    if len(found) > 1:
        how = "predict them apart (triptych select --tomogram), or with --set contrast="
        logger.warning("%s was picked from tomograms of both contrasts, but one counts for all here: %s", file.path, how)
    return found[0] if len(found) == 1 else None


def manifest_contrasts(folder: Path) -> list[Any]:
    """What the manifest of a folder, if it has one of ours, says of the contrast."""
    if not (folder / MANIFEST).is_file():
        return []
    try:
        manifest = read_manifest(folder)
    except InputError:  # of another program
        return []
    by_tomogram = manifest_entry(manifest, "contrast")
    return [*by_tomogram.values()] if isinstance(by_tomogram, dict) else [manifest_entry(manifest, *keys) for keys in CONTRAST_ENTRIES]
