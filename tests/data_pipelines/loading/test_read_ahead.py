"""Bytes are asked for in time, and nothing else changes."""

import mmap
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loading.loader import read_ahead
from data_pipelines.loading.sampler import BatchRequest, BatchSampler
from data_pipelines.shards.index import Index
from data_pipelines.shards.shard_reader import ShardReader


class Asked:
    """Stands for an index, and remembers the samples that are asked for."""

    def __init__(self) -> None:
        self.samples: list[list[int]] = []

    def read_ahead(self, rows: np.ndarray) -> None:
        self.samples.append(rows.tolist())


def counted(requests: Iterator[BatchRequest] | list[BatchRequest], taken: list[BatchRequest]) -> Iterator[BatchRequest]:
    for request in requests:
        taken.append(request)
        yield request


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 12), depth=st.sampled_from([0, 1, 5]) | st.integers(0, 20))
def test_the_same_requests_are_handed_out_each_asked_for_before(count: int, depth: int) -> None:
    requests = [BatchRequest(np.array([i, i + 7]), np.array([2 * i, 2 * i + 1])) for i in range(count)]
    index, taken, handed_out = Asked(), [], 0
    for request in read_ahead(index, counted(requests, taken), depth):
        assert request is requests[handed_out]
        handed_out += 1
        assert len(taken) == min(handed_out + depth, count)
        assert index.samples == ([ahead.samples.tolist() for ahead in taken] if depth else [])
    assert handed_out == len(taken) == count


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_endless_streams(depth: int) -> None:
    order = BatchSampler(num_samples=10, global_batch_size=6, seed=0)
    index, taken = Asked(), []
    stream = read_ahead(index, counted(order.micro_batches(2, 0, 1, 4), taken), depth)
    assert taken == []
    expected = islice(order.micro_batches(2, 0, 1, 4), 30)
    for request, same in zip(islice(stream, 30), expected, strict=True):
        assert request.samples.tolist() == same.samples.tolist()
        assert request.positions.tolist() == same.positions.tolist()
    assert len(taken) == 30 + depth
    assert len(index.samples) == (len(taken) if depth else 0)


def test_the_bytes_of_an_image_are_advised_and_no_others(write_set: Callable[..., Path]) -> None:
    index = Index.load(write_set([0] * 5, ["a"]), "train")
    asked: list[tuple[int, int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fadvise", lambda _, *span: asked.append(span))
        index.read_ahead(np.array([3, 0]))
    assert asked == [(int(index.offset[row]), int(index.length[row]), os.POSIX_FADV_WILLNEED) for row in (3, 0)]


def test_advice_about_a_shard_that_is_gone_is_not_missed(write_set: Callable[..., Path]) -> None:
    index = Index.load(write_set([0] * 5, ["a"]), "train")
    index.shards[0].unlink()
    Index.load(index.shards[0].parent.parent, "train", check_shards=False).read_ahead(np.arange(5))


def test_real_shards_up_to_their_edges(
    write_set: Callable[..., Path], photo: Callable, encode: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = (1, 5, 40, 90, 1, 60, 2)
    images = [encode(photo(number, side, side)) for number, side in enumerate(sides)]
    index = Index.load(write_set([0] * len(images), ["a"], images=images, shard_images=3), "train")
    assert max(index.length) > 3 * mmap.PAGESIZE
    last = [int(np.flatnonzero(index.shard == shard)[-1]) for shard in range(3)]
    first = [int(np.flatnonzero(index.shard == shard)[0]) for shard in range(3)]
    for rows in ([], first, last, [6, 0, 3, 3], list(range(7))):
        index.read_ahead(np.array(rows, dtype=np.int64))
    assert [index.encoded(row).tobytes() for row in range(7)] == images

    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(ShardReader, "read_ahead", lambda _, *place: asked.append(place))
    index.read_ahead(np.array([5, 0]))
    assert asked == [(int(index.shard[row]), int(index.offset[row]), int(index.length[row])) for row in (5, 0)]
