"""Lists of particles of any program, read: what a file is shows in its name and content.

What a format needs and the input doesn't say (a voxel size, a tomogram's size, a name) is asked for, never guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np

from triptych.errors import InputError
from triptych.io.copick import find_config, particles_from_copick
from triptych.io.dynamo import particles_from_dynamo
from triptych.io.files import read_bytes
from triptych.io.imod import particles_from_imod
from triptych.io.motive_list import STOPGAP_BLOCK, particles_from_motive_list, particles_from_stopgap
from triptych.io.mrc import mrc_files
from triptych.io.output_names import OPTIMISATION_SET, PARTICLES
from triptych.io.particle_csv import particles_from_csv
from triptych.io.particle_star import star_of_folder
from triptych.io.relion import M_COORDINATES, as_tables, frame_of_file, read_frames
from triptych.io.relion_particles import FrameFinder, particles_from_m, particles_from_relion
from triptych.io.star import read_star, tables_with
from triptych.io.tomogram_names import by_name, find_tomogram, point_to_table, shared_name, warn_of_other_name
from triptych.particles import Frame, Particles
from triptych.volume import check_voxel_sizes

logger = logging.getLogger(__name__)

LIST_ENDINGS = {".star": "star", ".tbl": "dynamo", ".em": "em", ".mod": "imod", ".csv": "csv", ".json": "copick"}
"""What a list of particles is by its file's ending."""
OTHER_STARS = {"stopgap": f"data_{STOPGAP_BLOCK}".encode(), "m": f"_{M_COORDINATES[0]}".encode()}
"""What is in the first lines of STAR files that are not read by RELION's rules."""
READERS: dict[str, Callable[[Path, float | None], Particles]] = {
    "dynamo": particles_from_dynamo,
    "em": particles_from_motive_list,
    "imod": particles_from_imod,
    "csv": particles_from_csv,
    "stopgap": particles_from_stopgap,
}
"""Of lists that may count in pixels whose size the user has to say, in Å."""
NEARLY_THE_SAME = 0.25
"""Voxel sizes that differ by less are hardly those of a binned tomogram and of its tilt series: one of them is wrong."""


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
    user: str | None = None
    """Whose points of a copick project, with or without the session: "alice" or "alice/1"."""
    find_frames: FrameFinder | None = None
    """Tells the boxes of tomograms where the input does not."""

    def __post_init__(self) -> None:
        for name, size in (("--voxel-size", self.voxel_size), ("--input-voxel-size", self.input_voxel_size)):
            if size is not None:
                check_voxel_sizes(size, name)
        for option, word in (("--tomogram", self.tomogram), ("--class", self.class_name), ("--user", self.user)):
            if word is not None and not word.strip():  # as an empty variable of a shell leaves it
                raise InputError(f"{option} is empty, but a name was expected: give one, or leave the option out")
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


def read_particles(path: Path | str, known: Known | None = None) -> Particles:
    """Particles of any format; the file's name and content tell which.

    Raises
    ------
    InputError
        Unknown, missing or damaged file, no positions in it, or something that the file doesn't say and `known` neither.
    """
    path, known = Path(path), known or Known()
    particles = _read(path, known)
    if particles.pixel_sizes is not None:
        check_voxel_sizes(particles.pixel_sizes, f"the pixel size in {path}")
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
    if known.user is not None and kind != "copick":
        raise InputError(f"--user chooses among the users of a copick project, but {path} is none: leave it out")
    if kind in READERS:
        return READERS[kind](path, known.input_voxel_size)
    if kind == "copick":
        return particles_from_copick(path, known.user)
    if kind == "m":
        return particles_from_m(path)
    return particles_from_relion(star_of_folder(path) or path, known.input_voxel_size, _frame_finder(known), known.find_frames)


def _frame_finder(known: Known) -> FrameFinder | None:
    if known.tomograms is None and known.tomogram_size is None:
        return None
    return lambda names: given_frames(names, known)


# -------------------------------------------------------------------------------------------------- sizes of tomograms


def given_frames(names: Sequence[str], known: Known) -> dict[str, Frame]:
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
        how = point_to_table(known.tomograms, "give its folder, or a tomograms.star, with --tomograms")
        return {name: known.frame_of(find_tomogram(name, files, known.tomograms, how)) for name in unique}
    if len(unique) > 1:
        raise InputError(f"the particles are in {len(unique)} tomograms, but --tomograms names one file: give the folder of all")
    warn_of_other_name(unique, known.tomograms)
    return dict.fromkeys(unique, known.frame_of(known.tomograms))


def _frames_of_table(path: Path, names: Sequence[str]) -> dict[str, Frame]:
    tables = tables_with(as_tables(read_star(path)), "rlnTomoName")
    frames = {shared_name(name): frame for table in tables.values() for name, frame in read_frames(table, path).items()}
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
        logger.warning(text + "--tomogram-size instead of --tomograms", path, frame.voxel_size, voxel_size)
    return frame
