"""Ranks that never come, fall silent or wait elsewhere are told apart, and named within the time-out."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_ranks import free_port, run_ranks

from data_pipelines.common.errors import InputError
from trainer.config import RuntimeConfig
from trainer.engine import RankLostError
from trainer.engines import ENGINES, rendezvous
from trainer.engines.ranks import RankInfo
from trainer.engines.rendezvous import Rendezvous
from trainer.models.bit import build_model
from trainer.optim.sgd_agc import SGDAGC, param_groups


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that meets as one rank of two whose other never comes: what it is told, and after how many seconds."""

    def meet(rank: int, address: str, timeout_s: int) -> tuple[str, float]:
        monkeypatch.setenv("MASTER_ADDR", address)
        monkeypatch.setenv("MASTER_PORT", str(free_port()))
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        started = time.monotonic()
        with pytest.raises(InputError) as refused:
            Rendezvous(RankInfo(rank, 2, rank, 2, "torchrun"), torch.device("cpu"), timeout_s)
        return str(refused.value), time.monotonic() - started

    return meet


@pytest.mark.slow
def test_an_address_that_nobody_listens_at(alone: Any) -> None:
    message, seconds = alone(1, "127.0.0.1", 2)
    assert "MASTER_ADDR=127.0.0.1, MASTER_PORT=" in message
    assert "over lo: it refuses the connection" in message
    assert seconds < 60


def test_an_address_that_does_not_answer(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(*_: Any) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", no_answer)
    monkeypatch.setattr(rendezvous, "SILENT_S", 1.0)
    message, seconds = alone(1, "192.0.2.1", 600)
    assert "cannot be reached" in message
    assert seconds < 60


def test_a_name_that_is_no_host(alone: Any) -> None:
    message, seconds = alone(1, "no-such-host.invalid", 600)
    assert "MASTER_ADDR=no-such-host.invalid is not the name of a host" in message
    assert seconds < 60


@pytest.mark.slow
def test_rank_0_does_not_wait_for_ever(alone: Any) -> None:
    message, seconds = alone(0, "127.0.0.1", 2)
    assert "rank 1 did not start within 2 s" in message
    assert seconds < 60


def told_to(rank: int, folder: Path) -> Path:
    """Written once a rank has its message: the rank that fell silent must live until then, or its closed connections
    would tell first, and so must rank 0, with which the store ends."""
    return folder / f"told-{rank}"


def wait_until_told(ranks: tuple[int, ...], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not all(told_to(rank, folder).exists() for rank in ranks):
        assert time.monotonic() < deadline, f"ranks {ranks} were not all told that one is lost"
        time.sleep(0.05)


def told_in(exchange: Callable[[], object], folder: Path) -> str:
    """What rank 0 is told in an exchange that another rank does not take part in."""
    try:
        exchange()
    except RankLostError as error:
        return str(error)
    finally:
        told_to(0, folder).touch()
    return "nothing"


def losing(folder: Path) -> str:
    """Rank 1 of three falls silent; what the others are told."""
    engine: Any = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1, timeout_s=3), "fp32")
    engine.sum(torch.zeros(1))
    message = "nothing"
    if engine.rank == 1:
        engine._rendezvous.close()  # no pulse, as of a host that is gone
    else:
        try:
            engine.sum(torch.zeros(1))
        except RankLostError as error:
            message = str(error)
        told_to(engine.rank, folder).touch()
    wait_until_told((0, 2), folder)
    return message


def waiting_elsewhere(folder: Path) -> str:
    """Rank 1 of two lives, but waits in another exchange than rank 0; what rank 0 is told."""
    engine: Any = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1, timeout_s=3), "fp32")
    if engine.rank == 1:
        wait_until_told((0,), folder)
        return ""
    return told_in(lambda: engine.sum(torch.zeros(1)), folder)


@pytest.mark.slow
@pytest.mark.serial
def test_live_ranks_are_not_called_lost_nor_the_network_blamed(tmp_path: Path) -> None:
    (message, _) = run_ranks(2, waiting_elsewhere, tmp_path)
    assert "another rank stopped or did not answer (all ranks are alive: the network is at fault, or " in message


def losing_at_the_first_step(folder: Path) -> str:
    """The same in the first forward pass, in which DDP lays out its buckets anew."""
    engine: Any = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1, timeout_s=3), "fp32")
    model = build_model("r14x0.5", 2)
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    engine.prepare(model, SGDAGC(param_groups(model, 2, 0.01), lr=0.1), images)
    if engine.rank == 1:
        engine._rendezvous.close()
        wait_until_told((0,), folder)
        return ""

    def forward() -> None:
        with engine.accumulate(last=True):
            engine.model(images)

    return told_in(forward, folder)


@pytest.mark.slow
@pytest.mark.serial
def test_survivors_name_the_rank_that_is_lost_at_the_first_step(tmp_path: Path) -> None:
    assert "lost: rank 1)" in run_ranks(2, losing_at_the_first_step, tmp_path)[0]


@pytest.mark.slow
@pytest.mark.serial
def test_survivors_name_the_lost_rank_within_the_time_out(tmp_path: Path) -> None:
    messages = run_ranks(3, losing, tmp_path)
    assert "lost: rank 1)" in messages[0]
    assert "lost: rank 1)" in messages[2]
