"""GroupNorm + ReLU for small samples: a program keeps all rows of its groups in registers, so x is read once.

Activations are channels-last, read as [N, rows = H * W, C].
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.kernels.group_norm_parts import (
    group_sum,
    groups_of,
    input_gradient,
    load,
    normalise,
    relu,
    to_channels,
)
from trainer.kernels.launch import launch
from trainer.kernels.tiling import Tile


@triton.jit(do_not_specialize=["rows"])
def forward_tile(
    x_ptr, residual_ptr, total_ptr, y_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, rows, channels, eps,
    group_size: tl.constexpr, groups: tl.constexpr, block_g: tl.constexpr, block_c: tl.constexpr, block_s: tl.constexpr,
):  # fmt: skip
    """The whole forward of one block of groups of one sample."""
    num_groups = channels // group_size
    blocks = tl.cdiv(num_groups, groups)
    sample = tl.cast(tl.program_id(0) // blocks, tl.int64)
    channel, channel_mask, group, group_mask, member = groups_of(
        tl.program_id(0) % blocks, channels, group_size, groups, block_g, block_c
    )
    row = tl.arange(0, block_s)
    mask = (row < rows)[:, None] & channel_mask[None, :]
    here = sample * rows * channels + (row[:, None] * channels + channel[None, :])
    x = load(x_ptr + here, mask)
    if residual_ptr is not None:
        total = (x + load(residual_ptr + here, mask)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + here, total, mask=mask)
        x = total.to(tl.float32)
    count = (rows * group_size).to(tl.float32)
    mean = group_sum(tl.sum(x, axis=0), member) / count
    mean_c = to_channels(mean, member)
    deviation = tl.where(mask, x - mean_c[None, :], 0.0)
    variance = group_sum(tl.sum(deviation * deviation, axis=0), member) / count
    rstd = 1.0 / tl.sqrt(variance + eps)
    # Loaded only now: registers are what limits how many programs a GPU runs at a time.
    weight = load(weight_ptr + channel, channel_mask)
    bias = load(bias_ptr + channel, channel_mask)
    _, pre = normalise(x, mean_c, to_channels(rstd, member), weight, bias)
    tl.store(y_ptr + here, relu(pre, pre), mask=mask)
    tl.store(mean_ptr + sample * num_groups + group, mean, mask=group_mask)
    tl.store(rstd_ptr + sample * num_groups + group, rstd, mask=group_mask)


@triton.jit(do_not_specialize=["rows"])
def backward_tile(
    dy_ptr, x_ptr, dtotal_ptr, dx_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, dweight_ptr, dbias_ptr,
    rows, channels,
    group_size: tl.constexpr, groups: tl.constexpr, block_g: tl.constexpr, block_c: tl.constexpr, block_s: tl.constexpr,
):  # fmt: skip
    """The whole backward of one block of groups of one sample. dweight and dbias: [N, C], what this sample adds."""
    num_groups = channels // group_size
    blocks = tl.cdiv(num_groups, groups)
    sample = tl.cast(tl.program_id(0) // blocks, tl.int64)
    channel, channel_mask, _, _, member = groups_of(
        tl.program_id(0) % blocks, channels, group_size, groups, block_g, block_c
    )
    row = tl.arange(0, block_s)
    mask = (row < rows)[:, None] & channel_mask[None, :]
    here = sample * rows * channels + (row[:, None] * channels + channel[None, :])
    x = load(x_ptr + here, mask)
    dy = load(dy_ptr + here, mask)
    of_group = sample * num_groups + channel // group_size
    rstd = load(rstd_ptr + of_group, channel_mask)
    weight = load(weight_ptr + channel, channel_mask)
    mean = load(mean_ptr + of_group, channel_mask)
    normalised, pre = normalise(x, mean, rstd, weight, load(bias_ptr + channel, channel_mask))
    dpre = relu(pre, dy)
    dot_c = tl.sum(dpre * normalised, axis=0)
    sum_c = tl.sum(dpre, axis=0)
    tl.store(dweight_ptr + sample * channels + channel, dot_c, mask=channel_mask)
    tl.store(dbias_ptr + sample * channels + channel, sum_c, mask=channel_mask)
    count = (rows * group_size).to(tl.float32)
    dot_c = to_channels(group_sum(dot_c * weight, member) / count, member)
    sum_c = to_channels(group_sum(sum_c * weight, member) / count, member)
    dx = input_gradient(dpre, normalised, rstd, weight, sum_c, dot_c)
    if dtotal_ptr is not None:
        dx += load(dtotal_ptr + here, mask)
    tl.store(dx_ptr + here, dx, mask=mask)


def forward(
    x: Tensor, residual: Tensor | None, total: Tensor | None, y: Tensor, mean: Tensor, rstd: Tensor,
    weight: Tensor, bias: Tensor, eps: float, tile: Tile,
) -> None:  # fmt: skip
    """Fill y, mean and rstd, and total = x + residual where there is one. Activations channels-last."""
    samples, channels, rows = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    launch(
        forward_tile, samples * tile.channels.blocks, (x, residual, total, y, mean, rstd, weight, bias),
        (rows, channels, eps, channels // mean.shape[1], *_blocks(tile)),
        num_warps=tile.num_warps, maxnreg=tile.max_registers, enable_fp_fusion=True,
    )  # fmt: skip


def backward(
    dy: Tensor, x: Tensor, dtotal: Tensor | None, dx: Tensor, mean: Tensor, rstd: Tensor,
    weight: Tensor, bias: Tensor, tile: Tile,
) -> Tensor:  # fmt: skip
    """Fill dx; returns the gradients of weight and bias in parts to be added up, fp32 [2, N, C]."""
    samples, channels, rows = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    parts = x.new_empty((2, samples, channels), dtype=torch.float32)
    launch(
        backward_tile, samples * tile.channels.blocks, (dy, x, dtotal, dx, mean, rstd, weight, bias, *parts.unbind()),
        (rows, channels, channels // mean.shape[1], *_blocks(tile)),
        num_warps=tile.num_warps, maxnreg=tile.max_registers, enable_fp_fusion=True,
    )  # fmt: skip
    return parts


def _blocks(tile: Tile) -> tuple[int, int, int, int]:
    return tile.channels.groups, tile.channels.block_g, tile.channels.block_c, tile.block_s
