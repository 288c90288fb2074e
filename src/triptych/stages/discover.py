"""Stage `discover`: predictions -> groups of like particles, an average of each from two independent halves, and what it may be.

Particles are aligned through their recovered densities, which have neither noise nor a missing wedge; the poses are refined by the
subtomograms themselves, and these are what is averaged. Each half of a group is aligned on its own from the start. A group takes three
steps (half, half, average), which may be spread over processes and machines. Each that is finished is kept beside the output, as are the shapes
of the densities and the groups, so that a run goes on where it was stopped.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.alignment.align import Alignment, align, average, consensus, join_poses, merge_averages, split_halves, turn_onto
from triptych.alignment.boxes import Boxes, Grid, even, open_boxes
from triptych.alignment.grouping import Groups, group, no_groups
from triptych.alignment.half_maps import HalfMapCorrelation, compare_half_maps, soft_mask, usable_resolution
from triptych.alignment.identify import Match, identify, load_references
from triptych.alignment.symmetry import Symmetry, find_symmetry
from triptych.config import NONE_CLASS, UNKNOWN, DiscoverConfig
from triptych.device import choose_device, count_workers, name_device
from triptych.errors import InputError
from triptych.fourier import low_pass
from triptych.io.files import write_json
from triptych.io.manifest import describe_input, hash_file, is_written_by, manifest_entry, read_manifest, write_manifest
from triptych.io.mrc import read_mrc, write_mrc
from triptych.io.output_names import EMBEDDING, GROUP, GROUP_FOLDERS, GROUPS, MANIFEST, PAGE, PARTICLES, SHAPE
from triptych.io.particle_source import NEAREST, number_distinct
from triptych.io.predictions import Predicted, are_listed, check_classes, find_model, read_predictions
from triptych.io.star import read_star, tables_with, write_star
from triptych.pages.discovery_page import write_page
from triptych.parallel import Progress
from triptych.recognition.density_shape import describe_shapes
from triptych.recognition.model import load_model
from triptych.simulation.library import hash_structures
from triptych.simulation.structures import Structure
from triptych.volume import Volume
from triptych.workspace import Workspace, open_workspace, reopen

logger = logging.getLogger(__name__)

IntArray = NDArray[np.int64]
STEPS = 3
"""Of a group: align one half, align the other, average and compare."""
BLOCK = 256
"""Recovered densities whose shapes are found at once."""
AGREEING = 0.8
"""Share of the time of a half that its consensus takes, about; refinement takes the rest."""
OF_THE_PAGE = ("panels", "layout")
"""Settings on which no group and no average depends."""
FINER, LEAST_BOX = 4, 16
"""Averages are at most so many times finer than the particles, and have so many voxels along each side at least."""


@dataclass(frozen=True, eq=False)
class GroupAverage:
    """What the particles of a group have in common.

    Attributes
    ----------
    halves : averages of the subtomograms of each half
    density : of both; filtered : what of it can be believed
    recovered : average of the recovered densities
    mask : soft, around the molecule
    correlation : of the halves
    resolution : Å, of `filtered`
    """

    halves: tuple[Volume, Volume]
    density: Volume
    filtered: Volume
    recovered: Volume
    mask: Volume
    correlation: HalfMapCorrelation
    resolution: float


def discover(
    predictions: Path | str,
    out: Path | str,
    config: DiscoverConfig | None = None,
    on_progress: Progress | None = None,
    scheduler: str | None = None,
) -> Path:
    """Group particles by their embeddings, average each group, and compare the averages with known structures.

    The folder then holds ``report.html``, ``groups.star`` (a row for each group), ``particles.star`` (every particle of the predictions, with
    ``_triptychGroup``, 0 for none), ``groups/1`` ... with the maps and the ``particles.star`` of each, and ``manifest.json``.

    Parameters
    ----------
    predictions : folder that `predict` wrote, with densities
    out : folder to make
    on_progress : called with (densities described, particles to be grouped), and once the groups are found with (particles done, particles in all);
        each then counts twice, for its half and for the average
    scheduler : address of a Dask scheduler whose workers do the steps instead of processes on this machine
    """
    config = config or DiscoverConfig()
    explorer = open_explorer(Path(predictions), config)
    explorer.boxes.warn_of_tilts()
    explorer.warn_of_repeated()
    settings = {
        "predictions": [describe_input(explorer.predictions / name) for name in (PARTICLES, EMBEDDING)],
        "list of particles": [hash_file(path) for path in explorer.lists],
        "content of the library": hash_structures(explorer.library),
        **{name: value for name, value in config.decisive().items() if name not in OF_THE_PAGE},
    }
    workspace = open_workspace(Path(out), settings, make_folders)
    progress = StepProgress(on_progress)
    with workspace.until_finished():
        explorer = explorer.find_groups(workspace, on_progress)
        steps = range(STEPS * len(explorer.members))
        halves, averages = ([step for step in steps if is_average(step) == wanted] for wanted in (False, True))
        do = partial(do_step, workspace, explorer, progress)
        workspace.fill(halves, do, explorer.count, count_workers(config.workers, config.align.device), scheduler, progress, then=averages)
        workspace.finish(partial(explorer.finish, workspace))
    return Path(out)


def make_folders(folder: Path) -> None:
    (folder / GROUP_FOLDERS).mkdir(parents=True)


# -------------------------------------------------------------------------------------------------------------- input


def choose_particles(given: Predicted, config: DiscoverConfig) -> IntArray:
    """Rows of the particles to group."""
    listed = are_listed(given, config.only)
    if given.label is None:
        chosen = np.ones(len(given), bool)
    elif config.classes is not None:
        check_classes(given, config.classes)
        chosen = np.isin(given.called, config.classes)
    elif config.particles == "all":
        chosen = given.called != NONE_CLASS
    elif config.poses is not None:
        chosen = given.is_unknown | np.isin(given.names, read_doubted(config.poses, given))
    elif given.verdicts is None:
        how = "group all with --set particles=all, or give the model a novelty reference with `triptych calibrate` and predict again"
        raise InputError(f"{given.folder} does not say which particles are unknown: {how}")
    else:
        chosen = given.is_unknown
    chosen &= listed
    if chosen.sum() < config.group.smallest:
        decided = given.label is None or config.particles == "all" or config.classes is not None
        wider = "" if decided else "; to group all particles, say --set particles=all"
        found = f"{chosen.sum()} of {len(given)} particles are to be grouped ({describe_choice(given, config)})"
        raise InputError(f"{found}, but a group has at least {config.group.smallest}{wider}")
    return np.flatnonzero(chosen)


def read_doubted(folder: Path, given: Predicted) -> list[str]:
    """Names of the particles that `orient` has called unknown; InputError unless the folder is of the same predictions."""
    manifest = read_manifest(folder)
    judged = is_written_by(manifest, "orient") and manifest_entry(manifest, "config", "known") is not None
    table = tables_with(read_star(folder / PARTICLES), "triptychVerdict", "triptychName").get("particles") if judged else None
    if table is None:
        raise InputError(f"poses is {folder}, but a folder that `triptych orient` wrote, with its setting known, was expected: give that one")
    names = table["triptychName"].astype(str)
    oriented = {manifest_entry(entry, "sha256") for entry in manifest.get("inputs") or ()}
    if hash_file(given.folder / PARTICLES) not in oriented or not set(names) <= set(given.names):
        raise InputError(f"poses is {folder}, which was not made from {given.folder} as that is now: orient these predictions, and give that folder")
    return [name for name, verdict in zip(names, table["triptychVerdict"], strict=True) if verdict == UNKNOWN]


def describe_choice(given: Predicted, config: DiscoverConfig) -> str:
    """Which particles are grouped, in words."""
    listed = "" if config.only is None else f" of those that {config.only} lists"
    if given.label is None:
        return f"all{listed}, since the model has no task class"
    if config.classes is not None:
        return f"called {' or '.join(config.classes)}{listed}"
    doubted = "" if config.poses is None else ", also by the fit to their structures"
    return (f'all but those called "{NONE_CLASS}"' if config.particles == "all" else f'those whose verdict is "{UNKNOWN}"{doubted}') + listed


def find_groups(given: Predicted, rows: IntArray, shapes: NDArray[np.float32], config: DiscoverConfig) -> Groups:
    """Groups of some rows' particles by embedding and recovered shape, where pose and noise count for little if the model's folder is still there."""
    if config.one_group:
        return Groups(np.zeros(len(rows), np.int64), np.array([np.nan]), np.array([False]), np.empty((len(rows), 0)))
    folder = find_model(given)
    if folder is None:
        text = "the model of %s is not where it was, or has changed: without it groups are found in plain embeddings, less well"
        logger.warning(text, given.folder)
    reference = None if folder is None else load_model(folder, "cpu").novelty
    none = none_probability(given, rows)
    return group(np.asarray(given.embedding[rows]), np.random.default_rng(config.seed), config.group, reference, none, shapes)


def read_shapes(given: Predicted, rows: IntArray) -> NDArray[np.float32]:
    """Shapes (n, s) of recovered densities on the model's grid: by these, too, a model tells what it knows."""
    assert given.densities is not None  # open_source made sure
    model = given.manifest["model"]
    grid = Grid(float(model["voxel_size"]), int(model["box_size"]))
    return np.concatenate([describe_shapes(grid.bring(read_mrc(given.densities[row]))[None]) for row in rows])


