"""Weight standardisation of many filter banks, forward and backward, one pass over memory each.

On a CPU this package's own C++ does it; on CUDA Triton, one launch for all banks forward and one for those of a unit
backward; elsewhere PyTorch. Source: Qiao et al., arXiv:1903.10520; eps inside the square root as in BiT.
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
from trainer.kernels.ranges import STANDARDISATION, named_range


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
        if _triton_takes(weights):
            from trainer.kernels import standardise_triton  # needs Triton

            return [Standardised(*bank) for bank in standardise_triton.forward(weights, eps, dtype)]
        native = [_native_takes(weight, dtype) for weight in weights]
        made = iter(_standardise_natively([w for w, takes in zip(weights, native, strict=True) if takes], eps, dtype))
        return [
            next(made) if takes else _standardise_one(weight, eps, dtype)
            for weight, takes in zip(weights, native, strict=True)
        ]


def standardise_backward(
    gradients: Sequence[Tensor],
    gathered: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    banks: Sequence[Standardised],
) -> list[Tensor]:
    """The gradients of some weights, of their type, from those of their filters; `gathered`, of the weights' type and
    layout, are added to these first, where there are any."""
    weights = [weight.detach() for weight in weights]
    gradients = [_laid_out_like(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True)]
    if _triton_takes(weights):
        from trainer.kernels import standardise_triton  # needs Triton

        means, rstds = ([getattr(bank, part) for bank in banks] for part in ("mean", "rstd"))
        return standardise_triton.backward(gradients, gathered, weights, means, rstds)
    return [_backward_one(*of_bank) for of_bank in zip(gradients, gathered, weights, banks, strict=True)]


def _backward_one(gradient: Tensor, gathered: Tensor | None, weight: Tensor, bank: Standardised) -> Tensor:
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
    total = gradient.to(weight.dtype) if gathered is None else gathered + gradient
    dims = tuple(range(1, weight.ndim))
    mean, rstd = (moment.view(-1, *(1,) * (weight.ndim - 1)) for moment in (bank.mean, bank.rstd))
    normalised = (weight - mean) * rstd
    along = (total * normalised).mean(dims, keepdim=True)
    return rstd * (total - total.mean(dims, keepdim=True) - normalised * along)


def _native_takes(weight: Tensor, dtype: torch.dtype) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and dtype in (torch.float32, torch.bfloat16)
        and not isinstance(weight, FakeTensor)  # as the compiler and the memory report have them: without numbers
        and rows_lie_together(weight)
        and library() is not None
    )


def _triton_takes(weights: Sequence[Tensor]) -> bool:
    """Whether Triton takes them all: they are of one device then."""
    return all(
        weight.is_cuda
        and weight.dtype == torch.float32
        and not isinstance(weight, FakeTensor)
        and rows_lie_together(weight)
        for weight in weights
    ) and kernel_works(weights[0].device)


def _shape(weight: Tensor) -> tuple[int, int]:
    return len(weight), weight.shape[1:].numel()


def _laid_out_like(weight: Tensor, gradient: Tensor) -> Tensor:
    if laid_out_alike(weight, gradient):
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)


def _standardise_natively(weights: list[Tensor], eps: float, dtype: torch.dtype) -> list[Standardised]:
    if not weights:
        return []
    kernels = library()
    assert kernels is not None
    banks = [
        Standardised(
            torch.empty_like(weight, dtype=dtype, requires_grad=False),
            weight.new_empty(len(weight)),
            weight.new_empty(len(weight)),
        )
        for weight in weights
    ]
    rows, row_sizes = zip(*map(_shape, weights), strict=True)
    numbers = ctypes.c_int64 * len(weights)
    kernels.standardise_forward(
        ctypes.c_int(dtype == torch.bfloat16),
        pointers(weights),
        *(pointers(part) for part in zip(*banks, strict=True)),
        numbers(*rows),
        numbers(*row_sizes),
        ctypes.c_double(eps),
        ctypes.c_int64(len(weights)),
        threads(),
    )
    return banks


def _standardise_one(weight: Tensor, eps: float, dtype: torch.dtype) -> Standardised:
    variance, mean = torch.var_mean(weight, dim=tuple(range(1, weight.ndim)), keepdim=True, correction=0)
    deviation = torch.sqrt(variance + eps)
    filters = torch.empty_like(weight, dtype=dtype, requires_grad=False).copy_((weight - mean) / deviation)
    return Standardised(filters, mean.flatten(), deviation.reciprocal().flatten())
