"""What computes: the CPU or a GPU, and the precision that it is good at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch

from triptych.config import DEVICE, Precision
from triptych.errors import InputError, first_line
from triptych.parallel import available_cores

NATIVE_BFLOAT16 = (8, 0)
"""Compute capability of the first NVIDIA GPUs that have it (Ampere, 2020). Older ones imitate it, and their convolutions refuse it."""
GPU_SHARE = 3 * 2**30
"""Bytes of a GPU's memory that a process may take beside others: its context, a model, a slab of a tomogram."""


def choose_device(device: str) -> torch.device:
    """'auto', 'cpu', 'gpu' or 'gpu:1' -> torch device; InputError where a GPU was asked for that is not there, or that torch cannot use."""
    if device == "cpu":
        return torch.device("cpu")
    if not DEVICE.fullmatch(device):
        raise InputError(f"device is {device!r}, but must be one of auto, cpu, gpu, or gpu:1 for the second of several")
    kind, _, number = device.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "gpu" and count == 0:
        raise InputError(f"device is '{device}', but torch sees no CUDA GPU: install a CUDA build of torch, or set device=cpu")
    if number and int(number) >= count:
        raise InputError(f"device is '{device}', but torch sees {count} GPU{'s' if count > 1 else ''}, numbered from 0: set another number")
    usable = [place for place in ([int(number)] if number else range(count)) if is_supported(place)]
    if kind == "gpu" and not usable:
        raise InputError(f"device is '{device}', but this build of torch has no code for GPUs of that age: install one that has, or set device=cpu")
    return torch.device("cuda", usable[0]) if usable else torch.device("cpu")


def is_supported(number: int) -> bool:
    """Whether this build of torch can use a GPU that it sees: newer builds leave out the code for older ones, older builds lack that for newer."""
    built_for = [name for name in torch.cuda.get_arch_list() if name.startswith(("sm_", "compute_"))]
    major, minor = torch.cuda.get_device_capability(number) if built_for else (0, 0)
    return not built_for or any(runs_on(name, 10 * major + minor) for name in built_for)


def runs_on(code: str, capability: int) -> bool:
    """Whether a GPU of a compute capability, such as 80 for 8.0, runs code that was built for one ("sm_80", "sm_90a", "compute_120").

    Machine code (sm) runs on GPUs of the same major version that are not older, intermediate code (compute) on all that are not older, and what is
    for one kind (a) on that alone (NVIDIA, CUDA C++ Programming Guide, on compute capabilities).
    """
    version = code.partition("_")[2]
    built_for = int(version.rstrip("af"))
    if version.endswith("a"):
        return capability == built_for
    return capability >= built_for and (code == f"compute_{built_for}" or capability // 10 == built_for // 10)


def count_workers(workers: int, device: str) -> int:
    """Processes to compute in, 0 for one per CPU core; with a GPU no more of them than its memory has room for."""
    chosen = choose_device(device)
    if workers or chosen.type == "cpu":
        return workers
    return max(1, min(available_cores(), torch.cuda.get_device_properties(chosen).total_memory // GPU_SHARE))


@contextmanager
def memory_errors() -> Iterator[None]:
    """InputError for a GPU whose memory was too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        how = "free it of other programs, use fewer workers, or set device=cpu (align.device=cpu of orient and discover)"
        raise InputError(f"the memory of the GPU is too small for this ({first_line(error)}): {how}") from error


def share_cores(workers: int) -> None:
    """Compute with this process's share of the CPU cores, where several work side by side (0: one per core)."""
    if workers != 1:
        torch.set_num_threads(max(1, available_cores() // (workers or available_cores())))


def name_device(device: torch.device) -> str:
    """What people call a device."""
    if device.type == "cuda":
        number = f" (gpu:{device.index or 0})" if torch.cuda.device_count() > 1 else ""
        return torch.cuda.get_device_name(device) + number
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """'auto' -> bfloat16 where the device itself computes in it, else float32."""
    if precision not in get_args(Precision):
        raise InputError(f"precision is {precision!r}, but must be one of {', '.join(get_args(Precision))}")
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    on_gpu = device.type == "cuda"
    native = torch.cuda.get_device_capability(device) >= NATIVE_BFLOAT16 if on_gpu else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
