"""Structures + physics + seed -> labelled subtomograms.

Whole tomograms are simulated and particles cut from them, so that neighbours, missing wedge and noise are what they are in a
real reconstruction, and thousands of particles share one projection and one reconstruction. Each tomogram has its own random
stream, spawned from the seed and its number, and writes its own rows: the result does not depend on who computes what.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.config import NONE_CLASS, AcquisitionConfig, CtfCorrection, SimulateConfig
from triptych.errors import InputError
from triptych.io.manifest import installed_version, write_manifest
from triptych.io.store import BOX_ARRAYS, ROW_ARRAYS, create_store, open_store, remove_leftovers
from triptych.io.workspace import Workspace, open_workspace
from triptych.parallel import map_items
from triptych.physics import Acquisition, Correction, draw_log_uniform, reconstruct, shot_noise, simulate_tilt_series
from triptych.specimen import LARGEST_FACTOR, Occupancy, Placed, Template, add_vesicles, draw_particles, make_template, pack, paste, posed
from triptych.structures import Structure, load_library

MARGIN = 32
"""Voxels beyond the tomogram's edge, so that what the CTF spreads does not wrap around."""
Rows = dict[str, NDArray[np.generic]]
Progress = Callable[[int, int], None]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scene:
    """One simulated tomogram and all that is true of it."""

    signal: NDArray[np.float32]
    noise: NDArray[np.float32]
    membrane: NDArray[np.bool_]
    placed: list[Placed]
    size_factor: float
    occupancy: float
    drawn: dict[str, float]


