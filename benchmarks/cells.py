"""What the benchmarks that train networks share: their sizes, their data, how a cell is run and judged.

A cell of a table is one trained network, or one test of one; its figures are one JSON file, and a cell whose file exists is not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import FOLDER, exists_already, write_result
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from triptych.config import AcquisitionConfig, PredictConfig, ReportConfig, SimulateConfig, SpecimenConfig
from triptych.fourier import wedge_weights
from triptych.io.store import Store, open_store
from triptych.parallel import keep_freed_memory
from triptych.recognition.model import Model, load_model
from triptych.stages.predict import predict
from triptych.stages.report import judge, report
from triptych.stages.simulate import simulate
from triptych.volume import standardise

SPECIMEN: dict[str, Any] = {"occupancy": (0.02, 0.15), "cytosol": (0.0, 0.2), "voxel_size_error": (0.95, 1.05)}
ACQUISITION: dict[str, Any] = {
    "tilt_max": (50, 66),
    "tilt_step": (2, 4),
    "tilt_jitter": (0, 1),
    "shift_jitter": (0, 10),
    "defocus_um": (1.5, 6),
    "astigmatism_um": (0, 0.4),
    "dose_e_per_a2": (60, 160),
    "b_factor": (0, 1000),
}
"""Full physics, every range wide."""
TRAINING_SNR = (0.02, 0.5)
TEST_SNRS = (0.3, 0.1, 0.03)
TRAINING_SEED, TEST_SEED = 1, 10_000


@dataclass(frozen=True)
class Size:
    """How large a benchmark is.

    Attributes
    ----------
    box_size : voxels along each side
    particles, test_particles : in the store that all networks learn from, and in each test store
    updates, batch_size : of a network that all others are compared with
    channels : of triptych's network
    loader_workers : processes that prepare batches
    """

    box_size: int
    particles: int
    test_particles: int
    updates: int
    batch_size: int
    channels: tuple[int, int, int]
    loader_workers: int


SIZES = {
    "cpu": Size(box_size=32, particles=12_800, test_particles=1024, updates=2000, batch_size=32, channels=(24, 64, 128), loader_workers=1),
    "gpu": Size(box_size=40, particles=20_480, test_particles=2048, updates=10_000, batch_size=64, channels=(32, 96, 192), loader_workers=12),
}
"""Two cores and some hours, or a GPU with 16 cores and some minutes per network."""


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """The options that all such benchmarks have."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data and models; may be shared by benchmarks of the same size")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, help="folder of the result files; default: benchmarks/results, and its folder gpu for that size")
    for name in ("updates", "particles", "test-particles", "batch-size", "loader-workers"):
        parser.add_argument(f"--{name}", type=int, help="instead of what the size says")
    return parser


def read_arguments(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Size]:
    """The command line, and the size that it asks for."""
    arguments = parser.parse_args()
    arguments.results = arguments.results or (FOLDER if arguments.size == "cpu" else FOLDER / arguments.size)
    arguments.work.mkdir(parents=True, exist_ok=True)
    names = ("updates", "particles", "test_particles", "batch_size", "loader_workers")
    size = replace(SIZES[arguments.size], **{name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None})
    return arguments, size


def missing_cells(arguments: argparse.Namespace, kind: str) -> list[tuple[int, str]]:
    """Seed and name of the cells that were asked for and have no result file KIND/CELL_SEED.json."""
    cells = [(seed, name) for seed in arguments.seeds for name in arguments.cells]
    return [(seed, name) for seed, name in cells if not exists_already(arguments.results / kind / f"{name}_{seed}.json")]


