"""One simulated tomogram: specimen and acquisition, drawn from the ranges of the settings, and its reconstruction, row by row.

The tilt axis runs along y, so that projection and back-projection treat every y-slice apart. A scene is therefore computed in
slabs of rows, and the memory that it takes depends on the tomogram's images, not on its volume.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.config import AcquisitionConfig, CtfCorrection, SceneConfig, Smoothing, SpecimenConfig, TiltOrder
from triptych.device import choose_device
from triptych.errors import InputError
from triptych.simulation.library import hash_structures, load_library
from triptych.simulation.physics import (
    Acquisition,
    Correction,
    back_project,
    detect,
    draw_log_uniform,
    form_images,
    interpolator,
    project,
    project_balls,
    smoothing_filter,
    transpose,
    weight_images,
)
from triptych.simulation.specimen import (
    LARGEST_FACTOR,
    PosedParticles,
    Specimen,
    Template,
    draw_gold,
    draw_membranes,
    draw_particles,
    fill_specimen,
    make_template,
)
from triptych.simulation.structures import Structure
from triptych.workspace import Workspace, open_workspace

MARGIN = 32
"""Voxels beyond the tomogram's edge that are simulated too: they hold the outer neighbours, and what the CTF spreads."""
SLAB_VOXELS = 2**26
"""Most voxels that are held in memory at once."""
STEEPEST_TILT = 85.0
"""Degrees."""
LEAST_FILLED = 0.8
"""Share of the occupancy asked for below which it is said that there was no room for more."""
Word = TypeVar("Word", bound=str)
Config = TypeVar("Config", bound=SceneConfig)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scene:
    """One tomogram and all that is true of it.

    Attributes
    ----------
    signal, noise : (t, ny + 2 MARGIN, nx + 2 MARGIN) images, weighted for back-projection
    drawn : the numbers that were drawn, by the names under which they are recorded
    """

    particles: PosedParticles
    acquisition: Acquisition
    signal: Tensor
    noise: Tensor
    drawn: dict[str, float]

    @property
    def specimen(self) -> Specimen:
        return self.particles.specimen


def choose_structures(config: SceneConfig) -> list[Structure]:
    """The structures of the library that the settings ask for."""
    library = {structure.name: structure for structure in load_library(config.structures)}
    unknown = [name for name in config.classes or () if name not in library]
    if unknown:
        raise InputError(f"classes names {', '.join(unknown)}, which the structure library does not have; it has {', '.join(library)}")
    return [library[name] for name in config.classes or library]


def check_scene(config: SceneConfig, library: Sequence[Structure]) -> None:
    """InputError where the ranges of the settings do not go together; a warning where the structures are coarser than the voxels."""
    coarsest = max(structure.density.voxel_size for structure in library)
    if coarsest > 1.01 * config.voxel_size:
        what = f"structures come at {coarsest:g} Å per voxel, {config.voxel_size:g} Å are simulated: detail finer than {2 * coarsest:g} Å is missing"
        logger.warning("%s; `triptych structures make --voxel-size %g` makes finer ones", what, config.voxel_size)
    if config.specimen.voxel_size_error[1] > LARGEST_FACTOR:
        raise InputError(f"specimen.voxel_size_error goes up to {config.specimen.voxel_size_error[1]}, but at most {LARGEST_FACTOR} was expected")
    tilts = config.acquisition
    if tilts.tilt_max[0] < tilts.tilt_step[1]:
        raise InputError(f"acquisition.tilt_max starts at {tilts.tilt_max[0]}°, but at least one acquisition.tilt_step was expected")
    steepest = tilts.tilt_max[1] + max(map(abs, tilts.tilt_centre))
    if steepest >= STEEPEST_TILT:
        raise InputError(f"acquisition.tilt_max and tilt_centre reach {steepest:g}°, but less than {STEEPEST_TILT:g}° was expected")


