"""What a large project costs: time, disk and memory of each stage, reckoned from the measured rates in benchmarks/results/.

    python scripts/scaling_costs.py

`scripts/update_figures.py` puts the tables into docs/scaling.md. Nothing here is a measurement of a large run: rates of small runs are multiplied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from figures.results import find

TOMOGRAMS, SHAPE, PARTICLES = 1000, (300, 1024, 1024), 10_000_000
TRAINING_PARTICLES, TRAINING_UPDATES, BATCH = 100_000, 20_000, 256
BOX = 40
CPU_NODES, CORES, GPUS = 100, 32, 8
SPREAD_PARTICLES = 512
"""From tomograms of the default size, 64 from each, without tiles."""
MRC_HEADER = 1024
ROW_BYTES = 600
"""Of the STAR file: the columns that predict writes for 18 classes."""
EMBEDDING_BYTES = 4 * 128
STORE_BYTES = 450_000
"""Of a training particle in the uncompressed copy (see the setting `cache`)."""
PICK_MAP_BYTES = 2 + 2
"""Of a voxel: labels and instances."""


@dataclass(frozen=True)
class Stage:
    """A stage of the project.

    Attributes
    ----------
    amount : how much there is to do, in units
    core_rate : units per second of one CPU core
    gpu_rate : units per second of one GPU; None: not measured, or not done on a GPU
    disk : bytes that it leaves
    memory : most that a process held, GB; None: not measured
    on_gpu, on_nodes : whether it is done on GPUs, and whether it may be spread over machines without GPUs
    """

    name: str
    amount: float
    unit: str
    core_rate: float
    gpu_rate: float | None
    disk: float
    memory: float | None
    on_gpu: bool = True
    on_nodes: bool = True


def measured(content: dict[str, Any] | None, *keys: str) -> Any:
    """An entry of a result file; None where it is missing."""
    for key in keys:
        content = None if content is None else content.get(key)
    return content


def core_rates() -> dict[str, float]:
    """Units per second of one core, from the files of the benchmarks."""
    simulator, picking, shipped, rates, spread = (find(name) for name in ("simulator", "picking", "shipped_model", "rates", "spread"))
    assert simulator is not None
    assert picking is not None
    assert shipped is not None
    assert spread is not None
    tests = [test for name, test in shipped["tests"].items() if "half turns" not in name]
    cores = simulator["cores"]
    found = {
        "simulate": SPREAD_PARTICLES / spread["stages"][f"simulate, {SPREAD_PARTICLES} particles"]["one process"]["seconds"],
        "tomograms": 200 * 512 * 512 / simulator["tomogram_files"]["seconds"],  # one worker, one core
        "train": simulator["training"]["particles_per_second"] / cores,
        "predict": sum(test["particles"] for test in tests) / sum(test["seconds"]["predict"] for test in tests) / shipped["machine"]["cores"],
        "pick": math.prod(picking["shape"]) * picking["tomograms"] / picking["tests"]["0.3"]["seconds"] / picking["machine"]["cores"],
    }
    if rates is not None:
        cores = rates["machine"]["cores"]
        found |= {name: rate / cores for name, rate in stage_rates(rates).items()}
    return found


def stage_rates(rates: dict[str, Any]) -> dict[str, float]:
    """What benchmarks/rates.py has measured on a device."""
    return {
        "predict": rates["predict"]["particles_per_second"],
        "pick": rates["pick"]["voxels_per_second"],
        "train": rates["train"]["particles_per_second"],
    }


def stages() -> list[Stage]:
    """The project, from simulation to masks and densities of all particles."""
    core, gpu_file, memory = core_rates(), find("gpu/rates"), find("memory")
    gpu = {} if gpu_file is None else stage_rates(gpu_file)
    peaks = {name: max((row["peak_gb"] for row in measured(memory, name) or []), default=None) for name in ("predict", "pick")}
    simulator, picking = find("simulator"), find("picking")
    voxels = TOMOGRAMS * math.prod(SHAPE)
    maps = BOX**3 * (1 + 4) + 2 * MRC_HEADER
    tables = EMBEDDING_BYTES + ROW_BYTES
    pick_memory = max(filter(None, (peaks["pick"], measured(picking, "tests", "0.3", "peak_gb"))), default=None)
    return [
        Stage("simulate", TRAINING_PARTICLES, "particles", core["simulate"], None, TRAINING_PARTICLES * STORE_BYTES,
              measured(simulator, "subtomograms", "peak_gb"), on_gpu=False),
        Stage("train", TRAINING_UPDATES * BATCH, "particles", core["train"], gpu.get("train"), 1e8,
              measured(simulator, "training", "peak_gb"), on_nodes=False),
        Stage("pick", voxels, "voxels", core["pick"], gpu.get("pick"), voxels * PICK_MAP_BYTES, pick_memory),
        Stage("predict, tables only", PARTICLES, "particles", core["predict"], gpu.get("predict"), PARTICLES * tables, peaks["predict"]),
        Stage("predict, with maps", PARTICLES, "particles", core["predict"], gpu.get("predict"), PARTICLES * (tables + maps), peaks["predict"]),
    ]  # fmt: skip


def in_words(seconds: float) -> str:
    """A duration with a fitting unit."""
    if seconds < 60:
        return "under a minute"
    for limit, unit, name in ((7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds / 86_400:.2g} days"


def disk_in_words(size: float) -> str:
    return f"{size / 1e12:.2g} TB" if size >= 1e12 else f"{size / 1e9:.2g} GB"


def costs(stage: Stage) -> list[str]:
    """A row of the table."""
    one, nodes = (in_words(stage.amount / stage.core_rate / CORES / count) for count in (1, CPU_NODES))
    gpus = "not measured yet" if stage.gpu_rate is None else in_words(stage.amount / stage.gpu_rate / GPUS)
    memory = "not measured" if stage.memory is None else f"{stage.memory:.1f} GB"
    on = (one, nodes if stage.on_nodes else "–", gpus if stage.on_gpu else "–")
    return [stage.name, f"{stage.amount:,.0f} {stage.unit}", *on, disk_in_words(stage.disk), memory]


def costs_table() -> tuple[list[str], list[list[str]]]:
    """Header and rows."""
    header = ["stage", "amount", "1 CPU node", f"{CPU_NODES} CPU nodes", f"{GPUS} GPUs", "disk", "memory of a process"]
    return header, [costs(stage) for stage in stages()]


if __name__ == "__main__":
    for row in costs_table()[1]:
        print(" | ".join(row))
