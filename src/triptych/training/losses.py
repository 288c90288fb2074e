"""Losses of the tasks: pure functions of outputs and truth.

Where several processes share a batch, what a loss is divided by is that of the whole batch: so the mean of the processes' losses is the loss
of the whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.config import LossConfig
from triptych.recognition.network import PickOutput, TaskOutput
from triptych.training.ranks import Share

VOXELS = (-3, -2, -1)


class Truth(NamedTuple):
    """Truth of a batch: label (b,), mask (b, d, h, w) of 0 and 1, density (b, d, h, w) where it is known; and of its tiles."""

    label: Tensor
    mask: Tensor
    density: Tensor | None
    tiles: TileTruth | None = None


class TileTruth(NamedTuple):
    """Truth of tiles: labels (t, d, h, w), 0 for background, and heat (t, d/2, h/2, w/2), 1 where a particle has its centre and less around it."""

    labels: Tensor
    heat: Tensor


ALONE = Share()
CROSS_ENTROPY_SCALE = 10.0
"""A mask fills a few percent of its box, so that its mean cross-entropy is small beside the Jaccard loss."""

USUAL_POWER = 0.01
"""Mean square of simulated densities over a box, their highest values about 1; of small particles 0.001, of ribosomes 0.03."""


def mask_loss(logits: Tensor, mask: Tensor, share: Share = ALONE) -> Tensor:
    """CROSS_ENTROPY_SCALE x binary cross-entropy + soft Jaccard loss 1 - |p m| / |p + m - p m|, mean over the batch.

    The Jaccard part counts only particles that have a mask: for an empty one the cross-entropy says all there is to say.
    """
    probability = logits.sigmoid()
    overlap = (probability * mask).sum(VOXELS)
    union = (probability + mask).sum(VOXELS) - overlap
    present = (mask.sum(VOXELS) > 0).float()
    jaccard = ((1 - overlap / union.clamp_min(1e-6)) * present).sum() / share.mean(present.sum()).clamp_min(1 / share.count)
    return CROSS_ENTROPY_SCALE * F.binary_cross_entropy_with_logits(logits, mask) + jaccard


def density_loss(density: Tensor, truth: Tensor, share: Share = ALONE) -> Tensor:
    """Squared error over the batch's mean power + (1 - Pearson correlation over the box), mean over the batch.

    A batch in which no particle has a density counts as if it had the usual power, so that it weighs what it would weigh among others.
    """
    power = share.mean(truth.square().mean())
    error = (density - truth).square().mean() / torch.where(power > 0, power.clamp_min(1e-4), USUAL_POWER)
    a = density - density.mean(VOXELS, keepdim=True)
    b = truth - truth.mean(VOXELS, keepdim=True)
    norms = (a.square().sum(VOXELS) * b.square().sum(VOXELS)).clamp_min(1e-6).sqrt()
    present = (truth.abs().amax(VOXELS) > 0).float()
    correlation = (a * b).sum(VOXELS) / norms
    return error + ((1 - correlation) * present).sum() / share.mean(present.sum()).clamp_min(1 / share.count)


def pick_loss(output: PickOutput, truth: TileTruth, share: Share = ALONE) -> Tensor:
    """Loss of the foreground as of a mask + cross-entropy of the labels + loss of the centres."""
    foreground = mask_loss(output.foreground_logits.float(), (truth.labels > 0).float(), share)
    labels = label_loss(output.label_logits.float(), truth.labels, share)
    return foreground + labels + centre_loss(output.centre_logits.float(), truth.heat, share)


def coarse_labels(labels: Tensor) -> Tensor:
    """The highest label among each 2^3 voxels, (t, d, h, w) -> (t, d/2, h/2, w/2)."""
    return F.max_pool3d(labels[:, None].float(), 2)[:, 0].long()


def label_loss(logits: Tensor, labels: Tensor, share: Share = ALONE) -> Tensor:
    """Cross-entropy of the labels where there is one.

    Each voxel counts as the inverse root of its label's number, so that the many voxels of large particles and membranes leave room for the rest.
    """
    coarse = coarse_labels(labels)
    here = coarse > 0
    target = coarse[here] - 1
    weight = share.mean(torch.bincount(target, minlength=logits.shape[1]).to(logits.dtype)).clamp_min(1 / share.count).rsqrt()
    total = F.cross_entropy(logits.movedim(1, -1)[here], target, weight, reduction="sum")
    return total / share.mean(weight[target].sum()).clamp_min(1e-6)


def centre_loss(logits: Tensor, heat: Tensor, share: Share = ALONE) -> Tensor:
    """Focal loss of a heat map over the number of centres (Law & Deng 2018, with their exponents 2 and 4)."""
    probability = logits.sigmoid()
    peak = heat >= 1
    hit = F.logsigmoid(logits) * (1 - probability) ** 2
    miss = F.logsigmoid(-logits) * probability**2 * (1 - heat) ** 4
    return -torch.where(peak, hit, miss).sum() / share.mean(peak.sum().to(logits.dtype)).clamp_min(1 / share.count)


def task_losses(output: TaskOutput, truth: Truth, config: LossConfig, share: Share = ALONE) -> dict[str, Tensor]:
    """Weighted loss of each task that is on."""
    losses: dict[str, Tensor] = {}
    if output.class_logits is not None:
        cross_entropy = F.cross_entropy(output.class_logits.float(), truth.label, label_smoothing=config.label_smoothing)
        losses["class"] = config.class_weight * cross_entropy
        if config.contrastive_weight:
            contrast = contrastive_loss(output.embedding.float(), truth.label, config.contrastive_temperature)
            losses["class"] = losses["class"] + config.contrastive_weight * contrast
    if output.mask_logits is not None:
        losses["mask"] = config.mask_weight * mask_loss(output.mask_logits.float(), truth.mask, share)
    if output.density is not None and truth.density is not None:
        losses["density"] = config.density_weight * density_loss(output.density.float(), truth.density, share)
    if output.pick is not None and truth.tiles is not None:
        losses["pick"] = config.pick_weight * pick_loss(output.pick, truth.tiles, share)
    return losses


def contrastive_loss(embedding: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss of embeddings (b, e) on the unit sphere (Khosla et al., NeurIPS 2020, eq. 2: L_out).

    Mean over the particles that are not alone in their class; 0 where all are.
    """
    unit = F.normalize(embedding, dim=1)
    itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    with torch.autocast(embedding.device.type, enabled=False):  # half precision does not tell the particles of a tight class apart
        similarity = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    log_probability = (similarity - similarity.logsumexp(1, keepdim=True)).masked_fill(itself, 0)
    same = (label[:, None] == label) & ~itself
    count = same.sum(1)
    of_each = -(log_probability * same).sum(1) / count.clamp_min(1)
    return of_each.sum() / (count > 0).sum().clamp_min(1)


