"""GroupNorm + ReLU on the CPU in our own C++; activations are channels-last, bf16 or fp32."""

import ctypes

import torch
from torch import Tensor

from trainer.kernels.native import library, pointer, threads, whole_numbers

DTYPES = (torch.bfloat16, torch.float32)


def forward(
    x: Tensor, residual: Tensor | None, total: Tensor | None, y: Tensor, mean: Tensor, rstd: Tensor,
    weight: Tensor, bias: Tensor, eps: float,
) -> None:  # fmt: skip
    """Fill y, mean and rstd, and total = x + residual where there is one; weight and bias fp32."""
    kernels = library()
    assert kernels is not None
    kernels.group_norm_relu_forward(
        *_of_type(x), *map(pointer, (x, residual, total, y, mean, rstd, weight, bias)), ctypes.c_double(eps),
        *_sizes(x, mean),
    )  # fmt: skip


def backward(
    dy: Tensor, x: Tensor, dtotal: Tensor | None, dx: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Fill dx; returns the gradients of weight and bias, fp32."""
    kernels = library()
    assert kernels is not None
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    parts = x.new_empty((2, x.shape[0], x.shape[1]), dtype=torch.float64)
    kernels.group_norm_relu_backward(
        *_of_type(x), *map(pointer, (dy, x, dtotal, dx, mean, rstd, weight, bias, dweight, dbias, parts)),
        *_sizes(x, mean),
    )  # fmt: skip
    return dweight, dbias


def _of_type(x: Tensor) -> list[ctypes.c_int]:
    assert x.dtype in DTYPES
    return [ctypes.c_int(x.dtype == torch.bfloat16)]


def _sizes(x: Tensor, mean: Tensor) -> list[ctypes.c_int64]:
    samples, channels, height, width = x.shape
    return [*whole_numbers(samples, height * width, channels, mean.shape[1]), threads()]
