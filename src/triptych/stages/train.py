"""Labelled subtomograms -> model folder. The only module that imports Lightning."""

from __future__ import annotations

import logging
import math
import shutil
import time
import warnings
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from triptych.config import TrainConfig
from triptych.device import choose_device, choose_precision, share_cores
from triptych.errors import InputError, counted, first_line
from triptych.io.files import disk_errors
from triptych.io.store import known_labels, open_store, unpack
from triptych.parallel import Progress, WorkerContext, available_cores, in_batches
from triptych.recognition.fidelity import Fidelity
from triptych.recognition.initial_weights import load_initial
from triptych.recognition.model import Model, ModelCard, has_broken, locate_model
from triptych.recognition.network import Network
from triptych.recognition.novelty import NoveltyReference
from triptych.recognition.temperature import Temperature, fit_temperature
from triptych.training.confidence import Sample, choose_rows, class_figures, fit_recovery, fit_reference, look
from triptych.training.dataset import (
    Batch,
    PlannedBatches,
    SubtomogramDataset,
    class_shares,
    find_slab,
    keep_batch,
    split_rows,
    tile_rows,
    warn_of_missing_signal,
)
from triptych.training.generations import Generation, Generations, Refresh
from triptych.training.losses import TileTruth, Truth, equalising_weights, task_losses, total_loss, uncertainty_loss
from triptych.training.ranks import Share, average_batch_norms, own_share, patient_group
from triptych.training.requirements import check_request
from triptych.training.run_folder import end_no_earlier, join_logs, last_checkpoint, prepare_run
from triptych.training.validation import join_logits, score, summarise

SMALLEST_HALF_BOX = 24
"""On a grid of 2^3, which a box of 16 has at 1/8, the weight gradients of torch 2.13's bfloat16 convolutions on CPUs are garbage."""
FEW_HELD_OUT = 20
"""Particles held out below which a training on a part of a tomogram warns that its figures mean little."""
GPU_LOADERS = 8
"""Processes that prepare the batches of a GPU, at most."""
UPDATES_PER_BALANCE, BALANCE_RATE = 10, 0.1
"""How often the gradients of the tasks are compared, and the share of what is new in their running mean."""
logger = logging.getLogger(__name__)


def train(
    data: Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    resume: bool = False,
    on_progress: Progress | None = None,
    refresh: Refresh | None = None,
) -> Path:
    """What `triptych.train` does and documents, with one parameter that it fills in.

    Parameters
    ----------
    refresh : what simulates fresh data in the background, for the setting `refresh_every`
    """
    data, out, config = Path(data), Path(out), config or TrainConfig()
    store = open_store(data)
    check_request(store, out, config)
    run = out.with_name(f"{out.name}.training")
    if resume:
        config = end_no_earlier(config, run)
    share = own_share(config)
    if share.leads:
        warn_of_missing_signal(store, config.augment)
    generations = Generations(store, run, config, last_update(config), refresh, share.leads)
    with disk_errors(out, "the last checkpoint is kept"):
        checkpoint = prepare_run(run, data, config, resume) if share.leads else last_checkpoint(run)
        try:
            module = TrainingModule(generations, config, share)
        except InputError:
            if checkpoint is None and share.leads:  # nothing is lost, and the corrected command is not held up
                shutil.rmtree(run)
            raise
        started = time.monotonic()
        fit(module, run, checkpoint, on_progress if share.leads else None)
        if not share.leads:
            return out
        save_model(module, data, out, run, started)
    shutil.rmtree(run)
    return out


def save_model(module: TrainingModule, data: Path, out: Path, run: Path, started: float) -> None:
    """Write the folder of the model that a run has trained, with what was found of it; `started` is when the run began, by the monotonic clock."""
    config, generations = module.config, module.generations
    model, figures = finish(module, config)
    figures["seconds_of_last_run"] = round(time.monotonic() - started, 1)
    if config.refresh_every:
        figures["seconds_waited_in_last_run"] = round(generations.seconds_waited, 1)
    extra: dict[str, object] = {"validation": figures, "held_out": module.held_out, "device": name_devices(model, config)}
    extra["generations"] = generations.last + 1
    inputs = [data, *([] if config.initial_model is None else [locate_model(config.initial_model)])]
    model.save(out, config, inputs, config.seed, extra, {"training.csv": join_logs(run / "log")}, arguments={"data": data})