def simulate(
    out: Path | str,
    config: SimulateConfig,
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
    config : settings; same seed, same bytes, for any number of workers
    on_progress : called with (particles done, particles in all), first with those that an earlier run has finished
    part : (k, n) to do only the k-th of n parts (k from 1), each perhaps on a machine of its own that sees the same folder
    scheduler : address of a Dask scheduler whose workers simulate instead of processes on this machine

    Raises
    ------
    InputError
        If a class is not in the library, the box does not fit the tomogram, or a run with other settings was begun under this name.
    """
    number, parts = part or (1, 1)
    if not 1 <= number <= parts:
        raise InputError(f"part {number} of {parts} was asked for, but the parts are numbered from 1 to {parts}")
    library = choose_structures(config)
    check_sizes(config)
    warn_of_coarse_structures(library, config)
    workspace, library_hash = open_run(Path(out), config, library)
    try:
        write_tomograms(workspace, config, library_hash, range(count_tomograms(config))[number - 1 :: parts], on_progress, scheduler)
        if len(workspace.done()) == count_tomograms(config):
            finish_run(workspace, config, library)
    except (InputError, OSError):
        if workspace.is_finished():
            workspace.clear()  # another process had the same tomograms to do, and was faster
            return Path(out)
        if workspace.is_new and part is None and not workspace.done():
            workspace.clear()
        raise
    return Path(out)


def simulate_again(data: Path, out: Path, seed: int, workers: int = 0) -> Path:
    """Simulate what a store holds with another seed: new poses, neighbours and tilt series. An `out` that is there is left as it is."""
    if out.exists():
        return out
    try:
        config = SimulateConfig.model_validate({**open_store(data).attributes["config"], "seed": seed, "workers": workers})
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{data} does not say how it was simulated, or in another version's way: simulate it anew with this one") from None
    return simulate(out, config)


def warn_of_coarse_structures(library: Sequence[Structure], config: SimulateConfig) -> None:
    coarsest = max(structure.density.voxel_size for structure in library)
    if coarsest > 1.01 * config.voxel_size:
        sizes = coarsest, config.voxel_size, 2 * coarsest
        logger.warning("structures come at %g Å per voxel, %g Å are simulated: detail finer than %g Å is missing", *sizes)


def open_run(out: Path, config: SimulateConfig, library: Sequence[Structure]) -> tuple[Workspace, str]:
    """The working folder with an empty store, or that of an interrupted run; and a hash of the structures."""
    settings = config.model_dump(mode="json", exclude={"workers"})
    library_hash = hash_structures(library)

    def create(path: Path) -> None:
        rows = count_rows(config, 0)
        names = class_names(library)
        create_store(path, config.particles, rows, config.voxel_size, config.box_size, names, {"seed": config.seed, "config": settings})

    return open_workspace(out, {"version": installed_version(), "content of the library": library_hash, **settings}, create), library_hash


def finish_run(workspace: Workspace, config: SimulateConfig, library: Sequence[Structure]) -> None:
    remove_leftovers(workspace.result)
    inputs = [] if config.structures is None else [config.structures]
    extra = {"class_names": class_names(library), "particles": config.particles}
    workspace.finish(lambda folder: write_manifest(folder, "simulate", config, inputs, config.seed, extra))


def count_missing(out: Path | str, config: SimulateConfig) -> tuple[int, int]:
    """How many tomograms of a store are still to be simulated, and how many it has in all."""
    total = count_tomograms(config)
    try:
        return total - len(Workspace(Path(out).absolute()).done()), total
    except FileNotFoundError:
        return (0 if Path(out).exists() else total), total


def count_tomograms(config: SimulateConfig) -> int:
    return -(-config.particles // config.particles_per_tomogram)


def count_rows(config: SimulateConfig, index: int) -> int:
    """Rows of the store that come from tomogram `index`."""
    return min(config.particles_per_tomogram, config.particles - index * config.particles_per_tomogram)


def class_names(library: Sequence[Structure]) -> tuple[str, ...]:
    return (*(structure.name for structure in library), NONE_CLASS)


def hash_structures(library: Sequence[Structure]) -> str:
    """SHA-256 of all that the simulation takes from a library."""
    digest = hashlib.sha256()
    for structure in library:
        density = structure.density
        digest.update(repr((structure.name, structure.contour, density.voxel_size, density.data.shape)).encode())
        digest.update(np.ascontiguousarray(density.data).tobytes())
    return digest.hexdigest()


def choose_structures(config: SimulateConfig) -> list[Structure]:
    """The structures of the library that the settings ask for."""
    library = {structure.name: structure for structure in load_library(config.structures)}
    if config.classes is None:
        return list(library.values())
    unknown = [name for name in config.classes if name not in library]
    if unknown:
        raise InputError(f"classes names {', '.join(unknown)}, which the structure library does not have; it has {', '.join(library)}")
    return [library[name] for name in config.classes]


def check_sizes(config: SimulateConfig) -> None:
    """InputError if no box fits into the tomogram."""
    if min(config.specimen.shape) < config.box_size + 8:
        raise InputError(f"specimen.shape is {config.specimen.shape}, but each side must exceed box_size ({config.box_size}) by at least 8 voxels")
    if config.specimen.voxel_size_error[1] > LARGEST_FACTOR:
        raise InputError(f"specimen.voxel_size_error goes up to {config.specimen.voxel_size_error[1]}, but at most {LARGEST_FACTOR} was expected")
    if config.acquisition.tilt_max[0] < config.acquisition.tilt_step[1]:
        raise InputError(f"acquisition.tilt_max starts at {config.acquisition.tilt_max[0]}°, but at least one acquisition.tilt_step was expected")


def write_tomograms(
    workspace: Workspace, config: SimulateConfig, library_hash: str, wanted: Sequence[int], on_progress: Progress | None, scheduler: str | None
) -> None:
    """Simulate those of the wanted tomograms that are not there yet."""
    finished = workspace.done()
    total, done = sum(count_rows(config, i) for i in wanted), sum(count_rows(config, i) for i in wanted if i in finished)
    # A worker may have another working directory.
    portable = config.model_copy(update={"structures": config.structures and config.structures.absolute()})
    write = partial(write_tomogram, workspace, portable, library_hash)
    for count in itertools.chain([0], map_items(write, [i for i in wanted if i not in finished], config.workers, scheduler)):
        done += count
        if on_progress:
            on_progress(done, total)


_one_at_a_time = threading.Lock()
_known_library = ""


def write_tomogram(workspace: Workspace, config: SimulateConfig, library_hash: str, index: int) -> int:
    """Simulate tomogram `index`, write its rows into the store and note that they are there; return their number."""
    global _known_library
    first, count = index * config.particles_per_tomogram, count_rows(config, index)
    with _one_at_a_time:  # the number of threads, on which sums depend, and the templates belong to the whole process
        if library_hash != _known_library:  # a library may change under its path while a worker of a cluster lives
            _templates.clear()
            _known_library = library_hash
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tomograms are what is spread over the cores
        try:
            rows = simulate_rows(config, index, count)
        finally:
            torch.set_num_threads(threads)
    store = open_store(workspace.result, mode="r+")
    for name, values in rows.items():
        store.array(name)[first : first + count] = values
    workspace.mark(index)
    return count


def simulate_rows(config: SimulateConfig, index: int, count: int) -> Rows:
    """All arrays of the store for the `count` subtomograms of one tomogram."""
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(index,)))
    templates = prepare_templates(config)
    scene = simulate_scene(rng, config, templates)
    nones = round(count * config.none_share) if templates else count
    targets = choose_targets(rng, scene, config, templates, count - nones)
    crops = [particle_crop(rng, scene, config, templates, target) for target in targets]
    usual = float(np.median([crop.signal_deviation for crop in crops])) if crops else 1.0
    crops += [none_crop(rng, scene, config, templates, usual) for _ in range(count - len(crops))]
    order = rng.permutation(count)
    rows = [finish_crop(rng, crops[i], scene, config, index, len(templates)) for i in order]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


_templates: dict[tuple[str, tuple[str, ...] | None, float], list[Template]] = {}


def prepare_templates(config: SimulateConfig) -> list[Template]:
    """The templates of a run, made once in each process."""
    key = (str(config.structures), config.classes, config.voxel_size)
    if key not in _templates:
        _templates.clear()
        _templates[key] = [make_template(structure, config.voxel_size) for structure in choose_structures(config)]
    return _templates[key]


def simulate_scene(rng: np.random.Generator, config: SimulateConfig, templates: Sequence[Template]) -> Scene:
    """Fill a specimen, take its tilt series and reconstruct signal and noise apart."""
    specimen = config.specimen
    volume = np.zeros(specimen.shape, dtype=np.float32)
    occupancy = Occupancy(specimen.shape, specimen.gap / config.voxel_size)
    vesicles = int(rng.integers(specimen.vesicles[0], specimen.vesicles[1] + 1))
    add_vesicles(rng, volume, occupancy, vesicles, specimen.vesicle_radius, config.voxel_size)
    membrane = volume > 0.3
    placed = pack(rng, templates, occupancy, draw_log_uniform(rng, specimen.occupancy), specimen.contact_share)
    size_factor = rng.uniform(*specimen.voxel_size_error)
    draw_particles(volume, placed, templates, size_factor)
    acquisition, correction, drawn = draw_acquisition(rng, config.acquisition)
    images = simulate_tilt_series(torch.from_numpy(volume), acquisition, config.voxel_size, MARGIN)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    noise = shot_noise(acquisition, images.shape[1], images.shape[2], config.voxel_size, generator)
    filled = sum(templates[p.label].volume for p in placed) / volume.size
    signal, noise = (reconstruct(x, acquisition, correction, specimen.shape, config.voxel_size) for x in (images, noise))
    return Scene(signal.numpy(), noise.numpy(), membrane, placed, size_factor, filled, drawn)


def draw_acquisition(rng: np.random.Generator, config: AcquisitionConfig) -> tuple[Acquisition, Correction, dict[str, float]]:
    """Draw one tilt series from the ranges of the settings; also the numbers drawn, as the store keeps them."""
    tilt_max, tilt_step = rng.uniform(*config.tilt_max), rng.uniform(*config.tilt_step)
    angles = np.arange(-int(tilt_max / tilt_step), int(tilt_max / tilt_step) + 1) * tilt_step
    tilt_jitter, shift_jitter = rng.uniform(*config.tilt_jitter), rng.uniform(*config.shift_jitter)
    dose = rng.uniform(*config.dose_e_per_a2)
    defocus = rng.uniform(*config.defocus_um)
    doses = np.full(len(angles), dose / len(angles))
    exposures = np.empty(len(angles))
    # Dose-symmetric (Hagen et al. 2017): from the untilted specimen outwards.
    exposures[np.argsort(np.abs(angles), kind="stable")] = (np.arange(len(angles)) + 0.5) * doses[0]
    acquisition = Acquisition(
        tilt_angles=_tensor(angles + rng.normal(0, tilt_jitter, len(angles))),
        nominal_angles=_tensor(angles),
        shifts=_tensor(rng.normal(0, shift_jitter, (len(angles), 2))),
        defocus_um=_tensor(defocus + rng.normal(0, config.defocus_jitter_um, len(angles))),
        exposures=_tensor(exposures),
        doses=_tensor(doses),
        voltage_kv=config.voltage_kv,
        spherical_aberration_mm=config.spherical_aberration_mm,
        amplitude_contrast=config.amplitude_contrast,
        b_factor=rng.uniform(*config.b_factor),
        mtf_at_nyquist=rng.uniform(*config.detector_mtf),
    )
    names = list(config.ctf_correction)
    shares = np.array(list(config.ctf_correction.values()), dtype=float)
    ctf = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    correction = Correction(ctf, draw_log_uniform(rng, config.deconvolution_constant), bool(rng.random() < config.dose_weighting))
    drawn = {
        "defocus_um": float(acquisition.defocus_um.mean()),
        "tilt_jitter": tilt_jitter,
        "detector_mtf": acquisition.mtf_at_nyquist,
        "dose_e_per_a2": dose,
        "tilt_max": angles[-1],
        "tilt_step": tilt_step,
        "shift_jitter": shift_jitter,
        "b_factor": acquisition.b_factor,
        "ctf_correction": get_args(CtfCorrection).index(ctf),
        "deconvolution_constant": correction.deconvolution_constant,
        "dose_weighting": correction.dose_weighting,
    }
    return acquisition, correction, drawn


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values).float()


@dataclass(frozen=True, eq=False)
class Crop:
    """A box cut from a scene; `placed` is None for the class "none". `centre` is its voxel (x, y, z) of index n // 2;
    `signal_deviation` is the grey value that becomes one standard deviation of the signal."""

    signal: NDArray[np.float32]
    noise: NDArray[np.float32]
    mask: NDArray[np.bool_]
    density: NDArray[np.float32]
    centre: NDArray[np.int64]
    placed: Placed | None
    signal_deviation: float


def box_limits(config: SimulateConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lowest and highest voxel (x, y, z) on which a box that lies in the tomogram can be centred."""
    half = config.box_size // 2
    shape = np.array(config.specimen.shape[::-1])
    return np.full(3, half), shape - (config.box_size - half)


def choose_targets(rng: np.random.Generator, scene: Scene, config: SimulateConfig, templates: Sequence[Template], count: int) -> list[Placed]:
    """Particles to cut out, as evenly over the classes as the scene allows.

    Where it has too few whose box lies in the tomogram, some are cut out again with another shift.
    """
    low, high = box_limits(config)
    reach = config.max_shift / config.voxel_size
    inside = [p for p in scene.placed if ((p.position > low - reach) & (p.position < high + reach)).all()]
    if not inside:
        return []
    by_class: list[list[Placed]] = [[] for _ in templates]
    for i in rng.permutation(len(inside)):
        by_class[inside[i].label].append(inside[i])
    once = [members[depth] for depth in range(max(map(len, by_class))) for members in by_class if depth < len(members)]
    present = [members for members in by_class if members]
    again = (members[depth % len(members)] for depth in itertools.count() for members in present)
    return once[:count] + list(itertools.islice(again, max(0, count - len(once))))


def particle_crop(rng: np.random.Generator, scene: Scene, config: SimulateConfig, templates: Sequence[Template], target: Placed) -> Crop:
    """The box around a particle, shifted at random, with its mask and clean density."""
    low, high = box_limits(config)
    reach = config.max_shift / config.voxel_size
    centre = np.round(target.position + rng.uniform(-reach, reach, 3)).astype(np.int64)
    centre = np.clip(centre, low, high)
    box = config.box_size
    template = templates[target.label]
    density = np.zeros((box, box, box), dtype=np.float32)
    patch = posed(template, target.rotation, target.position % 1, scene.size_factor)
    paste(density, patch, np.floor(target.position).astype(np.int64) - centre + box // 2)
    signal = cut(scene.signal, centre, box)
    deviation = float(signal.std()) or 1.0
    return Crop(signal, cut(scene.noise, centre, box), density > template.contour, density, centre, target, deviation)


def none_crop(rng: np.random.Generator, scene: Scene, config: SimulateConfig, templates: Sequence[Template], signal_deviation: float) -> Crop:
    """A box without a particle at its centre: a third on membranes, a third beside a particle, the rest anywhere.

    The nearest centre of a particle is at least 80 Å and 0.6 of its radius away.
    """
    box = config.box_size
    candidates = none_candidates(rng, scene, config, templates)
    clearance = particle_clearance(candidates, scene, config, templates)
    clear = np.flatnonzero(clearance >= 0)
    # In a scene so crowded that nowhere is clear, the clearest place has to do.
    centre = candidates[clear[0] if len(clear) else clearance.argmax()]
    empty = np.zeros((box, box, box), dtype=np.float32)
    return Crop(cut(scene.signal, centre, box), cut(scene.noise, centre, box), empty > 0, empty, centre, None, signal_deviation)


def none_candidates(rng: np.random.Generator, scene: Scene, config: SimulateConfig, templates: Sequence[Template]) -> NDArray[np.int64]:
    low, high = box_limits(config)
    kind = rng.integers(3)
    points: NDArray[Any]
    if kind == 0 and scene.membrane.any():
        points = np.argwhere(scene.membrane)[:, ::-1]
        points = points[rng.integers(len(points), size=100)]
    elif kind == 1 and scene.placed:
        picks = [scene.placed[i] for i in rng.integers(len(scene.placed), size=100)]
        away = rng.normal(size=(100, 3))
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        reach = np.array([max(80 / config.voxel_size, templates[p.label].radius) for p in picks])
        points = np.array([p.position for p in picks]) + away * (reach * rng.uniform(0.6, 1.2, 100))[:, None]
    else:
        points = rng.uniform(low, high, (100, 3))
    inside: NDArray[np.int64] = np.clip(np.round(points), low, high).astype(np.int64)
    return inside


def particle_clearance(points: NDArray[np.int64], scene: Scene, config: SimulateConfig, templates: Sequence[Template]) -> NDArray[np.float64]:
    """How much farther than demanded each point is from the centre of any particle, voxels; negative if too near."""
    if not scene.placed:
        return np.full(len(points), np.inf)
    centres = np.stack([p.position for p in scene.placed])
    demanded = np.maximum(80 / config.voxel_size, [0.6 * templates[p.label].radius for p in scene.placed])
    margins: NDArray[np.float64] = (np.linalg.norm(points[:, None] - centres, axis=-1) - demanded).min(1)
    return margins


def cut(volume: NDArray[np.float32], centre: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """The cube whose index size // 2 is voxel `centre` (x, y, z)."""
    z, y, x = centre[::-1] - size // 2
    return volume[z : z + size, y : y + size, x : x + size]


def finish_crop(rng: np.random.Generator, crop: Crop, scene: Scene, config: SimulateConfig, tomogram: int, none_label: int) -> Rows:
    """Mix signal and noise at a random SNR; one row of the store."""
    requested = draw_log_uniform(rng, config.snr)
    signal = (crop.signal - crop.signal.mean()) / crop.signal_deviation
    noise = (crop.noise - crop.noise.mean()) / crop.noise.std()
    amplitude = np.sqrt(requested)
    at = crop.centre if crop.placed is None else crop.placed.position
    values: dict[str, object] = {
        "subtomogram": amplitude * signal + noise,
        "signal": signal,
        "mask": crop.mask,
        "density": crop.density,
        "label": none_label if crop.placed is None else crop.placed.label,
        "tomogram": tomogram,
        "position": at * config.voxel_size,
        "rotation": np.eye(3) if crop.placed is None else crop.placed.rotation,
        "shift": (at - crop.centre) * config.voxel_size,
        "snr": requested * signal.var(),
        "signal_scale": amplitude,
        "voxel_size_factor": scene.size_factor,
        "occupancy": scene.occupancy,
        **scene.drawn,
    }
    dtypes = {name: about[0] for name, about in BOX_ARRAYS.items()} | {name: about[0] for name, about in ROW_ARRAYS.items()}
    return {name: np.asarray(value).astype(dtypes[name]) for name, value in values.items()}
