"""Blocks cover everything, once, within what registers hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.kernels.tiling import Direction, cdiv, channel_block, power_of_2, split, tile

ROWS = st.integers(1, 20_000)
LAYOUTS = st.tuples(st.integers(1, 300), st.integers(1, 300))
DIRECTIONS = st.sampled_from(["forward", "backward"])
PROFILE = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@PROFILE
@given(layout=LAYOUTS, max_channels=st.integers(1, 2048))
def test_channel_blocks(layout: tuple[int, int], max_channels: int) -> None:
    num_groups, group_size = layout
    block = channel_block(num_groups, group_size, max_channels)
    if block is None:
        assert power_of_2(group_size) > max_channels
        return
    assert block.blocks == cdiv(num_groups, block.groups)
    assert 1 <= block.groups <= min(num_groups, block.block_g)
    assert block.groups * group_size <= block.block_c <= max_channels
    assert block.groups == 1 or block.block_g * block.block_c <= 4096


@PROFILE
@given(direction=DIRECTIONS, rows=ROWS, layout=LAYOUTS, itemsize=st.sampled_from([2, 4]))
def test_tiles(direction: Direction, rows: int, layout: tuple[int, int], itemsize: int) -> None:
    chosen = tile(direction, rows, *layout, itemsize)
    if chosen is None:
        return
    assert rows <= chosen.block_s < 2 * rows
    assert chosen.block_s * chosen.channels.block_c <= 8192
    assert chosen.channels.groups * layout[1] * itemsize >= min(32, layout[0] * layout[1] * itemsize)
    threads = 32 * chosen.num_warps
    assert chosen.num_warps in (4, 8)
    assert chosen.block_s * chosen.channels.block_c <= 32 * threads
    # Two programs share a multiprocessor's registers.
    assert chosen.max_registers is None or 2 * threads * chosen.max_registers <= 65536


@PROFILE
@given(rows=ROWS, layout=LAYOUTS, itemsize=st.sampled_from([2, 4]))
def test_splits(rows: int, layout: tuple[int, int], itemsize: int) -> None:
    chosen = split(rows, *layout, itemsize)
    assert (chosen.splits - 1) * chosen.rows < rows <= chosen.splits * chosen.rows
    assert chosen.rows % chosen.block_s == 0
    assert chosen.block_c * itemsize <= 128 or rows * chosen.block_c * itemsize <= 2 * 16384
    assert chosen.block_c * chosen.block_s == 4096
    assert chosen.units == chosen.splits * cdiv(layout[0] * layout[1], chosen.block_c)
    assert chosen.ahead >= chosen.units  # or a second pass would wait for a first one that begins after it
    assert chosen.merged.blocks * chosen.merged.groups >= layout[0]


@pytest.mark.parametrize(
    ("direction", "side", "channels", "in_registers"),
    [
        ("forward", 56, 256, False),
        ("forward", 28, 512, False),
        ("backward", 28, 512, False),
        ("forward", 14, 1024, True),
        ("backward", 14, 1024, True),
        ("forward", 7, 2048, True),
        ("backward", 7, 2048, True),
        ("forward", 7, 8192, False),  # r152x4
        ("backward", 7, 8192, False),
        ("forward", 28, 2048, False),
    ],
)
def test_layers_at_224_pixels_in_bf16(direction: Direction, side: int, channels: int, in_registers: bool) -> None:
    assert (tile(direction, side * side, 32, channels // 32, 2) is not None) == in_registers


def test_blocks_of_odd_groups_begin_where_vectors_can() -> None:
    for group_size in (3, 6, 12, 20):
        block = channel_block(32, group_size, 128)
        assert block is not None
        assert block.blocks == 1 or block.groups * group_size % 8 == 0
