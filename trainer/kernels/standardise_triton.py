"""Weight standardisation in Triton: a program for each filter, whose numbers lie together."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.kernels.group_norm_parts import load
from trainer.kernels.tiling import power_of_2

_MOST = 2048  # numbers of a filter that a program takes at a time
_NUMBERS_PER_WARP = 256


@triton.jit(do_not_specialize=["eps"])
def standardise_rows(
    weight_ptr, filters_ptr, mean_ptr, rstd_ptr, row_size, eps, block: tl.constexpr
):  # fmt: skip
    """Mean, then deviations from it, then the filter."""
    row = tl.cast(tl.program_id(0), tl.int64)
    place = tl.arange(0, block)
    start = row * row_size
    sums = tl.zeros([block], tl.float32)
    for done in range(0, row_size, block):
        sums += load(weight_ptr + start + done + place, place < row_size - done)
    mean = tl.sum(sums, axis=0) / row_size
    squares = tl.zeros([block], tl.float32)
    for done in range(0, row_size, block):
        mask = place < row_size - done
        apart = tl.where(mask, load(weight_ptr + start + done + place, mask) - mean, 0.0)
        squares += apart * apart
    rstd = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / row_size + eps)
    for done in range(0, row_size, block):
        mask = place < row_size - done
        apart = load(weight_ptr + start + done + place, mask) - mean
        tl.store(filters_ptr + start + done + place, apart * rstd, mask=mask)
    tl.store(mean_ptr + row, mean)
    tl.store(rstd_ptr + row, rstd)


@triton.jit
def standardise_rows_backward(
    gradient_ptr, gathered_ptr, weight_ptr, mean_ptr, rstd_ptr, result_ptr, row_size, block: tl.constexpr
):  # fmt: skip
    """Means of the gradient and of it along the filter, then what is left without them."""
    row = tl.cast(tl.program_id(0), tl.int64)
    place = tl.arange(0, block)
    start = row * row_size
    mean = tl.load(mean_ptr + row)
    rstd = tl.load(rstd_ptr + row)
    sums = tl.zeros([block], tl.float32)
    dots = tl.zeros([block], tl.float32)
    for done in range(0, row_size, block):
        mask = place < row_size - done
        here = start + done + place
        total = load(gradient_ptr + here, mask)
        if gathered_ptr is not None:
            total += load(gathered_ptr + here, mask)
        sums += total
        dots += total * (load(weight_ptr + here, mask) - mean) * rstd
    sum_all = tl.sum(sums, axis=0) / row_size
    dot_all = tl.sum(dots, axis=0) / row_size
    for done in range(0, row_size, block):
        mask = place < row_size - done
        here = start + done + place
        total = load(gradient_ptr + here, mask)
        if gathered_ptr is not None:
            total += load(gathered_ptr + here, mask)
        normalised = (load(weight_ptr + here, mask) - mean) * rstd
        tl.store(result_ptr + here, rstd * (total - sum_all - normalised * dot_all), mask=mask)


def forward(weight: Tensor, filters: Tensor, mean: Tensor, rstd: Tensor, eps: float) -> None:
    """Fill filters, mean and rstd."""
    row_size = weight.shape[1:].numel()
    block, num_warps = _cut(row_size)
    with torch.cuda.device_of(weight):
        standardise_rows[(len(weight),)](weight, filters, mean, rstd, row_size, eps, block, num_warps=num_warps)


def backward(gradient: Tensor, gathered: Tensor | None, weight: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """The gradient of the weights."""
    result = torch.empty_like(weight)
    row_size = weight.shape[1:].numel()
    block, num_warps = _cut(row_size)
    with torch.cuda.device_of(weight):
        standardise_rows_backward[(len(weight),)](
            gradient, gathered, weight, mean, rstd, result, row_size, block, num_warps=num_warps
        )
    return result


def _cut(row_size: int) -> tuple[int, int]:
    block = min(power_of_2(row_size), _MOST)
    return block, max(1, block // _NUMBERS_PER_WARP)
