"""Lists of particles from one program's format to another's; docs/formats.md tells the rule of each, and what gets lost in it.

What a format needs and the input doesn't say (a voxel size, a tomogram's size, a name) is asked for, never guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.copick import find_config, particles_from_copick, write_copick
from triptych.io.dynamo import COLUMNS, particles_from_dynamo, write_dynamo
from triptych.io.files import read_bytes
from triptych.io.imod import particles_from_imod, write_imod_particles
from triptych.io.links import PATHS, lead_from
from triptych.io.motive_list import ROWS, STOPGAP_BLOCK, particles_from_motive_list, particles_from_stopgap, write_motive_list
from triptych.io.mrc import mrc_files
from triptych.io.numbering import file_names
from triptych.io.particle_csv import particles_from_csv, write_csv
from triptych.io.particle_star import (
    OPTIMISATION_SET,
    PARTICLES,
    STAR_LABEL,
    UNDERSTOOD,
    star_of_folder,
    write_relion_3_or_4,
    write_relion_5,
    write_warp,
)
from triptych.io.relion import (
    M_COORDINATES,
    FrameFinder,
    bare_tomogram_name,
    frame_of_file,
    particles_from_m,
    particles_from_relion,
    read_frames,
    shared_name,
)
from triptych.io.source import by_name, find_tomogram
from triptych.io.star import Block, read_star
from triptych.particles import Frame, Particles

log = logging.getLogger(__name__)

FORMATS = {
    "relion3.1": "RELION 3.1 STAR",
    "relion4": "RELION 4 STAR",
    "relion5": "RELION 5 STAR",
    "warp": "Warp STAR",
    "dynamo": "Dynamo table",
    "em": "motive list",
    "imod": "IMOD model",
    "copick": "copick project",
    "csv": "CSV",
}
ENDINGS = {"relion3.1": ".star", "relion4": ".star", "warp": ".star", "dynamo": ".tbl", "em": ".em", "csv": ".csv"}
"""Formats that are one file; the others are folders (an IMOD model of one tomogram may be a file)."""
LIST_ENDINGS = {".star": "star", ".tbl": "dynamo", ".em": "em", ".mod": "imod", ".csv": "csv", ".json": "copick"}
"""What a list of particles is by its file's ending."""
OTHER_STARS = {"stopgap": f"data_{STOPGAP_BLOCK}".encode(), "m": f"_{M_COORDINATES[0]}".encode()}
"""What is in the first lines of STAR files that are not read by RELION's rules."""
NEARLY_THE_SAME = 0.25
"""Voxel sizes that differ by less are hardly those of a binned tomogram and of its tilt series: one of them is wrong."""
COUNTS_UNBINNED = ("relion3.1", "relion4")
LINKS_BY_NAME = ("relion4", "relion5")
COUNTS_PIXELS = (*COUNTS_UNBINNED, "warp", "dynamo", "em", "imod")
HAVE_PATHS = ("relion3.1", "relion4", "relion5", "warp", "csv")


@dataclass(frozen=True)
class Known:
    """What the user says because the input does not; None: nothing."""

    voxel_size: float | None = None
    """Å per pixel in which the output counts."""
    input_voxel_size: float | None = None
    """Å per pixel in which the input counts."""
    tomogram_size: tuple[int, int, int] | None = None
    """Voxels along x, y, z, of the size `voxel_size`."""
    tomograms: Path | None = None
    """A folder of MRC files, or a STAR file of tomograms."""
    tomogram: str | None = None
    """Name of the one tomogram."""
    class_name: str | None = None
    """What all of the particles are."""
    find_frames: FrameFinder | None = None
    """Tells the boxes of tomograms where the input does not."""

    def __post_init__(self) -> None:
        for name, size in (("--voxel-size", self.voxel_size), ("--input-voxel-size", self.input_voxel_size)):
            if size is not None and not 0 < size < np.inf:
                raise InputError(f"{name} is {size:g} Å, but must be above 0: give the right one")
        if self.tomogram_size is not None and min(self.tomogram_size) < 1:
            raise InputError(f"--tomogram-size is {self.tomogram_size}, but must be three numbers of voxels above 0: give the right ones")
        if self.tomogram_size is not None and self.tomograms is not None:
            raise InputError("both --tomogram-size and --tomograms were given, but each says how large the tomograms are: give one of them")
        if self.tomograms is not None and not self.tomograms.exists():
            raise InputError(f"--tomograms {self.tomograms} does not exist: give a folder of MRC files, or a tomograms.star")

    @cached_property
    def frame_of(self) -> Callable[[Path], Frame]:
        """Tells the box of a tomogram's file, whose header is read once."""
        return cache(partial(_frame_of_file, voxel_size=self.voxel_size))