def simulate_config(size: Size, particles: int, seed: int, snr: tuple[float, float]) -> SimulateConfig:
    return SimulateConfig(
        particles=particles,
        particles_per_tomogram=min(64, particles // 2),
        box_size=size.box_size,
        seed=seed,
        tile_share=0,
        snr=snr,
        specimen=SpecimenConfig(**SPECIMEN),
        acquisition=AcquisitionConfig(**ACQUISITION),
        device="cpu",
    )


def simulate_once(store: Path, config: SimulateConfig) -> Path:
    """The store, simulated where it is not there; the program ends where it is of another kind."""
    if not store.exists():
        return simulate(store, config)
    if open_store(store).attributes["config"] != config.decisive():
        sys.exit(f"{store} was simulated with other settings: give another folder")
    return store


def training_store(work: Path, size: Size) -> Path:
    """The store that all networks learn from; simulated once."""
    return simulate_once(work / "train.zarr", simulate_config(size, size.particles, TRAINING_SEED, TRAINING_SNR))


def make_test_store(work: Path, size: Size, snr: float) -> Path:
    """The particles that all are judged by, at an SNR: the same ones at each; simulated once."""
    return simulate_once(work / f"test_{snr:g}.zarr", simulate_config(size, size.test_particles, TEST_SEED, (snr, snr)))


JUDGED = ("accuracy", "mean_iou", "mean_density_correlation", "expected_calibration_error")


def judge_model(model: Path, test: Path, folder: Path, keys: tuple[str, ...] = JUDGED) -> dict[str, Any]:
    """Figures of a report on a test set; None for a task that the model lacks. What `predict` wrote is left in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    predict(test, folder / "predictions", model, PredictConfig())
    report(folder / "predictions", folder / "report", test, ReportConfig(gallery=0))
    content = json.loads((folder / "report" / "metrics.json").read_text())
    return {key: content[key] for key in keys}


def judge_outputs(store: Store, rows: np.ndarray, **outputs: Any) -> dict[str, Any]:
    """The same figures of outputs in memory, for some rows of a store; the outputs are named as `triptych.judge` takes them."""
    figures = judge(store.path, rows, **outputs)
    return {key: figures[key] for key in JUDGED}


def predict_store(model: Model, store: Store) -> dict[str, Any]:
    """What a model with all three tasks says of every particle of a store, named as `triptych.judge` takes it."""
    found = model.predict(store.read_rows("subtomogram", np.arange(len(store))).astype(np.float32), store.voxel_size, "bright")
    assert found.masks is not None
    assert found.densities is not None
    classes = {"probabilities": found.probabilities, "class_names": found.class_names}
    return {**classes, "masks": np.stack(found.masks), "densities": np.stack(found.densities)}


def judge_trained(kind: str, text: str | None, snrs: Sequence[float], test: Callable[[Model, Store, int], dict[str, Any]]) -> None:
    """The command of a benchmark that judges the models which multitask.py left in WORK, each by a function of (model, test store, seed) at
    every SNR: a result file KIND/CELL_SEED.json for each model that has none yet."""
    parser = make_parser(text)
    parser.add_argument("--cells", nargs="+", default=["all_long"], help="of multitask.py, with the task that is judged")
    arguments, size = read_arguments(parser)
    for seed, name in missing_cells(arguments, kind):
        model = load_model(arguments.work / f"model_{name}_{seed}")
        tests = {f"{snr:g}": test(model, open_store(make_test_store(arguments.work, size, snr)), seed) for snr in snrs}
        figures = {"cell": name, "test_particles": size.test_particles, "temperature": model.card.temperature.value, "tests": tests}
        write_result(f"{kind}/{name}_{seed}", seed, figures, model, arguments.results)


def read_boxes(store: Store, rows: np.ndarray) -> np.ndarray:
    """Standardised subtomograms, as a network wants them."""
    return standardise(store.read_rows("subtomogram", rows).astype(np.float32))


def wedge(box_size: int, tilt_min: float, tilt_max: float) -> Tensor:
    """1 where `rfftn` of a box has terms that the tilt range about y measures, 0 in the missing wedge."""
    return torch.from_numpy(wedge_weights((box_size,) * 3, tilt_min, tilt_max))


def count_macs(network: nn.Module, box_size: int) -> int:
    """Multiplications with additions of one forward pass of one particle: those of convolutions and matrix products."""
    training, device = network.training, next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, box_size, box_size, box_size, device=device))
    network.train(training)
    return int(counter.get_total_flops()) // 2


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def measure_rate(run: Callable[[np.ndarray], object], box_size: int, seconds: float = 3.0) -> float:
    """Particles per second that a function of a batch (n, d, h, w) of standardised boxes takes, 32 at a time."""
    boxes = np.random.default_rng(0).normal(size=(32, box_size, box_size, box_size)).astype(np.float32)
    run(boxes)
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        run(boxes)
        count += 1
    return round(32 * count / (time.perf_counter() - started), 1)


def peak_memory() -> dict[str, float | None]:
    """The most that this process, its largest child and its GPU held, GB."""
    own, child = (resource.getrusage(who).ru_maxrss * 1024 / 1e9 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    gpu = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    return {"process_gb": round(own, 2), "largest_child_gb": round(child, 2), "gpu_gb": gpu and round(gpu, 2)}


def timed(output: Path, make: Callable[[], object]) -> float:
    """Seconds that making an output took, which is not made again; they are kept beside it."""
    kept = output.with_name(f"{output.name}.seconds")
    if not output.exists():
        started = time.perf_counter()
        make()
        kept.write_text(json.dumps(round(time.perf_counter() - started, 1)))
    return float(json.loads(kept.read_text()))


def run_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, so that the memory of one cell is not that of another."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=keep_freed_memory) as pool:
        return pool.submit(function, *arguments).result()
