"""What each piece of the physics is worth: networks trained without it, tested on the full thing and on real ribosomes.

    python benchmarks/ablation.py WORK [--seeds 1] [--updates 800] [--particles 6400] [--cells full ctf ...]

Each cell (a piece left out, a seed) simulates its training data in the folder WORK, trains, predicts a test set of full physics at SNR 0.1
and, where ../shared is, the real ribosomes with their negative controls, and writes benchmarks/results/ablation/CELL_SEED.json. Cells whose
file exists are skipped, and a training that was stopped goes on, so that the command may be repeated until all is done.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from cells import ACQUISITION, SPECIMEN, judge_model
from real_ribosomes import DATA, describe, make_controls, not_deconvolved, read_all
from results import FOLDER, exists_already, write_result

from triptych.config import AcquisitionConfig, AugmentConfig, NetworkConfig, SimulateConfig, SpecimenConfig, TrainConfig
from triptych.io.store import open_store
from triptych.parallel import keep_freed_memory
from triptych.recognition.model import load_model
from triptych.stages.simulate import simulate
from triptych.stages.train import train

AUGMENT: dict[str, Any] = {"snr": (0.03, 0.5)}
CENTRAL: dict[str, Any] = {
    "tilt_max": (60, 60),
    "tilt_step": (3, 3),
    "tilt_jitter": (0, 0),
    "shift_jitter": (2, 2),
    "defocus_um": (3, 3),
    "astigmatism_um": (0, 0),
    "dose_e_per_a2": (110, 110),
    "b_factor": (0, 0),
    "detector_mtf": (0.7, 0.7),
    "ctf_correction": {"none": 1},
    "dose_weighting": 0,
}
PLAIN: dict[str, Any] = {"low_pass_share": 0, "fall_off_share": 0, "high_pass_share": 0, "padding_share": 0}
NO_CTF: dict[str, Any] = {
    "amplitude_contrast": 1,
    "defocus_um": (0, 0),
    "defocus_jitter_um": 0,
    "defocus_gradient": False,
    "spherical_aberration_mm": 0,
    "astigmatism_um": (0, 0),
    "ctf_correction": {"none": 1},
}
CELLS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {}, {}),
    "ctf": ({}, NO_CTF, {}),
    "dose": ({}, {"radiation_damage": False, "dose_weighting": 0}, {}),
    "misalignment": ({}, {"tilt_jitter": (0, 0), "shift_jitter": (0, 0)}, {}),
    "membranes": ({"vesicles": (0, 0)}, {}, {}),
    "neighbours": ({"occupancy": (0.001, 0.002), "cytosol": (0, 0)}, {}, {}),
    "cytosol": ({"cytosol": (0, 0)}, {}, {}),
    "noise_spectrum": ({}, {}, {}),
    "randomisation": ({"voxel_size_error": (1, 1), "occupancy": (0.05, 0.05), "cytosol": (0.1, 0.1)}, CENTRAL, PLAIN),
    "augmentation": ({}, {}, PLAIN),
    "normalised": ({}, {}, {}),
    "normalised_augmentation": ({}, {}, PLAIN),
}
"""What is changed in the specimen, the acquisition and the augmentation when a piece is left out."""
NORMALISED = ("normalised", "normalised_augmentation")
"""Cells whose network normalises the spectrum of what it sees; nothing is left out there, or only the filters while loading."""


def simulate_config(cell: str, particles: int, seed: int) -> SimulateConfig:
    specimen, acquisition, _ = CELLS[cell]
    return SimulateConfig(
        particles=particles,
        particles_per_tomogram=100,
        box_size=32,
        seed=seed,
        specimen=SpecimenConfig(**{**SPECIMEN, **specimen}),
        acquisition=AcquisitionConfig(**{**ACQUISITION, **acquisition}),
    )


def whiten_noise(path: Path, seed: int) -> None:
    """Put white noise in the place of the simulated one."""
    store, rng = open_store(path, mode="r+"), np.random.default_rng(seed)
    signal, scale = store["signal"], store["signal_scale"]
    for first in range(0, len(store), 100):
        rows = slice(first, first + 100)
        clean = scale[rows][:, None, None, None] * signal[rows].astype(np.float32)
        store.write("subtomogram", first, (clean + rng.normal(size=clean.shape)).astype(np.float16))


def training_data(work: Path, cell: str, particles: int, seed: int) -> Path:
    """The store that the cell learns from; simulated once. A piece of the augmentation alone is left out of the full one."""
    base = "full" if CELLS[cell][:2] == ({}, {}) else cell
    store = work / f"{base}_{seed}.zarr"
    if not store.exists():
        simulate(store, simulate_config(base, particles, seed))
    if cell != "noise_spectrum":
        return store
    white = work / f"noise_spectrum_{seed}.zarr"
    if not white.exists():
        part = work / "whitening"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(store, part)
        whiten_noise(part, seed)
        part.rename(white)
    return white


def real_figures(folder: Path) -> dict[str, Any] | None:
    """The real ribosomes and their controls; None where they are not at hand."""
    if not DATA.is_dir():
        return None
    model = load_model(folder)
    volumes = read_all(DATA)
    keys = ("share_called_ribosome", "mean_probability_ribosome", "mean_probability_none")
    controls = make_controls(volumes, np.random.default_rng(0))
    figures = {name: describe(model, items, True)[0] for name, items in {"real": volumes, **controls}.items()}
    figures["real_not_deconvolved"] = describe(model, not_deconvolved(DATA, volumes[0].voxel_size), True, "bright")[0]
    return {name: {key: found[key] for key in keys} for name, found in figures.items()}


def run_cell(work: Path, cell: str, seed: int, updates: int, particles: int, test: Path, results: Path) -> None:
    store = training_data(work, cell, particles, seed)
    config = TrainConfig(
        updates=updates,
        updates_per_checkpoint=max(1, updates // 4),
        validation_particles=256,
        network=NetworkConfig(channels=(24, 64, 128), tasks=("class", "mask", "density"), spectrum="normalised" if cell in NORMALISED else "kept"),
        augment=AugmentConfig(**{**AUGMENT, **CELLS[cell][2]}),
        seed=seed,
    )
    model = work / f"model_{cell}_{seed}"
    started = time.perf_counter()
    if not model.exists():
        train(store, model, config, resume=model.with_name(f"{model.name}.training").exists())
    figures = {
        "left_out": cell,
        "updates": updates,
        "particles": particles,
        "test": judge_model(model, test, work / f"test_{cell}_{seed}"),
        "real": real_figures(model),
        "training_seconds": time.perf_counter() - started,
    }
    write_result(f"ablation/{cell}_{seed}", seed, figures, load_model(model), results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--particles", type=int, default=6400)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    keep_freed_memory()
    arguments.work.mkdir(parents=True, exist_ok=True)
    cells = [(seed, cell) for seed in range(arguments.seeds) for cell in arguments.cells]
    missing = [(seed, cell) for seed, cell in cells if not exists_already(arguments.results / "ablation" / f"{cell}_{seed}.json")]
    test = arguments.work / "test.zarr"
    if missing and not test.exists():
        simulate(test, simulate_config("full", 1000, 10_000).model_copy(update={"snr": (0.1, 0.1)}))
    for seed, cell in missing:
        run_cell(arguments.work, cell, seed, arguments.updates, arguments.particles, test, arguments.results)


if __name__ == "__main__":
    main()
