"""A signal to any rank stops all of them at the same step, saved."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from run_ranks import TIMEOUT_S, context_of_ranks, run_ranks

from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.run_folder.metric_logger import MetricLogger
from trainer.training import fit, signals
from trainer.training.run import LaunchOptions, run
from trainer.training.signals import NEVER, Stopped, StopSignals

ROOT = Path(__file__).resolve().parents[3]
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
    """A run that is not disturbed, as SIGUSR1 comes in its last step; then one with a signal to rank 1, one to rank 0,
    one in its last step, and to its end: exit code and step of each that stopped."""
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    close, engine.close = engine.close, lambda: None  # a process ends when its run is stopped; this one goes on
    advance = MetricLogger.advance
    stops: list[tuple[int | str | None, int | None]] = []
    for name, number, on_rank, signalled_in in (
        ("whole", signal.SIGUSR1, 0, TOTAL_STEPS),
        ("broken", signal.SIGUSR1, 1, SIGNALLED_IN),
        ("broken", signal.SIGTERM, 0, SIGNALLED_IN),
        ("broken", signal.SIGTERM, 1, TOTAL_STEPS - 2 * (SIGNALLED_IN + 2)),
        ("broken", None, 0, 0),
    ):
        done = 0

        def counted(
            metric_logger: MetricLogger, number: int | None = number, due: tuple[int, int] = (on_rank, signalled_in)
        ) -> None:
            nonlocal done
            done += 1
            advance(metric_logger)
            if (engine.rank, done) == due and number is not None:
                os.kill(os.getpid(), number)

        MetricLogger.advance = counted
        before = [signal.getsignal(each) for each in SIGNALS]
        try:
            run(config_of(data), LaunchOptions(folder / name), engine, {"kind": "test"})
        except Stopped as stopped:
            stops.append((stopped.code, stopped.step))
        assert before == [signal.getsignal(each) for each in SIGNALS]
    close()
    return stops


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(checkpoint.path_of(run_dir, TOTAL_STEPS)).state["model"]
    return state


@pytest.mark.slow
def test_all_ranks_stop_at_one_step_and_go_on(phantoms: Path, tmp_path: Path) -> None:
    # The step in which the signal came has been reported already: the next one reports it, the one after reads it.
    step = SIGNALLED_IN + 2
    terminated = 128 + signal.SIGTERM
    assert run_ranks(2, starts, str(phantoms), tmp_path) == [
        [(0, step), (terminated, 2 * step), (0, TOTAL_STEPS)],  # 0: only heard of it
        [(0, step), (0, 2 * step), (terminated, TOTAL_STEPS)],
    ]
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert json.loads((tmp_path / "broken/status.json").read_text())["state"] == "finished"


def evaluates_for_long(data: str, run_dir: Path, evaluating: Any) -> None:
    """Train, and report the final evaluation instead of ending it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored

    def never_ends(*_: object) -> None:
        evaluating.set()
        time.sleep(60)

    fit.predict_readable = never_ends
    run(config_of(data), LaunchOptions(run_dir), ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32"), {})


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_final_evaluation(asked: signal.Signals, phantoms: Path, tmp_path: Path) -> None:
    context = context_of_ranks()
    evaluating = context.Event()
    process = context.Process(target=evaluates_for_long, args=(str(phantoms), tmp_path, evaluating), daemon=True)
    process.start()
    assert evaluating.wait(TIMEOUT_S)
    assert process.pid is not None
    os.kill(process.pid, asked)
    process.join(30)
    assert process.exitcode == 128 + asked
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"], status["reason"]) == ("resumable", TOTAL_STEPS, "terminated")


def test_listens_only_while_asked_to() -> None:
    stop = StopSignals()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.received is signal.SIGTERM  # the first one counts
    assert NEVER.received is None


# The main thread is in a function that never looks for signals, as in a collective that does not return.
STUCK = """
import hashlib, sys
from trainer.training import signals
signals.launcher_is_gone = lambda: "gone" in sys.argv
signals.SAME_REQUEST_S = 0.3
with signals.StopSignals().listening(lambda reason: print(reason, flush=True)):
    print("up", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGUSR1), (signal.SIGUSR1, signal.SIGTERM)],
)
def test_a_second_signal_ends_at_once(first: signal.Signals, second: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(first)
        process.send_signal(first)  # the launcher's copy
        time.sleep(0.6)
        assert process.poll() is None
        process.send_signal(second)
        try:
            output, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 128 + second
    assert f"{second.name} after {first.name}: ending at once" in error
    assert output == f"ended at once by {second.name} after {first.name}\n"


@pytest.mark.slow
def test_ending_unsaved_without_a_launcher_names_no_signal() -> None:
    """The process sends itself both."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, "gone"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        process.send_signal(signal.SIGTERM)
        try:
            output, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert "the launcher is gone, and saving takes too long: ending at once" in error
    assert output == "ended with its launcher, unsaved\n"


def test_a_scheduler_may_repeat_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_REQUEST_S", 0.0)
    with StopSignals().listening(lambda reason: pytest.fail(reason)) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
    assert stop.received is signal.SIGUSR1


def test_hang_up_is_left_to_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals().listening() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