def warn_of_room(occupancy: NDArray[Any], config: SpecimenConfig) -> None:
    """Warn where particles fill less of the tomograms' ice, (n,) shares, than the settings ask for at least."""
    if occupancy.mean() < LEAST_FILLED * config.occupancy[0]:
        numbers = occupancy.min(), occupancy.max(), config.occupancy[0]
        logger.warning(
            "particles fill %.3g to %.3g of the ice, for want of room, though specimen.occupancy asks for %g at least: make specimen.gap smaller, "
            "specimen.shape larger, or ask for less", *numbers
        )  # fmt: skip


def open_run(out: Path, config: SceneConfig, library: Sequence[Structure], create: Callable[[Path], object]) -> tuple[Workspace, str]:
    """The working folder with what `create` makes, or that of an interrupted run; and a hash of the structures."""
    library_hash = hash_structures(library)
    device = choose_device(config.device).type  # whose random numbers are others
    agreed = {"content of the library": library_hash, "kind of device": device, **config.decisive()}
    return open_workspace(out, agreed, create), library_hash


def make_portable(config: Config) -> Config:
    """The settings for a worker, which may have another working directory, and shall compute on the same kind of device."""
    device = config.device if config.device != "auto" else "cpu" if choose_device("auto").type == "cpu" else "gpu"
    return config.from_anywhere().model_copy(update={"device": device})


_templates: dict[tuple[str, tuple[str, ...] | None, float], list[Template]] = {}


def prepare_templates(config: SceneConfig) -> list[Template]:
    """The templates of a run, made once in each process."""
    key = (str(config.structures), config.classes, config.voxel_size)
    if key not in _templates:
        _templates.clear()
        _templates[key] = [make_template(structure, config.voxel_size) for structure in choose_structures(config)]
    return _templates[key]


def simulate_scene(rng: np.random.Generator, config: SceneConfig, templates: Sequence[Template], device: torch.device) -> Scene:
    """Fill a specimen and take its tilt series."""
    specimen = fill_specimen(rng, config.specimen, templates, config.voxel_size, MARGIN)
    particles = PosedParticles(specimen, templates)
    acquisition, correction, drawn = draw_acquisition(rng, config.acquisition, specimen.ice_thickness, device)
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    projections = project_specimen(particles, acquisition, config.voxel_size)
    signal, noise = detect(form_images(projections, acquisition, config.voxel_size), acquisition, config.voxel_size, generator)
    smoothing = smoothing_filter(signal, noise, correction, config.voxel_size)
    signal, noise = (weight_images(images, acquisition, correction, config.voxel_size, smoothing) for images in (signal, noise))
    drawn |= {"voxel_size_factor": specimen.size_factor, "ice_thickness": specimen.ice_thickness}
    drawn |= {"occupancy": specimen.occupancy, "cytosol": specimen.cytosol_share}
    return Scene(particles, acquisition, signal, noise, drawn)


