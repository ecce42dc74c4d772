"""Worker processes: who makes what, and what their deaths cost. The workers here only play their part."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import RunError
from trainer.config import Config, DataConfig, ScheduleConfig
from trainer.finetuning.command_line import read_transfer
from trainer.finetuning.finetune import Options, Transfer
from trainer.sweep import worker_pool
from trainer.sweep.plan import PlannedRun
from trainer.sweep.progress import SweepProgress
from trainer.sweep.worker_pool import Device, WorkerPool

CPU = Device(None, 2)
Driven = Callable[..., WorkerPool]


@pytest.fixture(autouse=True)
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "WORKER", [sys.executable, str(Path(__file__).with_name("worker_double.py"))])


def run_of(out: Path, fate: str, seed: int = 0, steps: int = 10, first_step: int = 0) -> PlannedRun:
    transfer = Transfer("scratch", fate, "1", seed, Options(out=out))
    config = Config(
        name=f"scratch/{fate}/1-shot-seed-{seed}",
        data=DataConfig(sets=("any",)),
        schedule=ScheduleConfig(steps=steps, warmup_steps=0),
    )
    return PlannedRun(transfer, config, False, steps, first_step, 0)


@pytest.fixture
def driven(tmp_path: Path) -> Driven:
    """A function that makes runs of these fates on these devices."""

    def run_all(*fates: str, devices: tuple[Device, ...] = (CPU,)) -> WorkerPool:
        lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
        pool = WorkerPool([run_of(tmp_path, fate, seed) for seed, fate in enumerate(fates)], devices, lock)
        try:
            pool.run_all()
        finally:
            os.close(lock)
        return pool

    return run_all


def told(out: Path) -> dict[str, dict[str, Any]]:
    """What each run's process knew, by the run's fate; each run was begun once."""
    logs = {
        path.parent.parent.name + path.parent.name[-1]: path.read_text().splitlines() for path in out.rglob("run.log")
    }
    assert all(len(lines) == 1 for lines in logs.values()), logs
    return {name: json.loads(line) for name, (line,) in logs.items()}


def test_one_process_makes_run_after_run(driven: Driven, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not driven("good", "good", "good").failures
    assert len({entry["process"] for entry in told(tmp_path).values()}) == 1
    words = told(tmp_path)["good1"]["words"]
    assert read_transfer(words).options.runtime.threads == 2
    error = capfd.readouterr().err
    assert f"[3/3] {tmp_path}/scratch/good/1-shot-seed-2: test top-1 accuracy 50.00% (4 images), by last" in error


def test_a_failed_run_costs_nothing_but_itself(
    driven: Driven, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = driven("good", "bad", "good", "dies", "good", "fatal", "good", "unnamed")
    entries = told(tmp_path)
    assert len(entries) == 8
    assert [(failure.name.split("/")[1], failure.reason) for failure in pool.failures] == [
        ("bad", "no such luck"),
        ("dies", "its process was killed by SIGKILL (out of memory?)"),
        ("fatal", "CUDA error"),
        ("unnamed", f"its process was killed by signal {signal.SIGRTMIN + 3}"),
    ]
    assert all(failure.log.is_file() for failure in pool.failures)
    processes = [entries[name]["process"] for name in ("good0", "bad1", "good2", "dies3", "good4", "fatal5", "good6")]
    assert len(set(processes[:4])) == len(set(processes[4:6])) == 1
    assert len(set(processes)) == 3
    assert "[8/8]" in capfd.readouterr().err


def test_what_another_start_is_at_work_on_comes_last(
    driven: Driven, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not driven("held", "good", "held", "good").failures
    lines = [line.rstrip() for line in capfd.readouterr().err.splitlines()]
    assert [
        line.split("/")[1] + line.partition("seed-")[2][0] for line in lines if "comes last: it is in use" in line
    ] == [
        "held0",
        "held2",
    ]
    begun = [line.split(f"{tmp_path}/scratch/")[1][:4] for line in lines if line.startswith("[")]
    assert begun == ["good", "good", "held", "held"]


def test_workers_know_the_job_of_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITSCALE_JOB", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert worker_pool._environment(CPU)["BITSCALE_JOB"] == "SLURM job 77"


def test_a_process_for_each_device(driven: Driven, tmp_path: Path) -> None:
    devices = (Device("GPU-a", 1), Device("3", 1), Device("9", 1))
    assert not driven("good", "good", devices=devices).failures
    assert [told(tmp_path)[name]["gpu"] for name in ("good0", "good1")] == ["GPU-a", "3"]


def test_workers_are_single_ranks_in_any_job(driven: Driven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "WORLD_SIZE": "1", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    environment = worker_pool._environment(CPU)
    assert not [name for name in environment if name.startswith("SLURM")]
    assert [environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["0", "1", "0"]


def test_workers_that_cannot_start_end_the_sweep(
    driven: Driven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(RunError, match=r"cannot start: the first ended with exit code 1; see .*seed-0/run.log"):
        driven("good", "good")
    assert len(list(tmp_path.rglob("run.log"))) == 1
    assert "no torch here" in next(tmp_path.rglob("run.log")).read_text()


def test_ctrl_c_has_runs_saved(driven: Driven, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It comes to the process group; a worker that took it for itself would die without leaving its status."""

    def press() -> None:
        while not list(tmp_path.rglob("metrics.jsonl")):
            time.sleep(0.01)
        for entry in told(tmp_path).values():
            os.kill(entry["process"], signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        driven("long", "good")
    assert list(told(tmp_path)) == ["long0"]
    assert json.loads(next(tmp_path.rglob("status.json")).read_text())["state"] == "resumable"
    assert "stopping, after saving scratch/long/1-shot-seed-0" in capfd.readouterr().err


def test_time_left_goes_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("trainer.sweep.progress.time.monotonic", lambda: clock[0])
    short, long, bad = (
        run_of(tmp_path, "good", 0),
        run_of(tmp_path, "good", 1, 1000, first_step=500),
        run_of(tmp_path, "bad"),
    )
    progress = SweepProgress([short, long, bad])
    assert progress.line() == "0/3 runs, 500/1020 steps"
    short.run_dir.mkdir(parents=True)
    (short.run_dir / "metrics.jsonl").write_text('{"step": 4}\n')
    clock[0] += 8.0
    progress.show([short])
    assert progress.line() == "0/3 runs, 504/1020 steps, 17:12 left"  # 516 steps at two seconds each
    (short.run_dir / "result.json").write_text('{"run": "r", "task": "single_label", "checkpoint": "c"}')
    progress.ended(short, None)
    progress.ended(bad, "broken")
    assert progress.line() == "2/3 runs, 510/1010 steps, 06:40 left"
    progress.close()
