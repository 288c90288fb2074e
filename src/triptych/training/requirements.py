"""What a training needs of its data and of the machine, and whether these have it."""

from __future__ import annotations

from pathlib import Path

import torch

from triptych.config import NONE_CLASS, UNKNOWN, TrainConfig
from triptych.device import choose_device
from triptych.errors import InputError
from triptych.io.store import Store
from triptych.simulation.structures import check_class_names


def check_request(store: Store, out: Path, config: TrainConfig) -> None:
    """InputError unless the data can train what is asked for, there are the devices, and nothing is in the way."""
    check_tasks(store, config)
    check_withheld(store, config)
    check_devices(config)
    if out.exists():
        raise InputError(f"{out} exists already: give another name, or remove it first")


def check_tasks(store: Store, config: TrainConfig) -> None:
    """InputError if the store lacks the truth of a task, or has classes that predictions could not name."""
    check_class_names([name for name in store.class_names if name != NONE_CLASS], reserved=(UNKNOWN,))
    for task in ("mask", "density"):
        # A model that recovers densities may learn other things from data without them, and does not unlearn it at once.
        kept = task == "density" and config.initial_model is not None and config.loss.balance == "fixed"
        if task in config.network.tasks and task not in store and not kept:
            raise InputError(f"{store.path} has no array '{task}', which the task '{task}' needs; set network.tasks to the others")
    if "pick" in config.network.tasks and not (store.label_names and config.tiles_per_batch):
        how = "simulate with tile_share above 0, or cut with tiles_per_tomogram above 0, and train with tiles_per_batch above 0"
        raise InputError(f"the task pick learns from tiles, of which {store.path} gives none: {how}")
    if config.crop_size is not None and config.crop_size > store.box_size:
        raise InputError(f"crop_size is {config.crop_size}, but at most the box size {store.box_size} was expected")
    if store.box_size % 8:
        raise InputError(f"the box of {store.path} has {store.box_size} voxels, but a multiple of 8 was expected: write it with another box_size")


def check_withheld(store: Store, config: TrainConfig) -> None:
    """InputError if the classes to withhold cannot be withheld."""
    withheld, tasks = config.withheld, config.network.tasks
    strange = [name for name in withheld if name not in store.class_names]
    if strange:
        raise InputError(f"withheld names {strange[0]}, but {store.path} has the classes {', '.join(store.class_names)}")
    if withheld and ("pick" in tasks or "class" not in tasks):
        raise InputError(
            "structures can only be withheld from a network with the task class and without pick, whose tiles show them all: "
            "set network.tasks, or choose the novelty of a whole model on other structures with `triptych calibrate`"
        )
    if NONE_CLASS in withheld or not {*store.class_names} - {*withheld, NONE_CLASS}:
        raise InputError(f'withheld is {", ".join(withheld)}, but the class "{NONE_CLASS}" and at least one structure must be shown')


def check_devices(config: TrainConfig) -> None:
    """InputError if there are fewer GPUs than are to train together."""
    if choose_device(config.device).type == "cuda" and config.devices > torch.cuda.device_count():
        count = torch.cuda.device_count()
        what = f"devices is {config.devices}, but torch sees {count} GPU{'s' if count > 1 else ''}"
        raise InputError(f"{what}: set devices={count}, or device=cpu to train in processes on CPUs")
