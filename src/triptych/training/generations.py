"""Training data that are simulated anew while the network trains.

Generation 0 is the store that was given. While the network trains on one generation, a process of low priority makes the next;
where that is not ready in time, the training waits. So what is trained on depends on the number of the update alone, and a
resumed run equals an undisturbed one.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from triptych.config import SimulateConfig, TrainConfig
from triptych.errors import InputError
from triptych.io.store import Store, open_store, unpack
from triptych.parallel import Background

LONG_WAIT = 10.0
"""Seconds after which a user should hear of it."""
Refresh = Callable[[Path, Path, int, int], Path]
"""(store to do again, store to write or to leave as it is, seed, processes) -> the store; must be picklable"""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """A store to train on, and the folder of its uncompressed copy."""

    number: int
    path: Path
    cache: Path | None


class Generations:
    """The generations of a run, of which at most two are kept: the one in use and the next.

    Parameters
    ----------
    store : generation 0
    folder : folder of the run; fresh stores are kept under it in "data"
    updates : number of updates after which the run ends
    refresh : what simulates a store anew; needed where the settings ask for it
    leads : whether this process makes the generations; others that train with it `follow`
    """

    def __init__(self, store: Store, folder: Path, config: TrainConfig, updates: int, refresh: Refresh | None, leads: bool = True) -> None:
        self.store, self.folder, self.config, self.updates, self.leads = store, folder, config, updates, leads
        self.every = config.refresh_every or updates
        self.last = (updates - 1) // self.every
        self.refresh = check_refresh(store, refresh) if config.refresh_every else None
        self.current = Generation(0, store.path, folder / "cache" if config.cache else None)
        self.seconds_waited = 0.0
        self._next: Background[None] | None = None

    def take(self, update: int) -> Generation:
        """What to train on from this update on; never called for an earlier update than before."""
        if update >= self.updates:
            return self.current  # nothing is left to train
        number = update // self.every
        if number != self.current.number:
            self._switch_to(number)
        if number < self.last:
            self._next = self._next or self._make(number + 1)
            if self._next.is_over():
                wait_for(self._next)  # says what went wrong now, rather than when the generation is needed
        return self.current

    def follow(self, update: int) -> Generation:
        """What to train on from this update on, in a process that does not lead, after the one that leads has taken it."""
        number = min(update, self.updates - 1) // self.every
        if number != self.current.number:
            self.current = self._generation(number)
        return self.current

    def stop(self) -> None:
        """End what is still being made; its finished part is gone on with by a resumed run."""
        if self._next:
            self._next.stop()

    def _generation(self, number: int) -> Generation:
        data = self.folder / "data"
        return Generation(number, data / f"{number}.zarr", data / f"{number}.cache" if self.config.cache else None)

    def _make(self, number: int) -> Background[None]:
        assert self.refresh is not None
        seed = fresh_seed(self.store, self.config.seed, number)
        return Background(partial(make_generation, self.refresh, self.store.path, self._generation(number), seed, self.config.refresh_workers))

    def _switch_to(self, number: int) -> None:
        making = self._next or self._make(number)
        started = time.monotonic()
        try:
            wait_for(making)
        finally:
            self._next = None
            making.stop()
        self._log_wait(number, time.monotonic() - started)
        self.current = self._generation(number)
        check_same_kind(self.store, open_store(self.current.path))
        for old in range(1, number):
            for name in (f"{old}.zarr", f"{old}.cache"):
                shutil.rmtree(self.folder / "data" / name, ignore_errors=True)

    def _log_wait(self, number: int, seconds: float) -> None:
        self.seconds_waited += seconds
        if seconds > LONG_WAIT:
            logger.warning("training waited %.0f s for generation %d of the data: a larger refresh_every would spare that", seconds, number)
        else:
            logger.info("training waited %.1f s for generation %d of the data", seconds, number)


def wait_for(making: Background[None]) -> None:
    try:
        making.result()
    except EOFError:
        raise InputError("the process that simulates fresh data died, perhaps for want of memory: use fewer refresh_workers") from None


def check_refresh(store: Store, refresh: Refresh | None) -> Refresh:
    """InputError if the store cannot be simulated anew."""
    try:
        SimulateConfig.model_validate(store.attributes.get("config"))
    except ValidationError:
        raise InputError(
            f"refresh_every asks for fresh data, but {store.path} does not say how it was simulated: "
            "train on a store that this version's `triptych simulate` wrote, or set refresh_every to none"
        ) from None
    if refresh is None:
        raise InputError("refresh_every asks for fresh data, but nothing that simulates them was given: call triptych.train, which does")
    return refresh


def check_same_kind(store: Store, fresh: Store) -> None:
    """InputError if the structures have changed since the store was simulated."""
    if (store.class_names, store.box_size, store.voxel_size) != (fresh.class_names, fresh.box_size, fresh.voxel_size):
        raise InputError(f"the fresh data are not of the classes of {store.path}: its structure library has changed, put the old one back")


def fresh_seed(store: Store, seed: int, number: int) -> int:
    """Seed of a generation: another one for each store, training and generation."""
    of_store = int(store.attributes.get("seed", 0))
    return int(np.random.SeedSequence((seed, 5, of_store, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_generation(refresh: Refresh, data: Path, generation: Generation, seed: int, workers: int) -> None:
    """In the background: simulate and unpack a generation."""
    logging.getLogger("triptych").setLevel(logging.ERROR)  # what there is to warn of was said when the data were simulated first
    refresh(data, generation.path, seed, workers)
    if generation.cache is not None:
        unpack(open_store(generation.path), generation.cache)
