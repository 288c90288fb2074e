"""Two networks and a method of others on the data of multitask.py: DSRF3D, SSN3D-ED and template matching.

    python benchmarks/published.py WORK [--size cpu|gpu] [--seeds 0 1 2] [--cells dsrf3d ssn3d_ed ...] [--subset 60]

The networks are written anew from their published descriptions:

* DSRF3D (Xu et al., Bioinformatics 33:i13, 2017; Che et al., Mach. Vis. Appl. 29:1227, 2018): two blocks of two 3^3 convolutions, 32 then 64
  channels, each followed by 2^3 max pooling, two dense layers of 512, softmax over the classes
* SSN3D-ED (Liu et al., ICIP 2018, arXiv:1802.04087): encoder of 32-32, 64-64 and 128-128 channels with three poolings, a decoder of transposed
  convolutions with skips, softmax over the classes at each voxel

They see the samples of the cell `all` of multitask.py, in the same order, with the same optimiser and schedule, in as many updates; or, as
*_equal_arithmetic, in as many as give them the arithmetic of that cell. Their descriptions name no normalisation layers, so that their learning
rate is lower; as *_normalised they have batch normalisation before each activation, our addition, and our learning rate and arithmetic. Template
matching aligns every true structure to the first particles of each test set, wedge and CTF of each known; the cell `all_long` judges the model of
that name, which multitask.py left in WORK, and `shipped` the shipped one, on the whole test sets and on these particles. The cell `rates` compares
how many particles per second triptych's network takes with DSRF3D, SSN3D-ED for masks and SSN3D-ED for densities one after another. Each cell
writes benchmarks/results/published/CELL_SEED.json; one whose file exists is skipped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from cells import (
    TEST_SNRS,
    TRAINING_SNR,
    Size,
    count_macs,
    count_parameters,
    judge_outputs,
    make_parser,
    make_test_store,
    measure_rate,
    missing_cells,
    peak_memory,
    predict_store,
    read_arguments,
    read_boxes,
    run_apart,
    training_store,
)
from multitask import CELLS as MULTITASK
from multitask import macs_per_particle, network_config, train_config
from results import write_result
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from triptych.alignment.align import align
from triptych.alignment.rotations import rotation_grid
from triptych.config import NONE_CLASS, AlignConfig, AugmentConfig, PredictConfig, TrainConfig
from triptych.device import choose_device, choose_precision, name_device
from triptych.fourier import resample_to_box, wedge_weights
from triptych.io.source import open_particles
from triptych.io.store import Store, open_store, unpack
from triptych.recognition.model import Model, load_model
from triptych.recognition.network import Network
from triptych.simulation.library import load_library
from triptych.simulation.specimen import make_template
from triptych.simulation.structures import Structure
from triptych.stages.orient import pose_template
from triptych.training.dataset import Batch, PlannedBatches, SubtomogramDataset, keep_batch, split_rows

NETWORKS = ("dsrf3d", "ssn3d_ed")
CORE = ("dsrf3d", "ssn3d_ed_equal_arithmetic", "template_matching")
NORMALISED = "_normalised"
OURS = ("all_long", "shipped")
CROWDING = (0.0, 0.05, 0.1, 0.2)
"""Limits between which the share of the volume that the small proteins of the cytosol fill is told apart."""
CELLS = (*CORE, *(f"{name}{NORMALISED}" for name in NETWORKS), "ssn3d_ed", "dsrf3d_equal_arithmetic", *OURS, "rates")
ONCE = ("template_matching", "shipped", "rates")
"""Cells that are the same for all seeds."""
TURNS = 5
LEARNING_RATE = 5e-4
"""Without normalisation."""


def convolution(inputs: int, outputs: int, normalised: bool) -> nn.Sequential:
    layers = [nn.Conv3d(inputs, outputs, 3, padding=1), *([nn.BatchNorm3d(outputs)] * normalised), nn.ReLU()]
    return nn.Sequential(*layers)


def double_convolution(inputs: int, outputs: int, normalised: bool) -> nn.Sequential:
    return nn.Sequential(convolution(inputs, outputs, normalised), convolution(outputs, outputs, normalised))


def dense(inputs: int, normalised: bool) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 512), *([nn.BatchNorm1d(512)] * normalised), nn.ReLU(), nn.Dropout(0.5))


class DSRF3D(nn.Module):
    """Subtomograms (b, d, h, w) -> class logits (b, classes)."""

    def __init__(self, classes: int, box_size: int, normalised: bool) -> None:
        super().__init__()
        blocks = [double_convolution(a, b, normalised) for a, b in ((1, 32), (32, 64))]
        self.features = nn.Sequential(blocks[0], nn.MaxPool3d(2), blocks[1], nn.MaxPool3d(2), nn.Flatten())
        inputs = 64 * (box_size // 4) ** 3
        self.classify = nn.Sequential(dense(inputs, normalised), dense(512, normalised), nn.Linear(512, classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.features(x[:, None]))
        return logits

    def loss(self, output: Tensor, batch: Batch, none: int) -> Tensor:
        return F.cross_entropy(output, batch.label)

    def answer(self, output: Tensor, none: int) -> tuple[Tensor, Tensor | None]:
        """Class probabilities, and the mask if there is one."""
        return output.softmax(1), None


class SSN3DED(nn.Module):
    """Subtomograms (b, d, h, w) -> class logits of each voxel (b, classes, d, h, w); the class "none" is the background."""

    def __init__(self, classes: int, normalised: bool) -> None:
        super().__init__()
        widths = (32, 64, 128)
        self.down = nn.ModuleList(double_convolution(a, b, normalised) for a, b in zip((1, 32, 64), widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose3d(a, b, 2, stride=2) for a, b in zip((128, 128, 64), widths[::-1], strict=True))
        self.merge = nn.ModuleList(double_convolution(2 * width, width, normalised) for width in widths[::-1])
        self.classify = nn.Conv3d(32, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = x[:, None], []
        for block in self.down:
            skips.append(block(x))
            x = F.max_pool3d(skips[-1], 2)
        for up, merge, skip in zip(self.up, self.merge, skips[::-1], strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        logits: Tensor = self.classify(x)
        return logits

    def loss(self, output: Tensor, batch: Batch, none: int) -> Tensor:
        return F.cross_entropy(output, torch.where(batch.mask > 0, batch.label[:, None, None, None], none))

    def answer(self, output: Tensor, none: int) -> tuple[Tensor, Tensor | None]:
        """The class that most voxels of the particle are given; "none" where none is given another."""
        named = F.one_hot(output.argmax(1), output.shape[1]).flatten(1, 3).sum(1).float()
        named[:, none] = 1e-3
        return named / named.sum(1, keepdim=True), output.argmax(1) != none


def make_network(name: str, classes: int, box_size: int) -> DSRF3D | SSN3DED:
    normalised = name.endswith(NORMALISED)
    return DSRF3D(classes, box_size, normalised) if name.startswith("dsrf3d") else SSN3DED(classes, normalised)


class Runner:
    """A network on its device and in its precision, as triptych's own chooses them."""

    def __init__(self, network: DSRF3D | SSN3DED) -> None:
        self.device = choose_device("auto")
        self.dtype = choose_precision("auto", self.device)
        self.device_name = name_device(self.device)
        self.network = network.to(self.device)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output: Tensor = self.network(x.to(self.device))
            return output.float()

    @torch.inference_mode()
    def answer(self, boxes: np.ndarray, none: int) -> tuple[Tensor, Tensor | None]:
        self.network.eval()
        return self.network.answer(self(torch.from_numpy(boxes)), none)


