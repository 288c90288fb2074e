"""Three tasks against one: networks with the same trunk, data and schedule, with heads on or off.

    python benchmarks/multitask.py WORK [--size cpu|gpu] [--seeds 0 1 2] [--cells class mask density all ...]

Each cell (the tasks of a network, a seed) is trained once over the whole range of SNR, tested at 0.3, 0.1 and 0.03 on the same test sets of
full physics, and writes benchmarks/results/multitask/CELL_SEED.json. Every cell sees the same number of samples, but two that see as many
more as make up for their arithmetic: `class_long` has that of the network of all three tasks (networks with a decoder differ from that by 2 %
only), and `all_long` that of the three networks of one task together, which do the same work.
Cells whose file exists are skipped, and a training that was stopped goes on, so that the command may be repeated until all is done.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cells import (
    TEST_SNRS,
    TRAINING_SNR,
    Size,
    count_macs,
    count_parameters,
    judge_model,
    make_parser,
    make_test_store,
    measure_rate,
    missing_cells,
    peak_memory,
    read_arguments,
    run_apart,
    training_store,
)
from results import write_result

from triptych.config import AugmentConfig, LossConfig, NetworkConfig, Task, TrainConfig
from triptych.recognition.model import load_model
from triptych.recognition.network import Network

ALL: tuple[Task, ...] = ("class", "mask", "density")


@dataclass(frozen=True)
class Cell:
    """A network: its tasks, how their losses are balanced, its channels against the size's, and the cells whose arithmetic, taken together, its
    training has, where it is not simply as long as all others."""

    tasks: tuple[Task, ...]
    balance: Literal["fixed", "uncertainty", "gradient"] = "fixed"
    width: float = 1.0
    arithmetic_of: tuple[str, ...] = ()


CORE = ("class", "mask", "density", "all")
CELLS = {
    "class": Cell(("class",)),
    "mask": Cell(("mask",)),
    "density": Cell(("density",)),
    "all": Cell(ALL),
    "class_long": Cell(("class",), arithmetic_of=("all",)),
    "all_long": Cell(ALL, arithmetic_of=("class", "mask", "density")),
    "class_mask": Cell(("class", "mask")),
    "class_density": Cell(("class", "density")),
    "mask_density": Cell(("mask", "density")),
    "all_uncertainty": Cell(ALL, balance="uncertainty"),
    "all_gradient": Cell(ALL, balance="gradient"),
    "all_wide": Cell(ALL, width=1.5),
}


def network_config(size: Size, cell: Cell) -> NetworkConfig:
    c1, c2, c3 = (round(cell.width * count) for count in size.channels)
    return NetworkConfig(tasks=cell.tasks, channels=(c1, c2, c3), spectrum="kept")


def macs_per_particle(size: Size, cell: Cell, classes: int = 20) -> int:
    return count_macs(Network(network_config(size, cell), classes), size.box_size)


def train_config(size: Size, name: str, seed: int) -> TrainConfig:
    cell = CELLS[name]
    whole = sum(macs_per_particle(size, CELLS[other]) for other in cell.arithmetic_of or (name,))
    updates = round(size.updates * whole / macs_per_particle(size, cell))
    return TrainConfig(
        updates=updates,
        updates_per_checkpoint=-(-updates // 4),
        batch_size=size.batch_size,
        network=network_config(size, cell),
        augment=AugmentConfig(snr=TRAINING_SNR),
        loss=LossConfig(balance=cell.balance),
        loader_workers=size.loader_workers,
        seed=seed,
    )


def run_cell(work: Path, size: Size, name: str, seed: int, results: Path) -> None:
    from triptych.stages.train import train  # takes seconds, which the loader processes would take too, as they import this file

    config = train_config(size, name, seed)
    folder = work / f"model_{name}_{seed}"
    stopped, done = folder.with_name(f"{folder.name}.training").exists(), folder.exists()
    started = time.perf_counter()
    if not done:
        train(training_store(work, size), folder, config, resume=stopped)
    seconds = time.perf_counter() - started
    scratch = work / f"test_{name}_{seed}"
    tests = {f"{snr:g}": judge_model(folder, make_test_store(work, size, snr), scratch) for snr in TEST_SNRS}
    shutil.rmtree(scratch)
    model = load_model(folder)
    macs = count_macs(model.network, size.box_size)
    figures = {
        "cell": name,
        "config": config.model_dump(mode="json"),
        "particles": size.particles,
        "test_particles": size.test_particles,
        "tests": tests,
        "samples": config.updates * config.batch_size,
        "parameters": count_parameters(model.network),
        "macs_per_particle": macs,
        "particles_per_second": measure_rate(model.run, size.box_size),
        "training_seconds": None if stopped or done else round(seconds, 1),
        "memory": peak_memory(),
    }
    write_result(f"multitask/{name}_{seed}", seed, figures, model, results)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CORE)
    arguments, size = read_arguments(parser)
    for seed, name in missing_cells(arguments, "multitask"):
        training_store(arguments.work, size)  # in this process, so that the memory of the cell is not that of simulating
        for snr in TEST_SNRS:
            make_test_store(arguments.work, size, snr)
        run_apart(run_cell, arguments.work, size, name, seed, arguments.results)


if __name__ == "__main__":
    main()
