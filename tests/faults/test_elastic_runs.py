"""Elastic runs of real processes: ranks are lost in every way and come back, and nothing is lost with them.

`python -m tests.faults --elastic --rounds 100` makes as many rounds as you like.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults import elastic_judge as judge
from tests.faults import elastic_rounds
from tests.faults.elastic_judge import faults_in_ledger, faults_in_metrics
from tests.faults.elastic_rounds import SHARES, deal, drill
from tests.faults.elastic_run import ElasticRun, Note, is_alive
from tests.faults.rounds import Arena
from tests.faults.run import LEFT_S, PROGRESS_S, ROOT, wait_until
from tests.faults.strikes import small_disk, unmount
from trainer import checkpoint

on_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Arena(tmp_path_factory.mktemp("arena"), print).data


def row(number: int, step: int, first: int, rank: int, samples: list[int], world_size: int = 2) -> dict[str, Any]:
    place = {"round": number, "rank": rank, "world_size": world_size}
    return {"kind": "took", "step": step, "first": first, "samples": samples, "time": step, **place}


EXPECTED = {0: [1, 2], 1: [3, 4], 2: [5, 6]}
WHOLE = [row(1, step, 0, rank, [EXPECTED[step][rank]]) for step in (0, 1) for rank in (0, 1)]


def test_ledger_counts_the_round_that_made_a_step() -> None:
    alone = [row(2, step, 1, 0, EXPECTED[step], world_size=1) for step in (1, 2)]
    assert faults_in_ledger(WHOLE + alone, 3, EXPECTED) == []  # step 1 was begun in the first round, and not finished
    assert "without [2]" in faults_in_ledger(WHOLE, 3, EXPECTED)[0]
    assert "made by ranks [1] of 2" in faults_in_ledger(WHOLE[1:] + alone, 3, EXPECTED)[0]
    swapped = [row(2, 1, 1, 0, [4, 3], world_size=1), alone[1]]
    assert "other samples" in faults_in_ledger(WHOLE + swapped, 3, EXPECTED)[0]


def test_rows_of_metrics_are_counted() -> None:
    due = [{"step": step, "train/loss": 1.0} for step in (10, 20)] + [{"step": 20, "val/loss": 1.0}]
    assert faults_in_metrics(due, 20) == []
    assert "train/loss" in faults_in_metrics(due[1:], 20)[0]
    assert "val/loss" in faults_in_metrics([*due, due[-1]], 20)[0]


@on_linux
def test_thread_with_the_number_of_an_ended_rank_is_no_rank() -> None:
    """A kill of it would end the process that it belongs to, which is none of those to be killed."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert is_alive(Note(os.getpid(), started, 0, 0, 0, 0, "data"))
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    number = thread.native_id
    assert number is not None
    assert Path(f"/proc/{number}/stat").exists()
    assert not is_alive(Note(number, started - 1, 0, 0, 0, 0, "data"))
    ended.set()
    thread.join()


def test_faults_are_dealt_by_their_shares() -> None:
    dealt = deal(100, 0)
    assert {fault: dealt.count(fault) for fault in SHARES} == SHARES
    assert dealt != deal(100, 1)