# ------------------------------------------------------------------------------------------------------------- reading


def read_particles(path: Path | str, known: Known | None = None) -> Particles:
    """Particles of any format; the file's name and content tell which.

    Raises
    ------
    InputError
        Unknown, missing or damaged file, no positions in it, or something that the file doesn't say and `known` neither.
    """
    path, known = Path(path), known or Known()
    particles = _read(path, known)
    if particles.positions is None:
        raise InputError(f"{path} has no coordinates (rlnCoordinateX/Y/Z or rlnCenteredCoordinateX/Y/ZAngst), so there is nothing to convert")
    if not np.isfinite(particles.positions).all():
        raise InputError(f"{path} has positions that are NaN or infinite, but finite numbers were expected: write it anew")
    if known.tomogram is not None:
        if particles.tomograms is not None and len(set(particles.tomograms)) > 1:
            raise InputError(f"{path} names {len(set(particles.tomograms))} tomograms, but --tomogram gives one name for all: leave it out")
        particles = replace(particles, tomograms=[known.tomogram] * len(particles))
    if known.class_name is not None:
        if particles.classes is not None:
            raise InputError(f"{path} states the class of each particle, but --class gives one for all: leave it out")
        particles = replace(particles, classes=[known.class_name] * len(particles))
    return particles


def guess_format(path: Path) -> str:
    """star, stopgap, m, dynamo, em, imod, copick or csv, after the name and the first bytes and, of folders, what lies in them."""
    if not path.exists():
        raise InputError(f"{path} does not exist: check the name")
    if path.is_file() and path.suffix.lower() in LIST_ENDINGS:
        kind, start = LIST_ENDINGS[path.suffix.lower()], read_bytes(path, "list of particles", 4096)
        return next((other for other, sign in OTHER_STARS.items() if sign in start), kind) if kind == "star" else kind
    if path.is_dir():
        if star_of_folder(path) is not None:
            return "star"
        if any(path.glob("*.mod")):
            return "imod"
        if find_config(path) is not None:
            return "copick"
    raise InputError(
        f"{path} is no list of particles that triptych knows: give a .star, .tbl, .em, .mod or .csv file, a folder of IMOD models, "
        f"or a folder with {OPTIMISATION_SET} or {PARTICLES}, or of a copick project"
    )


def _read(path: Path, known: Known) -> Particles:
    kind = guess_format(path)
    if kind == "dynamo":
        return particles_from_dynamo(path, known.input_voxel_size)
    if kind == "em":
        return particles_from_motive_list(path, known.input_voxel_size)
    if kind == "imod":
        return particles_from_imod(path, known.input_voxel_size)
    if kind == "copick":
        return particles_from_copick(path)
    if kind == "csv":
        return particles_from_csv(path, known.input_voxel_size)
    if kind == "stopgap":
        return particles_from_stopgap(path, known.input_voxel_size)
    if kind == "m":
        return particles_from_m(path)
    return particles_from_relion(star_of_folder(path) or path, known.input_voxel_size, _frame_finder(known), known.find_frames)


def _frame_finder(known: Known) -> FrameFinder | None:
    if known.tomograms is None and known.tomogram_size is None:
        return None
    return lambda names: _given_frames(names, known)


# -------------------------------------------------------------------------------------------------- sizes of tomograms


