"""Stage `orient`: predictions -> the pose of each particle of a known structure, that structure put there, and an average of each class.

The structures of the likeliest classes are aligned to the subtomogram, and the one that fits it best names the particle. It is aligned to the
recovered density too, if there is one, which has neither noise nor a missing wedge, and the better pose counts. A block of particles is what is
finished at once: a killed run goes on there, and blocks may be spread over processes and machines.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from triptych.alignment.align import Alignment, average, merge_averages, of_particles
from triptych.alignment.boxes import Boxes, Grid, IntArray, open_boxes
from triptych.alignment.half_maps import soft_mask
from triptych.alignment.hand import Hand, choose_sample, tell_hand
from triptych.alignment.identify import load_references
from triptych.alignment.pose_confidence import pose_probabilities, score_other_poses
from triptych.alignment.rivals import Named, Stacks, choose_trials, count_measured, name_particles
from triptych.alignment.structure_fit import FitLevels, fit_levels
from triptych.config import NONE_CLASS, UNKNOWN, OrientConfig
from triptych.device import choose_device, count_workers, name_device
from triptych.errors import InputError
from triptych.fourier import fourier_shell_correlation, resolution_at
from triptych.io.manifest import Stage, check_stage, hash_file, is_made, read_manifest, write_manifest
from triptych.io.mrc import new_mrc, read_mrc, write_mrc
from triptych.io.output_names import CLASSES, MANIFEST, PAGE, PARTICLES, map_file
from triptych.io.particle_source import ParticleSource
from triptych.io.predictions import EMBEDDING_ROW, MAP_COLUMNS, Predicted, are_listed, check_classes, map_columns, read_predictions
from triptych.io.relion import tomogram_names
from triptych.io.star import numbers, probability_columns, read_star, tables_with, write_star
from triptych.io.tomogram import check_unique, open_tomogram
from triptych.io.tomogram_names import bare_tomogram_name, tomogram_name
from triptych.pages.orient_page import FEW, ClassAverage, render
from triptych.parallel import Progress, in_batches
from triptych.posing import pose
from triptych.recognition.novelty import give_verdicts
from triptych.simulation.library import class_entries, hash_structures
from triptych.simulation.specimen import OVERSAMPLING, make_template
from triptych.simulation.structures import Structure
from triptych.tiling import paint
from triptych.volume import Volume, crop_or_pad
from triptych.workspace import Workspace, choose_items, open_workspace, reopen

logger = logging.getLogger(__name__)

STAGE: Stage = "orient"
BLOCK = 128
"""Particles that are finished at once: enough that it pays to make a structure ready for them."""
FIT, TRUE_CLASS, NETWORK_CLASS = "triptychStructureFit", "triptychTrueClass", "triptychNetworkClass"
POSE_PROBABILITY = "triptychPoseProbability"
AGREEING = 0.5
"""Shell correlation of average and structure down to which they are said to agree."""


@dataclass(frozen=True, eq=False)
class Orienter:
    """Predictions and the structures of their classes; another process is told their names, and opens them once.

    Attributes
    ----------
    structures : by the number of their class in the model's order; rows : of the particles to orient, those of a class side by side
    """

    predictions: Path
    config: OrientConfig
    boxes: Boxes = field(repr=False)
    structures: dict[int, Structure] = field(repr=False)
    rows: IntArray = field(repr=False)
    levels: FitLevels | None = field(repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (open_orienter, (self.predictions.absolute(), self.config.from_anywhere()), self.config.workers, self.identity)

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """What predictions and structures are recognised by."""
        known = None if self.config.known is None else self.config.known / PARTICLES
        read = filter(None, (self.predictions / PARTICLES, self.predictions / MANIFEST, known, self.config.only))
        return *map(hash_file, read), hash_structures(self.structures.values())

    @cached_property
    def grid(self) -> Grid:
        """Where particles are aligned and averaged."""
        return self.boxes.alignment_grid(self.boxes.source.read(0))

    def reference(self, k: int) -> NDArray[np.float32]:
        """A structure where particles are aligned to it."""
        return self.grid.bring(self.structures[k].density, fill=0)

    @property
    def kinds(self) -> list[str]:
        """Of the maps that are written of each particle."""
        return [kind for kind in MAP_COLUMNS if getattr(self.config, f"write_{kind}")]

    @cached_property
    def blocks(self) -> list[IntArray]:
        """Rows of the particles that are finished together."""
        return list(in_batches(self.rows, BLOCK))

    def size(self, number: int) -> int:
        return len(self.blocks[number])

    @property
    def left_out(self) -> dict[str, int]:
        """How many particles get no pose, by the reason, in words."""
        given = self.boxes.given
        rest = np.ones(len(given), bool)
        rest[self.rows] = False
        reasons = {
            "not in the list of those to take (only)": ~are_listed(given, self.config.only),
            f"called “{NONE_CLASS}”": given.called == NONE_CLASS,
            f"called “{UNKNOWN}” (unknown=true takes them too)": ~choose_particles(given, self.config),
            "of classes that the library has no structure of": ~np.isin(given.called, [structure.name for structure in self.structures.values()]),
            "of classes that were not asked for": np.ones(len(given), bool),
        }
        found = {}
        for reason, applies in reasons.items():
            found[reason], rest = int((rest & applies).sum()), rest & ~applies
        return {reason: count for reason, count in found.items() if count}

    def called(self, rows: IntArray) -> tuple[IntArray, NDArray[np.float64]]:
        """Class (n,) and probabilities (n, k) of some particles, as the network gave them."""
        given = self.boxes.given
        assert given.label is not None  # open_orienter made sure
        assert given.probabilities is not None
        return given.label[rows], given.probabilities[rows]


def open_orienter(predictions: Path, config: OrientConfig) -> Orienter:
    """Open the predictions, and the structures of their classes."""
    given = read_predictions(predictions)
    if given.label is None:
        raise InputError(f"{predictions} does not say of which class its particles are: predict with a model that has the task class")
    check_classes(given, config.classes or ())
    boxes = open_boxes(given, config, by_densities=config.by_densities)
    check_wishes(boxes, config)
    library = {structure.name: structure for structure in load_references(config.library, float(given.manifest["model"]["voxel_size"]))}
    chosen = choose_particles(given, config)
    wanted = [name for name in config.classes or given.class_names if name != NONE_CLASS and (chosen & (given.called == name)).any()]
    check_library(library, given, wanted, config)
    if not wanted:
        left = "" if config.unknown else ' whose verdict is not "unknown" (to take these too, say --set unknown=true)'
        raise InputError(f"{predictions} has no particle of these classes{left}, so there is nothing to orient")
    levels = None if config.known is None else read_levels(config.known, config.accepted_share)
    structures = {k: library[name] for k, name in enumerate(given.class_names) if name in library and name != NONE_CLASS}
    rows = np.flatnonzero(chosen & np.isin(given.called, wanted) & np.isin(given.label, list(structures)))
    return Orienter(predictions, config, boxes, structures, rows[given.label[rows].argsort(kind="stable")], levels)


def check_library(library: Container[str], given: Predicted, wanted: Sequence[str], config: OrientConfig) -> None:
    """InputError where none of the wanted structures is there, or not all that were asked for by name; a warning of classes without one."""
    missing = [name for name in wanted if name not in library]
    if missing and (config.classes or len(missing) == len(wanted)):
        what = f"{', '.join(missing)}, and particles were called so"
        raise InputError(f"the library has no structure called {what}: give one that has, with --set library=")
    absent = [name for name in given.class_names if name not in library and name != NONE_CLASS]
    if absent:
        fetched = set(absent) <= {row["name"] for row in class_entries()}
        how = "`triptych structures fetch-classes LIBRARY` makes one that has, for --set library=LIBRARY" if fetched else "--set library= helps"
        text = "the library has no structure called %s: what is called so gets no pose, and no particle is compared with it (%s)"
        logger.warning(text, ", ".join(absent), how)


def check_wishes(boxes: Boxes, config: OrientConfig) -> None:
    """InputError where a setting asks for what these particles, or other settings, do not allow."""
    if config.known is not None and not config.by_densities:
        raise InputError("known judges by the fit to recovered densities, which align_by=subtomograms leaves aside: leave out one of the two")
    if config.write_labels and not config.write_masks:
        raise InputError("write_labels puts masks together, but write_masks is false: leave out one of the two")
    if config.write_labels and boxes.source.tomograms is None:
        raise InputError("write_labels needs the tomograms, but these particles are images of their own: predict from coordinates and tomograms")
    if config.write_labels:
        check_unique(dict.fromkeys(name_tomograms(boxes.source)))


def name_tomograms(source: ParticleSource) -> list[tuple[str, Path]]:
    """Of the tomogram that each particle is cut out of, its name in the table, or else of its file, and that file."""
    stated, paths = tomogram_names(source.table), source.tomograms or []
    names = map(tomogram_name, paths) if stated is None else map(bare_tomogram_name, stated)
    return list(zip(names, paths, strict=True))


def read_levels(folder: Path, accepted_share: float) -> FitLevels:
    """How well known particles fit their structures; InputError unless `orient` has written the folder."""
    check_stage(folder, read_manifest(folder), STAGE)
    star = folder / PARTICLES
    table = tables_with(read_star(star), FIT, "triptychClass").get("particles")
    if table is None or table.empty:
        raise InputError(f"{star} has no particles with _{FIT} and _triptychClass, as `triptych {STAGE}` writes them: orient anew")
    right = (table[TRUE_CLASS] == table["triptychClass"]).to_numpy() if TRUE_CLASS in table else None
    return fit_levels(table["triptychClass"].astype(str).tolist(), numbers(table, FIT, star), accepted_share, right)


def choose_particles(given: Predicted, config: OrientConfig) -> NDArray[np.bool_]:
    """Which of the particles asked for are to be oriented, whatever their class; all of them where they are to be judged anew."""
    every = config.unknown or config.known is not None
    return are_listed(given, config.only) & (every | ~given.is_unknown)


def orient(
    predictions: Path | str,
    out: Path | str,
    config: OrientConfig | None = None,
    on_progress: Progress | None = None,
    part: tuple[int, int] | None = None,
    scheduler: str | None = None,
) -> Path:
    """Find the pose of every particle whose class is a structure of the library.

    Finished particles are kept in a working folder beside `out`: the same call goes on after a kill. With `part`, `out` exists when the last
    part is done.

    Parameters
    ----------
    predictions : folder that `predict` wrote, with densities
    out : folder to make, with particles.star (of the particles that have a pose), masks/ and densities/ (the structures in their poses),
        averages/, classes.star, report.html and manifest.json
    on_progress : called with (particles done, particles in all), first with those that an earlier run has finished
    part : (k, n) to do only the k-th of n parts (k from 1), each perhaps on a machine of its own that sees the same folders
    scheduler : address of a Dask scheduler whose workers do it instead of processes on this machine
    """
    config, out = config or OrientConfig(), Path(out)
    arguments = {"predictions": Path(predictions)}
    if part and is_made(out, STAGE, config, arguments):
        return out
    orienter = open_orienter(Path(predictions), config)
    orienter.boxes.warn_of_tilts()
    wanted = choose_items(len(orienter.blocks), part)
    settings = {
        "inputs": list(orienter.identity),
        "particles in a block": BLOCK,
        **config.decisive(),
    }
    workspace = open_workspace(out, settings, Path.mkdir)
    with workspace.until_finished(keep=part is not None):
        workers = count_workers(config.workers, config.align.device)
        workspace.fill(wanted, partial(write_block, workspace, orienter), orienter.size, workers, scheduler, on_progress)
        if len(workspace.done()) == len(orienter.blocks):
            workspace.finish(partial(finish_run, workspace, orienter))
    return out


# -------------------------------------------------------------------------------------------------------------- blocks


def write_block(workspace: Workspace, orienter: Orienter, number: int) -> int:
    """Name a block of particles and find their poses, put its maps into the result, and keep the rest until all are there."""
    boxes, grid, config, rows = orienter.boxes, orienter.grid, orienter.config, orienter.blocks[number]
    label, probabilities = orienter.called(rows)
    there = np.isin(np.arange(probabilities.shape[1]), list(orienter.structures))
    tried = choose_trials(probabilities, label, there, config)
    references = {k: orienter.reference(k) for k in np.flatnonzero(tried.any(axis=0)).tolist()}
    with workspace.desk() as desk:
        densities = boxes.densities(desk, rows, grid) if config.by_densities else None
        stacks = Stacks(densities, boxes.subtomograms(desk, rows, grid), boxes.wedges(desk, rows, grid))
        named = name_particles(stacks, references, tried, probabilities, grid.voxel_size, config)
        write_placed(desk, orienter, rows, named)
        workspace.take_in(desk)
        kept: dict[str, Any] = {"label": named.label, "probabilities": named.probabilities, "fits": named.fits, **named.poses._asdict()}
        kept["sure"] = tell_sureness(stacks, named, references, grid, config)
        workspace.keep(number, desk, **kept, **average_classes(stacks, named, grid, config))
    return len(rows)


def tell_sureness(stacks: Stacks, named: Named, references: dict[int, NDArray[np.float32]], grid: Grid, config: OrientConfig) -> NDArray[np.float32]:
    """How probably each pose is right (n,), by the subtomograms; NaN where they are not looked at."""
    sure = np.full(len(named.label), np.nan, np.float32)
    for k in np.unique(named.label).tolist() if config.by_subtomograms else ():
        rows = np.flatnonzero(named.label == k)
        poses, wedges = named.poses.take(rows), of_particles(stacks.wedges, rows)
        others = score_other_poses(stacks.subtomograms[rows], references[k], grid.voxel_size, poses, config.align, wedges=wedges)
        sure[rows] = pose_probabilities(poses.scores, others, count_measured(wedges, grid.voxel_size, config.align))
    return sure


def average_classes(stacks: Stacks, named: Named, grid: Grid, config: OrientConfig) -> dict[str, Any]:
    """Average of the particles of each class in their poses, and how many of them measured each term: `density_<k>` and `weight_<k>`."""
    found = {}
    for k in np.unique(named.label):
        rows = np.flatnonzero(named.label == k)
        poses, wedges = named.poses.take(rows), of_particles(stacks.wedges, rows)
        found[f"density_{k}"], found[f"weight_{k}"] = average(stacks.subtomograms[rows], poses, grid.voxel_size, wedges, config.align)
    return found


def write_placed(desk: Path, orienter: Orienter, rows: IntArray, named: Named) -> None:
    """Write the structure in the pose of each particle, on the voxels and in the box of its subtomogram."""
    boxes, kinds = orienter.boxes, orienter.kinds
    if not kinds:
        return
    for kind in kinds:
        (desk / kind).mkdir()
    for k in np.unique(named.label).tolist():
        structure, own = orienter.structures[k], named.label == k
        template = cache(partial(fine_template, structure))
        for row, rotation, shift in zip(rows[own], named.poses.rotations[own], named.poses.shifts[own], strict=True):
            box = boxes.source.read(int(row))
            density = pose_template(template(box.voxel_size), rotation, shift / box.voxel_size, box.shape)
            maps = {"masks": (density > structure.contour).astype(np.uint8), "densities": density}
            for kind in kinds:
                write_mrc(desk / map_file(kind, boxes.given.names[row]), box.with_data(maps[kind]))  # type: ignore[arg-type]


def fine_template(structure: Structure, voxel_size: float) -> torch.Tensor:
    """The density of a structure, `OVERSAMPLING` times finer than voxels of so many Å."""
    return make_template(structure, voxel_size).fine


def pose_template(
    template: torch.Tensor, rotation: NDArray[np.float64], shift: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """A template, `OVERSAMPLING` times finer than the result, turned and shifted (voxels) from the middle of a box."""
    cube = pose(template, OVERSAMPLING, torch.from_numpy(rotation), torch.from_numpy(shift), max(shape))
    return crop_or_pad(cube.numpy(), shape, 0.0)


# ---------------------------------------------------------------------------------------------------------------- end


def finish_run(workspace: Workspace, orienter: Orienter, folder: Path) -> None:
    """The tables, averages, the page and the manifest."""
    names = ("label", "probabilities", "fits", "sure", *Alignment._fields)
    notes = [workspace.kept(number, *names) for number in range(len(orienter.blocks))]
    found = {name: np.concatenate([note.pop(name) for note in notes]) for name in names}
    averages = [average_class(workspace, orienter, k, found) for k in np.unique(found["label"]).tolist()]
    doubtful = find_doubtful(averages, orienter.config)
    write_averages(workspace, averages)
    table = posed_table(workspace.out, orienter, found)
    hand = check_hand(workspace, orienter)
    renamed = table[table["triptychClass"] != table[NETWORK_CLASS]]
    if orienter.config.write_labels:
        write_labels(workspace, orienter, found)
    write_star(folder / PARTICLES, orienter.boxes.source.blocks_with(table))
    write_star(folder / CLASSES, {"classes": classes_table(averages, orienter.boxes.given.class_names)})
    about = {
        "particles": {"in_all": len(orienter.boxes.given), "oriented": len(table), "renamed": len(renamed), "left_out": orienter.left_out},
        "doubtful_classes": doubtful,
        "called_unknown": None if orienter.levels is None else int((table["triptychVerdict"] == UNKNOWN).sum()),
        "hand": None if hand is None else {**hand._asdict(), "wrong": hand.wrong, "verdict": hand.verdict},
        "tilt_ranges": np.unique(orienter.boxes.tilt_ranges[orienter.rows], axis=0).tolist(),
        "tilt_ranges_are": orienter.boxes.tilts_from,
        "ctf_is": orienter.boxes.ctf_from,
        "device": name_device(choose_device(orienter.config.align.device)),
    }
    pairs = renamed.groupby([NETWORK_CLASS, "triptychClass"]).size().to_dict()
    page = render(orienter.predictions.name, averages, orienter.config.align.coarse_resolution, pairs, about)
    (folder / PAGE).write_text(page, encoding="utf-8")
    inputs = [orienter.predictions / name for name in (PARTICLES, MANIFEST)]
    inputs += filter(None, (orienter.config.library, orienter.config.known, orienter.config.only))
    write_manifest(folder, STAGE, orienter.config, inputs, None, about, {"predictions": orienter.predictions})


def find_doubtful(averages: Sequence[ClassAverage], config: OrientConfig) -> list[str]:
    """Classes of more than a few particles whose average does not even agree with their structure as far as the search compares them."""
    worst = config.align.coarse_resolution
    doubtful = [item.name for item in averages if item.particles >= FEW and item.resolution > worst]
    if doubtful:
        how = "their poses, and names that were changed to theirs, are not to be relied on (rivals=0 leaves names as they are)"
        logger.warning("the averages of %s agree with their structures to no better than %g Å: %s", ", ".join(doubtful), worst, how)
    return doubtful


def check_hand(workspace: Workspace, orienter: Orienter) -> Hand | None:
    """Whether structures or their mirror images fit a sample of the particles, by the names that the network gave them.

    Those that they have now are of the structures that fit best, and of noise the best of several fits better than the mirror image of that one.
    """
    boxes, grid, config = orienter.boxes, orienter.grid, orienter.config
    if not config.hand_check:
        return None
    label, probabilities = orienter.called(orienter.rows)
    sample = choose_sample(label, probabilities[np.arange(len(label)), label], config.hand_check)
    rows, label = orienter.rows[sample], label[sample]
    references = {k: orienter.reference(k) for k in np.unique(label).tolist()}
    with workspace.desk() as desk:
        hand = tell_hand(boxes.subtomograms(desk, rows, grid), boxes.wedges(desk, rows, grid), label, references, grid.voxel_size, config.align)
    if hand is not None and hand.wrong:
        how = "a wrong sign of the tilt angles or a flipped axis does that: mirror them, and begin again from there"
        logger.warning("the hand of the tomograms is %s; %s", hand.verdict, how)
    return hand


def average_class(workspace: Workspace, orienter: Orienter, k: int, found: dict[str, Any]) -> ClassAverage:
    """The averages of a class of all blocks as one, and how far it agrees with the structure."""
    grid, own = orienter.grid, found["label"] == k
    parts = (workspace.kept(number, f"density_{k}", f"weight_{k}") for number in np.unique(np.flatnonzero(own) // BLOCK).tolist())
    density = merge_averages((part[f"density_{k}"], part[f"weight_{k}"]) for part in parts)
    structure = orienter.reference(k)
    mask = soft_mask(structure, grid.voxel_size)
    frequencies, correlation = fourier_shell_correlation(density * mask, structure * mask, grid.voxel_size)
    resolution = resolution_at(frequencies, correlation, AGREEING)
    seen, known = (Volume(data, grid.voxel_size) for data in (density, structure))
    score, sure = (float(np.median(found[name][own])) for name in ("scores", "sure"))
    return ClassAverage(orienter.structures[k].name, int(own.sum()), score, sure, seen, known, resolution)


def write_averages(workspace: Workspace, averages: Sequence[ClassAverage]) -> None:
    with workspace.desk() as desk:
        (desk / "averages").mkdir()
        for item in averages:
            write_mrc(desk / map_file("averages", item.name), item.density)
        workspace.take_in(desk)


def write_labels(workspace: Workspace, orienter: Orienter, found: dict[str, Any]) -> None:
    """A label map of each tomogram, put together from the masks of its particles; where these overlap, the one that fits better is in front."""
    tomograms, names = name_tomograms(orienter.boxes.source), orienter.boxes.given.names
    inside: dict[tuple[str, Path], list[int]] = {}
    for i in np.argsort(found["scores"], kind="stable").tolist():
        inside.setdefault(tomograms[orienter.rows[i]], []).append(i)
    with workspace.desk() as desk:
        (desk / "labels").mkdir()
        for (tomogram, path), own in inside.items():
            masks = [workspace.result / map_file("masks", names[row]) for row in orienter.rows[own]]
            write_label_map(desk / map_file("labels", tomogram), path, masks, found["label"][own] + 1)
        workspace.take_in(desk)


def write_label_map(out: Path, tomogram: Path, masks: Sequence[Path], numbers: IntArray) -> None:
    """Numbers (n,) where the masks in n files lie, the last ones in front, in a map that lies where the tomogram lies."""
    frame = open_tomogram(tomogram, read_mrc(masks[0]).voxel_size)
    with new_mrc(out, frame.shape, "u2", frame.voxel_size, frame.origin) as labels:
        for mask, number in zip(map(read_mrc, masks), numbers.tolist(), strict=True):
            start = np.subtract(mask.origin, frame.origin)[::-1] / frame.voxel_size
            paint(labels, mask.data > 0, number, start.round().astype(np.int64))


def posed_table(out: Path, orienter: Orienter, found: dict[str, Any]) -> pd.DataFrame:
    """The rows of all particles that have a pose, in the order of the predictions."""
    boxes, config = orienter.boxes, orienter.config
    order = np.argsort(orienter.rows)
    rows = orienter.rows[order]
    found = {name: values[order] for name, values in found.items()}
    table = boxes.posed_table(out, rows, Alignment(*(found[name] for name in Alignment._fields)))
    table = table.drop(columns=[EMBEDDING_ROW, POSE_PROBABILITY], errors="ignore")
    table = rename(table, boxes.given.class_names, found["label"], found["probabilities"])
    if config.by_densities:
        table[FIT] = found["fits"]
    if config.by_subtomograms:
        table[POSE_PROBABILITY] = found["sure"]
    truth = boxes.true_classes
    if truth is not None:
        table[TRUE_CLASS] = [truth[row] for row in rows]
    if orienter.levels is not None:
        table = judge_anew(table, orienter.levels)
    return table.assign(**map_columns(orienter.kinds, [boxes.given.names[row] for row in rows]))


def rename(table: pd.DataFrame, class_names: Sequence[str], label: IntArray, probabilities: NDArray[np.float64]) -> pd.DataFrame:
    """The table with the classes that fit best, and what the network had called the particles."""
    new: dict[str, Any] = {NETWORK_CLASS: table["triptychClass"], "triptychClass": np.array(class_names)[label]}
    new["triptychProbability"] = probabilities[np.arange(len(label)), label]
    new |= dict(zip(probability_columns(class_names), probabilities.T, strict=True))
    if "rlnClassNumber" in table:
        new["rlnClassNumber"] = label + 1
    if "triptychVerdict" in table:
        new["triptychVerdict"] = np.where(table["triptychVerdict"] == UNKNOWN, UNKNOWN, new["triptychClass"])
    return table.assign(**new)


def judge_anew(table: pd.DataFrame, levels: FitLevels) -> pd.DataFrame:
    """The table with the larger of two novelties: the model's own, where it has one, and that of the fit to the structure."""
    classes = table["triptychClass"].astype(str).tolist()
    novelty = levels.novelty(classes, table[FIT].to_numpy(np.float64))
    if "triptychNovelty" in table:
        novelty = np.maximum(novelty, table["triptychNovelty"].to_numpy(np.float64))
    return table.assign(triptychNovelty=novelty, triptychVerdict=give_verdicts(classes, novelty))


def classes_table(averages: Sequence[ClassAverage], class_names: Sequence[str]) -> pd.DataFrame:
    """One row for each class of a particle: its number, how many there are, how well they fit, and how far average and structure agree."""
    columns = ("rlnClassNumber", "triptychClass", "triptychParticles", "triptychAlignmentScore", POSE_PROBABILITY, "triptychResolution")
    rows = [(class_names.index(item.name) + 1, item.name, item.particles, item.score, item.sure, item.resolution) for item in averages]
    table = pd.DataFrame(rows, columns=list(columns)).dropna(axis="columns")
    return table.assign(triptychAverage=[map_file("averages", item.name) for item in averages])
