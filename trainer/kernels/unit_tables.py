"""Tables on the device of where the units of many tensors lie, for kernels that take them all in one launch."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

ALIGNED_BYTES = 16  # of the widest access to memory
_KEPT = 16  # tables: a few models' and a few sets of addresses


@lru_cache(_KEPT)
def unit_tables(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of tensors with so many units of so many numbers each: which tensor each unit is in; the first unit of each
    tensor; how many numbers its units have. int32."""
    rows = torch.tensor([count for count, _ in shapes])
    tensor_of_unit = torch.repeat_interleave(torch.arange(len(shapes)), rows)
    first_unit = rows.cumsum(0) - rows
    row_sizes = torch.tensor([size for _, size in shapes])
    first, second, third = (table.to(torch.int32).to(device) for table in (tensor_of_unit, first_unit, row_sizes))
    return first, second, third


def on_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """int64 [len(numbers)], such as addresses: copied anew only where they differ from those of before."""
    return _on_device(tuple(numbers), device)


@lru_cache(_KEPT)
def _on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    table = torch.tensor(numbers, dtype=torch.int64)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table
