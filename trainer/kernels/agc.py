"""Adaptive gradient clipping: each unit's gradient norm is limited to a fraction of its weight norm.

Source: Brock et al., "High-performance large-scale image recognition without normalization", arXiv:2102.06171, sec. 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WEIGHT_NORM_FLOOR = 1e-3
GRADIENT_NORM_FLOOR = 1e-6


class Hyperparameters(NamedTuple):
    """Factors of the update. `clipping` 0: none."""

    clipping: float
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool


class ClipStats(NamedTuple):
    """Figures of the clipping: scalar tensors, still on the device. `squared_norm`: of the gradient before clipping;
    `clipped`: number of clipped units; `units`: number of units."""

    squared_norm: Tensor
    clipped: Tensor
    units: int


def units(shape: torch.Size) -> tuple[int, int]:
    """Number of units in a tensor of this shape, and elements per unit."""
    return (shape[0], shape[1:].numel()) if len(shape) > 1 else (1, shape.numel())


def unit_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """L2 norm of each unit: [O] for convolutions (over [1, 2, 3]) and linear layers (over 1), [1] for vectors."""
    return [
        torch.linalg.vector_norm(t, dim=tuple(range(1, t.ndim))) if t.ndim > 1 else torch.linalg.vector_norm(t)[None]
        for t in tensors
    ]


def clip_adaptively(weights: Sequence[Tensor], gradients: Sequence[Tensor], clipping: float) -> ClipStats:
    """Scale each unit's gradient, in place, to at most `clipping` * max(weight norm, 1e-3).

    A gradient that is not finite stays so, for others to see. The unit norms of all tensors are treated as one vector.
    """
    per_tensor = unit_norms(gradients)
    gradient_norms = torch.cat(per_tensor)
    limits = torch.cat(unit_norms(weights)).clamp_min_(WEIGHT_NORM_FLOOR).mul_(clipping)
    exceeds = gradient_norms > limits
    scales = torch.where(exceeds, limits / gradient_norms.clamp_min(GRADIENT_NORM_FLOOR), 1.0)
    shaped = [
        scale.view(-1, *(1,) * (gradient.ndim - 1)) if gradient.ndim else scale.view(())
        for scale, gradient in zip(scales.split([len(norms) for norms in per_tensor]), gradients, strict=True)
    ]
    torch._foreach_mul_(list(gradients), shaped)
    return ClipStats(gradient_norms.square().sum(), exceeds.sum(), gradient_norms.numel())
