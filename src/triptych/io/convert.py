"""Lists of particles from one program's format to another's; docs/formats.md tells the rule of each, and what gets lost in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.errors import InputError
from triptych.io.copick import write_copick
from triptych.io.dynamo import COLUMNS, write_dynamo
from triptych.io.imod import write_imod_particles
from triptych.io.links import BESIDE, PATHS, lead_from
from triptych.io.motive_list import ROWS, write_motive_list
from triptych.io.numbering import file_names
from triptych.io.output_names import PARTICLES, TOMOGRAMS
from triptych.io.particle_csv import write_csv
from triptych.io.particle_lists import Known, given_frames, read_particles
from triptych.io.particle_star import STAR_LABEL, UNDERSTOOD, write_relion_3_or_4, write_relion_5, write_warp
from triptych.io.relion import ORIGINS, as_tables
from triptych.io.star import Block, read_star, tables_with
from triptych.io.tomogram_names import bare_tomogram_name, shared_name
from triptych.particles import Frame, Particles

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
Frames: TypeAlias = Mapping[str, Frame]


@dataclass(frozen=True)
class Format:
    """A format that is written.

    Attributes
    ----------
    title : for people
    write : called with path, particles, Å per pixel for each particle (nothing where positions are in Å), and boxes of tomograms by name
    has_place : whether a further column of the input has one in it
    ending : of its file; "": a folder; None: either
    in_pixels : positions count pixels, whose size must be known
    unbinned : what counts are the pixels of the tilt series, where the input states them
    linked : particles are linked to tomograms by a name, which must be that of the tomograms' own table
    keeps_paths : columns of paths have a place in it
    loses : of angles and scores, what has none
    """

    title: str
    write: Callable[[Path, Particles, FloatArray, Frames], None]
    has_place: Callable[[str], bool]
    ending: str | None
    in_pixels: bool = True
    unbinned: bool = False
    linked: bool = False
    keeps_paths: bool = False
    loses: tuple[str, ...] = ()


# --------------------------------------------------------------------------------------------------------- the formats


def _relion_5(path: Path, particles: Particles, _: FloatArray, frames: Frames) -> None:
    _check_frames(particles, frames)
    write_relion_5(path, particles, frames)
    if not particles.tomogram_blocks:
        text = "%s: its tomograms.star knows names and sizes only: where RELION needs the tilt series too, give your project's with --tomograms"
        logger.warning(text, path)


def _warp(path: Path, particles: Particles, sizes: FloatArray, _: Frames) -> None:
    _check_images(particles, sizes)
    write_warp(path, particles, sizes)


def _with_angles(write: Callable[[Path, Particles, FloatArray], None], path: Path, particles: Particles, sizes: FloatArray, _: Frames) -> None:
    """Write what always states angles."""
    write(path, particles, sizes)
    if particles.rotations is None:
        logger.warning("the input has no angles: %s says 0 for all of them", path)


def _is_star_label(column: str) -> bool:
    return STAR_LABEL.fullmatch(column) is not None


OF_COPICK = ("instance_id", "user_id", "session_id", "triptychInstance")
_relion_3_or_4 = partial(Format, has_place=_is_star_label, ending=".star", unbinned=True, keeps_paths=True)
FORMATS: dict[str, Format] = {
    "relion3.1": _relion_3_or_4("RELION 3.1 STAR", lambda path, particles, sizes, _: write_relion_3_or_4(path, particles, sizes, "relion3.1")),
    "relion4": _relion_3_or_4("RELION 4 STAR", lambda path, particles, sizes, _: write_relion_3_or_4(path, particles, sizes, "relion4"), linked=True),
    "relion5": Format("RELION 5 STAR", _relion_5, _is_star_label, "", in_pixels=False, unbinned=True, linked=True, keeps_paths=True),
    "warp": Format("Warp STAR", _warp, _is_star_label, ".star", keeps_paths=True),
    "dynamo": Format("Dynamo table", partial(_with_angles, write_dynamo), COLUMNS.__contains__, ".tbl"),
    "em": Format("motive list", partial(_with_angles, write_motive_list), ROWS.__contains__, ".em"),
    "imod": Format("IMOD model", write_imod_particles, lambda column: False, None, loses=("angles", "scores")),
    "copick": Format("copick project", lambda path, particles, *_: write_copick(path, particles), OF_COPICK.__contains__, "", in_pixels=False),
    "csv": Format("CSV", lambda path, particles, *_: write_csv(path, particles), lambda column: True, ".csv", in_pixels=False, keeps_paths=True),
}
"""What can be written, by the name that `--to` takes."""


# ------------------------------------------------------------------------------------------------------------- writing


def convert_particles(source: Path | str, output: Path | str, target: str, known: Known | None = None) -> Particles:
    """Read particles of any format and write them in another; what was read is returned."""
    _check_target(Path(output), target)
    particles = read_particles(source, known)
    write_particles(output, particles, target, known)
    return particles


def write_particles(path: Path | str, particles: Particles, target: str, known: Known | None = None) -> None:
    """Write particles in one of `FORMATS`; nothing is overwritten, and what the format has no place for is said in a warning.

    Raises
    ------
    InputError
        The output exists, or the format needs what neither the particles nor `known` say.
    """
    path, known = Path(path), known or Known()
    _check_target(path, target)
    wanted = FORMATS[target]
    if wanted.linked:
        particles = _link_tomograms(particles, known)
    if wanted.keeps_paths:
        particles = _lead_from(path, particles, wanted)
    if particles.scores is not None and target != "csv":
        particles = _fill_scores(particles)
    frames = find_frames(particles, known)
    _warn_of_outside(particles, frames)
    if wanted.unbinned and known.voxel_size is None:
        frames = in_unbinned_pixels(frames, particles)
    wanted.write(path, particles, find_pixel_sizes(particles, known, target) if wanted.in_pixels else np.empty(0), frames)
    _warn_of_losses(particles, target)
    if wanted.keeps_paths:
        _warn_of_images(particles)


def _fill_scores(particles: Particles) -> Particles:
    """The particles with a score of 0 where one is missing: programs take it for the best, or can't read it."""
    assert particles.scores is not None
    missing = int(np.isnan(particles.scores).sum())
    if missing:
        logger.warning("%d of %d particles have no score: 0 is written", missing, len(particles))
    return replace(particles, scores=np.nan_to_num(particles.scores)) if missing else particles


