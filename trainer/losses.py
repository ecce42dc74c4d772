"""Losses as sums; the caller divides by the number of labels in the global batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipelines.common.tasks import Task
from data_pipelines.loading.batch import Batch


def loss_sum(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Scalar fp32 (fp64 for fp64 logits): cross entropy, or binary cross entropy per finding, summed over labels.

    logits: [B, C]. targets: single-label int64 [B] or mixtures [B, C]; multi-label [B, C] with NaN = left out.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if task == "single_label":
        return F.cross_entropy(logits, targets if targets.ndim == 1 else targets.to(logits.dtype), reduction="sum")
    labelled = ~targets.isnan()
    # Zeros in place of NaN before the loss, not after: NaN * 0 is NaN in the backward.
    losses = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num().to(logits.dtype), reduction="none")
    return losses.where(labelled, 0).sum()


def batch_loss(logits: Tensor, batch: Batch, task: Task) -> Tensor:
    """`loss_sum` of a batch's logits, [B, C]. For a padding batch it is 0 with zero gradients; the backward pass still
    reaches every parameter."""
    wanted = targets(batch, task, logits.shape[1])
    if batch.is_padding:
        return loss_sum(logits[:0], wanted[:0], task)
    return loss_sum(logits, wanted, task)


def count_labels(batches: list[Batch]) -> Tensor:
    """Number of labelled findings in these multi-label batches, int64 scalar on their device; padding does not count,
    and at least one batch is none."""
    counted = [batch for batch in batches if not batch.is_padding]
    return torch.stack([_mixed(batch, batch.labels).isfinite().sum() for batch in counted]).sum()


def model_input(batch: Batch) -> Tensor:
    """Input of the model: the images, or with MixUp their mixtures, fp32 in [0, 255]; sample i mixes with i XOR 1."""
    return batch.images if batch.mixup is None else _mixed(batch, batch.images.float())


def targets(batch: Batch, task: Task, num_classes: int) -> Tensor:
    """Targets: the labels, or with MixUp their mixtures, fp32 [B, num_classes].

    A finding that is unlabelled in either partner is unlabelled in the mixture.
    """
    if batch.mixup is None:
        return batch.labels
    return _mixed(batch, F.one_hot(batch.labels, num_classes).float() if task == "single_label" else batch.labels)


def _mixed(batch: Batch, values: Tensor) -> Tensor:
    if batch.mixup is None:
        return values
    partner = torch.arange(len(batch), device=values.device) ^ 1
    return torch.lerp(values[partner], values, batch.mixup.view(-1, *(1,) * (values.ndim - 1)))
