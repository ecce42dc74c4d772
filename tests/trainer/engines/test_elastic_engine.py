"""The elastic engine: its count of samples, what it asks of the device, what it leaves behind, and GPUs, in whose place
there are stand-ins. Real losses are in tests/faults/test_elastic_runs.py."""

import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from run_ranks import run_ranks
from test_engine_steps import Reads
from test_membership import Served

from trainer.config import RuntimeConfig
from trainer.engine import Progress, RegroupError
from trainer.engines import elastic
from trainer.engines.elastic import ElasticEngine
from trainer.engines.watched_store import WatchedStore
from trainer.models.bit import BiTResNet
from trainer.optim.sgd_agc import SGDAGC

RUNTIME = RuntimeConfig(device="cpu", threads=1, elastic=True, timeout_s=20)
IMAGES = torch.arange(4 * 32 * 32 * 3, dtype=torch.int64).to(torch.uint8).view(4, 32, 32, 3).permute(0, 3, 1, 2)


def never() -> bool:
    return False


def engine_of(address: str, ranks: int) -> tuple[ElasticEngine, BiTResNet]:
    slot = int(os.environ["RANK"])
    os.environ |= {"BITSCALE_COORDINATOR": address, "BITSCALE_SECRET": "of this run", "BITSCALE_RANKS": str(ranks)}
    os.environ |= {"BITSCALE_SLOT": str(slot), "BITSCALE_LOCAL_ADDR": "127.0.0.1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    engine = ElasticEngine(RUNTIME, "fp32")
    torch.manual_seed(slot)  # each rank begins with other weights
    model = BiTResNet((1,), 0.5, 3, "fan_in")
    engine.prepare(model, SGDAGC(model.parameters(), lr=0.1, momentum=0.9), IMAGES)
    return engine, model


def step(engine: ElasticEngine, number: int, samples: int, of_all: int) -> Any:
    engine.begin_step(number)
    with engine.accumulate(last=True):
        engine.backward(engine.model(IMAGES).square().sum(), of_all)
    engine.expect_samples(samples, of_all)
    return engine.step()


def weights_of(model: BiTResNet) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def leave(engine: ElasticEngine) -> None:
    engine.membership.leave("the test is over")
    engine.close()


def count_samples(address: str) -> dict[str, Any]:
    """Two updates of two ranks, in the second of which one of them brings too few samples."""
    engine, model = engine_of(address, 2)
    whole = step(engine, 0, 4, 8)
    after_one = weights_of(model)
    with Reads() as reads:
        short = step(engine, 1, 4 - engine.rank, 8)
    found = {
        "whole": whole.counted.tolist(),
        "short": short.counted.tolist(),
        "skipped": short.skipped,
        "unchanged": torch.equal(weights_of(model), after_one),
        "done": int(engine.updates_done),
        "reads": dict(reads.by),
        "frozen": gc.get_freeze_count(),
        "searched": len(gc.get_objects()),
    }
    leave(engine)
    return found


def bring_up(address: str) -> dict[str, Any]:
    """Of two ranks one is an update ahead when they regroup; then they train on."""
    engine, model = engine_of(address, 2)
    rank, group = engine.rank, weakref.ref(dist.group.WORLD)
    step(engine, 0, 4, 8)
    if rank == 0:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1  # an update that rank 1 has not done
        engine.updates_done += 1
    progress = engine.regroup(Progress(step=1 if rank == 1 else 2, is_owed=rank == 1), never)
    received = weights_of(model).clone()
    momentum = torch.cat([values.flatten() for values in engine.state_dict()["momentum"].values()])
    is_freed = group() is None
    step(engine, 2, 4, 8)
    trained, done = weights_of(model), int(engine.updates_done)
    leave(engine)
    weights = {"weights": received.numpy(), "momentum": momentum.numpy(), "trained": trained.numpy()}
    return {"progress": progress, "freed": is_freed, "done": done, **weights}


@pytest.fixture
def served() -> Iterator[Served]:
    coordinator = Served()
    yield coordinator
    coordinator.kill()


@pytest.mark.slow
def test_update_with_too_few_samples_is_left_out(served: Served) -> None:
    for found in run_ranks(2, count_samples, served.address):
        assert (found["whole"], found["short"]) == ([8.0, 0.0], [7.0, 0.0])
        assert found["unchanged"]
        assert found["done"] == 1
        assert found["skipped"] is None  # of what is not finite it says nothing
        assert found["searched"] < found["frozen"] / 5  # for what a round leaves behind, while all wait
        assert found["reads"] == {("sgd_agc.py", "step"): 1}  # on a CPU; a GPU decides by itself


@pytest.mark.slow
def test_rank_behind_gets_all_of_the_one_ahead(served: Served) -> None:
    first, second = run_ranks(2, bring_up, served.address)
    for name in ("weights", "momentum", "trained"):
        np.testing.assert_array_equal(first[name], second[name])
    assert first["momentum"].any()
    assert not np.array_equal(first["trained"], first["weights"])
    assert [found["progress"].step for found in (first, second)] == [2, 2]
    assert not second["progress"].is_owed  # which was of the step before
    assert first["freed"]  # or its sockets would stay open, and others wait for their end
    assert second["freed"]
    assert first["done"] == 1


def test_group_that_forms_does_not_wait_for_a_lost_rank() -> None:
    """It would otherwise: for the address of the other rank, until its time-out."""
    lost = threading.Event()
    threading.Timer(0.2, lost.set).start()

    def check_ranks() -> None:
        if lost.is_set():
            raise RegroupError("lost: b")

    store = WatchedStore(dist.HashStore(), check_ranks)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="lost: b"):
        dist.init_process_group("gloo", store=store, rank=0, world_size=2, timeout=timedelta(seconds=60))
    assert time.monotonic() - began < 20


