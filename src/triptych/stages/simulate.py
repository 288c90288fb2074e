"""Structures + physics + seed -> labelled subtomograms.

Whole tomograms are simulated and particles cut from them, so that neighbours, missing wedge and noise are what they are in a
real reconstruction, and thousands of particles share one projection and one reconstruction. Each tomogram has its own random
stream, spawned from the seed and its number, and writes its own rows: the result does not depend on who computes what.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.config import NONE_CLASS, SceneConfig, SimulateConfig
from triptych.device import choose_device, count_workers
from triptych.errors import InputError, counted
from triptych.io.manifest import Stage, command_folder, is_made, read_manifest, write_manifest
from triptych.io.store import BOXES, ROWS, Rows, check_shift, create_store, open_store, remove_leftovers
from triptych.parallel import Progress
from triptych.simulation.physics import draw_log_uniform
from triptych.simulation.scene import (
    check_scene,
    choose_structures,
    make_portable,
    one_tomogram,
    open_run,
    prepare_templates,
    reconstruct_rows,
    simulate_scene,
    tomogram_rng,
    warn_of_room,
)
from triptych.simulation.specimen import MEMBRANE_DEPTH, Placed, PosedParticles, Specimen, draw_labels, ice_span, paste, shell_points
from triptych.simulation.structures import NOT_PARTICLES, Structure
from triptych.workspace import Workspace, choose_items, count_unfinished

STAGE: Stage = "simulate"
Arrays = dict[str, NDArray[np.generic]]
logger = logging.getLogger(__name__)


def simulate(
    out: Path | str,
    config: SimulateConfig | None = None,
    on_progress: Progress | None = None,
    part: tuple[int, int] | None = None,
    scheduler: str | None = None,
) -> Path:
    """Write a dataset store of labelled subtomograms.

    Finished tomograms are kept in a working folder beside `out`: the same call goes on after a kill. With `part`, `out` exists
    when the last part is done; `count_missing` tells what is left.

    Parameters
    ----------
    out : the folder to make, e.g. "data.zarr"
    config : settings; default: all defaults; same seed, same bytes, for any number of workers
    on_progress : called with (particles done, particles in all), first with those that an earlier run has finished
    part : (k, n) to do only the k-th of n parts (k from 1), each perhaps on a machine of its own that sees the same folder
    scheduler : address of a Dask scheduler whose workers simulate instead of processes on this machine

    Raises
    ------
    InputError
        If a class is not in the library, the box does not fit the tomogram, or a run with other settings was begun under this name.
    """
    config = config or SimulateConfig()
    wanted = choose_items(count_tomograms(config), part)
    library = choose_structures(config)
    check_scene(config, library)
    check_sizes(config)
    if part and is_made(out, STAGE, config, {}):
        return Path(out)
    workspace, library_hash = open_run(Path(out), config, library, partial(create_empty, config, library))
    with workspace.until_finished(keep=part is not None):
        write = partial(write_tomogram, workspace, make_portable(config), library_hash)
        workspace.fill(wanted, write, partial(count_rows, config), count_workers(config.workers, config.device), scheduler, on_progress)
        if len(workspace.done()) == count_tomograms(config):
            finish_run(workspace, config, library)
    return Path(out)


def simulate_again(data: Path, out: Path, seed: int, workers: int = 0) -> Path:
    """Simulate what a store holds with another seed: new poses, neighbours and tilt series. An `out` that is there is left as it is.

    It is done on the CPU, so that what a network is trained on does not depend on the machine, which may be training on its GPU.
    """
    if out.exists():
        return out
    try:
        config = SimulateConfig.model_validate({**open_store(data).attributes["config"], "seed": seed, "workers": workers, "device": "cpu"})
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{data} does not say how it was simulated, or in another version's way: simulate it anew with this one") from None
    return simulate(out, config.from_anywhere(command_folder(read_manifest(data))))


def create_empty(config: SimulateConfig, library: Sequence[Structure], path: Path) -> None:
    """An empty store."""
    particles = Rows(config.particles, count_rows(config, 0))
    tiles = Rows(sum(count_tiles(config, index) for index in range(count_tomograms(config))), count_tiles(config, 0))
    names = class_names(library)
    about = {"seed": config.seed, "config": config.decisive(), "label_names": [*names[:-1], *NOT_PARTICLES]}
    create_store(path, particles, tiles, config.voxel_size, config.box_size, names, about)


def finish_run(workspace: Workspace, config: SimulateConfig, library: Sequence[Structure]) -> None:
    warn_of_shortage(workspace.result, config, len(library))
    remove_leftovers(workspace.result)
    inputs = [] if config.structures is None else [config.structures]
    extra = {"class_names": class_names(library), "particles": config.particles}
    workspace.finish(lambda folder: write_manifest(folder, STAGE, config, inputs, config.seed, extra, {}))


def warn_of_shortage(path: Path, config: SimulateConfig, none_label: int) -> None:
    """Warn where tomograms hold fewer particles than asked for, or so few that "none" came in their place, or the same ones several times."""
    store = open_store(path)
    rows = np.arange(config.particles)
    tomogram, label, position, occupancy = (store.read_rows(name, rows) for name in ("tomogram", "label", "position", "occupancy"))
    first = np.unique(tomogram, return_index=True)[1]
    warn_of_room(occupancy[first], config.specimen)
    shown = label != none_label
    asked = sum(round(count * config.none_share) for count in (count_rows(config, index) for index in range(count_tomograms(config))))
    if (~shown).sum() > asked:
        what = f'{(~shown).sum()} of {len(rows)} subtomograms are of the class "{NONE_CLASS}", but {asked} were asked for'
        logger.warning("%s: some tomograms hold no particle whose box fits in; make specimen.shape or specimen.occupancy larger", what)
    different = len(np.unique(np.column_stack([tomogram, position])[shown], axis=0))
    if different < shown.sum():
        what = f"{shown.sum()} subtomograms show only {counted(different, 'different particle')}, since the tomograms hold no more"
        logger.warning("%s: repeats differ in shift and SNR alone; make specimen.shape larger or particles_per_tomogram smaller", what)


def count_missing(out: Path | str, config: SimulateConfig) -> tuple[int, int]:
    """How many tomograms of a store are still to be simulated, and how many it has in all."""
    total = count_tomograms(config)
    return count_unfinished(out, total), total


def count_tomograms(config: SimulateConfig) -> int:
    return -(-config.particles // config.particles_per_tomogram)


def count_rows(config: SimulateConfig, index: int) -> int:
    """Rows of the store that come from tomogram `index`."""
    return min(config.particles_per_tomogram, config.particles - index * config.particles_per_tomogram)


def count_tiles(config: SimulateConfig, index: int) -> int:
    """Tiles that come from tomogram `index`; no more than from an earlier one."""
    return round(count_rows(config, index) * config.tile_share)


def class_names(library: Sequence[Structure]) -> tuple[str, ...]:
    return (*(structure.name for structure in library), NONE_CLASS)


def check_sizes(config: SimulateConfig) -> None:
    """InputError if no box fits into the tomogram, or particles would be shifted out of their boxes."""
    check_shift(config.max_shift, config.box_size * config.voxel_size)
    if min(config.specimen.shape) < config.box_size + 8:
        raise InputError(f"specimen.shape is {config.specimen.shape}, but each side must exceed box_size ({config.box_size}) by at least 8 voxels")


def write_tomogram(workspace: Workspace, config: SimulateConfig, library_hash: str, index: int) -> int:
    """Simulate tomogram `index`, write its rows into the store and note that they are there; return their number."""
    with one_tomogram(library_hash):
        particles, tiles = simulate_rows(config, index)
    store = open_store(workspace.result, mode="r+")
    for arrays, rows in ((particles, count_rows(config, 0)), (tiles, count_tiles(config, 0))):
        for name, values in arrays.items():
            store.write(name, index * rows, values)
    workspace.mark(index)
    return count_rows(config, index)


@dataclass(frozen=True, eq=False)
class Tomogram:
    """Signal and noise of a reconstructed tomogram (nz, ny, nx), what is in it, and the numbers that were drawn."""

    signal: NDArray[np.float32]
    noise: NDArray[np.float32]
    particles: PosedParticles
    drawn: dict[str, float]

    @property
    def specimen(self) -> Specimen:
        return self.particles.specimen


def simulate_rows(config: SimulateConfig, index: int) -> tuple[Arrays, Arrays]:
    """All arrays of the store for the subtomograms, and for the tiles, of one tomogram."""
    rng = tomogram_rng(config.seed, index)
    tomogram = simulate_tomogram(rng, config)
    count, none_label = count_rows(config, index), len(tomogram.particles.templates)
    targets = choose_targets(rng, tomogram.specimen, config, none_label, count - round(count * config.none_share))
    crops = [particle_crop(rng, tomogram, config, target) for target in targets]
    usual = float(np.median([crop.signal.std() for crop in crops] or [tomogram.signal.std()])) or 1.0
    crops += [none_crop(rng, tomogram, config) for _ in range(count - len(crops))]
    order = rng.permutation(count)
    rows = [finish_crop(rng, crops[i], usual, tomogram, config, index, none_label) for i in order]
    return stack_rows(rows), stack_rows(cut_tiles(rng, tomogram, config, index, usual))


def stack_rows(rows: list[Arrays]) -> Arrays:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}


def simulate_tomogram(rng: np.random.Generator, config: SceneConfig) -> Tomogram:
    """A whole tomogram in memory."""
    scene = simulate_scene(rng, config, prepare_templates(config), choose_device(config.device))
    signal, noise = (np.empty(config.specimen.shape, dtype=np.float32) for _ in range(2))
    for (first, last), *slab in reconstruct_rows(scene):
        signal[:, first:last], noise[:, first:last] = slab
    return Tomogram(signal, noise, scene.particles, scene.drawn)


def cut_tiles(rng: np.random.Generator, tomogram: Tomogram, config: SimulateConfig, index: int, usual: float) -> list[Arrays]:
    """Boxes at random places, with all that is in them; rows of the store."""
    count = count_tiles(config, index)
    if not count:
        return []
    labels, _ = draw_labels(tomogram.particles, (0, config.specimen.shape[1]), config.voxel_size)
    maps = (tomogram.signal, tomogram.noise, labels, draw_centres(tomogram.specimen))
    low, high = box_limits(config)
    rows = []
    for middle in rng.integers(low, high + 1, (count, 3)):
        signal, noise, here, inside = (cut_cube(volume, middle, config.box_size) for volume in maps)
        mixed, signal, scale, _ = mix(rng, signal, noise, usual, config)
        values = {"subtomogram": mixed, "signal": signal, "labels": here, "centres": inside, "tomogram": index, "signal_scale": scale}
        rows.append(as_row({f"tiles/{name}": value for name, value in values.items()}))
    return rows


def draw_centres(specimen: Specimen) -> NDArray[np.uint8]:
    """1 in the voxels nearest to the centres of particles, (nz, ny, nx)."""
    centres = np.zeros(specimen.shape, dtype=np.uint8)
    places = np.round([p.position for p in specimen.placed]).astype(np.int64).reshape(-1, 3)[:, ::-1]
    centres[tuple(places[((places >= 0) & (places < specimen.shape)).all(1)].T)] = 1
    return centres


@dataclass(frozen=True, eq=False)
class Crop:
    """A box cut from a tomogram; `placed` is None for the class "none". `centre` is its voxel (x, y, z) of index n // 2."""

    signal: NDArray[np.float32]
    noise: NDArray[np.float32]
    mask: NDArray[np.bool_]
    density: NDArray[np.float32]
    centre: NDArray[np.int64]
    placed: Placed | None


