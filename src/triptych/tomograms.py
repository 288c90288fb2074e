"""Structures + physics + seed -> whole tomograms with their truth, as other programs read them.

A tomogram is written slab by slab, so that its size is limited by the disk and not by the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from triptych.config import TomogramConfig
from triptych.io.manifest import output_folder, write_manifest
from triptych.io.mrc import new_mrc
from triptych.io.relion import particle_columns
from triptych.io.star import Block, write_star
from triptych.model import choose_device
from triptych.parallel import map_items
from triptych.physics import draw_log_uniform
from triptych.scene import (
    Scene,
    check_scene,
    choose_structures,
    one_thread,
    prepare_templates,
    reconstruct_rows,
    simulate_scene,
    tomogram_rng,
    worker_count,
)
from triptych.specimen import NOT_PARTICLES, Template, draw_labels, draw_particles

MAPS = {"tomograms": "f4", "densities": "f4", "classes": "i2", "instances": "u2"}
"""Folders of the output, and the type of the values in their files."""
Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


def simulate_tomograms(out: Path | str, config: TomogramConfig, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Write simulated tomograms and all that is true of them.

    The folder then holds ``tomograms/`` (mean 0; the noise has standard deviation 1), ``densities/`` (of the particles alone; protein
    about 1), ``classes/`` (0 for background, then the numbers that ``classes.star`` names), ``instances/`` (0 for none, else
    ``_triptychInstance`` of the particles), ``particles.star``, ``tomograms.star`` and ``tilts.star``.

    Parameters
    ----------
    out : the folder to make
    config : settings; same seed, same bytes, for any number of workers
    on_progress : called with (tomograms done, tomograms in all)
    """
    library = choose_structures(config)
    check_scene(config, library)
    names = [structure.name for structure in library]
    with output_folder(out) as part:
        for folder in MAPS:
            (part / folder).mkdir()
        tables: dict[int, Tables] = {}
        for number, rows in map_items(partial(write_tomogram, part, config), range(config.tomograms), worker_count(config)):
            tables[number] = rows
            if on_progress:
                on_progress(len(tables), config.tomograms)
        write_tables(part, config, names, [tables[number] for number in range(config.tomograms)])
        inputs = [] if config.structures is None else [config.structures]
        write_manifest(part, "simulate-tomograms", config, inputs, config.seed, {"class_names": names})
    return Path(out)


def write_tomogram(folder: Path, config: TomogramConfig, number: int) -> tuple[int, Tables]:
    """Simulate one tomogram and write its files; return its rows of the tables of particles, tomograms and tilts."""
    name = tomogram_name(number)
    with nullcontext() if worker_count(config) == 1 else one_thread():
        rng = tomogram_rng(config.seed, number)
        templates = prepare_templates(config)
        scene = simulate_scene(rng, config, templates, choose_device(config.device))
        snr = None if config.snr is None else draw_log_uniform(rng, config.snr)
        drawn = write_maps(folder, name, config, templates, scene, snr)
    return number, (particle_table(name, config, scene, templates), tomogram_table(name, config, scene, drawn), tilt_table(name, scene))


def tomogram_name(number: int) -> str:
    return f"tomogram_{number:04d}"


def write_maps(folder: Path, name: str, config: TomogramConfig, templates: Sequence[Template], scene: Scene, snr: float | None) -> dict[str, float]:
    """Write the four maps of a tomogram, slab by slab; return its SNR, and the one that the dose would give."""
    measured, noise_deviation = measure_snr(scene)
    scale = 1.0 if snr is None else math.sqrt(snr / measured) if measured > 0 else 0.0
    unit = (1 if config.contrast == "bright" else -1) / noise_deviation
    with ExitStack() as stack:
        path = {kind: folder / kind / f"{name}.mrc" for kind in MAPS}
        maps = {kind: stack.enter_context(new_mrc(path[kind], config.specimen.shape, dtype, config.voxel_size)) for kind, dtype in MAPS.items()}
        for rows, signal, noise in reconstruct_rows(scene):
            here = slice(*rows)
            maps["tomograms"][:, here] = unit * (scale * signal + noise)
            maps["densities"][:, here] = draw_particles(scene.particles, rows, 0)
            maps["classes"][:, here], maps["instances"][:, here] = draw_labels(scene.particles, rows, config.voxel_size)
    return {"snr": measured * scale**2, "dose_snr": measured}


