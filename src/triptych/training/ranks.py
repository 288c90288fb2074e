"""Processes that train one network together: each has its share of every batch, and what depends on the whole batch is averaged over them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from triptych.config import TrainConfig

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""In the order in which Lightning asks for them."""
LONGEST_WAIT = timedelta(days=365)
"""For fresh data: torch gives up after half an hour."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """The share of process number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its part of some items, whose number is a multiple of the number of processes."""
        size = len(items) // self.count
        return items[self.rank * size : (self.rank + 1) * size]

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the processes, through which gradients flow; every process must ask for it at the same place."""
        return x if self.count == 1 else process_mean(x)


def own_share(config: TrainConfig) -> Share:
    """The share of this process, as whatever has started it says in its environment (Lightning, torchrun or srun)."""
    count = config.devices * config.nodes
    ranks = (os.environ[name] for name in RANK_VARIABLES if name in os.environ)
    return Share(int(next(ranks, 0)), count) if count > 1 else Share()


def patient_group() -> distributed.ProcessGroup:
    """All processes, which then may wait for each other as long as it takes; all must ask for it at the same place. One that dies ends the wait."""
    group: distributed.ProcessGroup = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return group


class _Average(torch.autograd.Function):
    """Mean over the processes; so is its gradient's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total / distributed.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return process_mean(gradients[0])


def process_mean(x: Tensor) -> Tensor:
    """The mean of tensors (float) over all processes."""
    mean: Tensor = _Average.apply(x)  # type: ignore[no-untyped-call]
    return mean


class AveragedBatchNorm(_BatchNorm):
    """Batch normalisation over the batches of all processes, as torch's SyncBatchNorm, which needs a GPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes will do."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            output: Tensor = super().forward(input)
            return output
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.ndim)]
        x = input.float()
        mean = process_mean(x.mean(axes))
        centred = x - mean.reshape(shape)
        variance = process_mean(centred.square().mean(axes))
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1] * distributed.get_world_size())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.reshape(shape) + self.bias.reshape(shape)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running mean and the running, unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)


def average_batch_norms(module: nn.Module) -> None:
    """Let the batch normalisations of a network on CPUs see the batches of all processes; names and values of its weights stay."""
    for name, layer in list(module.named_children()):
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm3d):
            averaged = AveragedBatchNorm(layer.num_features, layer.eps, layer.momentum)
            averaged.load_state_dict(layer.state_dict())
            setattr(module, name, averaged)
        else:
            average_batch_norms(layer)
