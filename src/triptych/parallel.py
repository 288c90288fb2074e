"""Independent items of work, spread over processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from triptych.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_items(function: Callable[[Item], Result], items: Sequence[Item], workers: int = 0) -> Iterator[Result]:
    """Results in the order in which they are ready.

    Parameters
    ----------
    function : a picklable function of one item, e.g. a `functools.partial` of a module's function
    workers : number of processes; 0: one per CPU core; 1: this process
    """
    workers = min(workers or available_cores(), len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    # Not forked: a forked child of a process that has used torch's threads can hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError("a worker process died, perhaps for want of memory: use fewer `workers`") from error
        finally:
            pool.shutdown(cancel_futures=True)


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
