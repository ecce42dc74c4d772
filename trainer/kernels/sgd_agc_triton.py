"""Adaptive clipping and the SGD update in Triton: one program per unit, across all tensors.

A program finds its tensor in a table of addresses, so that any number of tensors takes one launch.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.kernels.agc import GRADIENT_NORM_FLOOR, WEIGHT_NORM_FLOOR, ClipStats, Hyperparameters, units
from trainer.kernels.unit_tables import ALIGNED_BYTES, on_device, unit_tables

_BLOCK = 1024  # numbers of a unit that a program takes at a time
_NUM_WARPS = 4


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


class _Launch(NamedTuple):
    """What a launch is told of its tensors. `aligned`: units begin at multiples of 16 bytes."""

    aligned: bool
    num_tensors: int
    addresses: Tensor
    tensor_of_unit: Tensor
    first_unit: Tensor
    row_sizes: Tensor


def update(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], momenta: Sequence[Tensor] | None, hyper: Hyperparameters,
    found_inf: Tensor | None,
) -> ClipStats:  # fmt: skip
    """See `trainer.kernels.sgd_agc.update`; two launches, one if all units begin at multiples of 16 bytes."""
    device = weights[0].device
    addresses = tuple(tensor.data_ptr() for tensor in (*weights, *gradients, *(momenta or weights)))
    squares, clipped, count = [], [], 0
    for launch in _launches(tuple(weight.shape for weight in weights), addresses, device):
        num_units = len(launch.tensor_of_unit)
        squares.append(torch.empty(num_units, device=device))
        clipped.append(torch.zeros(num_units, dtype=torch.int32, device=device))
        count += num_units
        with torch.cuda.device_of(weights[0]):
            sgd_agc_units[(num_units,)](
                launch.addresses, launch.tensor_of_unit, launch.first_unit, launch.row_sizes, found_inf,
                squares[-1], clipped[-1], launch.num_tensors,
                hyper.clipping, hyper.lr, hyper.momentum, hyper.weight_decay, WEIGHT_NORM_FLOOR, GRADIENT_NORM_FLOOR,
                bool(hyper.clipping), momenta is not None, hyper.nesterov, launch.aligned, _BLOCK,
                num_warps=_NUM_WARPS, enable_fp_fusion=True,
            )  # fmt: skip
    squared_norm = torch.cat(squares).sum(dtype=torch.float64).float()
    return ClipStats(squared_norm, torch.cat(clipped).sum(), count if hyper.clipping else 0)


@lru_cache(maxsize=4)
def _launches(shapes: tuple[torch.Size, ...], addresses: tuple[int, ...], device: torch.device) -> list[_Launch]:
    """Of tensors of these shapes, whose weights, gradients and momenta are at these addresses. From step to step they
    are the same as a rule."""
    all_units = [units(shape) for shape in shapes]
    of_each = [addresses[i :: len(shapes)] for i in range(len(shapes))]
    launches = []
    for aligned in (True, False):
        mine = [
            i
            for i, (_, row_size) in enumerate(all_units)
            if aligned == (row_size % 4 == 0 and all(address % ALIGNED_BYTES == 0 for address in of_each[i]))
        ]
        if mine:
            table = on_device([of_each[i][role] for role in range(3) for i in mine], device)
            launches.append(_Launch(aligned, len(mine), table, *unit_tables(tuple(all_units[i] for i in mine), device)))
    return launches
