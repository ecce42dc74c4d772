"""Outputs of an evaluation stay on the device, are copied to the CPU once or in bounded pieces, and are not changed."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import job_of, prepared
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data_pipelines.loading.batch import Batch
from data_pipelines.loading.unreadable import BLANK, UnreadableSample
from trainer.config import RuntimeConfig
from trainer.engines import ENGINES
from trainer.evaluation.outputs import Outputs
from trainer.training import prediction

DEVICE = torch.device("meta")  # stands for a GPU: where operations run, and from where the CPU must ask for results
CPU = torch.device("cpu")


class CopiesToHost(TorchDispatchMode):
    """Counts what goes from the device to the CPU, which gets zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and kwargs.get("device") == CPU:
            self.bytes.append(args[0].nbytes)
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        if func is torch.ops.aten.copy_.default and args[1].is_meta and not args[0].is_meta:
            self.bytes.append(args[1].nbytes)
            return args[0]
        return func(*args, **kwargs)


def engine_on_device(rank: int = 0, world_size: int = 1, columns: int = 14) -> Any:
    def model(images: Tensor) -> Tensor:
        return torch.empty(len(images), columns, dtype=torch.bfloat16, device=DEVICE)

    return SimpleNamespace(
        device=DEVICE,
        threads=1,
        rank=rank,
        world_size=world_size,
        model=model,
        evaluation=nullcontext,
        heartbeat=SimpleNamespace(enter=lambda _: None),
        sum=lambda tensor: tensor,
    )


def loads_nothing(unreadable: dict[int, UnreadableSample] | None = None) -> Any:
    def load(_: Any, requests: Any, *__: Any, **___: Any) -> Iterator[Batch]:
        for request in requests:
            lost = tuple(found for row in request.samples if (found := (unreadable or {}).get(int(row))))
            images = torch.empty(len(request.samples), 1, 8, 8, device=DEVICE)
            yield Batch(images, Tensor(), None, request.samples, lost)

    return load


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 3)])
def test_evaluation_copies_once(phantoms: Path, tmp_path: Path, rank: int, world_size: int) -> None:
    job = replace(job_of(str(phantoms), tmp_path), loader=loads_nothing())
    assert job.test is not None
    index = job.test.take(np.arange(11) % len(job.test))  # three batches of four
    with CopiesToHost() as copies:
        outputs, lost = prediction._predict(job, engine_on_device(rank, world_size, index.num_classes), index, None)
    assert copies.bytes == [11 * (index.num_classes + 1) * 4]
    assert outputs.shape == (11, index.num_classes)
    assert not lost.any()


@pytest.mark.parametrize("rank", range(4))
def test_fewer_images_than_ranks_or_than_a_batch(phantoms: Path, tmp_path: Path, rank: int) -> None:
    job = replace(job_of(str(phantoms), tmp_path), loader=loads_nothing())
    assert job.test is not None
    index = job.test.take(np.arange(2))
    with CopiesToHost() as copies:
        outputs, _ = prediction._predict(job, engine_on_device(rank, 4, index.num_classes), index, None)
    assert len(copies.bytes) == 1
    assert outputs.shape == (2, index.num_classes)


def test_what_cannot_be_read_is_marked_on_the_device(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[UnreadableSample] = []
    monkeypatch.setattr(prediction, "note_unjudged", lambda *arguments: noted.extend(arguments[-1]))
    lost = {row: UnreadableSample(row, row, "rotten", False, BLANK) for row in (1, 6)}
    job = replace(job_of(str(phantoms), tmp_path), loader=loads_nothing(lost))
    assert job.test is not None
    index = job.test.take(np.arange(7))
    engine = engine_on_device(0, 1, index.num_classes)
    marks: list[Tensor] = []
    summed = torch.zeros(7, index.num_classes + 1)
    summed[[1, 6], -1] = 1
    engine.sum = lambda tensor: marks.append(tensor) or summed
    with CopiesToHost() as copies:
        _, found = prediction._predict(job, engine, index, None)
    assert copies.bytes == []  # what the sum gave was on the CPU already
    assert marks[0].device == DEVICE
    assert noted == list(lost.values())
    assert found.nonzero().flatten().tolist() == [1, 6]


@pytest.mark.parametrize(("most_bytes", "pieces"), [(0, 8), (100, 8), (160, 4), (240, 3), (743, 1)])
def test_too_many_outputs_are_copied_in_bounded_pieces(most_bytes: int, pieces: int) -> None:
    """31 rows of 20 bytes in batches of up to 4; the whole has 744 bytes."""
    values = torch.arange(31 * 5, dtype=torch.float32).view(31, 5)
    assert Outputs(31, 6, DEVICE, 744).whole().device == DEVICE
    held, largest = Outputs(31, 6, DEVICE, most_bytes), 0
    order = [*range(0, 24, 4), 28, 24]  # not all one after the other
    for first in order:
        held.put(first, values[first : first + 4].double())
        largest = max(largest, sum(piece.nbytes for piece in held._waiting))
    assert largest <= max(most_bytes, 80)
    whole = held.whole()
    assert (whole.device, whole.dtype) == (CPU, torch.float32)
    assert torch.equal(whole[:, :5], values)
    assert not whole[:, 5].any()
    with CopiesToHost() as copies:
        held = Outputs(31, 6, DEVICE, most_bytes)
        for first in range(0, 31, 4):
            held.put(first, torch.empty(min(4, 31 - first), 5, device=DEVICE))
        held.whole()
    assert sum(copies.bytes) == 31 * 20
    assert len(copies.bytes) == pieces


def test_the_host_is_a_few_batches_ahead_of_a_gpu_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, waited_for = [], []

    class Event:
        def record(self) -> None:
            recorded.append(self)

        def synchronize(self) -> None:
            waited_for.append(recorded.index(self))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    held = Outputs(100, 2, CPU)
    held._device = torch.device("cuda", 0)  # where this machine cannot allocate
    for batch in range(9):
        held.put(batch * 10, torch.ones(10, 2))
    assert len(recorded) == 9
    assert waited_for == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("count", [2, 7, 8])
def test_outputs_are_those_of_each_batch(count: int, precision: str, phantoms: Path, tmp_path: Path) -> None:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), precision)
    job = job_of(str(phantoms), tmp_path)
    prepared(engine, job)
    assert job.test is not None
    index = job.test.take(np.arange(count))
    requests = prediction.evaluation_order(count, 0, 1, 4)
    with engine.evaluation():
        expected = [engine.model(batch.images).float() for batch in job.load(engine, index, requests, job.evaluation)]
    predicted = prediction.predict(job, engine, index)
    assert torch.equal(predicted, torch.cat(expected))
    assert not predicted.is_inference()
