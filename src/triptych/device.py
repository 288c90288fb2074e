"""What computes: the CPU or a GPU, and the precision that it is good at."""

from __future__ import annotations

import torch

from triptych.errors import InputError
from triptych.parallel import available_cores


def choose_device(device: str) -> torch.device:
    """'auto', 'cpu', 'gpu' or 'gpu:1' -> torch device; InputError where a GPU was asked for that is not there."""
    if device == "cpu":
        return torch.device("cpu")
    kind, _, number = device.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "gpu" and count == 0:
        raise InputError(f"device is '{device}', but torch sees no CUDA GPU: install a CUDA build of torch, or set device=cpu")
    if number and int(number) >= count:
        raise InputError(f"device is '{device}', but torch sees {count} GPU{'s' if count > 1 else ''}, numbered from 0: set another number")
    return torch.device("cuda", int(number or 0)) if count else torch.device("cpu")


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
    """'auto' -> bfloat16 where the device computes in it, else float32."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