def _given_frames(names: Sequence[str], known: Known) -> dict[str, Frame]:
    """The boxes that the user's options state, by name; InputError where they don't."""
    unique = list(dict.fromkeys(names))
    if known.tomogram_size is not None:
        if known.voxel_size is None:
            raise InputError("--tomogram-size counts voxels, but their size was not given: add --voxel-size in Å")
        return {name: Frame(known.tomogram_size, known.voxel_size) for name in unique}
    if known.tomograms is None:
        return {}
    if known.tomograms.suffix.lower() == ".star":
        return _frames_of_table(known.tomograms, unique)
    if not known.tomograms.is_file():
        files = by_name(mrc_files(known.tomograms))
        return {name: known.frame_of(find_tomogram(name, files, known.tomograms, "check --tomograms")) for name in unique}
    if len(unique) > 1:
        raise InputError(f"the particles are in {len(unique)} tomograms, but --tomograms names one file: give the folder of all")
    return dict.fromkeys(unique, known.frame_of(known.tomograms))


def _frames_of_table(path: Path, names: Sequence[str]) -> dict[str, Frame]:
    tables = [block for block in read_star(path).values() if hasattr(block, "columns") and "rlnTomoName" in block]
    frames = {shared_name(name): frame for table in tables for name, frame in read_frames(table, path).items()}
    missing = [name for name in names if shared_name(name) not in frames]
    if missing:
        raise InputError(f"{path} does not state the size of the tomogram {missing[0]} (rlnTomoSizeX/Y/Z, rlnTomoTiltSeriesPixelSize): add it there")
    return {name: frames[shared_name(name)] for name in names}


def _frame_of_file(path: Path, voxel_size: float | None) -> Frame:
    """The box of a tomogram; `voxel_size` counts where the header states none, for it may be that of the unbinned tilt series."""
    frame = frame_of_file(path, voxel_size)
    if frame is None:
        raise InputError(f"the header of {path} states no usable voxel size: give it in Å with --voxel-size")
    if voxel_size is not None and 1e-3 < abs(frame.voxel_size / voxel_size - 1) < NEARLY_THE_SAME:
        text = "the header of %s states %g Å per voxel, which is taken as true, and --voxel-size %g counts others: if the header is wrong, give "
        log.warning(text + "--tomogram-size instead of --tomograms", path, frame.voxel_size, voxel_size)
    return frame


def find_frames(particles: Particles, known: Known) -> dict[str, Frame]:
    """The boxes of the particles' tomograms: as given, else as the input states them; what neither tells is left out."""
    names = list(dict.fromkeys(particles.tomograms or ()))
    stated = {bare_tomogram_name(name): frame for name, frame in particles.frames.items()}
    if known.tomograms is not None or known.tomogram_size is not None:
        frames = _given_frames(names, known)
        _warn_of_other_boxes(frames, stated)
    else:
        frames = {name: stated[bare_tomogram_name(name)] for name in names if bare_tomogram_name(name) in stated}
    if known.voxel_size is None:
        return frames
    return {name: frame.in_voxels_of(known.voxel_size) for name, frame in frames.items()}


def _warn_of_other_boxes(given: Mapping[str, Frame], stated: Mapping[str, Frame]) -> None:
    """Warn where the tomograms as given are not as large as the input's own table says, to a few of its voxels."""
    for name, frame in given.items():
        own = stated.get(bare_tomogram_name(name))
        if own is not None and not np.allclose(frame.center, own.center, rtol=0.01):
            text = "the tomogram %s is taken to be %s voxels of %g Å, but the input states %s of %g Å"
            ours, theirs = (" x ".join(map(str, box.size)) for box in (frame, own))
            log.warning(text, name, ours, frame.voxel_size, theirs, own.voxel_size)


def in_unbinned_pixels(frames: Mapping[str, Frame], particles: Particles) -> dict[str, Frame]:
    """The boxes in the pixels that the particles state, where those are smaller than the voxels of the tomograms, which are binned then."""
    if particles.tomograms is None or particles.pixel_sizes is None:
        return dict(frames)
    stated = dict(zip(particles.tomograms, particles.pixel_sizes.tolist(), strict=True))
    return {name: frame.in_voxels_of(stated[name]) if stated[name] < frame.voxel_size else frame for name, frame in frames.items()}