def tomogram_rng(seed: int, number: int) -> np.random.Generator:
    """The random stream of a tomogram, whoever computes it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))


_one_at_a_time = threading.Lock()
_known_library = ""


@contextmanager
def one_tomogram(library_hash: str) -> Iterator[None]:
    """Compute a tomogram of that library.

    The number of threads, on which sums depend, and the templates belong to the whole process: so one at a time. Tomograms, not
    threads, are what is spread over the cores.
    """
    global _known_library
    with _one_at_a_time:
        if library_hash != _known_library:  # a library may change under its path while a worker of a cluster lives
            _templates.clear()
            _known_library = library_hash
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def slabs(shape: tuple[int, int, int], margin: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows (y) that together cover a tomogram and a margin along y; each fits in memory with its margin along x."""
    nz, ny, nx = shape
    rows = max(1, SLAB_VOXELS // (nz * (nx + 2 * margin)))
    for first in range(-margin, ny + margin, rows):
        yield first, min(first + rows, ny + margin)


def project_specimen(particles: PosedParticles, acquisition: Acquisition, voxel_size: float) -> Tensor:
    """Projections of the specimen with its margin, (t, ny + 2 MARGIN, nx + 2 MARGIN)."""
    specimen = particles.specimen
    nz, _, nx = specimen.shape
    width = nx + 2 * MARGIN
    device = acquisition.tilt_angles.device
    matrix = transpose(interpolator(nz, width, width, acquisition.tilt_angles))
    parts = []
    for rows in slabs(specimen.shape, MARGIN):
        volume = draw_particles(particles, rows, MARGIN)
        draw_membranes(volume, specimen, rows, MARGIN, voxel_size)
        draw_gold(volume, specimen, rows, MARGIN, voxel_size)
        parts.append(project(torch.from_numpy(volume).to(device), matrix, len(acquisition.tilt_angles)))
    images = torch.cat(parts, 1)
    middle = np.array(specimen.shape[::-1]) // 2
    balls = [(radius, torch.from_numpy(centres - middle).to(device)) for radius, centres in specimen.cytosol]
    images += project_balls(balls, acquisition.tilt_angles, images.shape[1], width)
    return images


def reconstruct_rows(scene: Scene) -> Iterator[tuple[tuple[int, int], NDArray[np.float32], NDArray[np.float32]]]:
    """The reconstructed tomogram, slab by slab: range of rows, signal and noise (nz, rows, nx)."""
    nz, _, nx = scene.specimen.shape
    matrix = interpolator(nz, nx, scene.signal.shape[2], scene.acquisition.nominal_angles)
    for first, last in slabs(scene.specimen.shape, 0):
        here = slice(first + MARGIN, last + MARGIN)
        signal, noise = (back_project(images[:, here], matrix, nz, nx).cpu().numpy() for images in (scene.signal, scene.noise))
        yield (first, last), signal, noise


def draw_acquisition(
    rng: np.random.Generator, config: AcquisitionConfig, ice_thickness: float = 0.0, device: torch.device | None = None
) -> tuple[Acquisition, Correction, dict[str, float]]:
    """Draw one tilt series from the ranges of the settings; also the numbers drawn, as they are recorded."""
    plan = draw_tilt_plan(rng, config)
    acquisition = draw_tilts(rng, plan, config, ice_thickness, device)
    correction = draw_correction(rng, config)
    return acquisition, correction, recorded_numbers(plan, acquisition, correction)


@dataclass(frozen=True, eq=False)
class TiltPlan:
    """What the microscope is told to do, and how well it does it.

    The angles (t,) ascend, in degrees; the dose is that of the whole series; the jitters are standard deviations in degrees and Å.
    """

    angles: NDArray[Any]
    step: float
    order: TiltOrder
    dose_e_per_a2: float
    defocus_um: float
    tilt_jitter: float
    shift_jitter: float


def draw_tilt_plan(rng: np.random.Generator, config: AcquisitionConfig) -> TiltPlan:
    tilt_max, tilt_step, tilt_centre = (rng.uniform(*limits) for limits in (config.tilt_max, config.tilt_step, config.tilt_centre))
    most = int(tilt_max / tilt_step + 1e-9)  # 66 / 2.2 is a little less than 30
    angles = np.arange(-most, most + 1) * tilt_step + tilt_centre
    tilt_jitter, shift_jitter = rng.uniform(*config.tilt_jitter), rng.uniform(*config.shift_jitter)
    dose, defocus = rng.uniform(*config.dose_e_per_a2), rng.uniform(*config.defocus_um)
    return TiltPlan(angles, tilt_step, draw_word(rng, config.tilt_order, get_args(TiltOrder)), dose, defocus, tilt_jitter, shift_jitter)


def draw_tilts(rng: np.random.Generator, plan: TiltPlan, config: AcquisitionConfig, ice_thickness: float, device: torch.device | None) -> Acquisition:
    """What really happens at each tilt, and the optics."""
    count = len(plan.angles)
    doses, exposures = np.full(count, plan.dose_e_per_a2 / count), np.zeros(count)
    if config.radiation_damage:
        exposures[tilt_sequence(plan.angles, plan.order)] = (np.arange(count) + 0.5) * doses[0]

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).float().to(device)

    return Acquisition(
        tilt_angles=tensor(plan.angles + rng.normal(0, plan.tilt_jitter, count)),
        nominal_angles=tensor(plan.angles),
        shifts=tensor(rng.normal(0, plan.shift_jitter, (count, 2))),
        defocus_um=tensor(plan.defocus_um + rng.normal(0, config.defocus_jitter_um, count)),
        exposures=tensor(exposures),
        doses=tensor(doses),
        voltage_kv=config.voltage_kv,
        spherical_aberration_mm=config.spherical_aberration_mm,
        amplitude_contrast=config.amplitude_contrast,
        astigmatism_um=rng.uniform(*config.astigmatism_um),
        astigmatism_angle=rng.uniform(0, 180),
        defocus_gradient=config.defocus_gradient,
        ice_thickness=ice_thickness,
        b_factor=rng.uniform(*config.b_factor),
        quantum_efficiency=config.quantum_efficiency,
        mtf_at_nyquist=rng.uniform(*config.detector_mtf),
    )


