"""Independent items of work, some at a time, or spread over processes or over the workers of a cluster; and a single call in the background."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from triptych.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
if TYPE_CHECKING:
    from distributed import Client

ADDRESS = re.compile(r"(\w+://)?[^\s/]+:\d+/?")
"""Of a Dask scheduler."""
SECONDS_TO_CONNECT = 10
SECONDS_WITHOUT_WORKERS = 60
"""After so long without any worker, a cluster that had some is given up."""
Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is in all."""
Item = TypeVar("Item")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class WorkerProcess(SpawnProcess):
    """A process that does not run the user's script anew, so that the script needs no `if __name__ == "__main__"`.

    Ctrl-C, which reaches the parent too, is kept from it from the first moment, while it imports what it needs.
    """

    def start(self) -> None:
        resource_tracker.ensure_running()  # which unblocks Ctrl-C when it starts
        script, blocked = sys.modules["__main__"], signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        sys.modules["__main__"] = ModuleType("__main__")  # of which a process that starts has nothing to import
        try:
            super().start()
        finally:
            sys.modules["__main__"] = script
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class WorkerContext(SpawnContext):
    """Starts worker processes. None is forked: a forked child of a process that has used torch's or Zarr's threads can hang."""

    Process = WorkerProcess


def in_batches(items: Any, size: int) -> Iterator[Any]:
    """Parts of a sequence or an array, one after another."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def map_items(function: Callable[[Item], Result], items: Sequence[Item], workers: int = 0, scheduler: str | None = None) -> Iterator[Result]:
    """Results in the order in which they are ready.

    Parameters
    ----------
    function : a picklable function of one item, e.g. a `functools.partial` of a module's function
    workers : number of processes; 0: one per CPU core; 1: this process
    scheduler : address of a Dask scheduler whose workers do it instead, e.g. "tcp://host:8786"
    """
    if scheduler is not None:
        yield from _map_on_cluster(function, items, scheduler)
        return
    workers = min(workers or available_cores(), len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    from_script = b"__main__" in bytes(ForkingPickler.dumps(function))
    context = multiprocessing.get_context("spawn") if from_script else WorkerContext()
    lifeline, ours = context.Pipe(duplex=False)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(lifeline,)) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError("a worker process died, perhaps for want of memory: use fewer `workers`") from error
        except BaseException:
            ours.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    ours.close()


def start_worker(lifeline: Connection) -> None:
    """What a worker process does first."""
    end_with(lifeline)
    keep_freed_memory()


def end_with(lifeline: Connection) -> None:
    """End this process as soon as the other end of `lifeline` is closed: on purpose, or because the parent was killed.

    Ctrl-C reaches the parent too, which decides what becomes of this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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


class Background(Generic[Result]):
    """One call in a process of its own, at low priority, which ends with this process at the latest.

    Parameters
    ----------
    function : a picklable function without arguments
    """

    def __init__(self, function: Callable[[], Result]) -> None:
        context = WorkerContext()
        lifeline, self._lifeline = context.Pipe(duplex=False)
        self._answer, answer = context.Pipe(duplex=False)
        self._process = context.Process(target=_answer_in_background, args=(function, lifeline, answer))
        self._process.start()
        lifeline.close()
        answer.close()
        self._outcome: tuple[Exception | None, Any] | None = None

    def is_over(self) -> bool:
        """Whether `result` would return, or raise, at once."""
        return self._outcome is not None or self._answer.poll()

    def result(self) -> Result:
        """What the function returned or raised, as soon as it is there; EOFError if the process died."""
        if self._outcome is None:
            self._outcome = self._answer.recv()
        error, value = self._outcome
        if error is not None:
            raise error
        result: Result = value
        return result

    def stop(self) -> None:
        """End the process, whether or not it is done."""
        self._process.terminate()
        self._process.join()


def _answer_in_background(function: Callable[[], object], lifeline: Connection, answer: Connection) -> None:
    end_with(lifeline)
    os.nice(10)
    try:
        answer.send((None, function()))
    except Exception as error:  # noqa: BLE001 (it is raised again where the result is wanted)
        answer.send((error, None))


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def said_already() -> Iterator[None]:
    """Do again what another process has done first, without the warnings that it has given."""
    ours = logging.getLogger("triptych")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(level)


def _map_on_cluster(function: Callable[[Item], Result], items: Sequence[Item], scheduler: str) -> Iterator[Result]:
    client = _connect(scheduler)
    try:
        if items and not client.nthreads():
            logger.warning("the cluster at %s has no worker yet: waiting for one", scheduler)
        yield from _results(client, function, items, scheduler)
    finally:
        client.close()


def _connect(scheduler: str) -> Client:
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError("a Dask scheduler was asked for, but `distributed` is not installed: pip install 'triptych[dask]'") from error
    if not ADDRESS.fullmatch(scheduler):
        raise InputError(f"the Dask scheduler's address is {scheduler!r}, but one like tcp://host:8786 was expected: give what the scheduler shows")
    try:
        return Client(scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        how = "check that it runs and that the address is like tcp://host:8786"
        raise InputError(f"no Dask scheduler answers at {scheduler} within {SECONDS_TO_CONNECT} s: {how}") from error


def _results(client: Client, function: Callable[[Item], Result], items: Sequence[Item], scheduler: str) -> Iterator[Result]:
    from distributed import KilledWorker, wait

    last_seen = None  # when there was a worker; it may take long until the first one comes
    futures = {client.submit(function, item, pure=False) for item in items}
    try:
        while futures:
            now = time.monotonic()
            if client.nthreads():
                last_seen = now
            elif last_seen is not None and now - last_seen > SECONDS_WITHOUT_WORKERS:
                raise InputError(f"all workers of {scheduler} have gone: start some and give the same command again")
            try:
                with client.as_current():
                    ready = wait(futures, timeout=5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in ready:
                yield future.result()
            futures -= ready
    except KilledWorker as error:
        raise InputError(f"workers of {scheduler} died again and again, perhaps for want of memory: give each more, or run fewer") from error
    except ModuleNotFoundError as error:
        raise InputError(f"a machine of {scheduler} has no module {error.name}: install the same triptych on all of them") from error
    except (CancelledError, OSError) as error:
        if client.status == "running":
            raise
        raise InputError(f"the Dask scheduler at {scheduler} is gone: start it and give the same command again") from error
    finally:
        if futures and client.status == "running":
            client.cancel(futures)