def none_probability(given: Predicted, rows: IntArray) -> NDArray[np.float32] | None:
    """How probably each of these particles is none."""
    if given.probabilities is None or NONE_CLASS not in given.class_names:
        return None
    return np.asarray(given.probabilities[rows, given.class_names.index(NONE_CLASS)], dtype=np.float32)


def choose_grids(boxes: Boxes, config: DiscoverConfig) -> tuple[Grid, Grid]:
    """Where densities are aligned and where subtomograms are averaged."""
    first = boxes.source.read(0)
    voxel_size = config.voxel_size or first.voxel_size
    width = first.shape[0] * first.voxel_size
    finest, coarsest = first.voxel_size / FINER, width / LEAST_BOX
    if not finest <= voxel_size <= coarsest:
        what = f"voxel_size is {voxel_size:g}, but particles of {first.voxel_size:g} Å per voxel, {width:g} Å wide,"
        raise InputError(f"{what} can be averaged at {finest:g} to {coarsest:g}: choose one of these")
    return boxes.alignment_grid(first), Grid(voxel_size, even(width / voxel_size))


# ------------------------------------------------------------------------------------------------------------- groups


class StepProgress:
    """Passes on what is done of all, and how much of the step that is under way."""

    def __init__(self, pass_on: Progress | None) -> None:
        self.pass_on, self.done, self.total = pass_on or (lambda done, total: None), 0, 0

    def __reduce__(self) -> tuple[Any, ...]:
        return StepProgress, (None,)  # what another process does shows when it is done

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.pass_on(done, total)

    def part_of(self, size: int, first: float, last: float) -> Progress:
        """For what does a step of a size from one share of it to another, and tells (done, in all) by its own measure.

        That the whole step is done is left to the step to say, when its result is kept.
        """
        return lambda done, total: self.pass_on(self.done + min(int(size * (first + (last - first) * done / total)), size - 1), self.total)


