"""What two workers gain on two cores, and whether they give what one gives.

    python benchmarks/spread.py WORK [--particles 512] [--tomograms 4] [--updates 9] [--repeats 3]

Simulating, predicting and picking by one process, by two, by a Dask cluster of two workers and by two parts at once; training by one process
and by two (DDP). Every way has one thread per process, but for one that gives a single process both cores. Ways take turns, medians are told,
starting processes and reading inputs counted; that of a training is taken off by a second, shorter one. Simulated data, the shipped model; the
machine should have nothing else to do. The figures of each stage are kept in WORK, so that a run that was stopped goes on with the next. Writes
benchmarks/results/spread.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cells import run_apart
from faults import content, same_files
from results import FOLDER, write_result

from triptych.config import PickConfig, PredictConfig, SimulateConfig, SpecimenConfig, TomogramConfig
from triptych.parallel import keep_freed_memory
from triptych.recognition.model import load_model
from triptych.stages.pick import pick
from triptych.stages.predict import predict
from triptych.stages.simulate import simulate
from triptych.stages.simulate_tomograms import simulate_tomograms

SEED = 0
SNR = (0.1, 0.1)
SHAPE = (64, 160, 160)
SHORT_TRAINING = 3
TRAINING = (
    *("batch_size=16", "updates_per_checkpoint=3", "validation_particles=16", "learning_rate=1e-4", "precision=float32", "device=cpu"),
    *("network.tasks=[class, mask, density]", "network.channels=[16, 32, 64]", "network.dropout=0"),
)
Spread = Callable[..., object]
"""Run a stage: (out, workers, part, scheduler)."""


def simulate_particles(particles: int, out: Path, workers: int = 1, part: tuple[int, int] | None = None, scheduler: str | None = None) -> None:
    config = SimulateConfig(particles=particles, particles_per_tomogram=64, tile_share=0, snr=SNR, seed=SEED, workers=workers, device="cpu")
    simulate(out, config, part=part, scheduler=scheduler)


def predict_particles(data: Path, out: Path, workers: int = 1, part: tuple[int, int] | None = None, scheduler: str | None = None) -> None:
    predict(data, out, config=PredictConfig(workers=workers, device="cpu"), part=part, scheduler=scheduler)


def pick_tomograms(tomograms: Path, out: Path, workers: int = 1, part: tuple[int, int] | None = None, scheduler: str | None = None) -> None:
    pick([tomograms], out, config=PickConfig(workers=workers, device="cpu"), part=part, scheduler=scheduler)


# ------------------------------------------------------------------------------------------------------------- the ways


def with_threads(threads: int, stage: Spread, *arguments: Any) -> float:
    """Seconds that a stage takes in this process with so many threads."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    stage(*arguments)
    return time.perf_counter() - started


def by_processes(stage: Spread, out: Path) -> float:
    started = time.perf_counter()
    stage(out, workers=2)
    return time.perf_counter() - started


def by_dask(stage: Spread, out: Path) -> float:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        started = time.perf_counter()
        stage(out, scheduler=cluster.scheduler_address)
        return time.perf_counter() - started


def by_parts(stage: Spread, out: Path) -> float:
    """Both parts at once, as a job array gives them."""
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    parts = [context.Process(target=do_part, args=(stage, out, (k, 2))) for k in (1, 2)]
    for process in parts:
        process.start()
    for process in parts:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - started


def do_part(stage: Spread, out: Path, part: tuple[int, int]) -> None:
    keep_freed_memory()
    with_threads(1, stage, out, 1, part)


BOTH_CORES = "one process, two threads"
WAYS: dict[str, Callable[[Spread, Path], float]] = {
    "one process": partial(with_threads, 1),
    BOTH_CORES: partial(with_threads, 2),
    "two processes": by_processes,
    "Dask, two workers": by_dask,
    "two parts": by_parts,
}