def _warn_of_outside(particles: Particles, frames: Frames) -> None:
    """Warn of particles outside the boxes of their tomograms, as far as these are known."""
    if particles.positions is None or particles.tomograms is None or not frames:
        return
    ends = np.array([frames[name].center * 2 if name in frames else np.full(3, np.inf) for name in particles.tomograms])
    outside = int(((particles.positions < 0) | (particles.positions > ends)).any(axis=1).sum())
    if outside:
        text = "%d of %d particles lie outside their tomograms: check the pixel size that the input counts in (--input-voxel-size), and the tomograms"
        logger.warning(text, outside, len(particles))


def _warn_of_images(particles: Particles) -> None:
    """Warn where particles are elsewhere in their images than in the middle, since their shifts are in their coordinates now."""
    shifts = particles.table[[label for label in ORIGINS if label in particles.table]].apply(pd.to_numeric, errors="coerce")
    shifted = int((shifts.fillna(0) != 0).any(axis=1).sum())
    if shifted and "rlnImageName" in particles.table:
        text = "the shifts (rlnOrigin) of %d of %d particles are in their coordinates now, but the images are what they were, and the particles not "
        logger.warning(text + "in the middle of these: extract them anew before a program takes the images", shifted, len(particles))


def _warn_of_losses(particles: Particles, target: str) -> None:
    known, others = {"angles": particles.rotations, "scores": particles.scores}, map(str, particles.table)
    lost = [name for name in FORMATS[target].loses if known[name] is not None]
    columns = [name for name in others if name not in UNDERSTOOD and not FORMATS[target].has_place(name)]
    if columns:
        lost.append(f"{len(columns)} further columns ({', '.join(columns[:3])}{', ...' if len(columns) > 3 else ''})")
    if lost:
        logger.warning("there is no place for %s in the format %s: not written", " and ".join(lost), target)


