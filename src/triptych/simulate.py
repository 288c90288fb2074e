"""Structures + physics + seed -> labelled subtomograms.

Whole tomograms are simulated and particles cut from them, so that neighbours, missing wedge and noise are what they are in a
real reconstruction, and thousands of particles share one projection and one reconstruction. Each tomogram has its own random
stream, spawned from the seed and its number, and writes its own rows: the result does not depend on who computes what.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.config import NONE_CLASS, SceneConfig, SimulateConfig
from triptych.errors import InputError
from triptych.io.manifest import output_folder, write_manifest
from triptych.io.store import BOX_ARRAYS, ROW_ARRAYS, create_store, open_store
from triptych.model import choose_device
from triptych.parallel import map_items
from triptych.physics import draw_log_uniform
from triptych.scene import check_scene, choose_structures, prepare_templates, reconstruct_rows, simulate_scene, worker_count
from triptych.specimen import Placed, Specimen, Template, paste, posed, shell_points

Rows = dict[str, NDArray[np.generic]]


def simulate(out: Path | str, config: SimulateConfig, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Write a dataset store of labelled subtomograms.

    Parameters
    ----------
    out : the folder to make, e.g. "data.zarr"
    config : settings; same seed, same bytes, for any number of workers
    on_progress : called with (particles done, particles in all)

    Raises
    ------
    InputError
        If a class is not in the library or the box does not fit the tomogram.
    """
    out = Path(out)
    library = choose_structures(config)
    check_scene(config, library)
    check_sizes(config)
    rows_per_tomogram = min(config.particles_per_tomogram, config.particles)
    tomograms = range(-(-config.particles // rows_per_tomogram))
    with output_folder(out) as part:
        names = (*(structure.name for structure in library), NONE_CLASS)
        attributes = {"seed": config.seed, "config": config.model_dump(mode="json", exclude={"workers", "device"})}
        create_store(part, config.particles, rows_per_tomogram, config.voxel_size, config.box_size, names, attributes)
        done = 0
        for count in map_items(partial(write_tomogram, part, config), tomograms, worker_count(config)):
            done += count
            if on_progress:
                on_progress(done, config.particles)
        inputs = [] if config.structures is None else [config.structures]
        write_manifest(part, "simulate", config, inputs, config.seed, {"class_names": names, "particles": config.particles})
    return out


def check_sizes(config: SimulateConfig) -> None:
    """InputError if no box fits into the tomogram."""
    if min(config.specimen.shape) < config.box_size + 8:
        raise InputError(f"specimen.shape is {config.specimen.shape}, but each side must exceed box_size ({config.box_size}) by at least 8 voxels")


def write_tomogram(store_path: Path, config: SimulateConfig, index: int) -> int:
    """Simulate tomogram `index` and write its rows into the store; return their number."""
    first = index * min(config.particles_per_tomogram, config.particles)
    count = min(config.particles_per_tomogram, config.particles - first)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tomograms are what is spread over the cores
    try:
        rows = simulate_rows(config, index, count)
    finally:
        torch.set_num_threads(threads)
    store = open_store(store_path, mode="r+")
    for name, values in rows.items():
        store.write(name, first, values)
    return count


@dataclass(frozen=True, eq=False)
class Tomogram:
    """Signal and noise of a reconstructed tomogram (nz, ny, nx), what is in it, and the numbers that were drawn."""

    signal: NDArray[np.float32]
    noise: NDArray[np.float32]
    specimen: Specimen
    drawn: dict[str, float]


def simulate_rows(config: SimulateConfig, index: int, count: int) -> Rows:
    """All arrays of the store for the `count` subtomograms of one tomogram."""
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(index,)))
    templates = prepare_templates(config)
    tomogram = simulate_tomogram(rng, config, templates)
    nones = round(count * config.none_share)
    targets = choose_targets(rng, tomogram.specimen, config, templates, count - nones)
    crops = [particle_crop(rng, tomogram, config, templates, target) for target in targets]
    usual = float(np.median([crop.signal.std() for crop in crops] or [tomogram.signal.std()])) or 1.0
    crops += [none_crop(rng, tomogram, config, templates) for _ in range(count - len(crops))]
    order = rng.permutation(count)
    rows = [finish_crop(rng, crops[i], usual, tomogram, config, index, len(templates)) for i in order]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def simulate_tomogram(rng: np.random.Generator, config: SceneConfig, templates: Sequence[Template]) -> Tomogram:
    """A whole tomogram in memory."""
    scene = simulate_scene(rng, config, templates, choose_device(config.device))
    signal, noise = (np.empty(config.specimen.shape, dtype=np.float32) for _ in range(2))
    for (first, last), *slab in reconstruct_rows(scene):
        signal[:, first:last], noise[:, first:last] = slab
    return Tomogram(signal, noise, scene.specimen, scene.drawn)


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


def choose_targets(rng: np.random.Generator, specimen: Specimen, config: SimulateConfig, templates: Sequence[Template], count: int) -> list[Placed]:
    """Particles to cut out, as evenly over the classes as the specimen allows.

    Where it has too few whose box lies in the tomogram, some are cut out again with another shift.
    """
    low, high = box_limits(config)
    reach = config.max_shift / config.voxel_size
    inside = [p for p in specimen.placed if ((p.position > low - reach) & (p.position < high + reach)).all()]
    if not inside:
        return []
    by_class: list[list[Placed]] = [[] for _ in templates]
    for i in rng.permutation(len(inside)):
        by_class[inside[i].label].append(inside[i])
    once = [members[depth] for depth in range(max(map(len, by_class))) for members in by_class if depth < len(members)]
    present = [members for members in by_class if members]
    again = (members[depth % len(members)] for depth in itertools.count() for members in present)
    return once[:count] + list(itertools.islice(again, max(0, count - len(once))))


