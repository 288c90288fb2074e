"""Model + whole tomograms -> particles, label maps and maps of the particles.

Each tomogram is scanned in tiles, which marks and names what is there and finds the centres of particles; then every centre is
looked at in a box of its own, as `predict` does. A row of tiles, and the boxes of a tomogram, are what is finished at once: a
killed run goes on there, and memory does not grow with the tomogram.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from triptych.config import NONE_CLASS, Contrast, PickConfig
from triptych.contrast import choose_contrast, guess_tomogram_contrast
from triptych.device import count_workers
from triptych.errors import InputError
from triptych.fourier import resample_to_shape
from triptych.io.files import way_to
from triptych.io.manifest import Stage, describe_input, is_made, recognise_input, write_manifest
from triptych.io.mrc import check_values, mmap_mrc, new_mrc, type_for
from triptych.io.output_names import CLASSES, EMBEDDING, PAGE, PARTICLES, TOMOGRAMS, map_file
from triptych.io.outputs import check_apart
from triptych.io.particle_source import NEAREST
from triptych.io.predictions import FIDELITY
from triptych.io.readers import cut_box
from triptych.io.relion import COORDINATES, class_table, optics_table, particle_columns, tomogram_row
from triptych.io.star import Block, probability_columns, write_star
from triptych.io.star_source import CONTRAST
from triptych.io.stated import NamedTomogram, list_tomograms
from triptych.io.tomogram import open_tomogram
from triptych.pages.pick_page import Picked, render
from triptych.parallel import Progress, in_batches
from triptych.particles import Frame
from triptych.recognition.model import MASK_LEVEL, Model, Predictions, hash_model, load_model, locate_model
from triptych.recognition.novelty import give_verdicts
from triptych.tiling import Cutout, Tile, clear_labels, find_centres, label_voxels, paint, plan_tiles, suppress, widen
from triptych.volume import Volume, spread_boxes, standardise
from triptych.workspace import Workspace, choose_items, open_workspace, reopen

logger = logging.getLogger(__name__)
Judged = tuple[tuple[str, tuple[Contrast, str | None]], ...]
"""The sign of some tomograms' grey values, by name, and a warning if one looks otherwise."""

STAGE: Stage = "pick"
SAMPLE = 8
"""Boxes of 64 voxels from which a tomogram is judged before it is scanned."""
RIM = 40.0
"""Å around a mask, along each axis, in which the scan's labels of particles do not count."""
LOOK_STEPS = 0.5
"""What looking at a tomogram's centres counts in the progress, over its number of tiles."""
MAPS = {"labels": "u2", "instances": "u2", "densities": "f4"}
"""Folders of the output, and the type of the values in their files, unless that is too narrow."""


@dataclass(frozen=True, eq=False)
class Job:
    """A tomogram to pick from, and the tiles in which it is scanned."""

    path: Path
    name: str
    shape: tuple[int, int, int]
    voxel_size: float
    origin: tuple[float, float, float]
    """x, y, z in Å, of the centre of its voxel [0, 0, 0]: its maps lie where it lies."""
    frame: Frame
    """Its box in the pixels of its tilt series, which tables count in, where a table tells these; else in its voxels."""
    rows: list[list[Tile]] = field(repr=False)
    first: int
    """Number of its first item: one for each row of tiles, then one for looking at the centres."""

    @property
    def items(self) -> range:
        return range(self.first, self.first + len(self.rows) + 1)

    def steps(self, item: int) -> int:
        """What an item counts in the progress: tiles, or what takes as long."""
        if item == self.items[-1]:
            return max(1, round(LOOK_STEPS * sum(map(len, self.rows))))
        return len(self.rows[item - self.first])