def test_run_that_ends_before_any_fault_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rounds that are left would never become fewer."""
    script = tmp_path / "torchrun.sh"
    script.write_text("#!/bin/sh\necho no such set; exit 2\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(elastic_rounds, "ElasticRun", partial(_ended_run, [str(script)]))
    references = judge.References(tmp_path, tmp_path, 500)
    monkeypatch.setattr(judge, "faults_of", lambda *_: [])
    with pytest.raises(RuntimeError, match="has ended before any fault:\nno such set"):
        drill(tmp_path, tmp_path / "run", ["kill"], 0, 3, False, references, print)


def _ended_run(command: list[str], *args: Any, **options: Any) -> ElasticRun:
    run = ElasticRun(*args, **options)
    run.command = command
    return run


@pytest.mark.parametrize("how", ["error", "signal"])
def test_interrupted_rounds_leave_no_run_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    program = importlib.import_module("tests.faults.__main__")
    left: list[tuple[Path, int]] = []

    def leave(folder: Path, code: int) -> None:
        left.append((folder, code))
        raise SystemExit(code)

    def rounds(*_: object) -> int:
        if how == "signal":
            signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("a run has ended")

    former = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(program, "_leave", leave)
    monkeypatch.setattr(program, "_elastic", rounds)
    monkeypatch.setattr(sys, "argv", ["faults", "--elastic", "--folder", str(tmp_path)])
    try:
        with pytest.raises(SystemExit):
            program.main()
    finally:
        for number, handler in former:
            signal.signal(number, handler)
    assert left[0] == (next(tmp_path.iterdir()), 1 if how == "error" else 143)


@on_linux
@slow
@pytest.mark.long
def test_losses_are_survived_and_cost_nothing(data: Path, tmp_path: Path) -> None:
    """Of any rank in any phase, of one that joins, and of the coordinator together with a rank."""
    faults = ["kill", "kill-joiner", "kill-coordinator"]
    references = judge.References(data, tmp_path, 200, step_s=0.1)  # a fault takes some seconds, on any machine
    rounds = drill(data, tmp_path / "run", faults, 2, 3, True, references, print)
    assert [each for each in rounds if not each.survived] == []
    assert [each.fault for each in rounds] == faults
    assert {each.steps_lost for each in rounds} == {0}


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Iterator[ElasticRun]:
    run = ElasticRun(2, 400, data, tmp_path)
    yield run
    if hasattr(run, "launcher"):
        run.kill()


@on_linux
@slow
def test_whole_run_is_stopped_and_goes_on_by_the_same_command(run: ElasticRun) -> None:
    run.start()
    run.await_whole()
    os.kill(run.launcher.pid, signal.SIGTERM)
    run.await_end(LEFT_S)
    assert run.launcher.returncode == 143, run.output()
    status = json.loads((run.run_dir / "status.json").read_text())
    assert (status["state"], status["step"]) == ("resumable", checkpoint.last_step(run.run_dir))
    assert "To resume" in run.output()
    run.start()
    run.await_whole()
    assert f"resuming {run.run_dir} at step {status['step']}" in run.output()


@on_linux
@slow
def test_rank_with_another_configuration_is_refused(run: ElasticRun) -> None:
    run.start()
    run.await_whole()
    member = run.live()[0]
    environ = Path(f"/proc/{member.pid}/environ").read_text().split("\0")
    environment = dict(line.split("=", 1) for line in environ if "=" in line) | {"BITSCALE_SLOT": "7"}
    words = Path(f"/proc/{member.pid}/cmdline").read_text().split("\0")[:-1]
    other = subprocess.run(
        [*words, "--seed", "5"], env=environment, capture_output=True, text=True, timeout=PROGRESS_S, check=False
    )
    assert other.returncode == 2, other.stderr
    assert "cannot join the run, which goes on without it: config: the run has" in other.stderr
    assert [note.pid for note in run.live() if note.slot < 2] == [note.pid for note in run.live()]
    number = run.live()[0].step
    wait_until(lambda: run.live()[0].step > number + 3, "the next steps", PROGRESS_S)


@on_linux
@slow
def test_too_few_ranks_save_and_end(data: Path, tmp_path: Path) -> None:
    run = ElasticRun(2, 4000, data, tmp_path, options=("--min-ranks", "2", "--min-ranks-wait-s", "2"))
    run.command[run.command.index("--max-restarts") + 1] = "0"
    run.start()
    try:
        run.await_whole()
        wait_until(lambda: run.live()[0].step > 5, "some steps", PROGRESS_S)
        victim = run.live()[1]
        os.kill(victim.pid, signal.SIGKILL)
        run.await_end(LEFT_S)
    finally:
        run.kill()
    assert run.launcher.returncode not in (0, 2)
    assert "too few ranks are left: 1 of at least 2 ranks for 2 s; saved" in run.output()
    status = json.loads((run.run_dir / "status.json").read_text())
    assert (status["state"], status["step"]) == ("resumable", checkpoint.last_step(run.run_dir))
    assert status["step"] >= victim.step


@on_linux
@slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which needs root")
def test_full_disk_while_ranks_are_lost(data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not small_disk(disk):
        pytest.skip("file systems cannot be mounted here")
    run = ElasticRun(2, 250, data, tmp_path)
    run.command[run.command.index("--out") + 1] = str(disk / "run")
    run.run_dir = disk / "run"
    run.start()
    try:
        run.await_whole()
        wait_until(lambda: checkpoint.numbered(run.run_dir), "a checkpoint", PROGRESS_S)
        filler = disk / "filler"
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True, check=False)
        number = run.live()[0].round
        os.kill(next(note.pid for note in run.live() if note.rank == 0), signal.SIGKILL)
        run.await_whole(number)
        assert "left (its process is gone)" in run.output()
        filler.unlink()
        run.await_end(2 * PROGRESS_S)
        assert run.is_finished, run.output()
        assert "resuming" not in run.output()
    finally:
        run.kill()
        unmount(disk)


@pytest.mark.parametrize(
    ("launcher", "trainer", "said"),
    [
        (["--nproc", "2"], ["--min-ranks", "3"], "--min-ranks 3 is above the 2 ranks that the run starts with"),
        (["--nproc", "2"], ["--zero-stage", "1"], "--elastic has no --zero-stage 1"),
        (["--nproc", "2"], ["--engine", "horovod"], "--elastic is for --engine ddp"),
        (["--nproc", "2"], ["--engine", "deepspeed"], "--elastic is for --engine ddp"),
        (["--nproc", "2"], ["--no-resume"], "--no-resume would start anew whenever a node joins"),
        (["--nodes", "1:2"], [], "--elastic takes a number of --nodes"),
        (["--nodes", "2"], [], "--nodes 2 needs --endpoint HOST:PORT"),
        (["--nodes", "2", "--endpoint", "h:1"], ["--device", "cpu"], "the nodes of an elastic run share a secret"),
    ],
)
@slow
def test_what_does_not_go_together_is_refused(launcher: list[str], trainer: list[str], said: str) -> None:
    command = [str(ROOT / "launchers/torchrun.sh"), "--elastic", *launcher, "--", "embedded", *trainer]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
    }
    environment.pop("BITSCALE_SECRET", None)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert said in ended.stderr + ended.stdout


def test_rank_by_itself_says_how_to_start() -> None:
    words = ["embedded", "--elastic", "--device", "cpu", "--schedule.steps", "4", "--schedule.warmup-steps", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "trainer.pretrain", *words], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 2
    assert "start the run with launchers/torchrun.sh --elastic" in ended.stderr
