"""What a device does per second: particles that are predicted, voxels of a tomogram that are picked from, particles that are trained on.

    python benchmarks/rates.py WORK [--device gpu] [--results benchmarks/results/gpu]

With the shipped model and its settings, on simulated data; each stage runs once to warm up and is then timed, its reading and writing
included. Writes rates.json, from which `scripts/scaling_costs.py` reckons what large projects cost.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from pathlib import Path
from typing import Any

from results import FOLDER, write_result

from triptych.config import PickConfig, PredictConfig, SimulateConfig, SpecimenConfig, TomogramConfig, TrainConfig
from triptych.io.star import read_star
from triptych.recognition.model import load_model
from triptych.stages.pick import pick
from triptych.stages.predict import predict
from triptych.stages.simulate import simulate
from triptych.stages.simulate_tomograms import simulate_tomograms
from triptych.stages.train import train

SHAPE = (200, 512, 512)
SEED = 0
WARM_UP = 16


def time_predict(store: Path, out: Path, device: str, batch_size: int) -> float:
    """Particles per second."""
    config = PredictConfig(device=device, batch_size=batch_size)
    for name in ("warm", "timed"):
        started = time.perf_counter()
        predict(store, out / name, config=config)
    seconds = time.perf_counter() - started
    return len(read_star(out / "timed" / "particles.star")["particles"]) / seconds


def time_pick(tomogram: Path, out: Path, device: str, batch_size: int) -> dict[str, float]:
    """Voxels per second, with how many particles were found among them."""
    config = PickConfig(device=device, batch_size=batch_size)
    for name in ("warm", "timed"):
        started = time.perf_counter()
        pick([tomogram], out / name, config=config)
    seconds = time.perf_counter() - started
    return {"voxels_per_second": math.prod(SHAPE) / seconds, "particles": len(read_star(out / "timed" / "particles.star")["particles"])}


def time_train(store: Path, out: Path, device: str, batch_size: int, updates: int) -> float:
    """Particles per second after the first updates."""
    stamps: list[float] = []
    tiles = max(1, batch_size // 4)
    config = TrainConfig(
        device=device, batch_size=batch_size, tiles_per_batch=tiles, updates=updates, updates_per_checkpoint=updates, validation_particles=32
    )
    train(store, out / "model", config, on_progress=lambda done, total: stamps.append(time.perf_counter()))
    return batch_size * (updates - WARM_UP) / (stamps[updates] - stamps[WARM_UP])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data and outputs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--particles", type=int, default=1024)
    parser.add_argument("--updates", type=int, default=48)
    parser.add_argument("--results", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    work, device, size = arguments.work, arguments.device, arguments.batch_size
    store, tomograms, out = work / "data.zarr", work / "tomograms", work / "out"
    if not store.exists():
        simulate(store, SimulateConfig(particles=arguments.particles, seed=SEED))
    if not tomograms.exists():
        specimen = SpecimenConfig(shape=SHAPE, occupancy=(0.06, 0.06), cytosol=(0.1, 0.1), ice_thickness=(1800, 1800))
        simulate_tomograms(tomograms, TomogramConfig(seed=SEED, snr=(0.3, 0.3), specimen=specimen))
    shutil.rmtree(out, ignore_errors=True)
    figures: dict[str, Any] = {
        "batch_size": size,
        "predict": {"particles_per_second": time_predict(store, out / "predict", device, size)},
        "pick": time_pick(tomograms / "tomograms" / "tomogram_0000.mrc", out / "pick", device, size),
        "train": {"particles_per_second": time_train(store, out, device, 2 * size, arguments.updates)},
    }
    write_result("rates", SEED, figures, load_model(device=device), arguments.results)


if __name__ == "__main__":
    main()