@dataclass(frozen=True, eq=False)
class Explorer:
    """Does the steps of the groups; another process is told the names of what it reads, and the groups, and opens it once.

    Attributes
    ----------
    coarse, fine : where densities are aligned, and where subtomograms are averaged
    rows : of the particles that are grouped
    groups : of these; none before `find_groups`
    """

    predictions: Path
    config: DiscoverConfig
    boxes: Boxes = field(repr=False)
    coarse: Grid
    fine: Grid
    rows: IntArray = field(repr=False)
    groups: Groups = field(repr=False)
    library: list[Structure] = field(repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        labels, stability, junk = self.groups.labels.astype(np.int64), self.groups.stability.astype(np.float64), self.groups.junk.astype(np.bool_)
        found = labels.tobytes(), stability.tobytes(), junk.tobytes()  # which can be told apart, as arrays cannot
        return reopen, (open_explorer_of, (self.predictions.absolute(), self.config.from_anywhere(), found), self.config.workers, self.identity)

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """What predictions and structures are recognised by."""
        read = (self.predictions / PARTICLES, self.predictions / MANIFEST, *self.lists)
        return *map(hash_file, read), hash_structures(self.library)

    @property
    def lists(self) -> list[Path]:
        """Files that say, beside the predictions, which particles are grouped."""
        doubted = None if self.config.poses is None else self.config.poses / PARTICLES
        return [path for path in (self.config.only, doubted) if path is not None and path.is_file()]

    @cached_property
    def members(self) -> list[IntArray]:
        """Rows of the particles of each group."""
        return [self.rows[self.groups.members(number)] for number in range(self.groups.count)]

    @cached_property
    def halves(self) -> list[tuple[IntArray, IntArray]]:
        """The halves of each group, as places among its members."""
        return [split_halves(len(members), self.rng(number), self.distinct[members]) for number, members in enumerate(self.members)]

    @cached_property
    def distinct(self) -> IntArray:
        """The same number for all particles of the predictions that show the same."""
        return number_distinct(self.boxes.source)

    def warn_of_repeated(self) -> None:
        """Warn of particles to be grouped that show what another one shows."""
        repeated = len(self.rows) - len(np.unique(self.distinct[self.rows]))
        if repeated:
            text = "%d of the %d particles to be grouped show what others show (the same image, or centres nearer than %g Å): they come into one "
            logger.warning(text + "half, but count more than once; take them out of the list", repeated, len(self.rows), NEAREST)

    @property
    def blocks(self) -> range:
        """Items that are no steps, and numbered after all steps that there can be: blocks of densities whose shapes are found."""
        first = STEPS * len(self.rows)
        return range(first, first + -(-len(self.rows) // BLOCK))

    def rows_of(self, block: int) -> IntArray:
        return self.rows[(block - self.blocks.start) * BLOCK :][:BLOCK]

    def describe_block(self, workspace: Workspace, block: int) -> int:
        """Find and keep the shapes of a block's recovered densities; returns how many."""
        rows = self.rows_of(block)
        with workspace.desk() as desk:
            workspace.keep(block, desk, shapes=read_shapes(self.boxes.given, rows))
        return len(rows)

    def shapes(self, workspace: Workspace) -> NDArray[np.float32]:
        """Of all particles that are grouped, once every block is described."""
        return np.concatenate([workspace.kept(block)["shapes"] for block in self.blocks])

    def find_groups(self, workspace: Workspace, on_progress: Progress | None) -> Explorer:
        """The same with the groups, which are found once and kept."""
        item = self.blocks.stop
        if item not in workspace.done():
            describe = partial(self.describe_block, workspace)
            workspace.fill(self.blocks, describe, lambda block: len(self.rows_of(block)), workers=1, on_progress=on_progress)
            found = find_groups(self.boxes.given, self.rows, self.shapes(workspace), self.config)
            with workspace.desk() as desk:
                workspace.keep(item, desk, **vars(found))
        return replace(self, groups=Groups(**workspace.kept(item)))

    def rng(self, *numbers: int) -> np.random.Generator:
        """A random stream of its own for each step, so that a resumed run repeats it."""
        return np.random.default_rng([self.config.seed, *numbers])

    def count(self, item: int) -> int:
        number, step = divmod(item, STEPS)
        return len(self.members[number]) if step == STEPS - 1 else len(self.halves[number][step])

    def align_half(self, workspace: Workspace, progress: StepProgress, item: int) -> None:
        """Find the poses of half a group from nothing but its own particles."""
        number, half = divmod(item, STEPS)
        rows, grid = self.members[number][self.halves[number][half]], self.coarse
        by_density = self.config.align_by == "recovered"
        agreeing, refining = (progress.part_of(len(rows), *shares) for shares in ((0, AGREEING), (AGREEING, 1)))
        with workspace.desk() as desk:
            volumes = self.boxes.densities(desk, rows, grid) if by_density else self.boxes.subtomograms(desk, rows, grid)
            wedges = None if by_density else self.boxes.wedges(desk, rows, grid)
            reference, poses = consensus(
                volumes, grid.voxel_size, self.rng(number, half), self.config.align, wedges=wedges, on_progress=agreeing
            )  # fmt: skip
            if by_density and self.config.refine:
                subtomograms = self.boxes.subtomograms(desk, rows, grid)
                own = self.boxes.wedges(desk, rows, grid)
                poses = align(subtomograms, reference, grid.voxel_size, self.config.align, wedges=own, start=poses, on_progress=refining)
                reference, _ = average(volumes, poses, grid.voxel_size, config=self.config.align)
            workspace.keep(item, desk, reference=reference, **poses._asdict())

    def average_group(self, workspace: Workspace, item: int) -> None:
        """Bring both halves into one frame, average, compare, and write the folder of the group."""
        number = item // STEPS
        poses, reference = self.join_halves(workspace, number)
        found = self.average_members(workspace, number, poses, reference)
        compared = self.config.align.model_copy(update={"resolution": max(self.config.align.resolution, found.resolution)})
        matches = identify(found.filtered.data, self.library, self.fine.voxel_size, compared)
        symmetries = find_symmetry(found.recovered.data, self.fine.voxel_size, self.config.align)
        with workspace.desk() as desk:
            folder = desk / "group"
            folder.mkdir()
            write_maps(folder, found)
            final = workspace.out / GROUP_FOLDERS / str(number + 1)
            table = self.boxes.posed_table(final, self.members[number], poses).assign(triptychGroup=number + 1)
            write_star(folder / PARTICLES, self.boxes.source.blocks_with(table))
            np.save(folder / EMBEDDING, self.boxes.given.embedding[self.members[number]])
            np.save(folder / SHAPE, self.shapes(workspace)[self.groups.members(number)])
            write_json(folder / GROUP, self.describe(number, found, matches, symmetries))
            target = workspace.result / GROUP_FOLDERS / str(number + 1)
            try:
                folder.replace(target)
            except OSError:  # it is there, of a run that was killed before it could mark it, or of another process that does the same
                if not target.exists():
                    raise
        workspace.mark(item)

    def join_halves(self, workspace: Workspace, number: int) -> tuple[Alignment, NDArray[np.float32]]:
        """Poses of all particles of a group in the frame of the first half, and the mean of the halves' references there.

        The frame of the second half is found by turning its reference onto the first's: the only thing that the halves learn of each other.
        """
        notes = [workspace.kept(STEPS * number + half) for half in (0, 1)]
        first, second = (Alignment(note["rotations"], note["shifts"], note["scores"]) for note in notes)
        references: list[Any] = [note["reference"] for note in notes]
        turned = turn_onto(references[0], references[1], self.coarse.voxel_size, self.config.align)
        second = Alignment(second.rotations @ turned.rotations[0], second.rotations @ turned.shifts[0] + second.shifts, second.scores)
        order = np.argsort(np.concatenate(self.halves[number]))
        poses = join_poses([first, second]).take(order)
        return poses, (references[0] + average(references[1][None], turned, self.coarse.voxel_size, config=self.config.align)[0]) / 2

    def average_members(self, workspace: Workspace, number: int, poses: Alignment, reference: NDArray[np.float32]) -> GroupAverage:
        """The averages of the subtomograms of both halves, and what they agree on."""
        grid = self.fine
        halves = [self.average_rows(workspace, self.members[number][half], poses.take(half)) for half in self.halves[number]]
        density = merge_averages(halves)
        recovered = grid.bring(Volume(reference, self.coarse.voxel_size))
        mask = soft_mask(recovered, grid.voxel_size)
        correlation = compare_half_maps(halves[0][0], halves[1][0], grid.voxel_size, mask, self.rng(number, STEPS))
        resolution = usable_resolution(correlation.resolution, grid.voxel_size * grid.box_size)
        filtered = low_pass(Volume(density, grid.voxel_size), resolution)
        first, second, whole, clean, soft = (Volume(data, grid.voxel_size) for data in (halves[0][0], halves[1][0], density, recovered, mask))
        return GroupAverage((first, second), whole, filtered, clean, soft, correlation, resolution)

    def average_rows(self, workspace: Workspace, rows: IntArray, poses: Alignment) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Average of the subtomograms of some particles, each Fourier term over those that measured it, and how many these are."""
        with workspace.desk() as desk:
            volumes, wedges = self.boxes.subtomograms(desk, rows, self.fine), self.boxes.wedges(desk, rows, self.fine)
            return average(volumes, poses, self.fine.voxel_size, wedges, self.config.align)

    def describe(self, number: int, found: GroupAverage, matches: list[Match], symmetries: list[Symmetry]) -> dict[str, Any]:
        """What group.json says."""
        rows, given = self.members[number], self.boxes.given
        return {
            "group": number + 1,
            "particles": len(rows),
            "names": [given.names[row] for row in rows],
            "junk": bool(self.groups.junk[number]),
            "stability": float(self.groups.stability[number]),
            "called": {} if given.label is None else dict(Counter(given.called[rows].tolist()).most_common()),
            "median_novelty": None if given.novelty is None else float(np.median(given.novelty[rows])),
            "resolution": found.correlation.resolution,
            "shell_correlation": found.correlation._asdict(),
            "half_particles": [len(half) for half in self.halves[number]],
            "tilt_ranges": np.unique(self.boxes.tilt_ranges[rows], axis=0),
            "tilt_ranges_are": self.boxes.tilts_from,
            "ctf_is": self.boxes.ctf_from,
            "voxel_size": self.fine.voxel_size,
            "symmetries": [
                {"name": item.name, "axis": item.axis, "correlation": item.correlation, "background": item.background} for item in symmetries
            ],
            "matches": [{**match._asdict(), "hand": match.hand} for match in matches[: self.config.matches]],
            "filtered_to": found.resolution,
            "compared_to": max(self.config.align.resolution, found.resolution),
        }

    # ------------------------------------------------------------------------------------------------------------ end

    def finish(self, workspace: Workspace, folder: Path) -> None:
        """The tables of all groups, the page and the manifest."""
        described = [json.loads((workspace.result / GROUP_FOLDERS / str(i + 1) / GROUP).read_text()) for i in range(len(self.members))]
        given, source = self.boxes.given, self.boxes.source
        membership = np.zeros(len(given), dtype=np.int64)
        membership[self.rows] = self.groups.labels + 1
        table = self.boxes.refer_from(workspace.out).assign(triptychGroup=membership)
        write_star(folder / PARTICLES, source.blocks_with(table))
        write_star(folder / GROUPS, {"groups": groups_table(described)})
        device = name_device(choose_device(self.config.align.device))
        about = {
            "model": {
                "path": str(find_model(given) or ""),
                **{key: given.manifest["model"].get(key) for key in ("name", "sha256")},
                "spectrum": manifest_entry(given.manifest, "model", "network", "spectrum"),
            },
            "particles": {
                "in_all": len(given),
                "grouped": int((membership > 0).sum()),
                "chosen": len(self.rows),
                "choice": describe_choice(given, self.config) + (", taken as one group" if self.config.one_group else ""),
            },
            "groups": len(described),
            "tilt_ranges_are": self.boxes.tilts_from,
            "ctf_is": self.boxes.ctf_from,
            "device": device,
        }
        write_page(folder / PAGE, workspace.result / GROUP_FOLDERS, given, source, membership, described, about, self.config)
        inputs = [given.folder / name for name in (PARTICLES, EMBEDDING, MANIFEST)]
        inputs += filter(None, (self.config.library, self.config.poses, self.config.only))
        write_manifest(folder, "discover", self.config, inputs, self.config.seed, about, {"predictions": given.folder})


def is_average(item: int) -> bool:
    """Whether a step averages a group, for which its halves must have been aligned."""
    return item % STEPS == STEPS - 1


def do_step(workspace: Workspace, explorer: Explorer, progress: StepProgress, item: int) -> int:
    """Do one step of a group; returns its size."""
    if is_average(item):
        explorer.average_group(workspace, item)
    else:
        explorer.align_half(workspace, progress, item)
    return explorer.count(item)


def open_explorer(predictions: Path, config: DiscoverConfig, groups: Groups | None = None) -> Explorer:
    """Open the predictions and the library, and choose the particles."""
    given = read_predictions(predictions)
    boxes = open_boxes(given, config)
    library = load_references(config.library, float(given.manifest["model"]["voxel_size"]))
    rows = choose_particles(given, config)
    grids = choose_grids(boxes, config)
    return Explorer(predictions, config, boxes, *grids, rows, groups or no_groups(len(rows)), library)


def open_explorer_of(predictions: Path, config: DiscoverConfig, found: tuple[bytes, bytes, bytes]) -> Explorer:
    """The same with the groups that another process has found, as arrays' bytes."""
    labels, stability, junk = np.frombuffer(found[0], np.int64), np.frombuffer(found[1], np.float64), np.frombuffer(found[2], np.bool_)
    return open_explorer(predictions, config, Groups(labels, stability, junk, np.empty((len(labels), 0))))


def write_maps(folder: Path, found: GroupAverage) -> None:
    maps = {
        "average": found.density,
        "average_filtered": found.filtered,
        "half_1": found.halves[0],
        "half_2": found.halves[1],
        "recovered": found.recovered,
        "mask": found.mask,
    }
    for name, volume in maps.items():
        write_mrc(folder / f"{name}.mrc", volume)


def groups_table(described: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each group: how many particles, how stable, how fine, what it may be, of which hand, and down to which detail that was compared."""
    names = ("Group", "Particles", "Stability", "Resolution", "MatchName", "MatchCorrelation", "MatchHand", "MatchResolution")
    rows = [
        (
            item["group"],
            item["particles"],
            item["stability"],
            np.nan if item["resolution"] is None else item["resolution"],
            item["matches"][0]["name"],
            max(item["matches"][0]["correlation"], item["matches"][0]["mirror_correlation"]),
            item["matches"][0]["hand"],
            item["compared_to"],
        )
        for item in described
    ]
    return pd.DataFrame(rows, columns=[f"triptych{name}" for name in names])