def measure_snr(scene: Scene) -> tuple[float, float]:
    """var(signal) / var(noise) over the whole tomogram as the dose gives it, and the noise's standard deviation."""
    sums = np.zeros((2, 2))
    for _, *parts in reconstruct_rows(scene):
        sums += [(part.sum(dtype=np.float64), np.square(part).sum(dtype=np.float64)) for part in parts]
    means = sums / math.prod(scene.specimen.shape)
    signal, noise = means[:, 1] - means[:, 0] ** 2
    return float(signal / noise), math.sqrt(noise)


def particle_table(name: str, config: TomogramConfig, scene: Scene, templates: Sequence[Template]) -> pd.DataFrame:
    """The particles whose centre lies in the tomogram; of the others only the labels show what reaches into it."""
    sides = np.array(config.specimen.shape[::-1])
    inside = [(i, p) for i, p in enumerate(scene.specimen.placed, start=1) if ((p.position >= 0) & (p.position <= sides - 1)).all()]
    positions = np.array([p.position for _, p in inside]).reshape(-1, 3) * config.voxel_size
    rotations = np.array([p.rotation for _, p in inside]).reshape(-1, 3, 3)
    return pd.DataFrame(
        {
            "rlnTomoName": name,
            **particle_columns(positions, rotations, config.voxel_size, config.specimen.shape),
            "rlnClassNumber": [p.label + 1 for _, p in inside],
            "rlnOpticsGroup": 1,
            "triptychClass": [templates[p.label].name for _, p in inside],
            "triptychInstance": [i for i, _ in inside],
        }
    )


def tomogram_table(name: str, config: TomogramConfig, scene: Scene, measured: dict[str, float]) -> pd.DataFrame:
    """One row: RELION's columns, and all that was drawn for this tomogram."""
    nz, ny, nx = config.specimen.shape
    row: dict[str, Any] = {
        "rlnTomoName": name,
        "rlnTomoReconstructedTomogram": f"tomograms/{name}.mrc",
        "rlnTomoTiltSeriesPixelSize": config.voxel_size,
        "rlnTomoTomogramBinning": 1.0,
        "rlnTomoSizeX": nx,
        "rlnTomoSizeY": ny,
        "rlnTomoSizeZ": nz,
        "rlnVoltage": config.acquisition.voltage_kv,
        "rlnSphericalAberration": config.acquisition.spherical_aberration_mm,
        "rlnAmplitudeContrast": config.acquisition.amplitude_contrast,
    }
    recorded = {camel_case(key): float(value) for key, value in (scene.drawn | measured).items()}
    return pd.DataFrame([row | recorded])


def camel_case(key: str) -> str:
    """tilt_max -> triptychTiltMax"""
    return "triptych" + "".join(word.capitalize() for word in key.split("_"))


def tilt_table(name: str, scene: Scene) -> pd.DataFrame:
    """What the microscope did, tilt by tilt."""
    acquisition = scene.acquisition
    half = acquisition.astigmatism_um / 2
    defocus = acquisition.defocus_um.cpu().numpy()
    return pd.DataFrame(
        {
            "rlnTomoName": name,
            "rlnTomoNominalStageTiltAngle": acquisition.nominal_angles.cpu().numpy(),
            "triptychTrueTiltAngle": acquisition.tilt_angles.cpu().numpy(),
            "rlnTomoXShiftAngst": acquisition.shifts[:, 0].cpu().numpy(),
            "rlnTomoYShiftAngst": acquisition.shifts[:, 1].cpu().numpy(),
            "rlnMicrographPreExposure": (acquisition.exposures - acquisition.doses / 2).clamp_min(0).cpu().numpy(),
            "rlnDefocusU": (defocus + half) * 1e4,
            "rlnDefocusV": (defocus - half) * 1e4,
            "rlnDefocusAngle": acquisition.astigmatism_angle,
        }
    )


def write_tables(folder: Path, config: TomogramConfig, names: list[str], tables: list[Tables]) -> None:
    """particles.star, tomograms.star, tilts.star and classes.star."""
    particles, tomograms, tilts = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnVoltage": [config.acquisition.voltage_kv],
            "rlnSphericalAberration": [config.acquisition.spherical_aberration_mm],
            "rlnAmplitudeContrast": [config.acquisition.amplitude_contrast],
            "rlnTomoTiltSeriesPixelSize": [config.voxel_size],
        }
    )
    classes = [*names, *NOT_PARTICLES]
    labels = pd.DataFrame({"rlnClassNumber": range(1, len(classes) + 1), "triptychClass": classes})
    files: dict[str, dict[str, Block]] = {
        "particles.star": {"optics": optics, "particles": particles},
        "tomograms.star": {"global": tomograms},
        "tilts.star": {"tilts": tilts},
        "classes.star": {"classes": labels},
    }
    for name, blocks in files.items():
        write_star(folder / name, blocks)
