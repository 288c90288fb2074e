"""How much faster two workers make a stage on two cores, and whether the result is the same.

    python benchmarks/spread.py WORK [--repeats 3] [--amount 1]

Each stage is run as a command, its start included: by one process of one thread, by two such processes, by two such workers of a Dask cluster
that is already running, as two parts at once (`--part`), and by one process of two threads. The ways take turns, so that a busy machine harms all
alike; a speed-up is a ratio of medians over the one process of one thread. All files of a result must be those of the first one, byte by byte,
but for times in manifests; networks that were trained (float32, no dropout) are compared by their losses and weights. Inputs are kept in WORK;
--amount makes them larger or smaller. Writes benchmarks/results/spread.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from distributed import LocalCluster
from faults import content, remove
from results import write_result
from safetensors.numpy import load_file

from triptych.config import SimulateConfig, SpecimenConfig, TomogramConfig
from triptych.model import load_model
from triptych.simulate import simulate
from triptych.tomograms import simulate_tomograms

SEED = 0
PARTICLES, TOMOGRAMS, UPDATES = 384, 8, 24
SPECIMEN = SpecimenConfig(shape=(96, 192, 192), ice_thickness=(800, 900))
ONE, TWO, DASK, PARTS, THREADS = "one process", "two processes", "two Dask workers", "two parts at once", "one process, two threads"
WAYS = dict.fromkeys(("simulate", "predict", "pick"), (ONE, TWO, DASK, PARTS, THREADS)) | {"train": (ONE, TWO, THREADS)}


def make_inputs(work: Path, amount: float) -> None:
    """A dataset and small tomograms; made once."""
    if not (work / "data.zarr").exists():
        simulate(work / "data.zarr", SimulateConfig(particles=round(PARTICLES * amount), specimen=SPECIMEN, seed=SEED))
    if not (work / "tomograms").exists():
        simulate_tomograms(work / "tomograms", TomogramConfig(tomograms=max(2, round(TOMOGRAMS * amount)), specimen=SPECIMEN, seed=SEED))


def command(stage: str, work: Path, amount: float) -> tuple[list[str], dict[str, object]]:
    """What `triptych` is to do, without its output, and its settings."""
    if stage == "simulate":
        return ["simulate"], {"particles": round(8 * PARTICLES * amount), "specimen.shape": "[96, 192, 192]", "particles_per_tomogram": 64}
    if stage == "train":
        size = {"batch_size": 16, "tiles_per_batch": 4, "updates": max(2, round(UPDATES * amount)), "validation_particles": 16}
        return ["train", str(work / "data.zarr")], {**size, "precision": "float32", "network.dropout": 0, "loader_workers": 0, "cache": "true"}
    return [stage, str(work / "data.zarr" if stage == "predict" else work / "tomograms" / "tomograms")], {}


def run(stage: str, way: str, work: Path, out: Path, amount: float, address: str) -> float:
    """Seconds of a stage, done in one of the ways."""
    words, settings = command(stage, work, amount)
    settings = {**settings, ("devices" if stage == "train" else "workers"): 2 if way == TWO else 1, "device": "cpu"}
    words = [sys.executable, "-m", "triptych", *words, str(out), *(f"--set={key}={value}" for key, value in settings.items())]
    extra = {DASK: [["--scheduler", address]], PARTS: [["--part", "1/2"], ["--part", "2/2"]]}.get(way, [[]])
    environment = os.environ | {"OMP_NUM_THREADS": "2" if way == THREADS else "1"}
    started = time.perf_counter()
    running = [subprocess.Popen([*words, *more], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for more in extra]
    for process in running:
        _, said = process.communicate()
        if process.returncode:
            sys.exit(f"{stage} by {way} failed: {said.decode()[-2000:]}")
    return time.perf_counter() - started


def differences(stage: str, first: Path, other: Path) -> str:
    """What differs between two results, in words; "none" where nothing does."""
    if stage == "train":
        return compare_training(first, other)
    expected, found = content(first), content(other)
    # manifests tell the settings, in which the ways differ
    names = [name for name in expected.keys() | found.keys() if name != "manifest.json" and expected.get(name) != found.get(name)]
    return f"{len(names)} of {len(expected)} files" if names else "none"


def compare_training(first: Path, other: Path) -> str:
    """The largest relative difference of the losses, and of the weights by their norms."""
    curves = [pd.read_csv(folder / "training.csv").filter(like="validation_").dropna(axis=1) for folder in (first, other)]
    of_losses = float((np.abs(curves[0] - curves[1]) / np.abs(curves[0]).clip(lower=1e-6)).to_numpy().max())
    weights = [load_file(folder / "weights.safetensors") for folder in (first, other)]
    gaps = [np.linalg.norm((weights[0][name].astype(float) - weights[1][name]).ravel()) for name in weights[0]]
    norms = [np.linalg.norm(weights[0][name].astype(float).ravel()) for name in weights[0]]
    return f"losses by {of_losses:.1e}, weights by {np.linalg.norm(gaps) / np.linalg.norm(norms):.1e}"


def measure(stage: str, work: Path, repeats: int, amount: float, address: str) -> list[dict[str, Any]]:
    """Of each way: the seconds of all runs, the speed-up and what differs."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS[stage]}
    differing: dict[str, str] = {}
    first = work / f"{stage}_first"
    remove(first)
    for _ in range(repeats):
        for way in WAYS[stage]:
            out = work / f"{stage}_out"
            remove(out)
            seconds[way].append(round(run(stage, way, work, out, amount, address), 1))
            if not first.exists():
                out.rename(first)
            elif differing.get(way, "none") == "none":
                differing[way] = differences(stage, first, out)
            shutil.rmtree(out, ignore_errors=True)
    alone = median(seconds[ONE])
    rows = [{"way": way, "seconds": own, "speed_up": alone / median(own), "differs": differing.get(way, "–")} for way, own in seconds.items()]
    shutil.rmtree(first)
    return rows


def start_cluster() -> LocalCluster:
    return LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for inputs and outputs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--amount", type=float, default=1.0, help="of particles, tomograms and updates, relative to the usual")
    parser.add_argument("--stages", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--name", default="spread", help="of the result file")
    arguments = parser.parse_args()
    work: Path = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the Dask workers
    make_inputs(work, arguments.amount)
    with start_cluster() as cluster:
        address = cluster.scheduler_address
        stages: dict[str, Sequence[dict[str, Any]]] = {
            stage: measure(stage, work, arguments.repeats, arguments.amount, address) for stage in arguments.stages
        }
    write_result(arguments.name, SEED, {"repeats": arguments.repeats, "amount": arguments.amount, "stages": stages}, load_model(device="cpu"))


if __name__ == "__main__":
    main()
