"""A GPU that is none: torch computes on the CPU, but every tensor has a device, and what CUDA would refuse is refused.

Tensors that are made on the GPU or moved to it are marked, and so is whatever is computed from them. Code can thus be run as on a machine with a
GPU, with real numbers; only kernels, speed and memory are not those of a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
Autocast, Generator = torch.autocast, torch.Generator
ACROSS = {"copy_", "__set__", "_has_compatible_shallow_copy_type"}
"""May have tensors on both devices."""
INDEXING = {"__getitem__", "__setitem__", "index_put_"}
JOINING = {"stack", "cat"}
NOT_IN_HALF = ("fft_", "linalg_", "polar", "complex", "bincount", "matrix_exp")
"""Beginnings of the names of what CUDA does not have in bfloat16."""


def on_gpu(value: Any) -> bool:
    return bool(getattr(value, "__dict__", {}).get("on_gpu", False))


class PretendGpu(TorchFunctionMode):
    """While it is on, `GPU` can be computed on."""

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name, kwargs = getattr(function, "__name__", ""), dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        there = any(map(on_gpu, tensors))
        if name == "__get__" and there and function.__self__.__name__ in ("device", "is_cuda"):
            return GPU if function.__self__.__name__ == "device" else True
        refuse(name, args, kwargs, tensors)
        if name == "cpu" and there:
            return args[0].clone()
        if name == "pin_memory":
            return args[0]  # which takes a driver
        place = kwargs.get("device")
        if name == "to":
            place = next((value for value in args[1:] if isinstance(value, str | torch.device)), place)
            args = tuple(CPU if isinstance(value, str | torch.device) else value for value in args)
        if place is not None:
            there = torch.device(place).type == "cuda"
            kwargs |= {"device": CPU if there else place} if "device" in kwargs else {}
        result = function(*args, **kwargs)
        if name == "to" and result is args[0] and on_gpu(result) != there:
            result = result.clone()
        if there:
            for value in [args[0]] if name == "__set__" else tree_leaves(result):
                if isinstance(value, torch.Tensor):
                    value.on_gpu = True  # type: ignore[attr-defined]
        return result


def refuse(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> None:
    """What torch says of tensors on different devices, and of what CUDA cannot do."""
    theirs, ours = ([tensor for tensor in tensors if on_gpu(tensor) == there] for there in (True, False))
    if not theirs:
        return
    if name in ("numpy", "__array__"):
        raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")
    if name in INDEXING and not on_gpu(args[0]):
        raise RuntimeError(f"{name}: a tensor of the CPU is indexed, or set, by one of the GPU")
    if any(tensor.ndim or name in JOINING for tensor in ours) and name not in ACROSS | INDEXING:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in ours)
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but some are on the CPU: {shapes}")
    if name.startswith(NOT_IN_HALF) and any(tensor.dtype is torch.bfloat16 for tensor in theirs):
        raise RuntimeError(f"{name}: not implemented for bfloat16 on CUDA")
    generator = kwargs.get("generator")
    if generator is not None and not isinstance(generator, GpuGenerator):
        raise RuntimeError(f"{name}: expected a generator of the GPU")


class GpuGenerator(Generator):
    """A generator of random numbers that says it is the GPU's."""

    def __new__(cls, device: Any = CPU) -> Generator:  # type: ignore[misc]
        return Generator.__new__(cls if torch.device(device).type == "cuda" else Generator, CPU)


class GpuAutocast(Autocast):
    """What is done in half precision is what the CPU does so."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu", *args, **kwargs)


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """A machine with a GPU of 2020, which has bfloat16; torch may be a CUDA build, which would ask the driver."""
    with pytest.MonkeyPatch.context() as patch, PretendGpu():
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda device: "pretended GPU")
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # which optimisers of older torch ask, those of newer the next
        patch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
        patch.setattr(torch, "Generator", GpuGenerator)
        patch.setattr(torch, "autocast", GpuAutocast)
        yield
