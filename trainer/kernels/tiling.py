"""How GroupNorm is split into programs: fixed rules, so that every run adds up in the same order.

Timing candidates at start would choose anew on each machine and at each resume, and other blocks round differently.
What a sample gets depends on its own shape alone, not on how many samples are beside it.
"""

from functools import cache
from typing import Literal, NamedTuple

Direction = Literal["forward", "backward"]

_TILE_ELEMENTS = (4096, 8192)  # fp32 values that registers hold, of two programs at a time
_TILE_ROW_BYTES = (64, 32)  # of one program, if possible: a sector has 32 bytes, DRAM hands over 64 at a time
_ELEMENTS_PER_THREAD = 32
_TILE_WARPS = (4, 8)
_REGISTERS = 65536  # of a multiprocessor, each of 32 bits
_MEMBERSHIP_ELEMENTS = 4096  # of the mask groups x channels

_SPLIT_ROWS = 320
_SPLIT_ROW_BYTES = 128  # a cache line; more where a program would have less than:
_SPLIT_BYTES = 16384
_SPLIT_CHANNELS = 512
_SPLIT_ELEMENTS = 4096
_SPLIT_WARPS = 8
_SPLIT_STAGES = {2: 3, 4: 2}  # by itemsize: so many bytes are on their way that memory is never waited for
_AHEAD_PROGRAMS = 192  # half of what a GPU of 132 multiprocessors runs at a time; the other half are second passes
_MERGED_CHANNELS = 256


class ChannelBlock(NamedTuple):
    """Whole groups of channels for one program. `block_g` and `block_c`: powers of two that hold `groups` groups and
    their channels; `blocks`: how many such blocks cover all groups."""

    groups: int
    block_g: int
    block_c: int
    blocks: int


class Tile(NamedTuple):
    """All rows of a sample and some of its groups, held in registers by one program of `num_warps` warps, with
    at most `max_registers` a thread (None: as the compiler likes)."""

    channels: ChannelBlock
    block_s: int
    num_warps: int
    max_registers: int | None


class Split(NamedTuple):
    """The rows of a sample in `splits` parts of `rows`, each walked by one program in steps of [block_s, block_c], with
    `stages` steps on their way at a time; `units` programs for all rows and channels. The second pass comes `ahead`
    programs after the first. What they add up is put together `merged` channels at a time."""

    rows: int
    splits: int
    block_s: int
    block_c: int
    stages: int
    num_warps: int
    units: int
    ahead: int
    merged: ChannelBlock


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power_of_2(value: int) -> int:
    """The least power of two that is not below `value`."""
    return 1 << max(value - 1, 0).bit_length()


@cache
def channel_block(num_groups: int, group_size: int, max_channels: int) -> ChannelBlock | None:
    """The whole groups that fill up to `max_channels` with least waste, the largest such block; None if a single group
    is too large. Blocks that begin at multiples of 8 channels come first: others cannot be read 16 bytes at a time."""
    if power_of_2(group_size) > max_channels:
        return None
    blocks = [
        ChannelBlock(groups, power_of_2(groups), power_of_2(groups * group_size), cdiv(num_groups, groups))
        for groups in range(1, min(num_groups, max_channels // group_size) + 1)
    ]

    def fits(block: ChannelBlock) -> bool:
        return block.groups == 1 or (
            block.block_c <= max_channels and block.block_g * block.block_c <= _MEMBERSHIP_ELEMENTS
        )

    def rank(block: ChannelBlock) -> tuple[bool, int, int]:
        unaligned = block.blocks > 1 and block.groups * group_size % 8 != 0
        return unaligned, block.blocks * block.block_c, -block.block_c

    return min(filter(fits, blocks), key=rank)


@cache
def tile(direction: Direction, rows: int, num_groups: int, group_size: int, itemsize: int) -> Tile | None:
    """The tile for samples of `rows` = H * W rows; None where registers hold none whose rows have 32 bytes."""
    block_s = power_of_2(rows)
    for wanted_bytes in _TILE_ROW_BYTES:
        row_bytes = min(wanted_bytes, num_groups * group_size * itemsize)
        for elements in _TILE_ELEMENTS:
            channels = channel_block(num_groups, group_size, elements // block_s)
            if channels and channels.groups * group_size * itemsize >= row_bytes:
                return _tile(direction, channels, block_s)
    return None


def _tile(direction: Direction, channels: ChannelBlock, block_s: int) -> Tile:
    few, many = _TILE_WARPS
    warps = min(max(power_of_2(block_s * channels.block_c // (32 * _ELEMENTS_PER_THREAD)), few), many)
    # Left alone, the compiler takes a few registers more for a backward pass than two such programs can have.
    limited = direction == "backward" and warps == many
    return Tile(channels, block_s, warps, _REGISTERS // (2 * 32 * many) if limited else None)


@cache
def split(rows: int, num_groups: int, group_size: int, itemsize: int) -> Split:
    """How samples of `rows` = H * W rows are split, whatever their size."""
    wanted = max(_SPLIT_ROW_BYTES // itemsize, min(power_of_2(_SPLIT_BYTES // (rows * itemsize)), _SPLIT_CHANNELS))
    block_c = min(power_of_2(num_groups * group_size), wanted)
    block_s = _SPLIT_ELEMENTS // block_c
    each = cdiv(cdiv(rows, cdiv(rows, _SPLIT_ROWS)), block_s) * block_s
    splits = cdiv(rows, each)
    units = splits * cdiv(num_groups * group_size, block_c)
    merged = channel_block(num_groups, group_size, max(_MERGED_CHANNELS, power_of_2(group_size)))
    assert merged is not None
    return Split(
        each, splits, block_s, block_c, _SPLIT_STAGES[itemsize], _SPLIT_WARPS, units, units + _AHEAD_PROGRAMS, merged
    )
