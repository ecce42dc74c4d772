"""Weight standardisation of many banks of filters, forward and backward, each in one pass over memory.

On a CPU this package's own C++ does it, for all banks at once; on CUDA Triton, a launch for each; elsewhere PyTorch.
Source: Qiao et al., arXiv:1903.10520; eps inside the square root as in BiT.
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from trainer.kernels.group_norm_relu import kernel_works
from trainer.kernels.layout import laid_out_alike, rows_lie_together
from trainer.kernels.native import library, pointer, pointers, threads
from trainer.profiling.categories import STANDARDISATION
from trainer.profiling.ranges import named_range


class Standardised(NamedTuple):
    """A bank of filters [O, ...] of zero mean and unit variance each; the mean [O] and 1 / sqrt(variance + eps) [O] of
    the weights they come from."""

    filters: Tensor
    mean: Tensor
    rstd: Tensor


def standardise(weights: Sequence[Tensor], eps: float, dtype: torch.dtype) -> list[Standardised]:
    """Each bank's filters, computed in the precision of the weights, at least fp32, and rounded to `dtype`.

    They keep the memory layout of the weights. No gradients.
    """
    with torch.no_grad(), named_range(STANDARDISATION):
        banks = [_empty(weight, dtype) for weight in weights]
        native = [i for i, weight in enumerate(weights) if _native_takes(weight, dtype)]
        if native:
            _standardise_natively([weights[i] for i in native], [banks[i] for i in native], eps)
        for i in sorted(set(range(len(weights))) - set(native)):
            banks[i] = _standardise_one(weights[i], banks[i], eps)
        return banks


def standardise_backward(gradient: Tensor, gathered: Tensor | None, weight: Tensor, bank: Standardised) -> Tensor:
    """The gradient of the weights, of their type, from that of the filters; `gathered`, of the weights' type and
    layout, is added to that first."""
    weight = weight.detach()
    gradient = _laid_out_like(weight, gradient)
    if _native_takes(weight, gradient.dtype):
        result = torch.empty_like(weight)
        kernels = library()
        assert kernels is not None
        kernels.standardise_backward(
            ctypes.c_int(gradient.dtype == torch.bfloat16),
            *map(pointer, (gradient, gathered, weight, bank.mean, bank.rstd, result)),
            *map(ctypes.c_int64, _shape(weight)),
            threads(),
        )
        return result
    if _triton_takes(weight):
        from trainer.kernels import standardise_triton  # needs Triton

        return standardise_triton.backward(gradient, gathered, weight, bank.mean, bank.rstd)
    total = gradient.to(weight.dtype) if gathered is None else gathered + gradient
    dims = tuple(range(1, weight.ndim))
    mean, rstd = (moment.view(-1, *(1,) * (weight.ndim - 1)) for moment in (bank.mean, bank.rstd))
    normalised = (weight - mean) * rstd
    along = (total * normalised).mean(dims, keepdim=True)
    return rstd * (total - total.mean(dims, keepdim=True) - normalised * along)


def _empty(weight: Tensor, dtype: torch.dtype) -> Standardised:
    filters = torch.empty_like(weight, dtype=dtype, requires_grad=False)
    return Standardised(filters, weight.new_empty(len(weight)), weight.new_empty(len(weight)))


def _native_takes(weight: Tensor, dtype: torch.dtype) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and dtype in (torch.float32, torch.bfloat16)
        and not isinstance(weight, FakeTensor)  # as the compiler and the memory report have them: without numbers
        and rows_lie_together(weight)
        and library() is not None
    )


def _triton_takes(weight: Tensor) -> bool:
    return (
        weight.is_cuda and weight.dtype == torch.float32 and rows_lie_together(weight) and kernel_works(weight.device)
    )


def _shape(weight: Tensor) -> tuple[int, int]:
    return len(weight), weight.shape[1:].numel()


def _laid_out_like(weight: Tensor, gradient: Tensor) -> Tensor:
    if laid_out_alike(weight, gradient):
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)


def _standardise_natively(weights: list[Tensor], banks: list[Standardised], eps: float) -> None:
    kernels = library()
    assert kernels is not None
    rows, row_sizes = zip(*map(_shape, weights), strict=True)
    numbers = ctypes.c_int64 * len(weights)
    kernels.standardise_forward(
        ctypes.c_int(banks[0].filters.dtype == torch.bfloat16),
        pointers(weights),
        *(pointers(part) for part in zip(*banks, strict=True)),
        numbers(*rows),
        numbers(*row_sizes),
        ctypes.c_double(eps),
        ctypes.c_int64(len(weights)),
        threads(),
    )


def _standardise_one(weight: Tensor, bank: Standardised, eps: float) -> Standardised:
    if _triton_takes(weight):
        from trainer.kernels import standardise_triton  # needs Triton

        standardise_triton.forward(weight, bank.filters, bank.mean, bank.rstd, eps)
        return bank
    variance, mean = torch.var_mean(weight, dim=tuple(range(1, weight.ndim)), keepdim=True, correction=0)
    deviation = torch.sqrt(variance + eps)
    filters = bank.filters.copy_((weight - mean) / deviation)
    return Standardised(filters, mean.flatten(), deviation.reciprocal().flatten())