class Group:
    """In place of NCCL's: a collective of it hangs until it is aborted."""

    def __init__(self) -> None:
        self.aborted = threading.Event()

    def _get_backend(self, device: torch.device) -> "Group":
        assert device.type == "cuda"
        return self

    def abort(self) -> None:
        self.aborted.set()

    def all_reduce(self) -> None:
        assert self.aborted.wait(10), "nobody has aborted it"


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> ElasticEngine:
    """An engine as on a GPU, without one, and without having begun."""
    engine = ElasticEngine.__new__(ElasticEngine)
    engine.device, engine.world_size = torch.device("cuda"), 2
    engine.membership = SimpleNamespace(lost=None, regroup=lambda step, is_asked: {"asked_with": step})
    monkeypatch.setattr(elastic.dist, "group", SimpleNamespace(WORLD=Group()))
    return engine


def test_kernels_that_wait_for_a_lost_rank_are_aborted(on_gpu: ElasticEngine) -> None:
    hanging = threading.Thread(target=elastic.dist.group.WORLD.all_reduce)
    hanging.start()
    on_gpu.membership.lost = "b (its process is gone)"
    on_gpu._on_loss(on_gpu.membership.lost)
    hanging.join(10)
    assert not hanging.is_alive()
    # What an aborted collective leaves is no result: the rank regroups at the next seam, whatever the kernel returned.
    with pytest.raises(RegroupError, match="lost: b"):
        on_gpu.sum(torch.zeros(1))
    with pytest.raises(RegroupError, match="lost: b"):
        on_gpu.begin_step(3)


def test_loss_between_two_groups_is_no_error(on_gpu: ElasticEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic.dist, "group", SimpleNamespace(WORLD=None))
    on_gpu._on_loss("b")


def test_gloo_is_left_to_notice_by_itself(on_gpu: ElasticEngine) -> None:
    on_gpu.device = torch.device("cpu")
    on_gpu._on_loss("b")
    assert not elastic.dist.group.WORLD.aborted.is_set()


def test_updates_that_the_device_has_left_out_are_made_again(
    on_gpu: ElasticEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is ahead of a GPU: it may have asked for updates that never were, as their samples were not whole."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ElasticEngine, "leave_group", lambda self: None)
    monkeypatch.setattr(ElasticEngine, "take_part", lambda self, answer, progress: asked.append(answer) or progress)
    on_gpu._first, on_gpu.updates_done = 5, torch.tensor(2)
    progress = on_gpu.regroup(Progress(step=8, is_owed=True), never)
    assert (progress.step, progress.is_owed) == (7, False)
    assert asked == [{"asked_with": 7}]
    on_gpu.updates_done = torch.tensor(3)
    progress = on_gpu.regroup(Progress(step=8, is_owed=True), never)
    assert (progress.step, progress.is_owed) == (8, True)