def particle_crop(rng: np.random.Generator, tomogram: Tomogram, config: SimulateConfig, templates: Sequence[Template], target: Placed) -> Crop:
    """The box around a particle, shifted at random, with its mask and clean density."""
    low, high = box_limits(config)
    reach = config.max_shift / config.voxel_size
    centre = np.round(target.position + rng.uniform(-reach, reach, 3)).astype(np.int64)
    centre = np.clip(centre, low, high)
    box = config.box_size
    template = templates[target.label]
    density = np.zeros((box, box, box), dtype=np.float32)
    patch = posed(template, target.rotation, target.position % 1, tomogram.specimen.size_factor)
    paste(density, patch, np.floor(target.position).astype(np.int64) - centre + box // 2)
    return Crop(cut(tomogram.signal, centre, box), cut(tomogram.noise, centre, box), density > template.contour, density, centre, target)


def none_crop(rng: np.random.Generator, tomogram: Tomogram, config: SimulateConfig, templates: Sequence[Template]) -> Crop:
    """A box without a particle at its centre: a third on membranes, a third beside a particle, the rest anywhere.

    The nearest centre of a particle is at least 80 Å and 0.6 of its radius away.
    """
    box = config.box_size
    candidates = none_candidates(rng, tomogram.specimen, config, templates)
    clearance = particle_clearance(candidates, tomogram.specimen, config, templates)
    clear = np.flatnonzero(clearance >= 0)
    # In a tomogram so crowded that nowhere is clear, the clearest place has to do.
    centre = candidates[clear[0] if len(clear) else clearance.argmax()]
    empty = np.zeros((box, box, box), dtype=np.float32)
    return Crop(cut(tomogram.signal, centre, box), cut(tomogram.noise, centre, box), empty > 0, empty, centre, None)


def none_candidates(rng: np.random.Generator, specimen: Specimen, config: SimulateConfig, templates: Sequence[Template]) -> NDArray[np.int64]:
    """A hundred voxels (x, y, z) on which a box of the class "none" may be centred."""
    low, high = box_limits(config)
    kind = rng.integers(3)
    points: NDArray[Any] = rng.uniform(low, high, (100, 3))
    if kind == 0 and specimen.vesicles:
        shells = np.concatenate([shell_points(vesicle) for vesicle in specimen.vesicles])
        shells = shells[((shells >= low) & (shells <= high)).all(1)]
        points = shells[rng.integers(len(shells), size=100)] if len(shells) else points
    elif kind == 1 and specimen.placed:
        picks = [specimen.placed[i] for i in rng.integers(len(specimen.placed), size=100)]
        away = rng.normal(size=(100, 3))
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        reach = np.array([max(80 / config.voxel_size, templates[p.label].radius) for p in picks])
        points = np.array([p.position for p in picks]) + away * (reach * rng.uniform(0.6, 1.2, 100))[:, None]
    inside: NDArray[np.int64] = np.clip(np.round(points), low, high).astype(np.int64)
    return inside


def particle_clearance(
    points: NDArray[np.int64], specimen: Specimen, config: SimulateConfig, templates: Sequence[Template]
) -> NDArray[np.float64]:
    """How much farther than demanded each point is from the centre of any particle, voxels; negative if too near."""
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


def cut(volume: NDArray[np.float32], centre: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """The cube whose index size // 2 is voxel `centre` (x, y, z)."""
    z, y, x = centre[::-1] - size // 2
    return volume[z : z + size, y : y + size, x : x + size]


def finish_crop(
    rng: np.random.Generator, crop: Crop, usual: float, tomogram: Tomogram, config: SimulateConfig, index: int, none_label: int
) -> Rows:
    """Mix signal and noise, at a random SNR or as the dose has it; one row of the store.

    The unit of the signal is its standard deviation in the box; or that of the tomogram's `usual` box, where the box holds no
    particle, or gold, which would leave nothing of the particle.
    """
    own = float(crop.signal.std())
    unit = usual if crop.placed is None or own == 0 or has_bead(crop, tomogram.specimen) else own
    signal = (crop.signal - crop.signal.mean()) / unit
    noise_deviation = float(crop.noise.std())
    noise = (crop.noise - crop.noise.mean()) / noise_deviation
    scale = unit / noise_deviation if config.snr is None else math.sqrt(draw_log_uniform(rng, config.snr))
    at = crop.centre if crop.placed is None else crop.placed.position
    values: dict[str, object] = {
        "subtomogram": scale * signal + noise,
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
    dtypes = {name: about[0] for name, about in BOX_ARRAYS.items()} | {name: about[0] for name, about in ROW_ARRAYS.items()}
    return {name: convert(np.asarray(value), dtypes[name]) for name, value in values.items()}


def convert(values: NDArray[Any], dtype: str) -> NDArray[np.generic]:
    """The values in another type; to half precision by torch, which is six times faster than numpy."""
    if dtype == "float16" and values.dtype == np.float32:
        return torch.from_numpy(values).half().numpy()
    return values.astype(dtype)
