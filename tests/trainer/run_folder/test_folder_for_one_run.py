"""A run's folder belongs to one start: what is taken over, finished meanwhile, only looked at, or made anew."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_two_starts import PATIENCE_S, configured, contents

from data_pipelines.common.errors import InputError, RunError
from trainer.engines import ENGINES
from trainer.engines.ddp import DDPEngine
from trainer.run_files import LOCK
from trainer.run_folder import lock_file, new_folder, run_lock
from trainer.run_folder.lock_file import this_start
from trainer.run_folder.processes import Process
from trainer.run_folder.run_lock import Verdict, _Attempt
from trainer.training.job import RunOutput
from trainer.training.run import LaunchOptions, run
from trainer.training.signals import Stopped


def without_work(data: str, run_dir: Path, work: Callable[[], None] = lambda: None, **start: Any) -> dict[str, Any]:
    """The same run with something else in the place of its training."""
    config = configured(data)
    engine = ENGINES["ddp"](config.runtime, "fp32")

    def done(*_: Any) -> RunOutput:
        work()
        return RunOutput(0.0, {}, {})

    try:
        return run(config, LaunchOptions(run_dir, **start), engine, {"kind": "test"}, done)
    finally:
        engine.close()


def test_a_run_that_is_taken_over_leaves_no_result(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, before = tmp_path / "run", {}

    def judge() -> None:
        newer = replace(this_start(run_dir), host="node7", process=Process(12, 5), machine="another")
        before.update(contents(run_dir))
        (run_dir / LOCK).write_bytes(lock_file.to_bytes(newer))
        time.sleep(PATIENCE_S)

    monkeypatch.setattr(run_lock, "BEAT_S", 0.1)
    with pytest.raises(RunError, match="taken over by process 12 on node7"):
        without_work(str(phantoms), run_dir, judge)
    assert contents(run_dir) == before
    assert (run_dir / LOCK).exists()


def test_the_folder_is_free_before_a_stopped_run_leaves_its_job(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that a launcher may end it before it comes to anything else."""
    held: list[bool] = []

    def stop() -> None:
        held.append((tmp_path / "run" / LOCK).exists())
        raise Stopped(3, signal.SIGUSR1)

    monkeypatch.setattr(DDPEngine, "close", lambda _: held.append((tmp_path / "run" / LOCK).exists()))
    with pytest.raises(Stopped):
        without_work(str(phantoms), tmp_path / "run", stop)
    assert held[:2] == [True, False]


def test_what_another_start_finished_meanwhile_is_not_done_again(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "POLL_S", 0.01)
    without_work(str(phantoms), tmp_path / "run")
    before = contents(tmp_path / "run")
    result = (tmp_path / "run" / "result.json").rename(tmp_path / "result.json")
    lock = tmp_path / "run" / LOCK
    lock.write_bytes(lock_file.to_bytes(replace(this_start(tmp_path), process=Process(12, 5), machine="another")))
    take = _Attempt.take

    def finish(attempt: _Attempt) -> Verdict:
        verdict = take(attempt)
        if verdict == "wait":
            result.rename(tmp_path / "run" / "result.json")
            lock.unlink()
        return verdict

    monkeypatch.setattr(_Attempt, "take", finish)
    found = without_work(str(phantoms), tmp_path / "run", lambda: pytest.fail("done again"))
    assert found == json.loads(before["result.json"][1])
    after = contents(tmp_path / "run")
    assert {name for name in after if before.get(name) != after[name]} == set()


def test_who_only_looks_takes_no_lock(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = without_work(str(phantoms), tmp_path / "run")
    monkeypatch.setattr(run_lock, "create", lambda *_: pytest.fail("a lock"))
    monkeypatch.setattr("trainer.training.run.preflight", lambda *_: None)
    with subprocess.Popen(["sleep", "300"]) as other:
        holder = replace(this_start(tmp_path / "run"), process=lock_file.parsed([other.pid, None]))
        (tmp_path / "run" / LOCK).write_bytes(lock_file.to_bytes(holder))
        assert without_work(str(phantoms), tmp_path / "run") == result
        (tmp_path / "run" / "result.json").unlink()
        assert without_work(str(phantoms), tmp_path / "run", preflight_only=True) == {}
        other.kill()


def test_a_new_folder_is_made_only_for_a_run_that_begins(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setattr("trainer.training.run.preflight", lambda *_: None)
    with pytest.raises(InputError):
        without_work(str(tmp_path / "no set"), run_dir, resume=False)
    assert without_work(str(phantoms), run_dir, resume=False, preflight_only=True) == {}
    assert not run_dir.exists()
    assert without_work(str(phantoms), run_dir, resume=False)["run"] == str(run_dir)
    assert without_work(str(phantoms), run_dir, resume=False)["run"] == f"{run_dir}-2"


class OneRank:
    rank = 0

    def gather(self, value: Any) -> list[Any]:
        return [value]


def test_new_folders_of_many_starts_are_as_many(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    chosen = new_folder.next_free(tmp_path / "run", OneRank())
    assert chosen == tmp_path / "run-2"
    assert not chosen.exists()
    readers = []
    for _ in range(8):
        reader, writer = os.pipe()
        readers.append(reader)
        if not os.fork():
            try:
                os.write(writer, new_folder.claim(tmp_path / "run", chosen, OneRank()).name.encode())
            finally:
                os._exit(0)
        os.close(writer)
    for _ in readers:
        os.wait()
    assert sorted(os.read(reader, 99).decode() for reader in readers) == [f"run-{number}" for number in range(2, 10)]
    for reader in readers:
        os.close(reader)


@pytest.mark.parametrize(
    ("run", "slurm", "expected"),
    [("5e1f", None, "run-2"), ("77aa", None, "run-7"), ("none", None, "run-6"), ("5e1f", "7", "run-4")],
)
def test_a_restart_goes_on_in_the_new_folder_of_its_job(
    run: str, slurm: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BITSCALE_JOB", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    if slurm is not None:
        monkeypatch.setenv("SLURM_JOB_ID", slurm)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", run)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    launches = [(None, "none"), ("torchrun 5e1f", "5e1f"), ("torchrun 1234", "1234")]
    launches += [("SLURM job 7", "5e1f"), ("SLURM job 7", "1234"), (None, None)]
    for number, (job, launch) in enumerate(launches, 1):
        folder = tmp_path / ("run" if number == 1 else f"run-{number}")
        folder.mkdir()
        (folder / "environment.json").write_text(json.dumps({"job": job, "torchrun": launch}))
    chosen = new_folder.next_free(tmp_path / "run", OneRank())
    assert chosen.name == expected
    assert new_folder.claim(tmp_path / "run", chosen, OneRank()) == chosen
