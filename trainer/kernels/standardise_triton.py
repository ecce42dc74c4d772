"""Weight standardisation in Triton: one program per filter, whose weights must be contiguous.

Forward, a program finds its filter in a table, so that any number of banks takes one launch; backward, a launch takes
the banks of a unit.
"""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.kernels.agc import units
from trainer.kernels.group_norm_parts import load
from trainer.kernels.launch import launch
from trainer.kernels.tiling import cdiv, power_of_2
from trainer.kernels.unit_tables import ALIGNED_BYTES, on_device, unit_tables

_FORWARD_BLOCK, _FORWARD_WARPS = 1024, 4
_MOST = 2048  # numbers of a filter that a program of the backward pass takes at a time
_NUMBERS_PER_WARP = 256
_SPACING = 64  # numbers; each bank's filters begin at a multiple of it


@triton.jit
def _standardise_row(weight_ptr, filters_ptr, mean_ptr, rstd_ptr, row, row_size, eps, block: tl.constexpr):
    # Mean, then deviations from it, then the filter.
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
    tl.store(mean_ptr, mean)
    tl.store(rstd_ptr, rstd)


@triton.jit(do_not_specialize=["num_banks", "eps"])
def standardise_rows(
    banks_ptr, bank_of_row_ptr, first_row_ptr, row_size_ptr, filters_ptr, mean_ptr, rstd_ptr, num_banks, eps,
    block: tl.constexpr,
):  # fmt: skip
    """`banks`: the address of each bank's weights, where its filters begin, and whether its rows are aligned."""
    program = tl.program_id(0)
    bank = tl.load(bank_of_row_ptr + program)
    row = (program - tl.load(first_row_ptr + bank)).to(tl.int64)
    row_size = tl.load(row_size_ptr + bank)
    weight_ptr = tl.load(banks_ptr + bank).to(tl.pointer_type(tl.float32))
    begin = tl.load(banks_ptr + num_banks + bank)
    mean_ptr += program
    rstd_ptr += program
    if tl.load(banks_ptr + 2 * num_banks + bank) != 0:
        weight_ptr = tl.multiple_of(weight_ptr, 16)
        filters_ptr += tl.multiple_of(begin, 64)
        row_size = tl.multiple_of(row_size, 8)
        _standardise_row(weight_ptr, filters_ptr, mean_ptr, rstd_ptr, row, row_size, eps, block)
    else:
        _standardise_row(weight_ptr, filters_ptr + begin, mean_ptr, rstd_ptr, row, row_size, eps, block)


@triton.jit
def _row_backward(
    gradient_ptr, gathered_ptr, weight_ptr, mean_ptr, rstd_ptr, result_ptr, row, row_size, block: tl.constexpr
):  # fmt: skip
    # Means of the gradient and of it along the filter, then what is left without them.
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


@triton.jit
def standardise_rows_backward(
    gradients, gathered, weights, means, rstds, results, rows, row_sizes, blocks: tl.constexpr
):  # fmt: skip
    """Each argument is a tuple with an entry for each bank; a program takes one row of one of them."""
    row = tl.cast(tl.program_id(0), tl.int64)
    for i in tl.static_range(len(weights)):
        if (row >= 0) & (row < rows[i]):
            _row_backward(
                gradients[i], gathered[i], weights[i], means[i], rstds[i], results[i], row, row_sizes[i], blocks[i]
            )
        row -= rows[i]


def forward(weights: Sequence[Tensor], eps: float, dtype: torch.dtype) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Filters, mean and 1 / sqrt(variance + eps) of each bank; see `Standardised`."""
    device, shapes = weights[0].device, tuple(units(weight.shape) for weight in weights)
    *sizes, total = accumulate((cdiv(weight.numel(), _SPACING) * _SPACING for weight in weights), initial=0)
    filters = torch.empty(total, dtype=dtype, device=device)
    bank_of_row, first_row, row_sizes = unit_tables(shapes, device)
    moments = torch.empty(2, len(bank_of_row), device=device)
    addresses = [weight.data_ptr() for weight in weights]
    aligned = [
        address % ALIGNED_BYTES == 0 and size % 8 == 0 for address, (_, size) in zip(addresses, shapes, strict=True)
    ]
    banks = on_device((*addresses, *sizes, *aligned), device)
    if len(bank_of_row):
        with torch.cuda.device_of(filters):
            standardise_rows[(len(bank_of_row),)](
                banks, bank_of_row, first_row, row_sizes, filters, moments[0], moments[1], len(weights), eps,
                _FORWARD_BLOCK, num_warps=_FORWARD_WARPS, enable_fp_fusion=True,
            )  # fmt: skip
    rows = [count for count, _ in shapes]
    views = [filters.as_strided(w.shape, w.stride(), begin) for w, begin in zip(weights, sizes, strict=True)]
    return list(zip(views, *(moment.split(rows) for moment in moments), strict=True))


def backward(
    gradients: Sequence[Tensor],
    gathered: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    means: Sequence[Tensor],
    rstds: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of the weights."""
    results = [torch.empty_like(weight) for weight in weights]
    programs, num_warps, numbers = _cut(tuple(weight.shape for weight in weights))
    roles = (gradients, gathered, weights, means, rstds, results)
    with torch.cuda.device_of(weights[0]):
        launch(
            standardise_rows_backward, programs, [tensor for role in roles for tensor in role], numbers,
            (*map(tuple, roles), *numbers), num_warps=num_warps, enable_fp_fusion=True,
        )  # fmt: skip
    return results


@cache
def _cut(shapes: tuple[torch.Size, ...]) -> tuple[int, int, tuple[tuple[int, ...], ...]]:
    """Programs and warps of the backward pass for banks of these shapes; rows, row sizes and blocks of each bank."""
    rows, row_sizes = zip(*map(units, shapes), strict=True)
    blocks = tuple(min(power_of_2(size), _MOST) for size in row_sizes)
    return sum(rows), max(1, max(blocks) // _NUMBERS_PER_WARP), (rows, row_sizes, blocks)