class Picker:
    """Everything that a run needs to do one of its items; another process is told the names of model and tomograms, and opens them once."""

    def __init__(self, workspace: Workspace, jobs: Sequence[Job], model: Model, folder: Path, config: PickConfig) -> None:
        self.workspace, self.jobs, self.model, self.folder, self.config = workspace, jobs, model, folder, config
        self.contrasts: dict[str, tuple[Contrast, str | None]] = {}
        self.identity = hash_model(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        tomograms = tuple(NamedTomogram(job.name, job.path.absolute(), job.voxel_size) for job in self.jobs)
        judged = tuple(self.contrasts.items())
        arguments = self.workspace, tomograms, self.folder.absolute(), self.config, judged
        return reopen, (open_picker, arguments, self.config.workers, self.identity, self.workspace.identity)

    def contrast(self, job: Job) -> tuple[Contrast, str | None]:
        """The sign of a tomogram's grey values, and a warning if it looks otherwise; said when it is asked for the first time."""
        if job.name not in self.contrasts:
            tomogram = open_tomogram(job.path, job.voxel_size)
            warn_of_flat(tomogram, job.path)
            appearance = guess_tomogram_contrast(tomogram)
            self.contrasts[job.name] = choose_contrast(appearance, self.config.contrast, name=job.name)
        return self.contrasts[job.name]

    def job(self, item: int) -> Job:
        return next(job for job in self.jobs if item in job.items)

    def steps(self, item: int) -> int:
        return self.job(item).steps(item)

    def do(self, item: int) -> int:
        """Finish an item; return what it counts in the progress."""
        job = self.job(item)
        with self.workspace.desk() as desk:
            if item == job.items[-1]:
                about = {"device": self.model.device_name, "input": json.dumps(describe_input(job.path))}
                found = {**self.look(job, desk), **{key: np.array(text) for key, text in about.items()}}
                for kind in MAPS:
                    if (desk / f"{kind}.mrc").exists():
                        (desk / f"{kind}.mrc").replace(self.workspace.result / map_file(kind, job.name))
            else:
                found = self.scan(job, job.rows[item - job.first])
            self.workspace.keep(item, desk, compressed=True, **found)
        return job.steps(item)

    def scan(self, job: Job, row: list[Tile]) -> dict[str, NDArray[Any]]:
        """Labels of a row of tiles, as the model numbers them, and the centres in it (z, y, x), perhaps twice on borders, and probabilities."""
        tomogram = open_tomogram(job.path, job.voxel_size)
        low, high = row[0].start[1], row[0].stop[1]
        labels = np.zeros((job.shape[0], high - low, job.shape[2]), dtype=np.uint16)
        places, heights = [], []
        for tile in row:
            out = self.model.scan(self.view(tomogram, tile, job)[None], self.config.half_turns)
            found, height = find_centres(np.asarray(out.centre_logits[0]), self.config.threshold)
            where = tile.places(found)
            own = tile.claims(where)
            places.append(where[own])
            heights.append(height[own])
            fine = label_voxels(np.asarray(out.foreground_logits[0].sigmoid()), np.asarray(out.label_logits[0].argmax(0)))
            inside = np.ix_(*(tile.indices(axis) for axis in range(3)))
            labels[tile.start[0] : tile.stop[0], :, tile.start[2] : tile.stop[2]] = fine[inside]
        return {"labels": labels, "places": np.concatenate(places), "heights": np.concatenate(heights)}

    def view(self, tomogram: Volume, tile: Tile, job: Job) -> NDArray[np.float32]:
        """The model's view of a tile, standardised."""
        box = valid_box(tomogram, tile.center, tile.reach, job.path)
        sign = 1.0 if self.contrast(job)[0] == self.model.card.contrast else -1.0
        return standardise(sign * resample_to_shape(box, self.model.card.voxel_size, tile.shape))

    def look(self, job: Job, desk: Path) -> dict[str, NDArray[Any]]:
        """Classify, segment and recover what is at each centre, and keep the best where several claim the same voxels; writes the maps."""
        rows = [self.workspace.kept(item, "places", "heights") for item in job.items[:-1]]
        places, heights = (np.concatenate([row[name] for row in rows]) for name in ("places", "heights"))
        found, masks = self.recognise(job, places)
        names = self.model.card.class_names
        none = found["probabilities"][:, names.index(NONE_CLASS)] if NONE_CLASS in names else np.zeros(len(places))
        score = heights * (1 - none)
        wanted = np.flatnonzero((score >= self.config.min_score) & np.array([mask.count > 0 for mask in masks], dtype=bool))
        best = suppress([masks[i] for i in wanted], score[wanted], places[wanted], self.config.max_overlap, NEAREST / job.voxel_size)
        kept = wanted[best]
        found = {name: values[kept] for name, values in found.items()}
        self.write_maps(job, desk, [masks[i] for i in kept], places[kept], found["probabilities"])
        return {"places": places[kept], "heights": heights[kept], "score": score[kept], **found}

    def recognise(self, job: Job, places: NDArray[np.float64]) -> tuple[dict[str, NDArray[np.float32]], list[Cutout]]:
        """Probabilities, embeddings, perhaps novelty and fidelity, and masks of what is at some places."""
        card = self.model.card
        told: dict[str, list[NDArray[np.float32]]] = {
            "probabilities": [np.empty((0, len(card.class_names)), np.float32)],
            "embedding": [np.empty((0, card.network.embedding_size), np.float32)],
        }
        told |= {} if self.model.novelty is None else {"novelty": [np.empty(0, np.float32)]}
        told |= {} if card.fidelity is None else {"fidelity": [np.empty(0, np.float32)]}
        masks: list[Cutout] = []
        for batch in in_batches(places, self.config.batch_size):
            result, starts = self.predict(job, batch)
            assert result.probabilities is not None  # check_model made sure
            assert result.masks is not None
            told["probabilities"].append(result.probabilities)
            told["embedding"].append(result.embedding)
            if result.novelty_by_class is not None:
                best = best_classes(result.probabilities, card.class_names)
                told["novelty"].append(result.novelty_by_class[np.arange(len(best)), best])
            if result.fidelity is not None:
                told["fidelity"].append(result.fidelity)
            masks += [Cutout.of(mask > MASK_LEVEL, start) for mask, start in zip(result.masks, starts, strict=True)]
        return {name: np.concatenate(parts) for name, parts in told.items()}, masks

    def predict(self, job: Job, places: NDArray[np.float64]) -> tuple[Predictions, list[NDArray[np.int64]]]:
        """What the model says of boxes around some places; also the voxel of the tomogram at which each box starts."""
        tomogram = open_tomogram(job.path, job.voxel_size)
        size = 2 * int(np.ceil(self.model.card.box_size * self.model.card.voxel_size / job.voxel_size / 2))
        centers = np.round(places).astype(np.int64)
        boxes = [valid_box(tomogram, center, (size,) * 3, job.path) for center in centers]
        return self.model.predict_batch(boxes, self.contrast(job)[0], self.config.half_turns), list(centers - size // 2)

    def write_maps(self, job: Job, desk: Path, masks: Sequence[Cutout], places: NDArray[np.float64], probabilities: NDArray[np.float32]) -> None:
        """Label map, instances and densities of a tomogram; where masks overlap, the better particle is in front.

        Around the masks the labels of particles are those of the masks alone, since the scan marks too much there; elsewhere, those of the scan.
        """
        card = self.model.card
        numbers = np.array([0, *(card.numbered_names.index(name) + 1 for name in card.label_names)], dtype=np.uint16)  # of the scan's labels
        is_particle = np.array([False, *(name in card.class_names for name in card.numbered_names)])
        classes = best_classes(probabilities, card.class_names) + 1
        rim = round(RIM / job.voxel_size)
        with new_map(desk, "labels", job) as labels:
            for row, item in zip(job.rows, job.items[:-1], strict=True):
                labels[:, row[0].start[1] : row[0].stop[1]] = numbers[self.workspace.kept(item, "labels")["labels"]]
            for mask in masks:
                around, start = widen(mask, rim)
                clear_labels(labels, around, is_particle, start)
            for mask, number in reversed(list(zip(masks, classes, strict=True))):
                paint(labels, mask.mask, number, mask.start)
        if self.config.write_instances:
            with new_map(desk, "instances", job, len(masks)) as instances:
                for number, mask in reversed(list(enumerate(masks, start=1))):
                    paint(instances, mask.mask, number, mask.start)
        if self.config.write_densities:
            with new_map(desk, "densities", job) as densities:
                for batch in in_batches(range(len(masks))[::-1], self.config.batch_size):
                    result, starts = self.predict(job, places[list(batch)])
                    for i, density, start in zip(batch, result.densities or (), starts, strict=True):
                        paint(densities, masks[i].mask, masks[i].of_box(density, start), masks[i].start)


def new_map(desk: Path, kind: str, job: Job, largest: int = 0) -> AbstractContextManager[NDArray[Any]]:
    """A map to fill that lies where the tomogram lies, and holds numbers up to the largest."""
    return new_mrc(desk / f"{kind}.mrc", job.shape, type_for(MAPS[kind], largest), job.voxel_size, job.origin)


def open_picker(workspace: Workspace, tomograms: tuple[NamedTomogram, ...], folder: Path, config: PickConfig, contrasts: Judged) -> Picker:
    """What another process has opened, and the contrasts that it has judged."""
    model = load_model(folder, config.device, config.precision)
    picker = Picker(workspace, plan_jobs(tomograms, model, config), model, folder, config)
    picker.contrasts.update(contrasts)
    return picker


def warn_of_flat(tomogram: Volume, path: Path) -> None:
    """Warn of a tomogram whose grey values are all the same wherever they are looked at."""
    if all(box.min() == box.max() for box in spread_boxes(tomogram.data, 64, SAMPLE)):
        logger.warning("%s shows nothing: its grey values are the same in all %d places that were looked at", path, SAMPLE)


def valid_box(tomogram: Volume, center: NDArray[np.int64], shape: tuple[int, int, int], path: Path) -> Volume:
    """A box of a tomogram; InputError where a value is not valid."""
    data = cut_box(tomogram.data, center, shape)
    check_values(data, path)
    return Volume(data, tomogram.voxel_size)


def pick(
    tomograms: Sequence[Path | str],
    out: Path | str,
    model: Path | str | None = None,
    config: PickConfig | None = None,
    on_progress: Progress | None = None,
    part: tuple[int, int] | None = None,
    scheduler: str | None = None,
) -> Path:
    """Find, classify, segment and recover the particles of whole tomograms.

    The folder then holds ``report.html``, ``particles.star``, ``labels/`` (with the numbers of ``classes.star``), ``instances/``
    (``_triptychInstance`` of the particles), perhaps ``densities/``, ``tomograms.star`` and ``embedding.npy``. What is finished is kept in a
    working folder beside `out`: the same call goes on after a kill. With `part`, `out` exists when the last part is done.

    Parameters
    ----------
    tomograms : MRC files, OME-Zarr groups, folders of them, or tables that name them (a tomograms.star, or an optimisation set)
    out : folder to make
    model : model folder with the task pick; default: the one that ships with triptych
    on_progress : called with (steps done, steps in all), first with those that an earlier run has finished
    part : (k, n) to do only the k-th of n parts of the tomograms (k from 1)
    scheduler : address of a Dask scheduler whose workers pick instead of processes on this machine
    """
    config = config or PickConfig()
    folder = locate_model(model)
    network = load_model(folder, config.device, config.precision)
    check_model(network, folder, config)
    jobs = plan_jobs(list_tomograms(tomograms), network, config)
    check_apart(Path(out), [job.path for job in jobs])
    arguments = {"tomograms": list(tomograms), "model": folder}
    if part and is_made(out, STAGE, config, arguments):
        return Path(out)
    mine = [jobs[number] for number in choose_items(len(jobs), part)]
    settings = {
        "tomograms": {job.name: {**recognise_input(job.path), "voxel_size": job.voxel_size} for job in jobs},
        "model": list(hash_model(folder)),
        **config.decisive(),
    }
    kinds = [kind for kind in MAPS if kind == "labels" or getattr(config, f"write_{kind}")]
    workspace = open_workspace(Path(out), settings, partial(make_folders, kinds))
    picker = Picker(workspace, jobs, network, folder, config)
    with workspace.until_finished(keep=part is not None):
        for job in mine:
            picker.contrast(job)  # so that a warning comes first, and from this process
        chosen = [job.items for job in mine]
        rows = [item for items in chosen for item in items[:-1]]
        workers = count_workers(config.workers, config.device)
        workspace.fill(rows, picker.do, picker.steps, workers, scheduler, on_progress, then=[items[-1] for items in chosen])
        if len(workspace.done()) == sum(len(job.items) for job in jobs):
            workspace.finish(partial(finish_run, picker, arguments))
    return Path(out)


def check_model(model: Model, folder: Path, config: PickConfig) -> None:
    """InputError unless the model can pick, and recover densities where these are wanted."""
    if config.write_densities and "density" not in model.card.network.tasks:
        raise InputError(f"write_densities is true, but the model {folder} was trained without the task density: leave the setting out")
    missing = [task for task in ("class", "mask", "pick") if task not in model.card.network.tasks]
    if missing:
        raise InputError(f"the model {folder} was trained without the task {missing[0]}, which picking needs: train one with it in network.tasks")


def plan_jobs(tomograms: Sequence[NamedTomogram], model: Model, config: PickConfig) -> list[Job]:
    """The tomograms with their tiles; InputError where one cannot be read."""
    jobs: list[Job] = []
    for tomogram in tomograms:
        path, volume = tomogram.path, open_tomogram(tomogram.path, config.voxel_size or tomogram.voxel_size)
        z, y, x = (int(n) for n in volume.data.shape)
        ratio = model.card.voxel_size / volume.voxel_size
        model.check_voxel_size(volume.voxel_size, str(path))
        # Stored voxel sizes differ in the last digits.
        rows = plan_tiles((z, y, x), 1.0 if abs(ratio - 1) < 1e-3 else ratio, config.tile_size, config.margin)
        first = jobs[-1].items.stop if jobs else 0
        jobs.append(Job(path, tomogram.name, (z, y, x), volume.voxel_size, volume.origin, tomogram.frame((z, y, x), volume.voxel_size), rows, first))
    return jobs


def make_folders(kinds: Sequence[str], folder: Path) -> None:
    for kind in kinds:
        (folder / kind).mkdir(parents=True)


def finish_run(picker: Picker, arguments: dict[str, Any], folder: Path) -> None:
    """The tables of all tomograms, and the manifest."""
    jobs, card = picker.jobs, picker.model.card
    notes = [picker.workspace.kept(job.items[-1]) for job in jobs]
    groups = {size: number for number, size in enumerate(dict.fromkeys(job.frame.voxel_size for job in jobs), start=1)}
    tables = [
        particle_table(job, note, card.class_names, groups[job.frame.voxel_size]).assign(**{CONTRAST: picker.contrast(job)[0]})
        for job, note in zip(jobs, notes, strict=True)
    ]
    table = pd.concat(tables, ignore_index=True)
    files: dict[str, dict[str, Block]] = {
        PARTICLES: {"optics": optics_table(groups), "particles": table},
        TOMOGRAMS: {"global": pd.DataFrame([describe_tomogram(job, picker.workspace.out) for job in jobs])},
        CLASSES: {"classes": class_table(card.numbered_names)},
    }
    for name, blocks in files.items():
        write_star(folder / name, blocks)
    np.save(folder / EMBEDDING, np.concatenate([note["embedding"] for note in notes]))
    about = {
        "model": {**picker.model.describe(), "name": picker.folder.name, "sha256": picker.identity[0]},
        "device": ", ".join(sorted({str(note["device"]) for note in notes})),
        "particles": len(table),
        "contrast": {job.name: picker.contrast(job)[0] for job in jobs},
        "contrast_warnings": [warning for job in jobs if (warning := picker.contrast(job)[1])],
    }
    inputs = [json.loads(str(note["input"])) for note in notes]
    tables_read = [path for path in arguments["tomograms"] if Path(path).suffix.lower() == ".star"]
    write_page(folder, picker, table, about)
    write_manifest(folder, STAGE, picker.config, [*inputs, *tables_read, picker.folder], None, about, arguments)


def write_page(folder: Path, picker: Picker, table: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write report.html: what was found, and where."""
    picked = []
    for job in picker.jobs:
        labels = mmap_mrc(picker.workspace.result / map_file("labels", job.name), job.voxel_size).data
        places = table.loc[table["rlnTomoName"] == job.name, list(COORDINATES)].to_numpy(np.float64) * (job.frame.voxel_size / job.voxel_size)
        picked.append(Picked(job.name, open_tomogram(job.path, job.voxel_size), labels, places[:, ::-1]))
    page = render(table, picked, picker.model.card.numbered_names, about)
    (folder / PAGE).write_text(page, encoding="utf-8")


def particle_table(job: Job, note: dict[str, NDArray[Any]], class_names: Sequence[str], optics_group: int) -> pd.DataFrame:
    """Rows of particles.star, best first. Picking finds no orientation: the angles are 0."""
    positions = note["places"][:, ::-1] * job.voxel_size
    unturned = np.broadcast_to(np.eye(3), (len(positions), 3, 3))
    best = best_classes(note["probabilities"], class_names)
    classes = [class_names[i] for i in best]
    known_or_not = {"triptychNovelty": note["novelty"], "triptychVerdict": give_verdicts(classes, note["novelty"])} if "novelty" in note else {}
    return pd.DataFrame(
        {
            "rlnTomoName": [job.name] * len(positions),
            **particle_columns(positions, unturned, job.frame),
            "rlnOpticsGroup": optics_group,
            "rlnClassNumber": best + 1,
            "rlnAutopickFigureOfMerit": note["score"],
            "triptychInstance": np.arange(1, len(positions) + 1),
            "triptychClass": classes,
            "triptychProbability": note["probabilities"][np.arange(len(best)), best],
            **known_or_not,
            **({FIDELITY: note["fidelity"]} if "fidelity" in note else {}),
            "triptychScore": note["score"],
            "triptychCentreProbability": note["heights"],
            **dict(zip(probability_columns(class_names), note["probabilities"].T, strict=True)),
        }
    )


def best_classes(probabilities: NDArray[np.float32], class_names: Sequence[str]) -> NDArray[np.int64]:
    """Index of the most probable class other than none: how probably there is a particle at all is what the score says."""
    particle = np.array([name != NONE_CLASS for name in class_names])
    return np.asarray(np.where(particle, probabilities, -1.0).argmax(1), dtype=np.int64)


def describe_tomogram(job: Job, out: Path) -> dict[str, Any]:
    """Row of tomograms.star in the folder `out`."""
    return tomogram_row(job.name, way_to(job.path, out), job.frame, job.voxel_size / job.frame.voxel_size)