def _check_target(path: Path, target: str) -> None:
    if target not in FORMATS:
        raise InputError(f"--to is {target!r}, but triptych writes {', '.join(FORMATS)}: choose one of them")
    ending = FORMATS[target].ending
    if ending and path.suffix.lower() != ending:
        raise InputError(f"the output is {path}, but the name of a file for {target} ends in {ending}: name it so")
    if ending == "" and path.suffix:
        raise InputError(f"the output is {path}, but {target} is written as a folder: give it a name without an ending")
    if path.is_file() or path.is_symlink() or (ending and path.exists()):
        raise InputError(f"{path} exists already: choose another name or delete it")


def _check_frames(particles: Particles, frames: Frames) -> None:
    missing = [name for name in dict.fromkeys(particles.tomograms or ()) if name not in frames]
    if missing:
        raise InputError(
            f"RELION 5 counts from the tomograms' centres, but the input does not state the size of {missing[0]}: give --tomograms FOLDER "
            "(of MRC files, or a tomograms.star), or --tomogram-size with --voxel-size"
        )


def _check_images(particles: Particles, sizes: FloatArray) -> None:
    images = _image_pixel_sizes(particles)
    if images is not None and not np.allclose(images, sizes, rtol=1e-3):
        raise InputError(
            f"Warp counts in the pixels of the particles' images, which have {images[0]:g} Å, but {sizes[0]:g} Å was given: leave out --voxel-size"
        )


def _link_tomograms(particles: Particles, known: Known) -> Particles:
    """The particles with the table of tomograms that the user gives, or else with their own, and with its names, by which RELION links them.

    What no table names is called without folders and endings.
    """
    if known.tomograms is not None and known.tomograms.suffix.lower() == ".star":
        particles = replace(particles, tomogram_blocks=as_tables(read_star(known.tomograms)), tomograms_file=known.tomograms)
    if particles.tomograms is None:
        return particles
    tables = tables_with(particles.tomogram_blocks, "rlnTomoName").values()
    stated = {shared_name(name): name for table in tables for name in table["rlnTomoName"].astype(str)}
    found = {name: stated[shared_name(name)] for name in particles.tomograms if shared_name(name) in stated}
    names = file_names([name for name in particles.tomograms if name not in found]) | found
    return replace(particles, tomograms=[names[name] for name in particles.tomograms])


def _lead_from(path: Path, particles: Particles, wanted: Format) -> Particles:
    """The particles with paths, in both of their tables, that lead from the output to where they led before."""
    out = path if wanted.ending else path / PARTICLES
    table, blocks = particles.table, dict(particles.tomogram_blocks)
    if particles.file is not None:
        table = lead_from(out, table, particles.file)
    if particles.tomograms_file is not None:
        blocks |= {name: lead_from(out, block, particles.tomograms_file) for name, block in tables_with(blocks).items()}
    moved = {out: _changed_paths(particles.table, table)}
    if not wanted.ending:  # only a folder has a place for the tomograms' table
        moved[path / TOMOGRAMS] = [way for name, block in blocks.items() for way in _changed_paths(particles.tomogram_blocks[name], block)]
    for file, ways in moved.items():
        if ways and file.suffix.lower() == ".star":
            text = "%s names files by their way from its own folder now (%s ...): where RELION is to read it, which takes them from the folder of "
            logger.warning(text + "its project, write it somewhere in that folder", file, ways[0])
    return replace(particles, table=table, tomogram_blocks=blocks)


