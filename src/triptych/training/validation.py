"""How good a network is on held-out particles: what is kept of each batch, and the figures of all."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.judging.metrics import density_correlation, intersection_over_union
from triptych.recognition.network import PickOutput, TaskOutput
from triptych.recognition.temperature import Temperature
from triptych.training.confidence import class_figures
from triptych.training.dataset import Batch
from triptych.training.losses import coarse_labels


def score(output: TaskOutput, batch: Batch) -> dict[str, Any]:
    """What validation keeps of a batch: logits and labels, and the scores of the particles that are there."""
    result: dict[str, Any] = {"label": batch.label.cpu()}
    present = batch.mask.flatten(1).any(1).cpu()
    if output.class_logits is not None:
        result["logits"] = output.class_logits.float().cpu()
    if output.mask_logits is not None:
        result["iou"] = intersection_over_union((output.mask_logits > 0).cpu()[present], batch.mask.cpu()[present] > 0)
    if output.density is not None and batch.density.any():
        result["correlation"] = density_correlation(output.density.float().cpu()[present], batch.density.cpu()[present])
    if output.pick is not None and batch.tile_labels is not None:
        result["tile_iou"], result["label_accuracy"] = score_tiles(output.pick, batch.tile_labels)
    return result


def score_tiles(output: PickOutput, labels: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """IoU of the foreground, and the share of its cells that have the right label; of the tiles that have any."""
    coarse = coarse_labels(labels)
    here = (coarse > 0).flatten(1).any(1)
    right = ((output.label_logits.argmax(1) + 1 == coarse) & (coarse > 0)).flatten(1).sum(1) / (coarse > 0).flatten(1).sum(1)
    iou = intersection_over_union((output.foreground_logits > 0).cpu()[here.cpu()], labels.cpu()[here.cpu()] > 0)
    return iou, right[here].cpu().numpy()


def summarise(outputs: list[dict[str, Any]], temperature: Temperature) -> dict[str, float]:
    """Accuracy, cross-entropy and calibration error over all; mean IoU and correlation over the particles that are there."""
    figures: dict[str, float] = {}
    if "logits" in outputs[0]:
        figures |= class_figures(*join_logits(outputs), temperature)
    for name in ("iou", "correlation", "tile_iou", "label_accuracy"):
        values = np.concatenate([np.empty(0), *(o[name] for o in outputs if name in o)])
        if len(values):
            figures[name] = float(np.nanmean(values))
    return figures


def join_logits(outputs: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Logits and labels of all validation batches."""
    return torch.cat([o["logits"] for o in outputs]), torch.cat([o["label"] for o in outputs])
