"""Shared by the Triton kernels of GroupNorm + ReLU: the channels and groups of a program, and the arithmetic."""

import triton
import triton.language as tl


@triton.jit
def load(pointer, mask):
    """Values as fp32; 0 where masked."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_last(pointer, mask):
    """The same, of what is not read again: it leaves the GPU's caches first."""
    return tl.load(pointer, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)


@triton.jit
def channels_of(block, channels, block_c: tl.constexpr):
    """Numbers and mask of the channels of one block."""
    channel = block * block_c + tl.arange(0, block_c)
    return channel, channel < channels


@triton.jit
def groups_of(
    block, channels, group_size: tl.constexpr, groups: tl.constexpr, block_g: tl.constexpr, block_c: tl.constexpr
):
    """Channels and mask, groups and mask, of one block of whole groups; and which channel is of which group, a mask
    [block_g, block_c]: group sizes need not be powers of two."""
    local_c = tl.arange(0, block_c)
    local_g = tl.arange(0, block_g)
    channel = block * groups * group_size + local_c
    group = block * groups + local_g
    channel_mask = (local_c < groups * group_size) & (channel < channels)
    group_mask = (local_g < groups) & (group < channels // group_size)
    return channel, channel_mask, group, group_mask, (local_c // group_size)[None, :] == local_g[:, None]


@triton.jit
def group_sum(per_channel, member):
    """[block_c] -> [block_g]."""
    return tl.sum(tl.where(member, per_channel[None, :], 0.0), axis=1)


@triton.jit
def to_channels(per_group, member):
    """[block_g] -> [block_c]."""
    return tl.sum(tl.where(member, per_group[:, None], 0.0), axis=0)


@triton.jit
def normalise(x, mean, rstd, weight, bias):
    """x normalised; and that scaled and shifted. Forward and backward share it: the mask that the backward finds again
    must be the forward's."""
    normalised = (x - mean[None, :]) * rstd[None, :]
    return normalised, normalised * weight[None, :] + bias[None, :]


@triton.jit
def relu(pre, value):
    """`value` where `pre` is above 0. NaN passes, as in torch."""
    return tl.where(pre <= 0.0, 0.0, value)


@triton.jit
def input_gradient(dpre, normalised, rstd, weight, sum_c, dot_c):
    """Gradient of the input from that before the ReLU; sum_c and dot_c are means over each channel's group."""
    return rstd[None, :] * (dpre * weight[None, :] - sum_c[None, :] - normalised * dot_c[None, :])