def draw_correction(rng: np.random.Generator, config: AcquisitionConfig) -> Correction:
    ctf = draw_word(rng, config.ctf_correction, get_args(CtfCorrection))
    constant, weighted = draw_log_uniform(rng, config.deconvolution_constant), bool(rng.random() < config.dose_weighting)
    smoothing, low_pass = draw_word(rng, config.smoothing, get_args(Smoothing)), rng.uniform(*config.low_pass)
    cosine = bool(rng.random() < config.cosine_weighting)
    return Correction(ctf, constant, weighted, cosine, smoothing, low_pass if smoothing == "low_pass" else 0.0)


def recorded_numbers(plan: TiltPlan, acquisition: Acquisition, correction: Correction) -> dict[str, float]:
    """What is kept of a tilt series in the dataset; a word by its place among the words of its setting."""
    return {
        "defocus_um": float(acquisition.defocus_um.mean()),
        "astigmatism_um": acquisition.astigmatism_um,
        "dose_e_per_a2": plan.dose_e_per_a2,
        "tilt_min": plan.angles[0],
        "tilt_max": plan.angles[-1],
        "tilt_step": plan.step,
        "tilt_order": get_args(TiltOrder).index(plan.order),
        "tilt_jitter": plan.tilt_jitter,
        "shift_jitter": plan.shift_jitter,
        "b_factor": acquisition.b_factor,
        "detector_mtf": acquisition.mtf_at_nyquist,
        "ctf_correction": get_args(CtfCorrection).index(correction.ctf),
        "deconvolution_constant": correction.deconvolution_constant,
        "dose_weighting": correction.dose_weighting,
        "cosine_weighting": correction.cosine_weighting,
        "smoothing": get_args(Smoothing).index(correction.smoothing),
        "low_pass": correction.low_pass,
    }


def draw_word(rng: np.random.Generator, frequencies: dict[Word, float], words: tuple[Word, ...]) -> Word:
    """One of the words, as often as the table says; settings that say the same in another order draw the same."""
    shares = np.array([frequencies.get(word, 0) for word in words], dtype=float)
    return words[int(rng.choice(len(shares), p=shares / shares.sum()))]


def tilt_sequence(angles: NDArray[Any], order: TiltOrder) -> NDArray[np.int64]:
    """Indices of the tilts (ascending angles) in the order in which they are taken.

    Dose-symmetric: from the middle outwards, both sides in turn (Hagen, Wan & Briggs 2017); bidirectional: from the middle to the highest,
    then from the middle to the lowest; continuous: from the lowest to the highest.
    """
    if order == "continuous":
        return np.arange(len(angles))
    middle = len(angles) // 2
    if order == "bidirectional":
        return np.concatenate([np.arange(middle, len(angles)), np.arange(middle)[::-1]])
    return np.argsort(np.abs(np.arange(len(angles)) - middle), kind="stable")