def total_loss(losses: dict[str, Tensor], weights: Tensor | None = None) -> Tensor:
    """Sum of the losses; with the weights of the tasks (t,), the weighted sum."""
    stacked = torch.stack(list(losses.values()))
    return stacked.sum() if weights is None else (weights * stacked).sum()


def uncertainty_loss(losses: dict[str, Tensor], log_variance: Tensor) -> Tensor:
    """Losses weighted by what is learned of their noise: sum of exp(-s) L + s / 2, s (t,) (Kendall, Gal & Cipolla, CVPR 2018, eq. 10).

    At its minimum every task has the weight 1 / (2 L), whether its loss is a squared error or a cross-entropy.
    """
    return total_loss(losses, torch.exp(-log_variance)) + log_variance.sum() / 2


def equalising_weights(losses: dict[str, Tensor], shared: Tensor) -> Tensor:
    """Weights (t,), 1 on average, that give all losses gradients of the same norm with respect to a shared parameter.

    The balance that GradNorm strives for where all tasks learn at the same rate (Chen et al., ICML 2018, alpha = 0), without its descent.
    """
    gradients = [torch.autograd.grad(loss, shared, retain_graph=True)[0] for loss in losses.values()]
    inverse = 1 / torch.stack([gradient.float().norm() for gradient in gradients]).clamp_min(1e-12)
    return inverse / inverse.mean()