def find_pixel_sizes(particles: Particles, known: Known, target: str) -> NDArray[np.float64]:
    """Å per pixel in which to write each particle: as given, else of the given tomograms, unbinned for RELION, else as in the input."""
    if known.voxel_size is not None:
        return np.full(len(particles), known.voxel_size)
    if known.tomograms is not None and particles.tomograms is not None:
        frames = _given_frames(particles.tomograms, known)
        if target in COUNTS_UNBINNED:
            frames = in_unbinned_pixels(frames, particles)
        return np.array([frames[name].voxel_size for name in particles.tomograms])
    images = _image_pixel_sizes(particles) if target == "warp" else None
    sizes = particles.pixel_sizes if images is None else images
    if sizes is None:
        raise InputError(f"the format {target} counts in pixels, but the input does not say of what size: give it in Å with --voxel-size")
    return sizes


def _image_pixel_sizes(particles: Particles) -> NDArray[np.float64] | None:
    """Å per pixel of the particles' images, which are the pixels that Warp counts in."""
    if "rlnImageName" not in particles.table:
        return None
    optics = particles.blocks.get("optics")
    for table in (particles.table, optics):
        if table is not None and "rlnImagePixelSize" in table and table["rlnImagePixelSize"].nunique() == 1:
            return np.full(len(particles), float(table["rlnImagePixelSize"].iloc[0]))
    return None


# ------------------------------------------------------------------------------------------------------------- writing


def write_particles(path: Path | str, particles: Particles, target: str, known: Known | None = None) -> None:
    """Write particles in one of `FORMATS`; nothing is overwritten, and what the format has no place for is said in a warning.

    Raises
    ------
    InputError
        The output exists, or the format needs what neither the particles nor `known` say.
    """
    path, known = Path(path), known or Known()
    _check_target(path, target)
    if target in LINKS_BY_NAME:
        particles = _link_tomograms(particles, known)
    if target in HAVE_PATHS:
        particles = _lead_from(path / PARTICLES if target == "relion5" else path, particles)
    frames = find_frames(particles, known)
    sizes = find_pixel_sizes(particles, known, target) if target in COUNTS_PIXELS else None
    if sizes is not None:
        _write_in_pixels(path, particles, target, sizes, frames)
    elif target == "relion5":
        _check_frames(particles, frames)
        write_relion_5(path, particles, frames if known.voxel_size else in_unbinned_pixels(frames, particles))
        if not particles.tomogram_blocks:
            text = "its tomograms.star knows names and sizes only: where RELION needs the tilt series too, put your project's own in its place"
            log.warning("%s: %s", path, text)
    elif target == "copick":
        write_copick(path, particles)
    else:
        write_csv(path, particles)
    _warn_of_losses(particles, target)


def _link_tomograms(particles: Particles, known: Known) -> Particles:
    """The particles with the table of tomograms that the user gives, or else with their own, and with its names, by which RELION links them.

    What no table names is called without folders and endings.
    """
    if known.tomograms is not None and known.tomograms.suffix.lower() == ".star":
        particles = replace(particles, tomogram_blocks=read_star(known.tomograms), tomograms_file=known.tomograms)
    if particles.tomograms is None:
        return particles
    tables = [block for block in particles.tomogram_blocks.values() if isinstance(block, pd.DataFrame) and "rlnTomoName" in block]
    stated = {shared_name(name): name for table in tables for name in table["rlnTomoName"].astype(str)}
    found = {name: stated[shared_name(name)] for name in particles.tomograms if shared_name(name) in stated}
    names = file_names([name for name in particles.tomograms if name not in found]) | found
    return replace(particles, tomograms=[names[name] for name in particles.tomograms])


def _lead_from(out: Path, particles: Particles) -> Particles:
    """The particles with paths, in both of their tables, that lead from a file `out` to where they led before."""
    table, blocks = particles.table, dict(particles.tomogram_blocks)
    if particles.file is not None:
        table = lead_from(out, table, particles.file)
    if particles.tomograms_file is not None:
        blocks |= {name: lead_from(out, block, particles.tomograms_file) for name, block in blocks.items() if isinstance(block, pd.DataFrame)}
    before = (particles.table, *particles.tomogram_blocks.values())
    moved = [way for old, new in zip(before, (table, *blocks.values()), strict=True) for way in _changed_paths(old, new)]
    if moved:
        text = "%s names files by their way from its own folder now (%s ...): where RELION is to read it, which takes them from the folder of its "
        log.warning(text + "project, write it somewhere in that folder", out, moved[0])
    return replace(particles, table=table, tomogram_blocks=blocks)


