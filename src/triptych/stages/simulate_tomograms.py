"""Structures + physics + seed -> whole tomograms with their truth, as other programs read them.

A tomogram is written slab by slab, so that its size is limited by the disk and not by the memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from triptych.config import TomogramConfig
from triptych.device import choose_device, count_workers
from triptych.io.manifest import Stage, is_made, write_manifest
from triptych.io.mrc import new_mrc, type_for
from triptych.io.output_names import CLASSES, PARTICLES, TOMOGRAMS, map_file
from triptych.io.relion import class_table, optics_table, particle_columns, tomogram_row
from triptych.io.star import Block, read_star, write_star
from triptych.parallel import Progress
from triptych.particles import Frame
from triptych.simulation.physics import draw_log_uniform
from triptych.simulation.scene import (
    Scene,
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
from triptych.simulation.specimen import Template, draw_labels, draw_particles
from triptych.simulation.structures import NOT_PARTICLES, Structure
from triptych.workspace import Workspace, choose_items

STAGE: Stage = "simulate-tomograms"
MAPS = {"tomograms": "f4", "densities": "f4", "classes": "i2", "instances": "u2"}
"""Folders of the output, and the type of the values in their files."""


def simulate_tomograms(
    out: Path | str,
    config: TomogramConfig | None = None,
    on_progress: Progress | None = None,
    part: tuple[int, int] | None = None,
    scheduler: str | None = None,
) -> Path:
    """Write simulated tomograms and all that is true of them.

    The folder then holds ``tomograms/`` (mean 0; the noise has standard deviation 1), ``densities/`` (of the particles alone; protein
    about 1), ``classes/`` (0 for background, then the numbers that ``classes.star`` names), ``instances/`` (0 for none, else
    ``_triptychInstance`` of the particles), ``particles.star``, ``tomograms.star`` and ``tilts.star``.

    Finished tomograms are kept in a working folder beside `out`: the same call goes on after a kill. With `part`, `out` exists
    when the last part is done.

    Parameters
    ----------
    out : the folder to make
    config : settings; default: all defaults; same seed, same bytes, for any number of workers
    on_progress : called with (tomograms done, tomograms in all), first with those that an earlier run has finished
    part : (k, n) to do only the k-th of n parts (k from 1), each perhaps on a machine of its own that sees the same folder
    scheduler : address of a Dask scheduler whose workers simulate instead of processes on this machine

    Raises
    ------
    InputError
        If a class is not in the library, or a run with other settings was begun under this name.
    """
    config = config or TomogramConfig()
    wanted = choose_items(config.tomograms, part)
    library = choose_structures(config)
    check_scene(config, library)
    if part and is_made(out, STAGE, config, {}):
        return Path(out)
    workspace, library_hash = open_run(Path(out), config, library, make_folders)
    with workspace.until_finished(keep=part is not None):
        write = partial(write_tomogram, workspace, make_portable(config), library_hash)
        workspace.fill(wanted, write, lambda _: 1, count_workers(config.workers, config.device), scheduler, on_progress)
        if len(workspace.done()) == config.tomograms:
            workspace.finish(partial(finish_run, workspace, config, library))
    return Path(out)


def make_folders(folder: Path) -> None:
    """The folders of the maps."""
    for kind in MAPS:
        (folder / kind).mkdir(parents=True)


def write_tomogram(workspace: Workspace, config: TomogramConfig, library_hash: str, number: int) -> int:
    """Simulate one tomogram, put its maps into the result, and keep its rows of the tables until all are there; return 1."""
    name = f"tomogram_{number:04d}"
    with workspace.desk() as desk:
        with one_tomogram(library_hash):
            tables = simulate_maps(desk, name, config, number)
        for kind in MAPS:
            (desk / f"{kind}.mrc").replace(workspace.result / map_file(kind, name))
        write_star(desk / "tables.star", tables)
        workspace.mark(number, desk / "tables.star")
    return 1


def simulate_maps(folder: Path, name: str, config: TomogramConfig, number: int) -> dict[str, Block]:
    """Write the maps of a tomogram; return its rows of the tables."""
    rng = tomogram_rng(config.seed, number)
    templates = prepare_templates(config)
    scene = simulate_scene(rng, config, templates, choose_device(config.device))
    snr = None if config.snr is None else draw_log_uniform(rng, config.snr)
    drawn = write_maps(folder, config, scene, snr)
    return {
        "particles": particle_table(name, config, scene, templates),
        "tomograms": tomogram_table(name, config, scene, drawn),
        "tilts": tilt_table(name, scene),
    }


def finish_run(workspace: Workspace, config: TomogramConfig, library: Sequence[Structure], folder: Path) -> None:
    """The tables of all tomograms, and the manifest."""
    names = [structure.name for structure in library]
    tables = [read_star(workspace.note(number)) for number in range(config.tomograms)]
    write_tables(folder, config, names, tables)
    warn_of_room(np.array([table["tomograms"]["triptychOccupancy"][0] for table in tables], dtype=float), config.specimen)
    inputs = [] if config.structures is None else [config.structures]
    write_manifest(folder, STAGE, config, inputs, config.seed, {"class_names": names}, {})


def write_maps(folder: Path, config: TomogramConfig, scene: Scene, snr: float | None) -> dict[str, float]:
    """Write the four maps of a tomogram, slab by slab; return its SNR, and the one that the dose would give."""
    measured, noise_deviation = measure_snr(scene)
    scale = 1.0 if snr is None else math.sqrt(snr / measured) if measured > 0 else 0.0
    unit = (1 if config.contrast == "bright" else -1) / noise_deviation
    with ExitStack() as stack:
        shape, voxel_size = config.specimen.shape, config.voxel_size
        types = {**MAPS, "instances": type_for(MAPS["instances"], len(scene.specimen.placed))}
        maps = {kind: stack.enter_context(new_mrc(folder / f"{kind}.mrc", shape, dtype, voxel_size)) for kind, dtype in types.items()}
        for rows, signal, noise in reconstruct_rows(scene):
            here = slice(*rows)
            maps["tomograms"][:, here] = unit * (scale * signal + noise)
            maps["densities"][:, here] = draw_particles(scene.particles, rows, 0)
            maps["classes"][:, here], maps["instances"][:, here] = draw_labels(scene.particles, rows, voxel_size)
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
            **particle_columns(positions, rotations, Frame.of(config.specimen.shape, config.voxel_size)),
            "rlnClassNumber": [p.label + 1 for _, p in inside],
            "rlnOpticsGroup": 1,
            "triptychClass": [templates[p.label].name for _, p in inside],
            "triptychInstance": [i for i, _ in inside],
        }
    )


def tomogram_table(name: str, config: TomogramConfig, scene: Scene, measured: dict[str, float]) -> pd.DataFrame:
    """One row: RELION's columns, and all that was drawn for this tomogram."""
    row = tomogram_row(name, map_file("tomograms", name), Frame.of(config.specimen.shape, config.voxel_size)) | microscope(config)
    recorded = {camel_case(key): float(value) for key, value in (scene.drawn | measured).items()}
    return pd.DataFrame([row | recorded])


def microscope(config: TomogramConfig) -> dict[str, float]:
    """RELION's columns of the optics."""
    acquisition = config.acquisition
    return {
        "rlnVoltage": acquisition.voltage_kv,
        "rlnSphericalAberration": acquisition.spherical_aberration_mm,
        "rlnAmplitudeContrast": acquisition.amplitude_contrast,
    }


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


def write_tables(folder: Path, config: TomogramConfig, names: list[str], tables: list[dict[str, Block]]) -> None:
    """particles.star, tomograms.star, tilts.star and classes.star."""
    particles, tomograms, tilts = (pd.concat([blocks[name] for blocks in tables], ignore_index=True) for name in ("particles", "tomograms", "tilts"))
    files: dict[str, dict[str, Block]] = {
        PARTICLES: {"optics": optics_table({config.voxel_size: 1}, microscope(config)), "particles": particles},
        TOMOGRAMS: {"global": tomograms},
        "tilts.star": {"tilts": tilts},
        CLASSES: {"classes": class_table([*names, *NOT_PARTICLES])},
    }
    for name, blocks in files.items():
        write_star(folder / name, blocks)
