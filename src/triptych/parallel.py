"""Independent items of work, spread over processes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from triptych.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
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
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=keep_freed_memory) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError("a worker process died, perhaps for want of memory: use fewer `workers`") from error
        finally:
            pool.shutdown(cancel_futures=True)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    By default glibc gives every large block back to the system and takes it anew, page by page and zeroed, for the next tensor; that
    can take half of the time. The environment's MALLOC_ settings, where there are any, stay as they are.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