def name_devices(model: Model, config: TrainConfig) -> str:
    """What people call the devices that have trained a model."""
    count = config.devices * config.nodes
    return model.device_name if count == 1 else f"{count} x {model.device_name}"


def fit(module: TrainingModule, run: Path, checkpoint: str | None, on_progress: Progress | None) -> None:
    """Train to the end, from a checkpoint if there is one, with the figures of the last validation."""
    config, box_size = module.config, module.store.box_size
    trainer = make_trainer(run, config, min(box_size, config.crop_size or box_size), choose_strategy(module), on_progress)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning|torch\.jit")
        try:
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stop
        except torch.OutOfMemoryError as error:
            what = f"the memory of the GPU is too small to train with batch_size={config.batch_size} ({first_line(error)})"
            raise InputError(f"{what}: start anew with a smaller batch_size or crop_size, since another batch makes another training") from error
        except (InputError, RuntimeError) as error:
            explain_loader(error)
            raise
        finally:
            module.generations.stop()
        if not module.last_outputs:  # the run was stopped after its last update
            trainer.validate(module, verbose=False)


def explain_loader(error: Exception) -> None:
    """InputError for what a process that loads data has ended with: a sentence of ours inside a traceback, or its death."""
    text = str(error)
    if text.startswith("Caught InputError in DataLoader worker"):
        raise InputError(text.rsplit("InputError: ", 1)[1].strip()) from error
    if text.startswith("DataLoader worker"):
        what = f"a process that loads data died, perhaps for want of memory ({first_line(error)})"
        raise InputError(f"{what}: use fewer loader_workers and go on with --resume; the last checkpoint is kept") from error


def choose_strategy(module: TrainingModule) -> str:
    """How Lightning trains: in several processes through DDP, which must be told of weights without gradients, of the embedding or a head."""
    if module.share.count == 1:
        return "auto"
    tasks = module.config.network.tasks
    has_idle = "class" not in tasks or ("density" in tasks and "density" not in module.store)  # only classes are told from the embedding
    return "ddp_find_unused_parameters_true" if has_idle else "ddp"