def train_plainly(runner: Runner, path: Path, cache: Path, checkpoint: Path, size: Size, updates: int, learning_rate: float, seed: int) -> None:
    """AdamW, warm-up and cosine decay, over the batches that the cells of multitask.py see; goes on from its checkpoint."""
    config = train_config(size, "all", seed)
    store = open_store(path)
    unpack(store, cache)
    rows, _ = split_rows(store, config.validation_share, config.validation_particles, seed)
    none = store.class_names.index(NONE_CLASS)
    network = runner.network
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=config.weight_decay)
    warmup = max(1, round(config.warmup_share * updates))

    def factor(step: int) -> float:
        return (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, updates - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    first = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        first = kept["updates"]
        for part, name in ((network, "network"), (optimiser, "optimiser"), (schedule, "schedule")):
            part.load_state_dict(kept[name])
    dataset = SubtomogramDataset(path, AugmentConfig(snr=TRAINING_SNR), seed, cache=cache)
    batches = PlannedBatches(rows, size.batch_size, seed, first, updates - first)
    workers = size.loader_workers
    how: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": "spawn" if workers else None}
    loader: DataLoader[Batch] = DataLoader(dataset, batch_sampler=batches, collate_fn=keep_batch, **how)  # type: ignore[arg-type]
    network.train()
    for done, batch in enumerate(loader, first + 1):
        torch.manual_seed(seed * 1_000_003 + done)
        there = Batch._make(None if part is None else part.to(runner.device) for part in batch)
        loss = network.loss(runner(there.subtomogram), there, none)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
        optimiser.step()
        schedule.step()
        if done % max(1, updates // 8) == 0:
            print(f"update {done} of {updates}: loss {loss.item():.3f}", flush=True)
            state = {"updates": done, "network": network.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)


def judge_network(runner: Runner, path: Path) -> dict[str, Any]:
    store = open_store(path)
    none = store.class_names.index(NONE_CLASS)
    groups = np.array_split(np.arange(len(store)), -(-len(store) // 32))
    parts = [runner.answer(read_boxes(store, rows), none) for rows in groups]
    masks = None if parts[0][1] is None else torch.cat([mask for _, mask in parts if mask is not None]).cpu().numpy()
    return judge_outputs(store, np.arange(len(store)), probabilities=torch.cat([p for p, _ in parts]).cpu().numpy(), masks=masks)


def run_network(work: Path, size: Size, name: str, seed: int, results: Path) -> None:
    path = training_store(work, size)
    classes = len(open_store(path).class_names)
    torch.manual_seed(seed)
    runner = Runner(make_network(name, classes, size.box_size))
    macs = count_macs(runner.network, size.box_size)
    share = macs_per_particle(size, MULTITASK["all"]) / macs if name.endswith(("equal_arithmetic", NORMALISED)) else 1
    learning_rate = TrainConfig().learning_rate if name.endswith(NORMALISED) else LEARNING_RATE
    updates = max(1, round(share * size.updates))
    checkpoint = work / f"{name}_{seed}.checkpoint"
    resumed = checkpoint.exists()
    started = time.perf_counter()
    train_plainly(runner, path, work / "train.unpacked", checkpoint, size, updates, learning_rate, seed)
    seconds = time.perf_counter() - started
    tests = {f"{snr:g}": judge_network(runner, make_test_store(work, size, snr)) for snr in TEST_SNRS}
    figures = {
        "cell": name,
        "particles": size.particles,
        "test_particles": size.test_particles,
        "learning_rate": learning_rate,
        "updates": updates,
        "samples": updates * size.batch_size,
        "tests": tests,
        "parameters": count_parameters(runner.network),
        "macs_per_particle": macs,
        "particles_per_second": measure_rate(lambda boxes: runner.answer(boxes, 0), size.box_size),
        "training_seconds": None if resumed else round(seconds, 1),
        "memory": peak_memory(),
    }
    write_result(f"published/{name}_{seed}", seed, figures, runner, results)
    checkpoint.unlink(missing_ok=True)


def untrained_model(size: Size) -> Model:
    """Triptych's network of the cell `all`, with the classes of the shipped model."""
    shipped, config = load_model(), network_config(size, MULTITASK["all"])
    network = Network(config, len(shipped.card.class_names), len(shipped.card.label_names))
    return Model(network, replace(shipped.card, network=config, box_size=size.box_size), str(shipped.device), "auto")


def run_rates(size: Size, seed: int, results: Path) -> None:
    """Particles per second of all networks, untrained, taking turns: median of the turns. The three others do what triptych's does at once."""
    ours = untrained_model(size)
    classes = len(ours.card.class_names)
    others = {name: Runner(make_network(name, classes, size.box_size)) for name in NETWORKS}
    others["ssn3d_ed_density"] = Runner(SSN3DED(1, normalised=False))
    runs: dict[str, Callable[[np.ndarray], object]] = {"triptych": ours.run}
    runs |= {name: partial(run_plainly, runner) for name, runner in others.items()}
    turns = [{name: measure_rate(run, size.box_size) for name, run in runs.items()} for _ in range(TURNS)]
    rates = {name: median(turn[name] for turn in turns) for name in runs}
    one_after_another = 1 / sum(1 / rates[name] for name in others)
    figures = {
        "cell": "rates",
        "particles_per_second": rates,
        "others_one_after_another": one_after_another,
        "triptych_is_faster_by": rates["triptych"] / one_after_another,
    }
    write_result(f"published/rates_{seed}", seed, figures, ours, results)


@torch.inference_mode()
def run_plainly(runner: Runner, boxes: np.ndarray) -> Tensor:
    runner.network.eval()
    return runner(torch.from_numpy(boxes))


# -------------------------------------------------------------------------------------------------- template matching


def match_structures(path: Path, rows: np.ndarray, structures: list[Structure]) -> list[tuple[Structure, np.ndarray, np.ndarray]]:
    """Structure, rotation and shift (x, y, z, Å) of the highest constrained cross-correlation with each row of a store.

    Every structure gets the particle's wedge and CTF, and a search of its own over all rotations and shifts, refined to below a degree.
    """
    store, source = open_store(path), open_particles(path, PredictConfig(), 0)
    n, voxel_size = store.box_size, store.voxel_size
    assert source.tilt_ranges is not None  # simulated
    assert source.transfers is not None
    wedges = np.stack([wedge_weights((n,) * 3, *source.tilt_ranges[row]) * source.transfers.of(int(row), n, voxel_size) for row in rows])
    boxes = read_boxes(store, rows)
    tried = [align(boxes, resample_to_box(item.density, voxel_size, n, fill=0), voxel_size, wedges=wedges) for item in structures]
    best = np.argmax([found.scores for found in tried], axis=0)
    return [(structures[k], tried[k].rotations[i], tried[k].shifts[i]) for i, k in enumerate(best)]


def matched_rows(store: Store, subset: int) -> np.ndarray:
    """The first particles that show something: correlation alone cannot say "none"."""
    none = store.class_names.index(NONE_CLASS)
    return np.flatnonzero(np.asarray(store["label"][:]) != none)[:subset]


def run_template_matching(work: Path, size: Size, name: str, seed: int, results: Path, subset: int) -> None:
    tests: dict[str, Any] = {}
    structures = load_library()
    started = time.perf_counter()
    for snr in TEST_SNRS:
        path = make_test_store(work, size, snr)
        store = open_store(path)
        rows = matched_rows(store, subset)
        found = match_structures(path, rows, structures)
        fine = {item.name: make_template(item, store.voxel_size).fine for item in structures}
        boxes = [pose_template(fine[item.name], turn, shift / store.voxel_size, (store.box_size,) * 3) for item, turn, shift in found]
        masks = np.stack([box > item.contour for box, (item, _, _) in zip(boxes, found, strict=True)])
        tests[f"{snr:g}"] = judge_outputs(store, rows, classes=[item.name for item, _, _ in found], masks=masks, densities=np.stack(boxes))
    seconds = time.perf_counter() - started
    figures = {
        "cell": name,
        "test_particles": subset,
        "rotations": len(rotation_grid(AlignConfig().step)),
        "tests": tests,
        "particles_per_second": round(len(TEST_SNRS) * subset / seconds, 3),
        "memory": peak_memory(),
    }
    write_result(f"published/{name}_{seed}", seed, figures, None, results)


def run_ours(work: Path, size: Size, name: str, seed: int, results: Path, subset: int) -> None:
    """A model of ours on whole test sets, on the particles of template matching, and apart by how crowded their tomograms are."""
    model = load_model(None if name == "shipped" else work / f"model_{name}_{seed}")
    tests: dict[str, Any] = {}
    matched: dict[str, Any] = {}
    crowded: dict[str, dict[str, Any]] = {f"{low:g}-{high:g}": {} for low, high in pairwise(CROWDING)}
    for snr in TEST_SNRS:
        store = open_store(make_test_store(work, size, snr))
        found, everything = predict_store(model, store), np.arange(len(store))
        cytosol = np.asarray(store["cytosol"][:])
        apart = [(np.flatnonzero((cytosol >= low) & (cytosol < high)), crowded[f"{low:g}-{high:g}"]) for low, high in pairwise(CROWDING)]
        for rows, figures in ((everything, tests), (matched_rows(store, subset), matched), *apart):
            some = {output: found[output][rows] for output in ("probabilities", "masks", "densities")}
            figures[f"{snr:g}"] = {"particles": len(rows), **judge_outputs(store, rows, class_names=found["class_names"], **some)}
    content = {"cell": name, "test_particles": size.test_particles, "tests": tests, "matched": matched, "by_cytosol": crowded}
    macs = {"parameters": count_parameters(model.network), "macs_per_particle": count_macs(model.network, model.card.box_size)}
    write_result(f"published/{name}_{seed}", seed, content | macs, model, results)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CORE)
    parser.add_argument("--subset", type=int, default=60, help="particles for template matching")
    arguments, size = read_arguments(parser)
    for seed, name in missing_cells(arguments, "published"):
        if name in ONCE and seed != arguments.seeds[0]:
            continue
        if name not in (*ONCE, *OURS):
            run_apart(run_network, arguments.work, size, name, seed, arguments.results)
        elif name == "rates":
            run_apart(run_rates, size, seed, arguments.results)
        else:
            run_apart(run_ours if name in OURS else run_template_matching, arguments.work, size, name, seed, arguments.results, arguments.subset)


if __name__ == "__main__":
    main()
