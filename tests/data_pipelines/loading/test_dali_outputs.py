"""DALI's outputs are handed out as they are, its inputs live as long as they are read, its buffers fit the images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipelines.loading.sampler import evaluation_order
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards.index import Index

dali_loader = pytest.importorskip("data_pipelines.loading.dali_loader")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
VIEW = Augmentation("squash", 8, 8)


@pytest.fixture(scope="module")
def index(write_set: Callable[..., Path]) -> Index:
    return Index.load(write_set([0, 1] * 10, ["a", "b"]), "train")


def test_outputs_are_not_copied(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """And live on after the pipeline."""
    handed_out: list[Any] = []
    from_dlpack = torch.from_dlpack

    def noted(pixels: Any) -> Tensor:
        handed_out.append(pixels.data_ptr())
        return from_dlpack(pixels)

    monkeypatch.setattr(torch, "from_dlpack", noted)
    monkeypatch.setattr(Tensor, "clone", lambda _: pytest.fail("cloned"))
    batches = list(dali_loader.batches(index, evaluation_order(20, 0, 1, 3), VIEW, CPU, 2))
    assert [batch.images.data_ptr() for batch in batches] == handed_out
    monkeypatch.undo()
    again = dali_loader.batches(index, evaluation_order(20, 0, 1, 3), VIEW, CPU, 1)
    for batch, fresh in zip(batches, again, strict=True):
        assert torch.equal(batch.images, fresh.images)


class Gpu:
    """Stands for CUDA and for a pipeline on it, whose batches are done when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked_on: list[str] = []
        self.events: list[Any] = []
        self.built: list[dict[str, Any]] = []
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: f"stream {len(self.asked_on)}")
        monkeypatch.setattr(torch.cuda, "Event", self.event)
        monkeypatch.setattr(torch, "from_dlpack", lambda pixels: pixels)
        monkeypatch.setattr(dali_loader, "_cut", self.build)

    def event(self) -> Any:
        event = SimpleNamespace(on=None, is_done=False)
        event.record = lambda stream: setattr(event, "on", stream)
        event.query = lambda: event.is_done
        event.synchronize = lambda: pytest.fail("waited")
        self.events.append(event)
        return event

    def build(self, source: Callable[[], Any], **arguments: Any) -> Any:
        self.built.append(arguments)

        def run(stream: str) -> Any:
            self.asked_on.append(stream)
            encoded = source()[0]
            return (SimpleNamespace(as_tensor=lambda: torch.zeros(len(encoded), 8, 8, 3, dtype=torch.uint8)),)

        return SimpleNamespace(run=run)


def test_a_gpu_is_not_waited_for_and_its_inputs_are_kept(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, in_use = Gpu(monkeypatch), dali_loader._InUse()
    monkeypatch.setattr(dali_loader, "_InUse", lambda: in_use)
    batches = dali_loader.batches(index, evaluation_order(20, 0, 1, 2), VIEW, GPU, 2)
    for _ in range(4):
        next(batches)
    assert gpu.asked_on == [event.on for event in gpu.events] == [f"stream {i}" for i in range(4)]
    assert len(in_use._kept) == 4
    gpu.events[0].is_done = gpu.events[1].is_done = True
    next(batches)
    assert [event.on for _, event in in_use._kept] == ["stream 2", "stream 3", "stream 4"]
    assert [len(inputs[0]) for inputs, _ in in_use._kept] == [2, 2, 2]
    (arguments,) = gpu.built
    assert arguments["exec_dynamic"] is True
    assert arguments["decoder"] == "mixed"
    assert arguments["buffers"] == dali_loader._buffers_for(index)


def test_inputs_of_a_cpu_are_not_kept(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", lambda: pytest.fail("asked CUDA"))
    assert len(list(dali_loader.batches(index, evaluation_order(20, 0, 1, 3), VIEW, CPU, 2))) == 7


@pytest.mark.parametrize(("channels", "device_bytes", "host_bytes"), [(1, 16 << 20, 8 << 20), (3, 6 * 3_000_000, None)])
def test_buffers_fit_nearly_all_images(index: Index, channels: int, device_bytes: int, host_bytes: int | None) -> None:
    height, width = np.full(1000, 1500, np.int32), np.full(1000, 2000, np.int32)
    height[:100], width[:100] = 300, 200
    sizes = {name: np.resize(getattr(index, name), 1000) for name in ("shard", "offset", "length", "labels", "group")}
    photos = replace(index, channels=channels, height=height, width=width, **sizes)
    buffers = dali_loader._Buffers(1500, 2000, device_bytes, host_bytes or device_bytes)
    assert dali_loader._buffers_for(photos) == buffers
    height[7], width[7] = 30_000, 30_000  # one giant changes nothing
    assert dali_loader._buffers_for(photos) == buffers
    height[:], width[:] = 30_000, 30_000
    assert dali_loader._buffers_for(photos) == dali_loader._Buffers(30_000, 30_000, 128 << 20, 128 << 20)
    assert dali_loader._buffers_for(photos.take(np.arange(1))).height == 30_000


def test_buffer_sizes_change_no_pixel(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU decoder takes the arguments, too, and has no use for them."""
    requests = evaluation_order(20, 0, 1, 6)
    plain = list(dali_loader.batches(index, requests, VIEW, CPU, 1))
    sizes = dali_loader._Buffers(600, 700, 1 << 25, 1 << 24)
    monkeypatch.setattr(dali_loader, "_Buffers", lambda: sizes)
    for one, other in zip(plain, dali_loader.batches(index, requests, VIEW, CPU, 1), strict=True):
        assert torch.equal(one.images, other.images)