def _changed_paths(before: Block, after: Block) -> list[str]:
    """The first path of each column in which paths are others."""
    if not isinstance(before, pd.DataFrame) or not isinstance(after, pd.DataFrame):
        return []
    changed = {name: after[name][after[name] != before[name].astype(str)] for name in PATHS if name in after}
    return [str(ways.iloc[0]) for ways in changed.values() if len(ways)]


def _write_in_pixels(path: Path, particles: Particles, target: str, sizes: NDArray[np.float64], frames: dict[str, Frame]) -> None:
    if target == "warp":
        _check_images(particles, sizes)
        write_warp(path, particles, sizes)
    elif target == "dynamo":
        write_dynamo(path, particles, sizes)
    elif target == "em":
        write_motive_list(path, particles, sizes)
    elif target == "imod":
        write_imod_particles(path, particles, sizes, frames)
    else:
        write_relion_3_or_4(path, particles, sizes, target)


def _check_target(path: Path, target: str) -> None:
    if target not in FORMATS:
        raise InputError(f"--to is {target!r}, but triptych writes {', '.join(FORMATS)}: choose one of them")
    ending = ENDINGS.get(target)
    if ending is not None and path.suffix.lower() != ending:
        raise InputError(f"the output is {path}, but the name of a file for {target} ends in {ending}: name it so")
    if target in ("relion5", "copick") and path.suffix:
        raise InputError(f"the output is {path}, but {target} is written as a folder: give it a name without an ending")
    if path.is_file() or path.is_symlink() or (ending is not None and path.exists()):
        raise InputError(f"{path} exists already: choose another name or delete it")


def _check_frames(particles: Particles, frames: Mapping[str, Frame]) -> None:
    missing = [name for name in dict.fromkeys(particles.tomograms or ()) if name not in frames]
    if missing:
        raise InputError(
            f"RELION 5 counts from the tomograms' centres, but the input does not state the size of {missing[0]}: give --tomograms FOLDER "
            "(of MRC files, or a tomograms.star), or --tomogram-size with --voxel-size"
        )


def _check_images(particles: Particles, sizes: NDArray[np.float64]) -> None:
    images = _image_pixel_sizes(particles)
    if images is not None and not np.allclose(images, sizes, rtol=1e-3):
        raise InputError(
            f"Warp counts in the pixels of the particles' images, which have {images[0]:g} Å, but {sizes[0]:g} Å was given: leave out --voxel-size"
        )


def _warn_of_losses(particles: Particles, target: str) -> None:
    if particles.rotations is None and target in ("dynamo", "em"):
        log.warning("the input has no angles: the %s says 0 for all of them", FORMATS[target])
    lost = []
    if target == "imod":
        lost += ["angles"] * (particles.rotations is not None) + ["scores"] * (particles.scores is not None)
    others = [str(name) for name in particles.table if not _has_place(str(name), target)]
    if others:
        lost.append(f"{len(others)} further columns ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})")
    if lost:
        log.warning("there is no place for %s in the format %s: not written", " and ".join(lost), target)


def _has_place(column: str, target: str) -> bool:
    """Whether a column of the input, or what it says, is in the output."""
    if target == "csv" or column in UNDERSTOOD:
        return True
    if target in ("relion3.1", "relion4", "relion5", "warp"):
        return STAR_LABEL.fullmatch(column) is not None
    return column in {"dynamo": COLUMNS, "em": ROWS, "copick": ("instance_id", "user_id", "session_id", "triptychInstance")}.get(target, ())


def convert_particles(source: Path | str, output: Path | str, target: str, known: Known | None = None) -> Particles:
    """Read particles of any format and write them in another; what was read is returned."""
    source, output = Path(source), Path(output)
    _check_target(output, target)
    particles = read_particles(source, known)
    write_particles(output, particles, target, known)
    return particles
