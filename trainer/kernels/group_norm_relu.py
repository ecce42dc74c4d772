"""GroupNorm followed by ReLU: the pair that stands before every convolution of a BiT ResNet."""

import torch.nn.functional as F
from torch import Tensor


def group_norm_relu(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """relu(group_norm(x)), [N, C, H, W] -> the same shape, dtype and memory format; weight and bias are [C]."""
    return F.relu(F.group_norm(x, num_groups, weight, bias, eps))
