"""How fast the simulator is, and how much memory it takes: whole tomograms, subtomograms, and the loader beside the training.

    python benchmarks/simulator.py [--library LIBRARY]

Each measurement runs in a process of its own, on all cores that this process may use. Writes benchmarks/results/simulator.json.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from results import FOLDER, write_result

from triptych.config import AugmentConfig, SimulateConfig, SpecimenConfig, TomogramConfig, TrainConfig
from triptych.parallel import available_cores, keep_freed_memory

SHAPE = (200, 512, 512)
PARTICLES = 2000
SPECIMEN = SpecimenConfig(shape=SHAPE, ice_thickness=(1800, 1800), occupancy=(0.07, 0.07), vesicles=(3, 3), gold_beads=(6, 6))
"""With the built-in structures, about two thousand particles."""
REPEATS = 3
SEED = 0


def tomogram(folder: Path, library: Path | None) -> dict[str, float]:
    """A tomogram with its particles, signal and noise apart, in memory: nothing written."""
    from triptych.simulation.scene import prepare_templates
    from triptych.stages.simulate import simulate_tomogram

    config = SimulateConfig(structures=library, specimen=SPECIMEN)
    prepare_templates(config)
    seconds, particles = [], []
    for seed in range(REPEATS):
        started = time.perf_counter()
        made = simulate_tomogram(np.random.default_rng(seed), config)
        seconds.append(time.perf_counter() - started)
        particles.append(len(made.specimen.placed))
    return {"seconds": statistics.median(seconds), "particles": statistics.median(particles)}


def tomogram_files(folder: Path, library: Path | None) -> dict[str, float]:
    """A tomogram with labels, densities and tables, written."""
    from triptych.stages.simulate_tomograms import simulate_tomograms

    started = time.perf_counter()
    simulate_tomograms(folder / "tomograms", TomogramConfig(structures=library, specimen=SPECIMEN, workers=1))
    return {"seconds": time.perf_counter() - started}


def subtomograms(folder: Path, library: Path | None) -> dict[str, float]:
    """A dataset store, from nothing to the disk."""
    from triptych.stages.simulate import simulate

    count = 5 * available_cores() * PARTICLES  # as many as a training set has, so that starting the processes weighs little
    config = SimulateConfig(structures=library, specimen=SPECIMEN, particles=count, particles_per_tomogram=PARTICLES, tile_share=0)
    started = time.perf_counter()
    simulate(folder / "data.zarr", config)
    seconds = time.perf_counter() - started
    return {"particles": count, "seconds": seconds, "particles_per_second": count / seconds}


def small_store(folder: Path, library: Path | None) -> Path:
    from triptych.stages.simulate import simulate

    return simulate(folder / "small.zarr", SimulateConfig(structures=library, particles=512))


def loader(folder: Path, library: Path | None) -> dict[str, float]:
    """Training batches from one loader process's point of view: mixing, augmentation, standardisation."""
    from triptych.training.dataset import PlannedBatches, SubtomogramDataset

    torch.set_num_threads(1)  # as in a loader process
    path = small_store(folder, library)
    batches = list(PlannedBatches(np.arange(512), 32, SEED, 0, 24))
    source = SubtomogramDataset(path, AugmentConfig(), SEED, None, folder / "cache")
    source.__getitems__(batches[0])
    started = time.perf_counter()
    for batch in batches:
        source.__getitems__(batch)
    return {"particles_per_second": len(batches) * 32 / (time.perf_counter() - started)}


def training(folder: Path, library: Path | None) -> dict[str, float]:
    """Updates of the default network on the whole box, the loader beside it."""
    from triptych.stages.train import train

    path = small_store(folder, library)
    stamps: list[float] = []
    config = TrainConfig(updates=24, updates_per_checkpoint=24, validation_particles=32, device="cpu")
    train(path, folder / "model", config, on_progress=lambda done, total: stamps.append(time.perf_counter()))
    # the first updates warm up
    return {"particles_per_second": 32 * 16 / (stamps[-1] - stamps[-17])}


MEASUREMENTS = {f.__name__: f for f in (tomogram, tomogram_files, subtomograms, loader, training)}


def measure(name: str, library: Path | None) -> None:
    """Run one measurement in this process and print its figures as JSON."""
    import json

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        figures = MEASUREMENTS[name](Path(folder), library)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({**figures, "peak_gb": peak * 1024 / 1e9}))


def main() -> None:
    import json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.library)
        return
    figures = {}
    for name in MEASUREMENTS:
        command = [sys.executable, __file__, "--measure", name]
        command += ["--library", str(arguments.library)] if arguments.library else []
        figures[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(name, figures[name], flush=True)
    figures["cores"] = available_cores()
    write_result("simulator", SEED, figures, folder=arguments.results)


if __name__ == "__main__":
    main()
