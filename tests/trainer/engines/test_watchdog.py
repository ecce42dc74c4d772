"""A rank that hangs is named, with its host and phase, and the others end so that the run can be resumed."""

import json
import os
import platform
import re
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from run_ranks import context_of_ranks, free_port, run_ranks

from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.engines.beats import Beat, who_hangs
from trainer.engines.watchdog import HUNG, Watchdog
from trainer.run_folder.metric_logger import MetricLogger
from trainer.training.run import LaunchOptions, run

STEPS, HANGS_AFTER, TIMEOUT_S = 9, 5, 6
TOLD_S = 3.0  # after which where a rank is has been told, even on a busy machine
HOST = platform.node()


def config_of(data: str) -> Config:
    return Config(
        name="small",
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=(data,), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=STEPS, warmup_steps=2),
        runtime=RuntimeConfig(device="cpu", threads=1, log_every=3, save_every=2, hang_timeout_s=TIMEOUT_S),
    )


def train(data: str, *folders: Path) -> None:
    engine = ENGINES["ddp"](config_of(data).runtime, "fp32")
    for folder in folders:
        run(config_of(data), LaunchOptions(folder), engine, {"kind": "test"})
    engine.close()


def hanging(data: str, folder: Path, rank: int, port: int, how: str) -> None:
    """A rank in a process of its own; rank 1 or 0, as `how` says, hangs after some steps."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    log = os.open(folder.parent / f"{folder.name}-{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    advance, done = MetricLogger.advance, 0

    def counted(metric_logger: MetricLogger) -> None:
        nonlocal done
        done += 1
        advance(metric_logger)
        if done == HANGS_AFTER and how == f"rank {rank} is stopped":
            time.sleep(TOLD_S if rank else 0)  # rank 0 goes at once: of it alone others know from the beginning
            os.kill(os.getpid(), signal.SIGSTOP)
        if done == HANGS_AFTER and how == f"rank {rank} sleeps":
            time.sleep(1000)

    MetricLogger.advance = counted
    train(data, folder)


class Case(NamedTuple):
    folder: Path
    processes: list[BaseProcess]

    def log(self, rank: int) -> str:
        return self.folder.with_name(f"{self.folder.name}-{rank}.log").read_text()


@pytest.fixture(scope="module")
def cases(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """Several jobs that hang, all at once, because most of their time is waiting."""
    context, place = context_of_ranks(), tmp_path_factory.mktemp("hangs")
    found = {}
    for how in ("rank 1 is stopped", "rank 0 is stopped", "rank 1 sleeps"):
        folder, port = place / how.replace(" ", "-"), free_port()
        arguments = [(str(phantoms), folder, rank, port, how) for rank in range(2)]
        found[how] = Case(folder, [context.Process(target=hanging, args=each, daemon=True) for each in arguments])
        for process in found[how].processes:
            process.start()
    yield found
    for case in found.values():
        for process in case.processes:
            process.kill()


def ended(case: Case, rank: int) -> int | None:
    case.processes[rank].join(240)
    return case.processes[rank].exitcode


@pytest.mark.slow
def test_a_stopped_rank_is_named_and_the_run_goes_on(cases: dict[str, Case], phantoms: Path, tmp_path: Path) -> None:
    case = cases["rank 1 is stopped"]
    assert ended(case, 0) == HUNG, case.log(0)
    log = case.log(0)
    found = re.search(
        r"\[rank 0\] error: (rank 1 on (\S+) has given no sign of life for \d+ s, since phase .* after);", log
    )
    assert found, log
    assert found[2] == HOST
    assert f"since phase update of step {HANGS_AFTER - 1} " in found[1]
    assert "Current thread" in log  # stacks
    assert "trainer/training/loop.py" in log
    status = json.loads((case.folder / "status.json").read_text())
    assert (status["state"], status["step"]) == ("resumable", 4)
    assert status["reason"] == found[1]
    case.processes[1].kill()
    run_ranks(2, train, str(phantoms), case.folder, tmp_path / "undisturbed")
    paths = [checkpoint.path_of(folder, STEPS) for folder in (case.folder, tmp_path / "undisturbed")]
    weights, expected = (checkpoint.load(path).state["model"] for path in paths)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_rank_0_is_missed_too_though_it_holds_the_store(cases: dict[str, Case]) -> None:
    case = cases["rank 0 is stopped"]
    assert ended(case, 1) == HUNG, case.log(1)
    log = case.log(1)
    assert f"error: rank 0 on {HOST} has given no sign of life for " in log
    assert "the store where ranks meet does not answer" in log
    assert json.loads((case.folder / "status.json").read_text())["state"] == "resumable"


@pytest.mark.slow
def test_a_rank_that_lives_but_does_not_get_on_is_named_by_all(cases: dict[str, Case]) -> None:
    case = cases["rank 1 sleeps"]
    for rank in range(2):
        assert ended(case, rank) == HUNG, case.log(rank)
        log = case.log(rank)
        where = f"phase update of step {HANGS_AFTER - 1} for "
        assert f"[rank {rank}] error: rank 1 on {HOST} has made no progress in {where}" in log
    assert "in counted" in case.log(1)  # its stack shows the line that sleeps


def beat(rank: int, step: int = 7, phase: str = "backward", **rest: float) -> Beat:
    values = {"in_phase_s": 20.0, "steps": 8, "data_s": 0.0, "forward_s": 0.0} | rest
    return Beat(rank, f"node{rank}", 3, step, phase, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("beats", "silent", "expected"),
    [
        (
            [beat(0), beat(1), beat(2, phase="data")],
            [],
            "rank 2 on node2 has made no progress in phase data of step 7 for 20 s",
        ),
        (
            [beat(0), beat(1, step=6), beat(2, phase="data")],
            [],
            "rank 1 on node1 has made no progress in phase backward of",
        ),
        ([beat(0), beat(1), beat(2)], [1], "rank 1 on node1 has given no sign of life for 30 s, since phase backward"),
        (
            [beat(0), beat(1), beat(2)],
            [],
            "all ranks have waited in phase backward of step 7 for 30 s; look at the network",
        ),
        ([beat(0), beat(2)], [], "rank 1 was never heard from"),
    ],
)
def test_who_is_to_blame(beats: list[Beat], silent: list[int], expected: str) -> None:
    assert expected in who_hangs({each.rank: each for each in beats}, silent, 30.0, 3)


def test_slowest_rank_and_its_phase() -> None:
    watched = Watchdog(None, 0, 3, torch.device("cpu"), 300, 600)
    watched._seen = {rank: beat(rank, data_s=1.0, forward_s=2.0) for rank in range(3)}
    watched.slowest()
    assert watched.slowest() == ({}, {})  # no step since
    slow = {0: (1.4, 2.4), 1: (1.4, 2.4), 2: (1.4, 3.6)}
    watched._seen = {rank: beat(rank, steps=12, data_s=data, forward_s=own) for rank, (data, own) in slow.items()}
    numbers, words = watched.slowest()
    assert numbers == {"ranks/slowest": 2, "ranks/slowest_lag_s": pytest.approx(1.2 / 4)}
    assert words == {"ranks/slowest_phase": "forward", "ranks/slowest_host": "node2"}


def test_time_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watched = Watchdog(None, 0, 1, torch.device("cpu"), 100, 600)
    assert watched._limit_s() == 1800  # the first step, with all that is compiled
    for step in range(2):
        watched.enter("data", step)
        now += 10
        watched.enter("forward")
    assert watched._limit_s() == 100
    watched.enter("evaluation")
    assert watched._limit_s() == 300
    watched.enter("forward")
    now += 50
    watched.enter("backward")
    assert watched._limit_s() == 250  # of steps that are that long
    assert Watchdog(None, 0, 1, torch.device("cpu"), 900, 600)._usual_s == 480  # before collectives fail by themselves


def test_a_pass_before_the_first_step_is_starting() -> None:
    beat, phases = Watchdog(None, 0, 1, torch.device("cpu"), 0, 60), []
    beat.listener = lambda phase, step: phases.append(phase)
    beat.enter("forward")
    beat.enter("data", 0)
    beat.enter("forward")
    assert phases == ["starting", "data", "forward"]


def test_what_a_listener_takes_is_not_the_next_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    beat = Watchdog(None, 0, 1, torch.device("cpu"), 0, 60)
    beat.enter("data", 0)
    beat.enter("update")
    beat.listener = lambda phase, step: clock.__setitem__(0, clock[0] + 5.0)
    beat.enter("data", 1)
    beat.listener = None
    beat.enter("forward")
    assert (beat._seconds["data"], beat._seconds["update"]) == (0.0, 5.0)


class Refusing(dist.Store):
    """A store that refuses some calls, as behind a network that fails for a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.refuses = dist.HashStore(), 0

    def clone(self) -> "Refusing":
        return self

    def set(self, key: str, value: str) -> None:
        if self.refuses:
            self.refuses -= 1
            raise RuntimeError("Broken pipe")
        self.kept.set(key, value)

    def check(self, keys: list[str]) -> bool:
        return self.kept.check(keys)

    def get(self, key: str) -> bytes:
        return self.kept.get(key)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.kept.get(key) for key in keys]

    def pulse(self) -> int:
        return Beat(*json.loads(self.kept.get("beats/1/0"))).pulse


@pytest.mark.parametrize(("refused", "warns"), [(3, False), (12, True)])
def test_a_store_that_fails_for_a_moment_is_told_again(
    refused: int, warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Refusing()
    watched = Watchdog(store, 0, 2, torch.device("cpu"), 100, 600)
    watched._interval_s = 0.01
    with watched.watching(lambda reason: None):
        store.refuses = refused
        deadline = time.monotonic() + 20
        while store.refuses and time.monotonic() < deadline:
            time.sleep(0.01)
        before = store.pulse()
        while store.pulse() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.pulse() > before
    assert ("rank 0 cannot tell the others that it is alive: Broken pipe" in capsys.readouterr().err) == warns
