"""Whatever people have -> a stream of subtomograms: STAR files of images or of coordinates, MRC files, our Zarr store.

Opening checks all that is cheap (every file exists, headers, sizes, coordinates inside their tomograms), so that a run does
not end after an hour; the grey values are read one particle at a time. Memory does not grow with the number of particles
beyond their table.
"""

from __future__ import annotations

import glob
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.config import PredictConfig
from triptych.errors import InputError, counted
from triptych.io.mrc import bare_stem, is_mrc_name, mrc_files, read_header
from triptych.io.output_names import LIBRARY, MANIFEST, PARTICLES
from triptych.io.particle_names import unique_names
from triptych.io.particle_source import ParticleSource
from triptych.io.particle_star import star_of_folder
from triptych.io.readers import Images, Rows, check_images
from triptych.io.star_source import open_star
from triptych.io.stated import VOXEL_SIZE_TOLERANCE
from triptych.io.transfers import check_treatment, ctf_to_undo, stored_transfers

if TYPE_CHECKING:
    from triptych.io.store import Store

logger = logging.getLogger(__name__)


def _open_files(paths: list[Path], config: PredictConfig, what: Path) -> ParticleSource:
    """One subtomogram per file; a stack of volumes (space group 401) gives one per volume."""
    texts: list[str] = []
    counts: list[int | None] = []
    for path in paths:
        volumes = read_header(path).volumes if len(paths) == 1 else 1
        texts += [str(path)] * volumes
        counts += list(range(1, volumes + 1)) if volumes > 1 else [None]
    stated = None if config.voxel_size is None else np.full(len(texts), config.voxel_size)
    check_images(texts, counts, stated, config.voxel_size, lambda index: f"file {index + 1}")
    stems = [bare_stem(text) if number is None else f"{bare_stem(text)}_{number:06d}" for text, number in zip(texts, counts, strict=True)]
    images = [text if number is None else f"{number}@{text}" for text, number in zip(texts, counts, strict=True)]
    return ParticleSource(
        kind="files",
        names=unique_names(stems, [Path(text).parent.name for text in texts]),
        blocks={"particles": pd.DataFrame({"rlnImageName": images})},
        block="particles",
        reader=Images(texts, counts, stated),
        files=[what] if what.exists() else paths,
        description=f"{len(texts)} MRC volumes",
    )


def _open_zarr(path: Path, config: PredictConfig) -> ParticleSource:
    from triptych.io.store import open_store

    store = open_store(path)
    size = config.voxel_size or store.voxel_size
    if abs(size / store.voxel_size - 1) > VOXEL_SIZE_TOLERANCE:
        logger.warning("%s states %g Å per voxel, but %g Å is used as set", path, store.voxel_size, size)
    names, transfers = store.particle_names, stored_transfers(store)
    check_treatment(config, transfers, path)
    return ParticleSource(
        kind="store",
        names=names,
        blocks={"particles": pd.DataFrame({"triptychName": names})},
        block="particles",
        reader=Rows(store, size, np.arange(len(names))),
        contrast=store.contrast,
        files=[path],
        tilt_ranges=_stored_tilt_ranges(store),
        transfers=transfers,
        ctf=transfers,
        description=f"triptych dataset of {counted(len(names), 'subtomogram')}",
    )


def _stored_tilt_ranges(store: Store) -> NDArray[np.float64] | None:
    """Tilt ranges of a store's particles; None where they were not written, as `cut` leaves them."""
    if "tilt_min" not in store or "tilt_max" not in store:
        return None
    ranges = np.stack([np.asarray(store[name][:], np.float64) for name in ("tilt_min", "tilt_max")], axis=1)
    return ranges if (ranges[:, 0] < ranges[:, 1]).all() else None


def open_particles(path: Path | str, config: PredictConfig, box_size_angstrom: float) -> ParticleSource:
    """Open what people have as a stream of subtomograms.

    Parameters
    ----------
    path : a STAR file (particles, or an optimisation set) or the folder that a stage wrote it into, an MRC file, a folder or a glob pattern of
        MRC files, or a dataset that `triptych simulate` wrote
    config : voxel_size, tomograms, tomogram_voxel_size, coordinate_pixel_size, deconvolve, defocus_um and voltage_kv are used
    box_size_angstrom : side of the cubes to cut out where only coordinates are given; rounded up to an even number of voxels

    Raises
    ------
    InputError
        Nothing there, an empty table, a missing or damaged file, no usable voxel size, boxes that are no cubes, 2-D images.
    """
    source = _open(path, config, box_size_angstrom)
    if source.has_ctf_undone and config.deconvolve != "nothing":
        raise InputError(f"{source.files[0]} lists tilt images, whose CTF is undone anyway: leave out deconvolve")
    ctf = ctf_to_undo(config, source.ctf, len(source), source.files[0])
    return replace(source, ctf=ctf, transfers=source.transfers or ctf)


def _open(path: Path | str, config: PredictConfig, box_size_angstrom: float) -> ParticleSource:
    text, path = str(path), Path(path)
    if path.is_dir():
        if (path / "zarr.json").is_file():
            return _open_zarr(path, config)
        if path.suffix == ".zarr":
            raise InputError(f"{path} is no complete Zarr store (it lacks zarr.json): write it anew with `triptych simulate`")
        files = mrc_files(path)
        if not files and (star := star_of_folder(path)) is not None:
            return open_star(star, config, box_size_angstrom)
        if not files:
            raise InputError(f"the folder {path} holds no MRC files (.mrc, .rec, .map, .mrcs): give the folder of the subtomograms, or a STAR file")
        return _open_files(files, config, path)
    if path.exists():
        if path.suffix.lower() == ".star":
            return open_star(path, config, box_size_angstrom)
        if is_mrc_name(path):
            return _open_files([path], config, path)
        raise InputError(f"{path} is of no known kind: give a STAR file, an MRC file, a folder of MRC files, or a triptych dataset")
    if glob.has_magic(text):
        files = sorted(Path(name) for name in glob.glob(text, recursive=True) if is_mrc_name(name))
        if not files:
            raise InputError(f"no MRC file matches {text}: correct the pattern")
        return _open_files(files, config, path)
    raise InputError(f"{path} does not exist: give a STAR file, an MRC file, a folder or pattern of MRC files, or a triptych dataset")


def check_no_maps(folder: Path) -> None:
    """InputError for a folder of maps that triptych made, which might else be taken for particles: a library, or maps of particles or classes."""
    if (folder / LIBRARY).is_file():
        how = f"simulate some first (triptych simulate DATA --set structures={folder}), and give DATA"
        raise InputError(f"{folder} is a library of structures, but subtomograms were expected: {how}")
    made = folder.absolute().parent
    if folder.name in ("masks", "densities", "averages") and (made / MANIFEST).is_file() and (made / PARTICLES).is_file():
        how = f"give the particles, by their table {folder.parent / PARTICLES} or as they were given before"
        raise InputError(f"{folder} holds maps that triptych made of particles, but subtomograms were expected: {how}")
