"""Batches for a GPU: decoded beside the training thread into buffers that are used again, copied once each, and the
same as on a CPU. What stands for the GPU copies as late as it may, so that a buffer used too early shows."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from late_transfer import LateTransfer
from torch import Tensor

from data_pipelines.common.errors import InputError
from data_pipelines.loading import torch_loader
from data_pipelines.loading.batch import Batch, make_batch
from data_pipelines.loading.device_transfer import Buffers, CudaTransfer, Transfer
from data_pipelines.loading.sampler import BatchRequest, BatchSampler, evaluation_order
from data_pipelines.loading.unreadable import BLANK, blank
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards.index import Index

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SIDE = 24


def photos_of(write_set: Callable[..., Path], photo: Callable, encode: Callable, count: int = 11) -> Index:
    images = [encode(photo(i, 40 + i, 30 + 2 * i), "JPEG" if i % 2 else "PNG") for i in range(count)]
    return Index.load(write_set([i % 2 for i in range(count)], ["even", "odd"], images=images), "train")


@pytest.fixture(scope="module")
def photos(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> Index:
    return photos_of(write_set, photo, encode)


def load(index: Index, requests: Any, augmentation: Augmentation, transfer: Transfer | None, **how: Any) -> Any:
    return torch_loader.batches(index, requests, augmentation, GPU if transfer else CPU, 2, transfer=transfer, **how)


def require_equal(ours: list[Batch], expected: list[Batch]) -> None:
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one.images.cpu(), other.images)
        assert one.images.permute(0, 2, 3, 1).is_contiguous()
        assert torch.equal(one.labels.cpu(), other.labels)
        assert (one.mixup is None) is (other.mixup is None)
        assert one.mixup is None or torch.equal(one.mixup.cpu(), other.mixup)
        assert np.array_equal(one.samples, other.samples)
        assert one.unreadable == other.unreadable


@pytest.fixture
def cutting(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The threads that decode, by name."""
    threads: set[str] = set()
    cut = torch_loader._cut

    def noted(*arguments: Any) -> Tensor:
        threads.add(threading.current_thread().name)
        return cut(*arguments)

    monkeypatch.setattr(torch_loader, "_cut", noted)
    return threads


TRANSFERS = [
    LateTransfer,
    pytest.param(
        partial(CudaTransfer, GPU), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


@pytest.mark.parametrize("make", TRANSFERS)
@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
def test_batches_are_those_of_a_cpu(mixup_alpha: float, make: Callable[[], Transfer], photos: Index) -> None:
    """Of changing sizes, and all held until the end."""
    augmentation = Augmentation("random_resized_crop", SIDE, 40, seed=1, mixup_alpha=mixup_alpha)
    requests = list(islice(BatchSampler(len(photos), 10, seed=3, group_size=2).micro_batches(0, 0, 1, 4), 13))
    assert {len(request.samples) for request in requests} == {2, 4}
    held = list(load(photos, requests, augmentation, make()))
    require_equal(held, list(load(photos, requests, augmentation, None)))


def test_nothing_is_decoded_or_sent_by_the_training_thread(photos: Index, cutting: set[str]) -> None:
    transfer, main = LateTransfer(), threading.current_thread().name
    requests = islice(BatchSampler(len(photos), 6, seed=0).micro_batches(0, 0, 1, 6), 9)
    batches = list(load(photos, requests, Augmentation("center_crop", SIDE, 32), transfer))
    assert len(batches) == len(transfer.sent) == 9  # one copy for each
    assert len(transfer.allocated) == torch_loader.PREFETCH + 1  # and no buffer for each
    assert all(name.startswith("decode") for name in cutting)
    assert cutting
    assert transfer.threads["receive"] == {main}
    assert all(name.startswith("batches") for name in transfer.threads["send"] | transfer.threads["allocate"])
    assert {copy.source.data_ptr() for copy in transfer.sent} <= {one.data_ptr() for one in transfer.allocated}


def test_only_a_few_batches_are_made_ahead(photos: Index) -> None:
    transfer, order = LateTransfer(), BatchSampler(len(photos), 6, seed=0).micro_batches(0, 0, 1, 6)
    batches = load(photos, order, Augmentation("center_crop", SIDE, 32), transfer)
    for _ in range(5):
        next(batches)
    batches.close()  # waits for what has begun
    assert len(transfer.sent) <= 5 + torch_loader.SENT_AHEAD
    assert next(order).positions[0] <= 6 * (5 + torch_loader.SENT_AHEAD + torch_loader.PREFETCH)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "batches"))]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_fewer_images_than_a_batch_and_none(count: int, photos: Index) -> None:
    index, augmentation = photos.take(np.arange(count)), Augmentation("center_crop", SIDE, 32)
    requests = evaluation_order(count, 0, 1, 4)
    ours = list(load(index, requests, augmentation, LateTransfer()))
    require_equal(ours, list(load(index, requests, augmentation, None)))
    assert [len(batch) for batch in ours] == [[], [1], [], [], [], [4, 1]][count]


def test_batches_are_for_inference_too(photos: Index) -> None:
    augmentation, requests = Augmentation("center_crop", SIDE, 32), evaluation_order(11, 0, 1, 4)
    expected = list(load(photos, requests, augmentation, None))
    for transfer in (None, LateTransfer()):
        with torch.inference_mode():
            require_equal(list(load(photos, requests, augmentation, transfer)), expected)


