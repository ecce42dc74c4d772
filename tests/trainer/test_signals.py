"""A signal to any rank stops all of them at the same step, saved."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from run_ranks import run_ranks

from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.experiment import Start, run
from trainer.signals import NEVER, Stopped, StopSignals
from trainer.tracking import Tracker

TOTAL_STEPS, SIGNALLED_IN = 12, 3
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def config_of(data: str) -> Config:
    return Config(
        name="small",
        global_batch_size=8,
        precision="fp32",
        data=DataConfig(sets=(data,), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=TOTAL_STEPS, warmup_steps=2),
        runtime=RuntimeConfig(device="cpu", threads=1, log_every=100, save_every=100),
    )


def starts(data: str, folder: Path) -> list[tuple[int | str | None, int | None]]:
    """An undisturbed run; then one with a signal to rank 1, one to rank 0, and to its end: exit code and step of each
    that stopped."""
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    close, engine.close = engine.close, lambda: None  # a process ends when its run is stopped; this one goes on
    advance = Tracker.advance
    stops: list[tuple[int | str | None, int | None]] = []
    for name, number, on_rank in (
        ("whole", None, 0),
        ("broken", signal.SIGUSR1, 1),
        ("broken", signal.SIGTERM, 0),
        ("broken", None, 0),
    ):
        done = 0

        def counted(tracker: Tracker, number: int | None = number, on_rank: int = on_rank) -> None:
            nonlocal done
            done += 1
            advance(tracker)
            if done == SIGNALLED_IN and engine.rank == on_rank and number is not None:
                os.kill(os.getpid(), number)

        Tracker.advance = counted
        before = [signal.getsignal(each) for each in SIGNALS]
        try:
            run(config_of(data), Start(folder / name), engine, {"kind": "test"})
        except Stopped as stopped:
            stops.append((stopped.code, stopped.step))
        assert before == [signal.getsignal(each) for each in SIGNALS]
    close()
    return stops


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(checkpoint.path_of(run_dir, TOTAL_STEPS)).state["model"]
    return state


def test_all_ranks_stop_at_one_step_and_go_on(phantoms: Path, tmp_path: Path) -> None:
    # The step in which the signal came has been reported already: the next one reports it, the one after reads it.
    step = SIGNALLED_IN + 2
    terminated = 128 + signal.SIGTERM
    assert run_ranks(2, starts, str(phantoms), tmp_path) == [
        [(0, step), (terminated, 2 * step)],
        [(0, step), (0, 2 * step)],  # only heard of it
    ]
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert json.loads((tmp_path / "broken/status.json").read_text())["state"] == "finished"


def test_listens_only_while_asked_to() -> None:
    stop = StopSignals()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.received is signal.SIGTERM  # the first one counts
    assert NEVER.received is None


def test_second_interrupt_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with StopSignals().listening():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the launcher's copy of the same Ctrl-C
        now += 3
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