def make_trainer(run: Path, config: TrainConfig, smallest_box: int, strategy: str, on_progress: Progress | None) -> Trainer:
    device = choose_device(config.device)
    half = choose_precision(config.precision, device) is torch.bfloat16
    if device.type == "cpu" and smallest_box < SMALLEST_HALF_BOX:
        half = False
    loggers: list[Logger] = [CSVLogger(run, name="log", version=f"from_{time.time_ns()}", flush_logs_every_n_steps=1)]
    try:
        loggers.append(TensorBoardLogger(run, name="tensorboard", version=""))
    except ModuleNotFoundError:
        logger.debug("tensorboard is not installed: logging to CSV only")
    # The last checkpoint is written over itself only when whole (Lightning writes to a temporary name first).
    keep_last = ModelCheckpoint(run / "checkpoints", filename="last", save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True)
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=config.devices if device.type == "cpu" or config.devices > 1 else [device.index],
        num_nodes=config.nodes,
        strategy=strategy,
        sync_batchnorm=strategy != "auto" and device.type == "cuda",
        use_distributed_sampler=False,  # the batches are planned with shares
        precision="bf16-mixed" if half else "32-true",
        max_epochs=-(-last_update(config) // config.updates_per_checkpoint),
        gradient_clip_val=config.gradient_clip,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=min(10, last_update(config)),
        logger=loggers,
        callbacks=[keep_last, *([ReportProgress(last_update(config), on_progress)] if on_progress else [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def last_update(config: TrainConfig) -> int:
    """Number of updates after which the run ends: that of a checkpoint, or of the whole schedule."""
    checkpoints = -(-(config.stop_after or config.updates) // config.updates_per_checkpoint)
    return min(config.updates, checkpoints * config.updates_per_checkpoint)


class ReportProgress(Callback):
    """Passes the number of updates on."""

    def __init__(self, total: int, on_progress: Progress) -> None:
        self.total, self.on_progress = total, on_progress

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_progress(trainer.global_step, self.total)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.on_progress(trainer.global_step, self.total)


class TrainingModule(LightningModule):
    """Network, losses, schedule and loaders. An epoch here is the updates between two checkpoints."""

    loss_weights: Tensor

    def __init__(self, generations: Generations, config: TrainConfig, share: Share) -> None:
        super().__init__()
        self.generations, self.config, self.share = generations, config, share
        self.original = generations.current
        self.store = generations.store
        self.class_names = tuple(name for name in self.store.class_names if name not in config.withheld)
        self.label = known_labels(self.store, self.class_names)
        self.tiles = config.tiles_per_batch if "pick" in config.network.tasks else 0
        self.hold_out()
        self.network = self.start_network()
        if self.original.cache is not None and share.leads:
            unpack(self.store, self.original.cache)
        if config.loss.balance == "uncertainty":
            self.log_variance = torch.nn.Parameter(torch.zeros(len(config.network.tasks)))
        if config.loss.balance == "gradient":
            self.register_buffer("loss_weights", torch.ones(len(config.network.tasks)))
        self.outputs: list[dict[str, Any]] = []
        self.last_outputs: list[dict[str, Any]] = []

    def hold_out(self) -> None:
        """Choose the particles to train on and those to validate with; InputError where there are none of either, or no tiles that picking needs."""
        store, config = self.store, self.config
        rows, others = split_rows(store, config.validation_share, config.validation_particles, config.seed)
        self.train_rows, self.validation_rows = rows[self.label[rows] >= 0], others[self.label[others] >= 0]
        self.withheld_rows = others[self.label[others] < 0]
        self.slab = find_slab(store, config.validation_share, config.seed)
        parts = {"particle": (self.train_rows, self.validation_rows)}
        if self.tiles:  # of which a tomogram with few particles may have none
            parts["tile"] = (tile_rows(store, self.train_rows, self.slab), tile_rows(store, self.validation_rows, self.slab))
        for kind, (used, held_out) in parts.items():
            if not (len(used) and len(held_out)):
                counts = f"{counted(len(used), kind)} of {store.path} to train on and {len(held_out)} to validate with"
                cause = f"validation_share={config.validation_share:g}, {counted(len(config.withheld), 'withheld class', 'withheld classes')}"
                raise InputError(f"{cause} and seed={config.seed} leave {counts}, but both need some: change them, or simulate more tomograms")
        if self.share.leads:
            self.say_what_is_held_out()
            self.warn_of_lost_classes()

    def start_network(self) -> Network:
        """The network as it is before the first update: by the seed, or by another model's weights."""
        config, label_names = self.config, self.store.label_names
        seed_torch(config.seed)
        network = Network(config.network, len(self.class_names), len(label_names))
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if config.initial_model is not None:
            load_initial(network, self.class_names, label_names, config.initial_model)
        if self.share.count > 1 and choose_device(config.device).type == "cpu":
            share_cores(config.devices)
            average_batch_norms(network)
        return network

    @property
    def held_out(self) -> str:
        """What is held out, in words."""
        return "whole tomograms" if self.slab is None else str(self.slab)

    def say_what_is_held_out(self) -> None:
        """Loudly where it is the end of a tomogram with few particles, whose figures mean little."""
        used, held = (counted(len(rows), "particle") for rows in (self.train_rows, self.validation_rows))
        few = self.slab is not None and len(self.validation_rows) < FEW_HELD_OUT
        doubt = ", whose figures mean little (--set validation_share= holds out more)" if few else ""
        logger.log(logging.WARNING if few else logging.INFO, "%s to train on; held out: %s (%s)%s", used, held, self.held_out, doubt)

    def warn_of_lost_classes(self) -> None:
        """Warn where all particles of a class are held out, or too near to those that are."""
        lost = np.setdiff1d(self.label[self.label >= 0], self.label[self.train_rows])
        if len(lost):
            names = ", ".join(self.class_names[k] for k in lost)
            logger.warning("no particle of %s is left to train on, since all are held out or reach into what is: give more, or another seed", names)

    def configure_optimizers(self) -> Any:
        config = self.config
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if config.loss.balance == "uncertainty":
            groups.append({"params": [self.log_variance], "weight_decay": 0.0})
        optimiser = torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)
        warmup = max(1, round(config.warmup_share * config.updates))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, config.updates - warmup))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[Batch]:
        config = self.config
        first = self.current_epoch * config.updates_per_checkpoint
        count = min(config.updates_per_checkpoint, config.updates - first)
        crop_size = config.crop_size if first < config.crop_share * config.updates else None
        data = self._take(first)
        # Only the store that was given has held-out rows.
        rows = np.flatnonzero(known_labels(open_store(data.path), self.class_names) >= 0) if data.number else self.train_rows
        tiles = None if data.number or not self.tiles else tile_rows(self.store, rows, self.slab)
        batches = PlannedBatches(rows, config.batch_size, config.seed, first, count, data.number * self.generations.every, self.share)
        dataset = SubtomogramDataset(data.path, config.augment, config.seed, crop_size, data.cache, self.tiles, tiles, self.class_names, self.share)
        return self._loader(dataset, batches)

    def _take(self, update: int) -> Generation:
        """The generation to train on; made by the process that leads while the others wait."""
        group = self.waiting if self.share.count > 1 else None
        if self.share.leads:
            self.generations.take(update)
        if group is not None:
            distributed.barrier(group)
        return self.generations.current if self.share.leads else self.generations.follow(update)

    @cached_property
    def waiting(self) -> distributed.ProcessGroup:
        """Made before anyone waits."""
        return patient_group()

    def val_dataloader(self) -> DataLoader[Batch]:
        """All that is held out, in every process: it is little, and all have the same figures."""
        draws = [(int(row), i) for i, row in enumerate(self.validation_rows)]
        batches = list(in_batches(draws, self.config.batch_size))
        tiles = tile_rows(self.store, self.validation_rows, self.slab) if self.tiles else None
        dataset = SubtomogramDataset(self.original.path, None, self.config.seed, None, self.original.cache, self.tiles, tiles, self.class_names)
        return self._loader(dataset, batches)

    def _loader(self, dataset: SubtomogramDataset, batches: Any) -> DataLoader[Batch]:
        workers = count_loaders(self.config)
        how: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": WorkerContext() if workers else None}
        pinned = choose_device(self.config.device).type == "cuda"  # memory from which a GPU fetches a batch while it computes
        return DataLoader(dataset, batch_sampler=batches, collate_fn=keep_batch, pin_memory=pinned, **how)  # type: ignore[arg-type]

    def on_train_batch_start(self, *_: Any) -> None:
        # Dropout depends on the number of the update alone, so that a resumed run equals an undisturbed one.
        seed_torch((self.config.seed * 1_000_003 + self.global_step) + (self.share.rank << 40))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        output = self.network(batch.subtomogram, batch.tile)
        tiles = None if batch.tile_labels is None or batch.tile_heat is None else TileTruth(batch.tile_labels, batch.tile_heat)
        density = batch.density if "density" in self.store else None
        losses = task_losses(output, Truth(batch.label, batch.mask, density, tiles), self.config.loss, self.share)
        several = self.share.count > 1
        self.log_dict({f"loss_{task}": loss for task, loss in losses.items()}, sync_dist=several)
        if output.class_logits is not None:
            self.log("train_accuracy", (output.class_logits.argmax(1) == batch.label).float().mean(), sync_dist=several)
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return self.balance(losses)

    def balance(self, losses: dict[str, Tensor]) -> Tensor:
        """The loss to descend."""
        if self.config.loss.balance == "uncertainty":
            self.log_weights(losses, torch.exp(-self.log_variance))
            return uncertainty_loss(losses, self.log_variance)
        if self.config.loss.balance == "gradient":
            if self.global_step % UPDATES_PER_BALANCE == 0:
                weights = self.share.mean(equalising_weights(losses, self.network.shared_weight))
                self.loss_weights = weights if self.global_step == 0 else torch.lerp(self.loss_weights, weights, BALANCE_RATE)
            self.log_weights(losses, self.loss_weights)
            return total_loss(losses, self.loss_weights)
        return total_loss(losses)

    def log_weights(self, losses: dict[str, Tensor], weights: Tensor) -> None:
        self.log_dict({f"weight_{task}": weight.detach() for task, weight in zip(losses, weights, strict=True)})

    def check_finite(self) -> None:
        """InputError if the training has diverged: weights that are no finite half-precision numbers, as which they are kept, or such logits."""
        logits = {f"logits {place}": output["logits"] for place, output in enumerate(self.outputs) if "logits" in output}
        if has_broken(self.network.state_dict() | logits):
            what = f"the training has diverged: after {self.global_step} updates its numbers are infinite or NaN"
            raise InputError(f"{what}; start anew with a lower learning_rate ({self.config.learning_rate:g} now) or gradient_clip")

    def validation_step(self, batch: Batch, _: int) -> None:
        self.outputs.append(score(self.network(batch.subtomogram, batch.tile), batch))

    def on_validation_epoch_end(self) -> None:
        self.check_finite()  # before the checkpoint, which then is the last one that is sound
        figures = summarise(self.outputs, Temperature())
        self.log_dict({f"validation_{name}": value for name, value in figures.items()})
        logger.info("after %d updates: %s", self.global_step, ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
        self.last_outputs, self.outputs = self.outputs, []


def seed_torch(seed: int) -> None:
    """Of any size, as NumPy takes it."""
    torch.manual_seed(seed % 2**64)


def count_loaders(config: TrainConfig) -> int:
    """Processes that prepare the batches of one device."""
    if config.loader_workers is not None:
        return config.loader_workers
    return 1 if choose_device(config.device).type == "cpu" else max(1, min(GPU_LOADERS, available_cores() // config.devices))


def finish(module: TrainingModule, config: TrainConfig) -> tuple[Model, dict[str, Any]]:
    """The trained model with its temperature and novelty reference, and its figures on the held-out particles."""
    outputs = module.last_outputs
    temperature = fit_temperature(*join_logits(outputs)) if "logits" in outputs[0] else Temperature()
    store = module.store
    labels = store.label_names if module.tiles else ()
    names = module.class_names
    shown = module.label[module.train_rows]
    shares = class_shares(shown, names, config.augment, config.loss.label_smoothing) if "class" in config.network.tasks else ()
    about: dict[str, Any] = {"temperature": temperature, "label_names": labels, "class_shares": shares}
    card = ModelCard(config.network, names, store.voxel_size, store.box_size, store.contrast, **about)
    figures = {"particles": sum(len(o["label"]) for o in outputs), **summarise(outputs, temperature)}
    if "logits" in outputs[0]:  # to these particles the temperature was fitted
        figures["calibration_error_before_temperature"] = class_figures(*join_logits(outputs), Temperature())["calibration_error"]
    model = Model(module.network, card, config.device, config.precision)
    if {"class", "density"} & set(config.network.tasks):
        model.novelty, fidelity = fit_confidence(model, module, config)
        model.card = replace(card, fidelity=fidelity)
    return model, figures


def fit_confidence(model: Model, module: TrainingModule, config: TrainConfig) -> tuple[NoveltyReference | None, Fidelity | None]:
    """What the trained model calls unknown, where it names classes, from training particles, and from held-out ones for the threshold; what its
    densities are worth."""
    names_classes = "class" in config.network.tasks
    if config.withheld and not len(module.withheld_rows):
        logger.warning("no particle of the withheld classes is held out: the threshold of the novelty is chosen on known particles")
    cache = module.original.cache
    store = module.store if cache is None else unpack(module.store, cache)
    fitting = choose_rows(module.train_rows, config.novelty.particles if names_classes else 0, config.seed)
    sample = Sample(store, module.label, fitting, module.validation_rows, module.withheld_rows)
    seen = look(model, sample, config.batch_size)
    return fit_reference(seen, sample, config.novelty) if names_classes else None, fit_recovery([seen.held_out])