def box_limits(config: SimulateConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lowest and highest voxel (x, y, z) on which a box that lies in the tomogram can be centred."""
    half = config.box_size // 2
    shape = np.array(config.specimen.shape[::-1])
    return np.full(3, half), shape - (config.box_size - half)


def choose_targets(rng: np.random.Generator, specimen: Specimen, config: SimulateConfig, classes: int, count: int) -> list[int]:
    """Numbers of the particles to cut out, as evenly over the classes as the specimen allows.

    Where it has too few whose box lies in the tomogram, some are cut out again with another shift.
    """
    low, high = box_limits(config)
    reach = config.max_shift / config.voxel_size
    inside = [i for i, p in enumerate(specimen.placed) if ((p.position > low - reach) & (p.position < high + reach)).all()]
    if not inside:
        return []
    by_class: list[list[int]] = [[] for _ in range(classes)]
    for i in rng.permutation(inside):
        by_class[specimen.placed[i].label].append(int(i))
    once = [members[depth] for depth in range(max(map(len, by_class))) for members in by_class if depth < len(members)]
    present = [members for members in by_class if members]
    again = (members[depth % len(members)] for depth in itertools.count() for members in present)
    return once[:count] + list(itertools.islice(again, max(0, count - len(once))))


def particle_crop(rng: np.random.Generator, tomogram: Tomogram, config: SimulateConfig, number: int) -> Crop:
    """The box around a particle, shifted at random, with its mask and clean density."""
    target = tomogram.specimen.placed[number]
    low, high = box_limits(config)
    reach = config.max_shift / config.voxel_size
    centre = np.round(target.position + rng.uniform(-reach, reach, 3)).astype(np.int64)
    centre = np.clip(centre, low, high)
    box = config.box_size
    contour = tomogram.particles.templates[target.label].contour
    density = np.zeros((box, box, box), dtype=np.float32)
    paste(density, tomogram.particles.patch(number), np.floor(target.position).astype(np.int64) - centre + box // 2)
    return Crop(cut_cube(tomogram.signal, centre, box), cut_cube(tomogram.noise, centre, box), density > contour, density, centre, target)


def none_crop(rng: np.random.Generator, tomogram: Tomogram, config: SimulateConfig) -> Crop:
    """A box without a particle at its centre: a third on membranes, a third beside a particle, the rest anywhere.

    The nearest centre of a particle is at least 80 Å and 0.6 of its radius away.
    """
    box = config.box_size
    candidates = none_candidates(rng, tomogram.particles, config)
    clearance = particle_clearance(candidates, tomogram.particles, config)
    clear = np.flatnonzero(clearance >= 0)
    # In a tomogram so crowded that nowhere is clear, the clearest place has to do.
    centre = candidates[clear[0] if len(clear) else clearance.argmax()]
    empty = np.zeros((box, box, box), dtype=np.float32)
    return Crop(cut_cube(tomogram.signal, centre, box), cut_cube(tomogram.noise, centre, box), empty > 0, empty, centre, None)


def none_candidates(rng: np.random.Generator, particles: PosedParticles, config: SimulateConfig) -> NDArray[np.int64]:
    """A hundred voxels (x, y, z) on which a box of the class "none" may be centred."""
    specimen, templates = particles.specimen, particles.templates
    low, high = box_limits(config)
    kind = rng.integers(3)
    points: NDArray[Any] = rng.uniform(low, high, (100, 3))
    if kind == 0 and specimen.vesicles:
        shells = np.concatenate([shell_points(vesicle, MEMBRANE_DEPTH / config.voxel_size) for vesicle in specimen.vesicles])
        bottom, top = ice_span(specimen.shape[0], specimen.ice_thickness / config.voxel_size)
        shells = shells[((shells >= low) & (shells <= high)).all(1) & (shells[:, 2] >= bottom) & (shells[:, 2] < top)]
        points = shells[rng.integers(len(shells), size=100)] if len(shells) else points
    elif kind == 1 and specimen.placed:
        picks = [specimen.placed[i] for i in rng.integers(len(specimen.placed), size=100)]
        away = rng.normal(size=(100, 3))
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        reach = np.array([max(80 / config.voxel_size, templates[p.label].radius) for p in picks])
        points = np.array([p.position for p in picks]) + away * (reach * rng.uniform(0.6, 1.2, 100))[:, None]
    inside: NDArray[np.int64] = np.clip(np.round(points), low, high).astype(np.int64)
    return inside


def particle_clearance(points: NDArray[np.int64], particles: PosedParticles, config: SimulateConfig) -> NDArray[np.float64]:
    """How much farther than demanded each point is from the centre of any particle, voxels; negative if too near."""
    specimen, templates = particles.specimen, particles.templates
    if not specimen.placed:
        return np.full(len(points), np.inf)
    centres = np.stack([p.position for p in specimen.placed])
    demanded = np.maximum(80 / config.voxel_size, [0.6 * templates[p.label].radius for p in specimen.placed])
    margins: NDArray[np.float64] = (np.linalg.norm(points[:, None] - centres, axis=-1) - demanded).min(1)
    return margins


def has_bead(crop: Crop, specimen: Specimen) -> bool:
    """True if gold reaches into the box."""
    half = crop.signal.shape[0] / 2
    return any((np.abs(bead.centre - crop.centre) < half + bead.radius).all() for bead in specimen.beads)


def cut_cube(volume: NDArray[Any], centre: NDArray[np.int64], size: int) -> NDArray[Any]:
    """The cube whose index size // 2 is voxel `centre` (x, y, z)."""
    z, y, x = centre[::-1] - size // 2
    return volume[z : z + size, y : y + size, x : x + size]


def finish_crop(
    rng: np.random.Generator, crop: Crop, usual: float, tomogram: Tomogram, config: SimulateConfig, index: int, none_label: int
) -> Arrays:
    """One row of the store.

    The unit of the signal is its standard deviation in the box; or that of the tomogram's `usual` box, where the box holds no
    particle, or gold, which would leave nothing of the particle.
    """
    own = float(crop.signal.std())
    unit = usual if crop.placed is None or own == 0 or has_bead(crop, tomogram.specimen) else own
    mixed, signal, scale, noise_deviation = mix(rng, crop.signal, crop.noise, unit, config)
    at = crop.centre if crop.placed is None else crop.placed.position
    values: dict[str, object] = {
        "subtomogram": mixed,
        "signal": signal,
        "mask": crop.mask,
        "density": crop.density,
        "label": none_label if crop.placed is None else crop.placed.label,
        "tomogram": index,
        "position": at * config.voxel_size,
        "rotation": np.eye(3) if crop.placed is None else crop.placed.rotation,
        "shift": (at - crop.centre) * config.voxel_size,
        "snr": scale**2 * signal.var(),
        "signal_scale": scale,
        "dose_snr": (own / noise_deviation) ** 2,
        **tomogram.drawn,
    }
    return as_row(values)


def mix(
    rng: np.random.Generator, signal: NDArray[np.float32], noise: NDArray[np.float32], unit: float, config: SimulateConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32], float, float]:
    """Signal (mean 0, in the given unit) and noise (standard deviation 1) at a random SNR, or as the dose has it.

    Returns
    -------
    mixed, signal : scale x signal + noise, and the signal
    scale, noise_deviation : of the noise as it came
    """
    signal = (signal - signal.mean()) / unit
    noise_deviation = float(noise.std())
    scale = unit / noise_deviation if config.snr is None else math.sqrt(draw_log_uniform(rng, config.snr))
    return scale * signal + (noise - noise.mean()) / noise_deviation, signal, scale, noise_deviation


def as_row(values: Mapping[str, object]) -> Arrays:
    """One row of some arrays of the store, in their types."""
    dtypes = {name: about[0] for name, about in BOXES.items()} | {name: about[0] for name, about in ROWS.items()}
    return {name: convert(np.asarray(value), dtypes[name]) for name, value in values.items()}


def convert(values: NDArray[Any], dtype: str) -> NDArray[np.generic]:
    """The values in another type; to half precision by torch, which is six times faster than numpy."""
    if dtype == "float16" and values.dtype == np.float32:
        return torch.from_numpy(values).half().numpy()
    return values.astype(dtype)
