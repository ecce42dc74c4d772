"""Sweeps as a user types them: killed in the middle, two at a time, and with runs that fail."""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_sets import tiny_set

from trainer import checkpoint, transfer
from trainer.finetuning.command_line import read_transfer
from trainer.finetuning.finetune import fine_tune
from trainer.models.bit import build_model
from trainer.sweep import run_sweep

TUNING = [
    "--data.image-size",
    "32",
    "--schedule.steps",
    "8",
    "--global-batch-size",
    "8",
    "--optim.base-lr",
    "0.1",
    "--precision",
    "fp32",
]
ON_CPU = ["--device", "cpu", "--threads", "1", "--log-every", "1", "--save-every", "3"]
SWEEP = ["sweep", "--sources", "source", "scratch", "--targets", "pictures", "--shots", "1", "2", "--seeds", "2"]
RUNS = [
    f"{source}/pictures/{n}-shot-seed-{seed}" for seed in (0, 1) for n in (1, 2) for source in ("source", "scratch")
]
TIMEOUT_S = 240.0
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared set and a source."""
    folder = tmp_path_factory.mktemp("place")
    labels = [0, 0, 0, 1, 1]
    tiny_set(folder / "data" / "pictures", labels, ("few", "many"), splits=("train", "val", "test"), side=32)
    torch.manual_seed(5)
    state = {"model": build_model("r14x0.5", 3).state_dict(), "momentum": {}, "loss_scaler": {}}
    about = {"model": "r14x0.5", "classes": ["a", "b", "c"], "sets": ["photos"], "step": 1, "best": None}
    checkpoint.save(checkpoint.path_of(folder / "source", 1), state, about)
    return folder


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """A function that runs transfer.py in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("BITSCALE_DATA", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["transfer.py", *map(str, arguments)])
        code = 0
        try:
            transfer.main()
        except SystemExit as end:
            code = int(end.code or 0)
        output = capfd.readouterr()
        return code, output.out, output.err

    return run


def start(arguments: list[str], log: Path) -> int:
    """The same in a process and process group of its own, without importing everything again."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.argv = ["transfer.py", *arguments]
        transfer.main()
        code = 0
    finally:
        os._exit(code)


def kill_when(condition: Callable[[], bool], process: int) -> None:
    """SIGKILL to the whole process group as soon as a condition holds."""
    patience = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < patience, "the sweep does not come that far"
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "the sweep has ended"
        time.sleep(0.002)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)


def has_trained(run_dir: Path) -> bool:
    path = run_dir / "metrics.jsonl"
    return path.is_file() and "train/loss" in path.read_text()


@pytest.mark.slow
def test_a_sweep_that_is_killed_twice_makes_every_run_once(place: Path, command: Command) -> None:
    arguments = [*SWEEP, "--out", "out", *TUNING, *ON_CPU]
    out, log = place / "out", place / "sweep.log"

    first = start(arguments, log)
    kill_when(lambda: has_trained(out / RUNS[0]), first)
    assert not list(out.rglob("result.json"))

    second = start(arguments, log)
    kill_when(lambda: has_trained(out / RUNS[3]), second)
    made = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert {path.parent for path in made} == {out / run for run in RUNS[:3]}

    (out / RUNS[2] / "result.json").write_text('{"kind": "trans')  # as if the disk had been full
    del made[out / RUNS[2] / "result.json"]
    code, output, error = command(*arguments)
    assert code == 0, error
    assert "all 8 runs are finished" in output
    assert "2 of 8 runs are finished already" in error
    assert {path: path.stat().st_mtime_ns for path in made} == made
    for run in RUNS:
        ended = (out / run / "run.log").read_text().count("test top-1 accuracy")
        assert ended == (2 if run == RUNS[2] else 1), run
        source, target, name = run.split("/")
        words = [
            "--pretrained",
            source,
            "--target",
            target,
            "--shots",
            name[0],
            "--seed",
            name[-1],
            "--out",
            "undisturbed",
        ]
        alone = read_transfer([*words, "--model.name", "r14x0.5", *TUNING, *ON_CPU])
        fine_tune(alone)
        found, expected = (
            json.loads((place / root / run / "result.json").read_text()) for root in ("out", "undisturbed")
        )
        assert (found["test"], found["val"], found["settings"]) == (
            expected["test"],
            expected["val"],
            expected["settings"],
        )
        weights = [checkpoint.describe(checkpoint.numbered(place / root / run)[-1]) for root in ("out", "undisturbed")]
        assert weights[0] == weights[1]
        assert weights[0]["step"] == 8


def test_two_sweeps_in_one_folder(place: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "shared").mkdir(exist_ok=True)
    with (place / "shared" / run_sweep.LOCK).open("w") as lock:
        lock.write(json.dumps({"host": run_sweep.platform.node(), "process": os.getpid()}))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, error = command(*SWEEP, "--out", "shared", *TUNING, *ON_CPU)
        assert (code, f"another sweep is running in shared (process {os.getpid()}" in error) == (2, True)
        lock.seek(0)
        lock.truncate()  # of a sweep that was killed: its workers get some time to end
        lock.write(json.dumps({"host": run_sweep.platform.node(), "process": dead_process()}))
        lock.flush()
        monkeypatch.setattr(run_sweep, "HANDOVER_S", 0.3)
        started = time.monotonic()
        code, _, error = command(*SWEEP, "--out", "shared", *TUNING, *ON_CPU)
        assert (code, "another sweep is running" in error) == (2, True)
        assert time.monotonic() - started > 0.3
    assert [path.name for path in (place / "shared").iterdir()] == [run_sweep.LOCK]


def dead_process() -> int:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_dry_run_and_plan_start_nothing(place: Path, command: Command) -> None:
    code, output, error = command(*SWEEP, "--out", "planned", *TUNING, *ON_CPU, "--dry-run", "--jobs", "2")
    assert code == 0, error
    assert (
        len([line for line in output.splitlines() if " r14x0.5 " in line and "    32" in line and "      8" in line])
        == 8
    )
    assert "8 runs, 8 of them to be made: about " in output
    assert "with 2 at a time" in output
    assert "of one timed step, without loading" in output
    code, output, error = command(*SWEEP, "--out", "planned", *TUNING, *ON_CPU, "--plan", "plan.json")
    assert (code, "8 runs, 8 of them to be made" in output) == (0, True), error
    assert len(json.loads((place / "plan.json").read_text())["tasks"]) == 8
    assert not (place / "planned").exists()


def test_failed_runs_are_told_at_the_end(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    double = Path(__file__).with_name("worker_double.py")
    monkeypatch.setattr("trainer.sweep.worker_pool.WORKER", [sys.executable, str(double)])
    fates = dict.fromkeys(RUNS, "good") | {RUNS[1]: "bad", RUNS[4]: "dies"}
    monkeypatch.setenv("FATES", json.dumps(fates))
    code, output, error = command(*SWEEP, "--out", "failing", *TUNING, *ON_CPU)
    assert code == 1
    assert "2 of 8 runs failed; the same command tries them again" in error
    assert f"  {RUNS[1]}: no such luck\n    see failing/{RUNS[1]}/run.log" in error
    assert f"  {RUNS[4]}: its process was killed by SIGKILL" in error
    assert "all 8" not in output


def test_a_sweep_under_torchrun_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, error = command(*SWEEP, "--out", "ranks", *TUNING, *ON_CPU)
    assert (code, "start it once, without torchrun" in error) == (2, True)
