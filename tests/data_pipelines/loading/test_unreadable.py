"""Images that cannot be read any more: others are in their places, the same whatever the loader, batch or restart."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.common.errors import InputError, ShardError
from data_pipelines.loading.batch import Batch
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import BatchSampler
from data_pipelines.loading.unreadable import BLANK, blank, damage
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards import shard_reader
from data_pipelines.shards.index import Index

LOADERS = ["torch", "dali"]
COUNT, SIDE = 24, 40


@pytest.fixture
def folder(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> Path:
    """24 images in shards of 8, JPEG and PNG by turns."""
    images = [encode(photo(i, 60 + i, 50), "JPEG" if i % 2 else "PNG") for i in range(COUNT)]
    return write_set([i % 4 for i in range(COUNT)], list("abcd"), images=images, shard_images=8)


def overwrite(index: Index, row: int, content: bytes, at: int = 0) -> None:
    """As a disk does that rots: the file keeps its date."""
    path = index.shards[index.shard[row]]
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(int(index.offset[row]) + at)
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rot(index: Index, row: int) -> None:
    overwrite(index, row, b"\0" * (int(index.length[row]) // 2), int(index.length[row]) // 2)


def order_of(index: Index) -> BatchSampler:
    return BatchSampler(num_samples=len(index), global_batch_size=12, seed=5)


def shown(loader: str, index: Index, steps: int = 4, micro: int = 12, mixup: float = 0.0) -> list[Batch]:
    order = order_of(index)
    requests = [part for step in range(steps) for part in order.request(step).split(micro)]
    augmentation = Augmentation("random_resized_crop", SIDE, SIDE, seed=5, mixup_alpha=mixup)
    batches = pick_loader(loader, on_gpu=False)[1]
    return list(batches(index, requests, augmentation, torch.device("cpu"), 1, replacement=order.replacement))


@pytest.mark.parametrize("loader", LOADERS)
def test_a_rotten_image_is_replaced_by_its_position_alone(loader: str, folder: Path) -> None:
    index = Index.load(folder, "train")
    sound = shown(loader, index)
    assert all(batch.unreadable == () for batch in sound)
    for row in (3, 10):
        rot(index, row)
        assert damage(index, row, index.encoded(row)) is not None
    found = shown(loader, Index.load(folder, "train"))
    order = order_of(index)
    unreadable = {one.position: one for batch in found for one in batch.unreadable}
    assert {one.sample for one in unreadable.values()} == {3, 10}
    assert not any(one.of_shard for one in unreadable.values())
    for step, (before, after) in enumerate(zip(sound, found, strict=True)):
        for i, position in enumerate(order.request(step).positions.tolist()):
            if position not in unreadable:
                assert torch.equal(before.images[i], after.images[i])
                assert before.samples[i] == after.samples[i]
                continue
            one = unreadable[position]
            assert one.replacement == after.samples[i] not in (3, 10, BLANK)
            drawn = (order.replacement(position, attempt) for attempt in range(99))
            assert one.replacement == next(row for row in drawn if row not in (3, 10))
            assert after.labels[i] == index.labels[one.replacement]
    small = shown(loader, Index.load(folder, "train"), micro=5)
    assert torch.equal(torch.cat([b.images for b in small]), torch.cat([b.images for b in found]))


def test_both_loaders_show_the_same_instead(folder: Path) -> None:
    index = Index.load(folder, "train")
    rot(index, 3)
    torch_batches, dali_batches = (shown(loader, Index.load(folder, "train")) for loader in LOADERS)
    assert [b.unreadable[0].replacement for b in torch_batches if b.unreadable] == [
        b.unreadable[0].replacement for b in dali_batches if b.unreadable
    ]
    for one, other in zip(torch_batches, dali_batches, strict=True):
        assert np.array_equal(one.samples, other.samples)
        assert (one.images.float() - other.images.float()).abs().mean() < 2


@pytest.mark.parametrize("loader", LOADERS)
def test_images_of_a_shard_that_is_gone_are_replaced(loader: str, folder: Path) -> None:
    index = Index.load(folder, "train")
    index.shards[1].unlink()
    with pytest.raises(InputError, match="is missing"):
        Index.load(folder, "train")
    tolerant = Index.load(folder, "train", check_shards=False)
    batches = shown(loader, tolerant, mixup=0.5)
    unreadable = [one for batch in batches for one in batch.unreadable]
    expected = [row for step in range(4) for row in order_of(index).request(step).samples if 8 <= row < 16]
    assert [one.sample for one in unreadable] == expected
    assert all(one.of_shard and one.reason.startswith(f"{index.shards[1]} has disappeared") for one in unreadable)
    assert all(not 8 <= row < 16 for batch in batches for row in batch.samples)


@pytest.mark.parametrize("loader", LOADERS)
def test_nothing_left_to_show_is_black(loader: str, folder: Path) -> None:
    index = Index.load(folder, "train", check_shards=False)
    for path in index.shards:
        path.unlink()
    (batch,) = shown(loader, Index.load(folder, "train", check_shards=False), steps=1)
    assert len(batch.unreadable) == len(batch)
    assert {one.replacement for one in batch.unreadable} == {BLANK}
    assert batch.images.max() == 0


@pytest.mark.parametrize("loader", LOADERS)
def test_evaluation_shows_a_black_image_in_its_place(loader: str, folder: Path) -> None:
    index = Index.load(folder, "train")
    rot(index, 3)
    batches = pick_loader(loader, on_gpu=False)[1]
    requests = order_of(index).request(0).split(12)
    requests = [replace(request, samples=np.arange(12)) for request in requests]
    augmentation = Augmentation("squash", SIDE, SIDE, flip=False)
    (batch,) = batches(index, requests, augmentation, torch.device("cpu"), 1, replacement=blank)
    assert [(one.sample, one.replacement) for one in batch.unreadable] == [(3, BLANK)]
    assert batch.samples.tolist() == list(range(12))
    assert [int(image.max()) == 0 for image in batch.images] == [i == 3 for i in range(12)]
    with pytest.raises(Exception, match=r".+"):
        list(batches(index, requests, augmentation, torch.device("cpu"), 1))


def test_a_header_that_asks_for_much_memory_is_refused_first(folder: Path) -> None:
    index = Index.load(folder, "train")
    row = 3
    encoded = index.encoded(row).tobytes()
    frame = encoded.index(b"\xff\xc0")
    overwrite(index, row, b"\x40\x00\x40\x00", frame + 5)  # height and width
    batches = shown("torch", Index.load(folder, "train"))
    reasons = [one.reason for batch in batches for one in batch.unreadable]
    assert reasons
    assert all("it is 16384 x 16384 pixels" in reason for reason in reasons), reasons


class TestReader:
    """What the reader of shards notices while they are in use."""

    @pytest.fixture
    def index(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
        monkeypatch.setattr(shard_reader, "RECHECK_S", 0.0)
        return Index.load(folder, "train")

    def test_truncated(self, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
        path = index.shards[2]
        index.encoded(16)
        monkeypatch.setattr(shard_reader, "RECHECK_S", 99.0)  # between two looks, the read itself finds out
        os.truncate(path, int(index.offset[20]) + 10)
        assert len(index.encoded(16)) == index.length[16]
        with pytest.raises(ShardError, match=rf"{path} ends at byte .* its index expects"):
            index.encoded(20)
        with pytest.raises(ShardError):  # and stays so
            index.encoded(16)

    def test_gone(self, index: Index) -> None:
        index.encoded(16)
        index.shards[2].rename(index.shards[2].with_suffix(".away"))
        with pytest.raises(ShardError, match="has disappeared"):
            index.encoded(16)
        index.encoded(0)

    def test_same_size_and_other_bytes(self, index: Index) -> None:
        index.encoded(16)
        path = index.shards[2]
        content = bytearray(path.read_bytes())
        content[int(index.offset[16]) + 30] ^= 1
        path.write_bytes(content)
        with pytest.raises(ShardError, match="has changed: its SHA-256"):
            index.encoded(16)

    def test_another_date_or_a_true_copy_is_no_harm(self, index: Index) -> None:
        before = index.encoded(16).tobytes()
        path = index.shards[2]
        os.utime(path, (1, 1))
        assert index.encoded(16).tobytes() == before
        copy = path.with_suffix(".copy")
        copy.write_bytes(path.read_bytes())
        copy.replace(path)
        assert index.encoded(16).tobytes() == before

    def test_descriptors_are_bounded_and_returned(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shard_reader, "most_open", lambda: 2)
        index = Index.load(folder, "train")
        before = len(os.listdir("/proc/self/fd")) - len(index._reader._open)
        for row in list(range(COUNT)) * 3:
            index.encoded(row)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        assert len(index._reader._open) == 2

    def test_bytes_outlive_the_shard(self, index: Index) -> None:
        content = index.encoded(16)
        before = content.tobytes()
        os.truncate(index.shards[2], 0)
        assert content.tobytes() == before
