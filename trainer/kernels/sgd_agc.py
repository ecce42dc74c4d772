"""Adaptive clipping and the SGD update of many tensors at once, reading and writing each once.

On a CPU this package's own C++ does it, on CUDA one Triton launch for any number of tensors.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from trainer.kernels.agc import ClipStats, Hyperparameters, units
from trainer.kernels.group_norm_relu import kernel_works
from trainer.kernels.layout import rows_lie_together
from trainer.kernels.native import library, pointer, pointers, threads


def takes(tensors: Sequence[Tensor]) -> bool:
    """Whether there is a kernel for such weights, gradients and momenta: one type, one device, units that lie
    together."""
    first = tensors[0]
    if any(t.device != first.device or t.dtype != first.dtype or t.is_sparse for t in tensors):
        return False
    if any(isinstance(t, FakeTensor) for t in tensors):
        return False
    if not all(rows_lie_together(t) for t in tensors):
        return False
    if first.device.type == "cpu":
        return first.dtype in (torch.float32, torch.float64) and library() is not None
    return first.is_cuda and first.dtype == torch.float32 and kernel_works(first.device)


def update(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], momenta: Sequence[Tensor] | None, hyper: Hyperparameters,
    found_inf: Tensor | None = None,
) -> ClipStats:  # fmt: skip
    """Clip and update weights and momenta in place; the gradients stay as they are.

    CUDA: nothing is updated where `found_inf` is not 0. Weight, gradient and momentum of each must be laid out alike.
    """
    if weights[0].is_cuda:
        from trainer.kernels import sgd_agc_triton  # needs Triton

        stats = sgd_agc_triton.update(weights, gradients, momenta, hyper, found_inf)
    else:
        assert found_inf is None
        stats = _update_natively(weights, gradients, momenta, hyper)
    torch.autograd.graph.increment_version([*weights, *(momenta or ())])
    return stats


def _update_natively(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], momenta: Sequence[Tensor] | None, hyper: Hyperparameters
) -> ClipStats:
    kernels: Any = library()
    rows, row_sizes = zip(*(units(weight.shape) for weight in weights), strict=True)
    numbers = ctypes.c_int64 * len(weights)
    squares = torch.empty(sum(rows), dtype=torch.float64)
    kernels.sgd_agc_step.restype = ctypes.c_int64
    clipped = kernels.sgd_agc_step(
        ctypes.c_int(weights[0].dtype == torch.float64),
        pointers(weights),
        pointers(gradients),
        None if momenta is None else pointers(momenta),
        numbers(*rows),
        numbers(*row_sizes),
        *map(ctypes.c_double, hyper[:4]),
        ctypes.c_int64(hyper.nesterov),
        pointer(squares),
        ctypes.c_int64(len(weights)),
        threads(),
    )
    count = sum(rows) if hyper.clipping else 0
    return ClipStats(squares.sum().to(weights[0].dtype), torch.tensor(clipped), count)
