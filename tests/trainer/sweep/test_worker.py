"""The process that makes runs for a sweep; what it would train is played."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from data_pipelines.common.errors import InputError
from trainer.finetuning.finetune import Transfer
from trainer.run_files import LOCK
from trainer.run_folder.lock_file import create, this_start
from trainer.sweep import worker as sweep_worker


class Worker:
    """A worker in a forked process, seen from outside."""

    def __init__(self, process: int, tasks: IO[str], events: IO[str]) -> None:
        self.process, self.tasks, self.events = process, tasks, events

    def give(self, target: str, log: Path, waits: bool = True) -> None:
        arguments = ["--pretrained", "scratch", "--target", target]
        task = {"arguments": arguments, "log": str(log), "folder": str(log.parent), "waits": waits, "timeout_s": 600}
        self.tasks.write(json.dumps(task) + "\n")
        self.tasks.flush()

    def says(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.events.readline())
        return event

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Transfer], None]], Worker]]:
    """A function that starts a worker whose runs are played by a function."""
    workers: list[Worker] = []

    def begin(play: Callable[[Transfer], None]) -> Worker:
        monkeypatch.setattr(sweep_worker, "fine_tune", play)
        (task_end, tasks), (events, event_end) = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            code = 70
            try:
                for own in (tasks, events):
                    os.close(own)
                for stream, end in (
                    (0, task_end),
                    (1, event_end),
                    (2, os.open(tmp_path / "first", os.O_CREAT | os.O_RDWR)),
                ):
                    os.dup2(end, stream)
                sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", 1)  # noqa: SIM115
                sweep_worker.main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                os._exit(code)
        os.close(task_end)
        os.close(event_end)
        workers.append(Worker(child, os.fdopen(tasks, "w"), os.fdopen(events)))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.tasks.close()
        worker.events.close()


def played(transfer: Transfer) -> None:
    print(f"to {transfer.target}", flush=True)
    os.system(f"echo also {transfer.target}")  # as a library in C would
    if transfer.target == "unknown":
        raise InputError("no such set")
    if transfer.target == "large":
        raise RuntimeError("CUDA out of memory")


def test_runs_one_after_the_other(start: Callable[..., Worker], tmp_path: Path) -> None:
    worker = start(played)
    assert worker.says() == {"event": "ready"}
    for target, reason in (("pets", None), ("unknown", "no such set"), ("tulips", None)):
        worker.give(target, tmp_path / target)
        assert worker.says() == {"event": "ended", "reason": reason, "is_last": False}
    assert (tmp_path / "pets").read_text() == "to pets\nalso pets\n"
    assert "error: no such set" in (tmp_path / "unknown").read_text()
    assert (tmp_path / "tulips").read_text() == "to tulips\nalso tulips\n"
    worker.tasks.close()
    assert worker.exit_code() == 0


def test_a_run_that_another_start_is_at_work_on_is_not_begun(start: Callable[..., Worker], tmp_path: Path) -> None:
    worker = start(played)
    worker.says()
    worker.give("pets", tmp_path / "log", waits=False)
    assert worker.says() == {"event": "ended", "reason": None, "is_last": False}
    assert create(tmp_path / LOCK, this_start(tmp_path))  # of this process, which is not the worker
    worker.give("tulips", tmp_path / "log", waits=False)
    answer = worker.says()
    assert (answer["event"], f"{tmp_path} is in use by process {os.getpid()}" in answer["reason"]) == ("held", True)
    worker.give("tulips", tmp_path / "log", waits=True)
    assert worker.says()["event"] == "ended"


def test_it_does_not_go_on_after_a_fault(start: Callable[..., Worker], tmp_path: Path) -> None:
    worker = start(played)
    worker.says()
    worker.give("large", tmp_path / "log")
    assert worker.says() == {"event": "ended", "reason": "RuntimeError: CUDA out of memory", "is_last": True}
    assert worker.exit_code() == 1
    assert "Traceback" in (tmp_path / "log").read_text()


def test_it_stops_a_run_when_the_sweep_is_gone(start: Callable[..., Worker], tmp_path: Path) -> None:
    def endless(transfer: Transfer) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as a run does, which saves itself first
        (tmp_path / "under way").touch()
        time.sleep(60)

    worker = start(endless)
    worker.says()
    worker.give("pets", tmp_path / "log")
    while not (tmp_path / "under way").exists():
        time.sleep(0.01)
    worker.tasks.close()
    assert worker.exit_code() == 143
    assert worker.events.read() == ""
