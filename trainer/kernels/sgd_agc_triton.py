"""Adaptive clipping and the SGD update in Triton: one program for each unit, whichever tensor it is in.

A program finds its tensor in a table of addresses, so that any number of tensors takes one launch.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.optim.agc import GRADIENT_NORM_FLOOR, WEIGHT_NORM_FLOOR, ClipStats, Rates, units

_BLOCK = 1024  # numbers of a unit that a program takes at a time
_NUM_WARPS = 4
_ALIGNED_BYTES = 16


@triton.jit
def _load_row(address_ptr, tensor, start, aligned: tl.constexpr):
    pointer = tl.load(address_ptr + tensor).to(tl.pointer_type(tl.float32))
    if aligned:
        pointer = tl.multiple_of(pointer, 16)
    return pointer + start


@triton.jit(do_not_specialize=["clipping", "lr", "momentum", "weight_decay"])
def sgd_agc_units(
    addresses_ptr, tensor_of_unit_ptr, first_unit_ptr, row_size_ptr, found_inf_ptr, squares_ptr, clipped_ptr,
    num_tensors, clipping, lr, momentum, weight_decay, weight_floor, gradient_floor,
    clips: tl.constexpr, has_momentum: tl.constexpr, nesterov: tl.constexpr, aligned: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Norms of one unit's weights and gradient, then its update."""
    unit = tl.program_id(0)
    tensor = tl.load(tensor_of_unit_ptr + unit)
    row_size = tl.load(row_size_ptr + tensor)
    if aligned:
        row_size = tl.multiple_of(row_size, 4)
    start = (unit - tl.load(first_unit_ptr + tensor)).to(tl.int64) * row_size
    weight_ptr = _load_row(addresses_ptr, tensor, start, aligned)
    gradient_ptr = _load_row(addresses_ptr + num_tensors, tensor, start, aligned)
    place = tl.arange(0, block)
    squares = tl.zeros([block], tl.float32)
    of_weights = tl.zeros([block], tl.float32)
    for done in range(0, row_size, block):
        mask = place < row_size - done
        gradient = tl.load(gradient_ptr + done + place, mask=mask, other=0.0)
        squares += gradient * gradient
        if clips:
            weight = tl.load(weight_ptr + done + place, mask=mask, other=0.0)
            of_weights += weight * weight
    square = tl.sum(squares, axis=0)
    tl.store(squares_ptr + unit, square)
    scale = 1.0
    if clips:
        norm = tl.sqrt(square)
        limit = clipping * tl.maximum(tl.sqrt(tl.sum(of_weights, axis=0)), weight_floor)
        exceeds = norm > limit
        scale = tl.where(exceeds, limit / tl.maximum(norm, gradient_floor), 1.0)
        tl.store(clipped_ptr + unit, exceeds.to(tl.int32))
    updates = True
    if found_inf_ptr is not None:
        updates = tl.load(found_inf_ptr) == 0.0
    if updates:
        momentum_ptr = weight_ptr
        if has_momentum:
            momentum_ptr = _load_row(addresses_ptr + 2 * num_tensors, tensor, start, aligned)
        for done in range(0, row_size, block):
            mask = place < row_size - done
            weight = tl.load(weight_ptr + done + place, mask=mask, other=0.0)
            step = tl.load(gradient_ptr + done + place, mask=mask, other=0.0) * scale + weight_decay * weight
            if has_momentum:
                buffer = momentum * tl.load(momentum_ptr + done + place, mask=mask, other=0.0) + step
                tl.store(momentum_ptr + done + place, buffer, mask=mask)
                step = step + momentum * buffer if nesterov else buffer
            tl.store(weight_ptr + done + place, weight - lr * step, mask=mask)


@lru_cache(maxsize=16)
def _tables(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which tensor each unit is in; the first unit of each tensor; how many numbers its units have."""
    rows = torch.tensor([count for count, _ in shapes])
    tensor_of_unit = torch.repeat_interleave(torch.arange(len(shapes)), rows)
    first_unit = rows.cumsum(0) - rows
    row_sizes = torch.tensor([size for _, size in shapes])
    tables = (tensor_of_unit, first_unit, row_sizes)
    first, second, third = (table.to(torch.int32).to(device) for table in tables)
    return first, second, third


def update(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], momenta: Sequence[Tensor] | None, rates: Rates,
    found_inf: Tensor | None,
) -> ClipStats:  # fmt: skip
    """See `trainer.kernels.sgd_agc.update`; two launches, one if all units begin at multiples of 16 bytes."""
    whole: list[tuple[Tensor, ...]] = list(zip(weights, gradients, momenta or weights, strict=True))
    parts = [
        (True, [one for one in whole if _is_aligned(one)]),
        (False, [one for one in whole if not _is_aligned(one)]),
    ]
    squares, clipped, count = [], [], 0
    for aligned, tensors in parts:
        if tensors:
            of_units, of_clipped = _launch(tensors, momenta is not None, rates, found_inf, aligned)
            squares.append(of_units)
            clipped.append(of_clipped)
            count += len(of_units)
    squared_norm = torch.cat(squares).sum(dtype=torch.float64).float()
    return ClipStats(squared_norm, torch.cat(clipped).sum(), count if rates.clipping else 0)


def _is_aligned(tensors: tuple[Tensor, ...]) -> bool:
    _, row_size = units(tensors[0])
    return row_size % 4 == 0 and all(tensor.data_ptr() % _ALIGNED_BYTES == 0 for tensor in tensors)


def _launch(
    tensors: list[tuple[Tensor, ...]], has_momentum: bool, rates: Rates, found_inf: Tensor | None, aligned: bool
) -> tuple[Tensor, Tensor]:
    device = tensors[0][0].device
    tensor_of_unit, first_unit, row_sizes = _tables(tuple(units(one[0]) for one in tensors), device)
    addresses = torch.tensor([[one[i].data_ptr() for one in tensors] for i in range(3)])
    if device.type == "cuda":
        addresses = addresses.pin_memory().to(device, non_blocking=True)
    squares = torch.empty(len(tensor_of_unit), device=device)
    clipped = torch.zeros(len(tensor_of_unit), dtype=torch.int32, device=device)
    with torch.cuda.device_of(squares):
        sgd_agc_units[(len(tensor_of_unit),)](
            addresses, tensor_of_unit, first_unit, row_sizes, found_inf, squares, clipped, len(tensors),
            rates.clipping, rates.lr, rates.momentum, rates.weight_decay, WEIGHT_NORM_FLOOR, GRADIENT_NORM_FLOOR,
            bool(rates.clipping), has_momentum, rates.nesterov, aligned, _BLOCK, num_warps=_NUM_WARPS,
            enable_fp_fusion=True,
        )  # fmt: skip
    return squares, clipped