def _changed_paths(before: Block, after: Block) -> list[str]:
    """The first path of each column in which paths that RELION reads are others."""
    if not isinstance(before, pd.DataFrame) or not isinstance(after, pd.DataFrame):
        return []
    changed = {name: after[name][after[name] != before[name].astype(str)] for name in PATHS if name in after and name not in BESIDE}
    return [str(ways.iloc[0]) for ways in changed.values() if len(ways)]


# -------------------------------------------------------------------------------------------- boxes and pixels to count


def find_frames(particles: Particles, known: Known) -> dict[str, Frame]:
    """The boxes of the particles' tomograms: as given, else as the input states them; what neither tells is left out."""
    names = list(dict.fromkeys(particles.tomograms or ()))
    stated = {bare_tomogram_name(name): frame for name, frame in particles.frames.items()}
    if known.tomograms is not None or known.tomogram_size is not None:
        frames = given_frames(names, known)
        _warn_of_other_boxes(frames, stated)
    else:
        frames = {name: stated[bare_tomogram_name(name)] for name in names if bare_tomogram_name(name) in stated}
    if known.voxel_size is None:
        return frames
    return {name: frame.in_voxels_of(known.voxel_size) for name, frame in frames.items()}


def _warn_of_other_boxes(given: Mapping[str, Frame], stated: Frames) -> None:
    """Warn where the tomograms as given are not as large as the input's own table says, to a few of its voxels."""
    for name, frame in given.items():
        own = stated.get(bare_tomogram_name(name))
        if own is not None and not np.allclose(frame.center, own.center, rtol=0.01):
            text = "the tomogram %s is taken to be %s voxels of %g Å, but the input states %s of %g Å"
            ours, theirs = (" x ".join(map(str, box.size)) for box in (frame, own))
            logger.warning(text, name, ours, frame.voxel_size, theirs, own.voxel_size)


def in_unbinned_pixels(frames: Frames, particles: Particles) -> dict[str, Frame]:
    """The boxes in the pixels that the particles state, where those are smaller than the voxels of the tomograms, which are binned then."""
    if particles.tomograms is None or particles.unbinned_pixel_sizes is None:
        return dict(frames)
    stated = dict(zip(particles.tomograms, particles.unbinned_pixel_sizes.tolist(), strict=True))
    return {name: frame.in_voxels_of(stated[name]) if stated[name] < frame.voxel_size else frame for name, frame in frames.items()}


def find_pixel_sizes(particles: Particles, known: Known, target: str) -> FloatArray:
    """Å per pixel in which to write each particle: as given, else of the given tomograms, unbinned for RELION, else as in the input."""
    if known.voxel_size is not None:
        return np.full(len(particles), known.voxel_size)
    if known.tomograms is not None and particles.tomograms is not None:
        frames = given_frames(particles.tomograms, known)
        if FORMATS[target].unbinned:
            frames = in_unbinned_pixels(frames, particles)
        return np.array([frames[name].voxel_size for name in particles.tomograms])
    images = _image_pixel_sizes(particles) if target == "warp" else None
    stated = particles.unbinned_pixel_sizes if FORMATS[target].unbinned else particles.pixel_sizes
    sizes = stated if images is None else images
    if sizes is None:
        raise InputError(f"the format {target} counts in pixels, but the input does not say of what size: give it in Å with --voxel-size")
    return sizes


def _image_pixel_sizes(particles: Particles) -> FloatArray | None:
    """Å per pixel of the particles' images, which are the pixels that Warp counts in."""
    if "rlnImageName" not in particles.table:
        return None
    optics = particles.blocks.get("optics")
    for table in (particles.table, optics):
        if table is not None and "rlnImagePixelSize" in table and table["rlnImagePixelSize"].nunique() == 1:
            return np.full(len(particles), float(table["rlnImagePixelSize"].iloc[0]))
    return None
