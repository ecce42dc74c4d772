"""GroupNorm + ReLU of large samples: rows are split among programs, whose results are merged before a second pass.

Activations are channels-last, read as [N, rows = H * W, C]. What programs add up is merged in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.kernels.group_norm_parts import (
    channels_of,
    group_sum,
    groups_of,
    input_gradient,
    load,
    normalise,
    relu,
    to_channels,
)
from trainer.kernels.tiling import Split, cdiv


@triton.jit(do_not_specialize=["rows", "rows_each", "splits"])
def channel_moments(
    x_ptr, residual_ptr, total_ptr, mean_ptr, m2_ptr, rows, rows_each, splits, channels,
    block_c: tl.constexpr, block_s: tl.constexpr,
):  # fmt: skip
    """Mean and summed squared deviations of each channel over one split of one sample's rows: [N, splits, C].

    Welford's update in every place of the tile, the places merged at the end: sums of squares would lose small
    variances beside large means.
    """
    blocks = tl.cdiv(channels, block_c)
    unit = tl.cast(tl.program_id(0) // blocks, tl.int64)
    channel, channel_mask = channels_of(tl.program_id(0) % blocks, channels, block_c)
    first_row = (unit % splits).to(tl.int32) * rows_each
    num_rows = tl.minimum(rows - first_row, rows_each)
    start = (unit // splits * rows + first_row) * channels
    place = tl.arange(0, block_s)
    offsets = place[:, None] * channels + channel[None, :]
    mean = tl.zeros([block_s, block_c], tl.float32)
    m2 = tl.zeros([block_s, block_c], tl.float32)
    seen = 0.0
    for done in range(0, num_rows, block_s):
        mask = (place < num_rows - done)[:, None] & channel_mask[None, :]
        here = start + tl.cast(done, tl.int64) * channels
        x = load(x_ptr + here + offsets, mask)
        if residual_ptr is not None:
            total = (x + load(residual_ptr + here + offsets, mask)).to(total_ptr.dtype.element_ty)
            tl.store(total_ptr + here + offsets, total, mask=mask)
            x = total.to(tl.float32)
        seen += 1.0
        deviation = tl.where(mask, x - mean, 0.0)
        mean += deviation * (1.0 / seen)
        m2 += tl.where(mask, deviation * (x - mean), 0.0)
    counts = tl.maximum((num_rows - place + block_s - 1) // block_s, 0).to(tl.float32)
    mean_c = tl.sum(mean * counts[:, None], axis=0) / num_rows
    apart = mean - mean_c[None, :]
    m2_c = tl.sum(m2 + apart * apart * counts[:, None], axis=0)
    tl.store(mean_ptr + unit * channels + channel, mean_c, mask=channel_mask)
    tl.store(m2_ptr + unit * channels + channel, m2_c, mask=channel_mask)


@triton.jit(do_not_specialize=["rows", "rows_each", "splits"])
def merge_moments(
    mean_c_ptr, m2_c_ptr, mean_ptr, rstd_ptr, rows, rows_each, splits, channels, eps,
    group_size: tl.constexpr, groups: tl.constexpr, block_g: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Moments of channels and splits [N, splits, C] -> mean and 1 / sqrt(variance + eps) of the groups [N, G]."""
    num_groups = channels // group_size
    blocks = tl.cdiv(num_groups, groups)
    sample = tl.cast(tl.program_id(0) // blocks, tl.int64)
    channel, channel_mask, group, group_mask, member = groups_of(
        tl.program_id(0) % blocks, channels, group_size, groups, block_g, block_c
    )
    start = sample * splits * channels + channel
    count = (rows * group_size).to(tl.float32)
    sum_c = tl.zeros([block_c], tl.float32)
    for split in range(splits):
        num_rows = tl.minimum(rows - split * rows_each, rows_each).to(tl.float32)
        sum_c += num_rows * load(mean_c_ptr + start + split * channels, channel_mask)
    mean = group_sum(sum_c, member) / count
    mean_c = to_channels(mean, member)
    m2_c = tl.zeros([block_c], tl.float32)
    for split in range(splits):
        num_rows = tl.minimum(rows - split * rows_each, rows_each).to(tl.float32)
        apart = tl.where(channel_mask, load(mean_c_ptr + start + split * channels, channel_mask) - mean_c, 0.0)
        m2_c += load(m2_c_ptr + start + split * channels, channel_mask) + num_rows * apart * apart
    rstd = 1.0 / tl.sqrt(group_sum(m2_c, member) / count + eps)
    tl.store(mean_ptr + sample * num_groups + group, mean, mask=group_mask)
    tl.store(rstd_ptr + sample * num_groups + group, rstd, mask=group_mask)


@triton.jit(do_not_specialize=["rows", "group_size"])
def forward_apply(
    x_ptr, y_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, rows, channels, group_size,
    block_c: tl.constexpr, block_s: tl.constexpr,
):  # fmt: skip
    """relu(normalised * weight + bias) of some rows of one sample."""
    sample, start, mask, offsets, channel, channel_mask = _rows_of_program(rows, channels, block_c, block_s)
    of_group = sample * (channels // group_size) + channel // group_size
    _, pre = normalise(
        load(x_ptr + start + offsets, mask),
        load(mean_ptr + of_group, channel_mask),
        load(rstd_ptr + of_group, channel_mask),
        load(weight_ptr + channel, channel_mask),
        load(bias_ptr + channel, channel_mask),
    )
    tl.store(y_ptr + start + offsets, relu(pre, pre), mask=mask)


@triton.jit
def _rows_of_program(rows, channels, block_c: tl.constexpr, block_s: tl.constexpr):
    # Last things first: what the pass before read last is still in the GPU's L2 cache.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    blocks = tl.cdiv(channels, block_c)
    chunks = tl.cdiv(rows, block_s)
    channel, channel_mask = channels_of(program % blocks, channels, block_c)
    sample = tl.cast(program // blocks // chunks, tl.int64)
    first_row = program // blocks % chunks * block_s
    place = tl.arange(0, block_s)
    mask = (place < rows - first_row)[:, None] & channel_mask[None, :]
    offsets = place[:, None] * channels + channel[None, :]
    return sample, (sample * rows + first_row) * channels, mask, offsets, channel, channel_mask


@triton.jit(do_not_specialize=["rows", "rows_each", "splits", "group_size"])
def backward_sums(
    dy_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, dot_ptr, sum_ptr,
    rows, rows_each, splits, channels, group_size, block_c: tl.constexpr, block_s: tl.constexpr,
):  # fmt: skip
    """Sums over one split of one sample's rows: of the gradient before the ReLU (sum), and of it times the normalised
    input (dot). [N, splits, C]."""
    blocks = tl.cdiv(channels, block_c)
    unit = tl.cast(tl.program_id(0) // blocks, tl.int64)
    channel, channel_mask = channels_of(tl.program_id(0) % blocks, channels, block_c)
    first_row = (unit % splits).to(tl.int32) * rows_each
    num_rows = tl.minimum(rows - first_row, rows_each)
    start = (unit // splits * rows + first_row) * channels
    of_group = unit // splits * (channels // group_size) + channel // group_size
    mean = load(mean_ptr + of_group, channel_mask)
    rstd = load(rstd_ptr + of_group, channel_mask)
    weight = load(weight_ptr + channel, channel_mask)
    bias = load(bias_ptr + channel, channel_mask)
    place = tl.arange(0, block_s)
    offsets = place[:, None] * channels + channel[None, :]
    sums = tl.zeros([block_s, block_c], tl.float32)
    dots = tl.zeros([block_s, block_c], tl.float32)
    for done in range(0, num_rows, block_s):
        mask = (place < num_rows - done)[:, None] & channel_mask[None, :]
        here = start + tl.cast(done, tl.int64) * channels
        normalised, pre = normalise(load(x_ptr + here + offsets, mask), mean, rstd, weight, bias)
        dpre = relu(pre, load(dy_ptr + here + offsets, mask))
        sums += dpre
        dots += dpre * normalised
    tl.store(dot_ptr + unit * channels + channel, tl.sum(dots, axis=0), mask=channel_mask)
    tl.store(sum_ptr + unit * channels + channel, tl.sum(sums, axis=0), mask=channel_mask)


@triton.jit(do_not_specialize=["rows", "splits"])
def merge_sums(
    dot_ptr, sum_ptr, weight_ptr, dot_g_ptr, sum_g_ptr, rows, splits, channels,
    group_size: tl.constexpr, groups: tl.constexpr, block_g: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """[N, splits, C] -> means over each group of what the scale multiplies: [N, G]."""
    num_groups = channels // group_size
    blocks = tl.cdiv(num_groups, groups)
    sample = tl.cast(tl.program_id(0) // blocks, tl.int64)
    channel, channel_mask, group, group_mask, member = groups_of(
        tl.program_id(0) % blocks, channels, group_size, groups, block_g, block_c
    )
    start = sample * splits * channels + channel
    dot_c = tl.zeros([block_c], tl.float32)
    sum_c = tl.zeros([block_c], tl.float32)
    for split in range(splits):
        dot_c += load(dot_ptr + start + split * channels, channel_mask)
        sum_c += load(sum_ptr + start + split * channels, channel_mask)
    weight = load(weight_ptr + channel, channel_mask)
    count = (rows * group_size).to(tl.float32)
    tl.store(dot_g_ptr + sample * num_groups + group, group_sum(dot_c * weight, member) / count, mask=group_mask)
    tl.store(sum_g_ptr + sample * num_groups + group, group_sum(sum_c * weight, member) / count, mask=group_mask)


@triton.jit(do_not_specialize=["rows", "group_size"])
def backward_apply(
    dy_ptr, x_ptr, dtotal_ptr, dx_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, dot_g_ptr, sum_g_ptr,
    rows, channels, group_size, block_c: tl.constexpr, block_s: tl.constexpr,
):  # fmt: skip
    """The gradient of the input, of some rows of one sample; plus that of the residual sum where there is one."""
    sample, start, mask, offsets, channel, channel_mask = _rows_of_program(rows, channels, block_c, block_s)
    of_group = sample * (channels // group_size) + channel // group_size
    rstd = load(rstd_ptr + of_group, channel_mask)
    weight = load(weight_ptr + channel, channel_mask)
    normalised, pre = normalise(
        load(x_ptr + start + offsets, mask),
        load(mean_ptr + of_group, channel_mask),
        rstd,
        weight,
        load(bias_ptr + channel, channel_mask),
    )
    dpre = relu(pre, load(dy_ptr + start + offsets, mask))
    dot_c = load(dot_g_ptr + of_group, channel_mask)
    dx = input_gradient(dpre, normalised, rstd, weight, load(sum_g_ptr + of_group, channel_mask), dot_c)
    if dtotal_ptr is not None:
        dx += load(dtotal_ptr + start + offsets, mask)
    tl.store(dx_ptr + start + offsets, dx, mask=mask)


def forward(
    x: Tensor, residual: Tensor | None, total: Tensor | None, y: Tensor, mean: Tensor, rstd: Tensor,
    weight: Tensor, bias: Tensor, eps: float, split: Split,
) -> None:  # fmt: skip
    """Fill y, mean and rstd, and total = x + residual where there is one. Activations channels-last."""
    samples, channels, rows = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    group_size = channels // mean.shape[1]
    parts = x.new_empty((2, samples, split.splits, channels), dtype=torch.float32)
    channel_moments[(samples * split.splits * cdiv(channels, split.block_c),)](
        x, residual, total, parts[0], parts[1], rows, split.rows, split.splits, channels,
        split.block_c, split.block_s, num_warps=split.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    merge_moments[(samples * split.merged.blocks,)](
        parts[0], parts[1], mean, rstd, rows, split.rows, split.splits, channels, eps,
        group_size, split.merged.groups, split.merged.block_g, split.merged.block_c, enable_fp_fusion=True,
    )  # fmt: skip
    forward_apply[(_apply_programs(x, split),)](
        x if total is None else total, y, mean, rstd, weight, bias, rows, channels, group_size,
        split.block_c, split.apply_rows, num_warps=split.num_warps, enable_fp_fusion=True,
    )  # fmt: skip


def backward(
    dy: Tensor, x: Tensor, dtotal: Tensor | None, dx: Tensor, mean: Tensor, rstd: Tensor,
    weight: Tensor, bias: Tensor, split: Split,
) -> Tensor:  # fmt: skip
    """Fill dx; returns the gradients of weight and bias in parts to be added up, fp32 [2, parts, C]."""
    samples, channels, rows = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    group_size = channels // mean.shape[1]
    parts = x.new_empty((2, samples * split.splits, channels), dtype=torch.float32)
    backward_sums[(samples * split.splits * cdiv(channels, split.block_c),)](
        dy, x, mean, rstd, weight, bias, parts[0], parts[1], rows, split.rows, split.splits, channels, group_size,
        split.block_c, split.block_s, num_warps=split.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    of_groups = mean.new_empty((2, *mean.shape))
    merge_sums[(samples * split.merged.blocks,)](
        parts[0], parts[1], weight, of_groups[0], of_groups[1], rows, split.splits, channels,
        group_size, split.merged.groups, split.merged.block_g, split.merged.block_c, enable_fp_fusion=True,
    )  # fmt: skip
    backward_apply[(_apply_programs(x, split),)](
        dy, x, dtotal, dx, mean, rstd, weight, bias, of_groups[0], of_groups[1], rows, channels, group_size,
        split.block_c, split.apply_rows, num_warps=split.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return parts


def _apply_programs(x: Tensor, split: Split) -> int:
    return x.shape[0] * cdiv(x.shape[2] * x.shape[3], split.apply_rows) * cdiv(x.shape[1], split.block_c)
