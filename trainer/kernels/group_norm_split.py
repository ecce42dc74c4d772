"""GroupNorm + ReLU for large samples: one launch per direction, with rows split among cooperating programs.

The first pass over a sample takes sums, the second applies them. Second passes follow first ones at a distance of some
programs, so that what they read again is still in the GPU's L2 cache; what is not read again is marked to leave it
first. Turns are drawn, not taken from the program's number: a program that waits for a sample's first pass then waits
for programs that already run, so none waits for ever. What programs add up is merged in a fixed order, by the one that
ends last, so no number depends on which that is.
Activations are channels-last, read as [N, rows = H * W, C].
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
    load_last,
    normalise,
    relu,
    to_channels,
)
from trainer.kernels.launch import launch
from trainer.kernels.tiling import Split


@triton.jit
def of_turn(turn, units, ahead):
    """Whether a turn is a second pass, and over which unit: `ahead` first passes, then one of each by turns, then the
    second passes that are left."""
    later = turn - ahead
    pairs = units - ahead
    alternates = (later >= 0) & (later < 2 * pairs)
    is_second = (later >= 2 * pairs) | (alternates & (later % 2 == 0))
    unit = tl.where(alternates, later // 2 + tl.where(later % 2 == 0, 0, ahead), later - pairs)
    return is_second, tl.where(later < 0, turn, unit)


@triton.jit
def arrive(arrived_ptr):
    """How many programs of the sample came before; what they stored can be read."""
    tl.debug_barrier()  # every thread's stores come before the one that counts
    return tl.atomic_add(arrived_ptr, 1, sem="acq_rel")


@triton.jit
def wait_until(arrived_ptr, count):
    """Return once `count` programs have arrived; what they stored can be read."""
    while tl.atomic_add(arrived_ptr, 0, sem="acquire") < count:
        pass
    tl.debug_barrier()


@triton.jit
def rows_of(unit, rows, rows_each, splits, channels, block_c: tl.constexpr, block_s: tl.constexpr):
    """Sample, split and channels of a unit: how many rows it has, where they begin, and offsets of one step's."""
    blocks = tl.cdiv(channels, block_c)
    sample = tl.cast(unit // (splits * blocks), tl.int64)
    split = unit // blocks % splits
    channel, channel_mask = channels_of(unit % blocks, channels, block_c)
    first_row = split * rows_each
    start = (sample * rows + first_row) * channels
    offsets = tl.arange(0, block_s)[:, None] * channels + channel[None, :]
    return sample, split, tl.minimum(rows - first_row, rows_each), start, offsets, channel, channel_mask


@triton.jit
def merge_moments(
    mean_c_ptr, m2_c_ptr, mean_ptr, rstd_ptr, sample, block, rows, rows_each, splits, channels, eps,
    group_size: tl.constexpr, groups: tl.constexpr, block_g: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Moments of channels and splits [N, splits, C] -> of a block of groups, mean and 1 / sqrt(variance + eps)."""
    num_groups = channels // group_size
    channel, channel_mask, group, group_mask, member = groups_of(block, channels, group_size, groups, block_g, block_c)
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


@triton.jit
def merge_sums(
    dot_ptr, sum_ptr, weight_ptr, dot_g_ptr, sum_g_ptr, sample, block, rows, splits, channels,
    group_size: tl.constexpr, groups: tl.constexpr, block_g: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """[N, splits, C] -> means over each group of a block of what the scale multiplies: [N, G]."""
    num_groups = channels // group_size
    channel, channel_mask, group, group_mask, member = groups_of(block, channels, group_size, groups, block_g, block_c)
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


@triton.jit(do_not_specialize=["rows", "rows_each", "splits", "units", "ahead"])
def forward_split(
    x_ptr, residual_ptr, total_ptr, y_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, mean_c_ptr, m2_c_ptr, turns_ptr,
    rows, rows_each, splits, units, ahead, channels, eps,
    block_c: tl.constexpr, block_s: tl.constexpr, stages: tl.constexpr,
    group_size: tl.constexpr, groups: tl.constexpr, block_g: tl.constexpr, merged_c: tl.constexpr,
):  # fmt: skip
    """First pass: moments of each channel over a unit's rows, [N, splits, C]; second: what they make of its rows.

    Moments by Welford's update in every place of the step, the places merged at the end: sums of squares would lose
    small variances beside large means.
    """
    is_second, unit = of_turn(tl.atomic_add(turns_ptr, 1, sem="relaxed"), units, ahead)
    sample, split, num_rows, start, offsets, channel, channel_mask = rows_of(
        unit, rows, rows_each, splits, channels, block_c, block_s
    )
    arrived_ptr = turns_ptr + 1 + sample
    of_sample = splits * tl.cdiv(channels, block_c)
    place = tl.arange(0, block_s)
    if is_second:
        wait_until(arrived_ptr, of_sample + 1)
        of_group = sample * (channels // group_size) + channel // group_size
        mean_c = load(mean_ptr + of_group, channel_mask)
        rstd_c = load(rstd_ptr + of_group, channel_mask)
        weight = load(weight_ptr + channel, channel_mask)
        bias = load(bias_ptr + channel, channel_mask)
        source_ptr = x_ptr
        if residual_ptr is not None:
            source_ptr = total_ptr
        for done in tl.range(0, num_rows, block_s, num_stages=stages):
            mask = (place < num_rows - done)[:, None] & channel_mask[None, :]
            here = start + tl.cast(done, tl.int64) * channels
            _, pre = normalise(load_last(source_ptr + here + offsets, mask), mean_c, rstd_c, weight, bias)
            tl.store(y_ptr + here + offsets, relu(pre, pre), mask=mask, eviction_policy="evict_first")
    else:
        mean = tl.zeros([block_s, block_c], tl.float32)
        m2 = tl.zeros([block_s, block_c], tl.float32)
        seen = 0.0
        for done in tl.range(0, num_rows, block_s, num_stages=stages):
            mask = (place < num_rows - done)[:, None] & channel_mask[None, :]
            here = start + tl.cast(done, tl.int64) * channels
            if residual_ptr is None:
                x = load(x_ptr + here + offsets, mask)
            else:
                x = load_last(x_ptr + here + offsets, mask)
                total = (x + load_last(residual_ptr + here + offsets, mask)).to(total_ptr.dtype.element_ty)
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
        of_unit = (sample * splits + split) * channels + channel
        tl.store(mean_c_ptr + of_unit, mean_c, mask=channel_mask)
        tl.store(m2_c_ptr + of_unit, m2_c, mask=channel_mask)
        if arrive(arrived_ptr) == of_sample - 1:
            for block in range(tl.cdiv(channels // group_size, groups)):
                merge_moments(
                    mean_c_ptr, m2_c_ptr, mean_ptr, rstd_ptr, sample, block, rows, rows_each, splits, channels, eps,
                    group_size, groups, block_g, merged_c,
                )  # fmt: skip
            arrive(arrived_ptr)


@triton.jit(do_not_specialize=["rows", "splits", "rows_each", "units", "ahead"])
def backward_split(
    dy_ptr, x_ptr, dtotal_ptr, dx_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, dot_ptr, sum_ptr, dot_g_ptr, sum_g_ptr,
    turns_ptr, rows, rows_each, splits, units, ahead, channels,
    block_c: tl.constexpr, block_s: tl.constexpr, stages: tl.constexpr,
    group_size: tl.constexpr, groups: tl.constexpr, block_g: tl.constexpr, merged_c: tl.constexpr,
):  # fmt: skip
    """First pass: sums over a unit's rows, [N, splits, C], of the gradient before the ReLU (sum) and of it times the
    normalised input (dot); second: the gradient of the input, plus that of the residual sum where there is one."""
    is_second, unit = of_turn(tl.atomic_add(turns_ptr, 1, sem="relaxed"), units, ahead)
    sample, split, num_rows, start, offsets, channel, channel_mask = rows_of(
        unit, rows, rows_each, splits, channels, block_c, block_s
    )
    arrived_ptr = turns_ptr + 1 + sample
    of_sample = splits * tl.cdiv(channels, block_c)
    of_group = sample * (channels // group_size) + channel // group_size
    mean = load(mean_ptr + of_group, channel_mask)
    rstd = load(rstd_ptr + of_group, channel_mask)
    weight = load(weight_ptr + channel, channel_mask)
    bias = load(bias_ptr + channel, channel_mask)
    place = tl.arange(0, block_s)
    if is_second:
        wait_until(arrived_ptr, of_sample + 1)
        dot_c = load(dot_g_ptr + of_group, channel_mask)
        sum_c = load(sum_g_ptr + of_group, channel_mask)
        for done in tl.range(0, num_rows, block_s, num_stages=stages):
            mask = (place < num_rows - done)[:, None] & channel_mask[None, :]
            here = start + tl.cast(done, tl.int64) * channels
            normalised, pre = normalise(load_last(x_ptr + here + offsets, mask), mean, rstd, weight, bias)
            dpre = relu(pre, load_last(dy_ptr + here + offsets, mask))
            dx = input_gradient(dpre, normalised, rstd, weight, sum_c, dot_c)
            if dtotal_ptr is not None:
                dx += load_last(dtotal_ptr + here + offsets, mask)
            tl.store(dx_ptr + here + offsets, dx, mask=mask, eviction_policy="evict_first")
    else:
        sums = tl.zeros([block_s, block_c], tl.float32)
        dots = tl.zeros([block_s, block_c], tl.float32)
        for done in tl.range(0, num_rows, block_s, num_stages=stages):
            mask = (place < num_rows - done)[:, None] & channel_mask[None, :]
            here = start + tl.cast(done, tl.int64) * channels
            normalised, pre = normalise(load(x_ptr + here + offsets, mask), mean, rstd, weight, bias)
            dpre = relu(pre, load(dy_ptr + here + offsets, mask))
            sums += dpre
            dots += dpre * normalised
        of_unit = (sample * splits + split) * channels + channel
        tl.store(dot_ptr + of_unit, tl.sum(dots, axis=0), mask=channel_mask)
        tl.store(sum_ptr + of_unit, tl.sum(sums, axis=0), mask=channel_mask)
        if arrive(arrived_ptr) == of_sample - 1:
            for block in range(tl.cdiv(channels // group_size, groups)):
                merge_sums(
                    dot_ptr, sum_ptr, weight_ptr, dot_g_ptr, sum_g_ptr, sample, block, rows, splits, channels,
                    group_size, groups, block_g, merged_c,
                )  # fmt: skip
            arrive(arrived_ptr)


def forward(
    x: Tensor, residual: Tensor | None, total: Tensor | None, y: Tensor, mean: Tensor, rstd: Tensor,
    weight: Tensor, bias: Tensor, eps: float, split: Split,
) -> None:  # fmt: skip
    """Fill y, mean and rstd, and total = x + residual where there is one. Activations channels-last."""
    samples, channels, rows = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    parts = x.new_empty((2, samples, split.splits, channels), dtype=torch.float32)
    units = samples * split.units
    launch(
        forward_split, 2 * units,
        (x, residual, total, y, mean, rstd, weight, bias, *parts.unbind(), _turns(x)),
        (rows, split.rows, split.splits, units, min(split.ahead, units), channels, eps,
         *_blocks(split, channels // mean.shape[1])),
        num_warps=split.num_warps, enable_fp_fusion=True,
    )  # fmt: skip


def backward(
    dy: Tensor, x: Tensor, dtotal: Tensor | None, dx: Tensor, mean: Tensor, rstd: Tensor,
    weight: Tensor, bias: Tensor, split: Split,
) -> Tensor:  # fmt: skip
    """Fill dx; returns the gradients of weight and bias in parts to be added up, fp32 [2, parts, C]."""
    samples, channels, rows = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    parts = x.new_empty((2, samples * split.splits, channels), dtype=torch.float32)
    of_groups = mean.new_empty((2, *mean.shape))
    units = samples * split.units
    launch(
        backward_split, 2 * units,
        (dy, x, dtotal, dx, mean, rstd, weight, bias, *parts.unbind(), *of_groups.unbind(), _turns(x)),
        (rows, split.rows, split.splits, units, min(split.ahead, units), channels,
         *_blocks(split, channels // mean.shape[1])),
        num_warps=split.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return parts


def _turns(x: Tensor) -> Tensor:
    """How many turns are taken; then how many programs of each sample have ended their first pass."""
    return x.new_zeros(1 + len(x), dtype=torch.int32)


def _blocks(split: Split, group_size: int) -> tuple[int, ...]:
    return split.block_c, split.block_s, split.stages, group_size, *split.merged[:3]