def compare_ways(stage: Spread, ways: Collection[str], out: Path, repeats: int) -> dict[str, Any]:
    """Median seconds of every way, and the files that differ from what one process wrote."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    others: dict[str, int] = dict.fromkeys(ways, 0)
    expected: dict[str, Any] | None = None
    for _ in range(repeats):
        for way, run in ((way, WAYS[way]) for way in ways):
            shutil.rmtree(out, ignore_errors=True)
            seconds[way].append(run_apart(run, stage, out))
            print(f"{way}: {seconds[way][-1]:.1f} s", flush=True)
            expected = expected or content(out)
            others[way] = max(others[way], len(set(same_files(expected, out)) - {"manifest.json"}))
    alone = statistics.median(seconds["one process"])
    return {
        way: {"seconds": round(statistics.median(times), 2), "speed_up": round(alone / statistics.median(times), 2), "other_files": others[way]}
        for way, times in seconds.items()
    }


# ------------------------------------------------------------------------------------------------------------- training


def train_once(data: Path, out: Path, processes: int, threads: int, updates: int) -> float:
    """Seconds of a training, started from the command line."""
    shutil.rmtree(out, ignore_errors=True)
    settings = [*TRAINING, f"updates={updates}", f"devices={processes}", f"seed={SEED}"]
    options = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "triptych", "train", str(data), str(out), *options]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    return float(json.loads((out / "manifest.json").read_text())["validation"]["seconds_of_last_run"])


def compare_training(data: Path, out: Path, updates: int, repeats: int) -> dict[str, Any]:
    """Median seconds per update, and how far the losses of two processes are from those of one."""
    ways = {"one process": (1, 1), BOTH_CORES: (1, 2), "two processes (DDP)": (2, 1)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    curves = {}
    for _ in range(repeats):
        for way, (processes, threads) in ways.items():
            start_up = train_once(data, out, processes, threads, SHORT_TRAINING)
            whole = train_once(data, out, processes, threads, SHORT_TRAINING + updates)
            seconds[way].append((whole - start_up) / updates)
            print(f"{way}: {seconds[way][-1]:.2f} s per update", flush=True)
            curves[way] = pd.read_csv(out / "training.csv").filter(like="validation_cross_entropy").to_numpy(dtype=float)
    alone = statistics.median(seconds["one process"])
    return {
        way: {
            "seconds_per_update": round(statistics.median(times), 3),
            "speed_up": round(alone / statistics.median(times), 2),
            "largest_relative_difference_of_losses": float(np.nanmax(np.abs(curves[way] / curves["one process"] - 1))),
        }
        for way, times in seconds.items()
    }


def once(kept: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Figures that are measured now, or have been measured before."""
    if not kept.exists():
        kept.write_text(json.dumps(measure()))
    figures: dict[str, Any] = json.loads(kept.read_text())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data and outputs")
    parser.add_argument("--particles", type=int, default=512)
    parser.add_argument("--tomograms", type=int, default=4)
    parser.add_argument("--updates", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    arguments = parser.parse_args()
    work: Path = arguments.work
    data, tomograms, out = work / "data.zarr", work / "tomograms", work / "out"
    if not data.exists():
        simulate(data, SimulateConfig(particles=arguments.particles, snr=SNR, seed=SEED))
    if not tomograms.exists():
        specimen = SpecimenConfig(shape=SHAPE, ice_thickness=(600, 600))
        simulate_tomograms(tomograms, TomogramConfig(tomograms=arguments.tomograms, snr=SNR, seed=SEED, specimen=specimen))
    many = f"{arguments.particles} particles"
    stages = {
        f"simulate, {many}": (partial(simulate_particles, arguments.particles), [way for way in WAYS if way != BOTH_CORES]),  # one thread at most
        f"predict, {many}": (partial(predict_particles, data), WAYS),
        f"pick, {arguments.tomograms} tomograms": (partial(pick_tomograms, tomograms / "tomograms"), WAYS),
    }
    compared = {
        name: once(work / f"{name}.json", partial(compare_ways, stage, ways, out, arguments.repeats)) for name, (stage, ways) in stages.items()
    }
    trained = once(work / "train.json", partial(compare_training, data, out, arguments.updates, arguments.repeats))
    write_result("spread", SEED, {"stages": compared, "train": trained}, load_model(), arguments.results)


if __name__ == "__main__":
    main()
