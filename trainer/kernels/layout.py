"""Memory layout of tensors, for kernels that treat them as rows of numbers."""

import torch
from torch import Tensor


def rows_lie_together(tensor: Tensor) -> bool:
    """Whether each tensor[i] is one piece of memory and they follow each other without gaps."""
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def laid_out_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape have their numbers in the same order; strides of dimensions of size 1 say
    nothing about that."""
    if one.stride() == other.stride():
        return True
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(mine == theirs for size, mine, theirs in strides if size > 1)