@pytest.fixture
def rotten(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> Index:
    """Two of its JPEGs cannot be decoded."""
    index = photos_of(write_set, photo, encode)
    encoded = index._reader.encoded

    def read(shard: int, offset: int, length: int) -> np.ndarray:
        content = encoded(shard, offset, length).copy()
        if offset in (index.offset[3], index.offset[9]):
            content[len(content) // 2 :] = 0
            content[2:20] = 7
        return content

    index._reader.encoded = read
    return index


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
def test_other_images_stand_for_those_that_cannot_be_read(mixup_alpha: float, rotten: Index, cutting: set[str]) -> None:
    order = BatchSampler(len(rotten), 8, seed=0, group_size=2)
    augmentation = Augmentation("random_resized_crop", SIDE, 40, seed=1, mixup_alpha=mixup_alpha)
    for replacement, requests in (
        (order.replacement, list(islice(order.micro_batches(0, 0, 1, 4), 8))),
        (blank, evaluation_order(len(rotten), 0, 1, 4)),
    ):
        ours = list(load(rotten, requests, augmentation, LateTransfer(), replacement=replacement))
        require_equal(ours, list(load(rotten, requests, augmentation, None, replacement=replacement)))
        lost = [one for batch in ours for one in batch.unreadable]
        assert {one.sample for one in lost} == {3, 9}
        assert {one.replacement == BLANK for one in lost} == {replacement is blank}
    assert all(name.startswith("decode") for name in cutting)


def test_an_error_comes_where_its_batch_would_have(rotten: Index) -> None:
    requests = [BatchRequest(np.array(rows), np.array(rows)) for rows in ([0, 1], [2, 4], [5, 3], [6, 7], [8, 10])]
    for transfer in (None, LateTransfer()):
        batches = load(rotten, requests, Augmentation("center_crop", SIDE, 32), transfer)
        assert [next(batches).samples.tolist() for _ in range(2)] == [[0, 1], [2, 4]]
        with pytest.raises(ValueError, match=r"."):
            next(batches)
        with pytest.raises(StopIteration):
            next(batches)


@pytest.mark.parametrize("error", [InputError("no codec"), MemoryError(), OSError("gone")])
def test_an_error_of_a_decode_thread_reaches_the_training_thread(
    error: Exception, photos: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `instead`, too, where it is not the image's fault."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(torch_loader, "_cut", fail)
    replacement = None if isinstance(error, OSError) else blank
    batches = load(
        photos,
        evaluation_order(11, 0, 1, 4),
        Augmentation("center_crop", SIDE, 32),
        LateTransfer(),
        replacement=replacement,
    )
    with pytest.raises(type(error)):
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "batches"))]


def test_an_error_of_the_device_is_told(photos: Index) -> None:
    class Full(LateTransfer):
        def allocate(self, size_bytes: int) -> Tensor:
            raise RuntimeError("CUDA error: out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        next(load(photos, evaluation_order(11, 0, 1, 4), Augmentation("center_crop", SIDE, 32), Full()))


def test_a_buffer_is_taken_again_only_after_its_copy() -> None:
    allocated: list[int] = []

    def allocate(size: int) -> Tensor:
        allocated.append(size)
        return torch.empty(size, dtype=torch.uint8)

    buffers, waited_for = Buffers(2, allocate), []
    first, second = buffers.take((2, 3)), buffers.take((2, 2))
    buffers.sent(SimpleNamespace(synchronize=lambda: waited_for.append("first")))
    assert waited_for == []
    again = buffers.take((1, 5))
    assert waited_for == ["first"]
    assert again.data_ptr() == first.data_ptr()
    assert again.shape == (1, 5)
    buffers.sent(SimpleNamespace(synchronize=lambda: waited_for.append("second")))
    larger = buffers.take((4, 4))
    assert waited_for == ["first", "second"]
    assert larger.data_ptr() != second.data_ptr()
    assert allocated == [6, 4, 16]


def test_cuda_copies_on_a_stream_of_its_own(photos: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what CUDA is told, on a device that only pretends."""
    told: list[str] = []
    device = torch.device("meta")

    class Event:
        def __init__(self, blocking: bool) -> None:
            assert blocking

        def record(self, stream: str) -> None:
            told.append(f"record on {stream}")

    @contextmanager
    def within(stream: str) -> Iterator[None]:
        told.append(f"begin {stream}")
        yield
        told.append(f"end {stream}")

    move = Tensor.to

    def to(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
        assert options == {"non_blocking": True}
        told.append(f"copy {tensor.dtype}")
        return move(tensor, *arguments)

    training = SimpleNamespace(wait_event=lambda _: told.append("training waits"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: "side")
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: training)
    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: told.append("pin") or tensor)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, _: told.append(f"keep {tensor.dtype}"))
    transfer, request = CudaTransfer(device), BatchRequest(np.arange(4), np.arange(4))
    augmentation = Augmentation("center_crop", SIDE, 32, mixup_alpha=0.1)
    pixels = torch.zeros(4, SIDE, SIDE, 3, dtype=torch.uint8)
    batch = transfer.receive(*transfer.send(pixels, lambda images: make_batch(photos, request, augmentation, images)))
    assert batch.images.device == batch.labels.device == batch.mixup.device == device
    numbers = ["uint8", "int64", "float32"]
    copies = [f"copy torch.{number}" for number in numbers]
    assert told == [
        "begin side",
        *(copies[0], "pin", copies[1], "pin", copies[2]),
        *("record on side", "end side", "training waits"),
        *(f"keep torch.{number}" for number in numbers),
    ]
