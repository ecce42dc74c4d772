"""Worker processes of a sweep: one per device, each with one run at a time."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.common.errors import RunError
from data_pipelines.common.files import read_json
from data_pipelines.common.messages import logger
from trainer.finetuning.command_line import flags_of
from trainer.run_files import STATUS, SWEEP_LOG
from trainer.run_folder import JOB_VARIABLE, job_name
from trainer.sweep.plan import PlannedRun
from trainer.sweep.progress import SweepProgress

# By its path: `-m` would look for `trainer` in the working folder first.
WORKER = [sys.executable, str(Path(__file__).with_name("worker.py"))]
_POLL_S = 1.0
_SAVE_S = 60.0  # that stopped workers have to save their runs
_ROOT = Path(__file__).resolve().parents[2]


class Device(NamedTuple):
    """A device that executes one run at a time. gpu: as in CUDA_VISIBLE_DEVICES; None for a CPU."""

    gpu: str | None
    threads: int


class Failure(NamedTuple):
    """A failed run, with the reason and the log that says more."""

    name: str
    reason: str
    log: Path


class WorkerPool:
    """Executes each run once, one per device at a time. A run that fails, or kills its process, stops no other."""

    def __init__(self, runs: Sequence[PlannedRun], devices: Sequence[Device], lock: int) -> None:
        self._waiting = list(reversed(runs))
        self._held: list[PlannedRun] = []  # by other starts; the last of the waiting come before them
        self._free = list(reversed(devices))
        self._lock = lock
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._progress = SweepProgress(runs)
        self.failures: list[Failure] = []

    def run_all(self) -> None:
        """Execute all runs. An interrupt lets those in progress save their state first.

        Raises RunError when worker processes do not even start.
        """
        try:
            while self._waiting or self._held or self._busy():
                self._assign()
                for key, _ in self._selector.select(_POLL_S):
                    for event in key.data.read_events():
                        self._handle(key.data, event)
                self._progress.show(self._busy())
        finally:
            self._progress.close()
            self._shut_down_all()

    def _busy(self) -> list[PlannedRun]:
        return [worker.run for worker in self._workers if worker.run]

    def _assign(self) -> None:
        for worker in self._workers:
            if worker.run is None and not worker.is_leaving and (self._waiting or self._held):
                worker.start(*self._next())
        while self._free and (self._waiting or self._held):
            run, is_last_try = self._next()
            worker = _Worker(self._free.pop(), _log_of(run), self._lock)
            self._workers.append(worker)
            self._selector.register(worker.output, selectors.EVENT_READ, worker)
            worker.start(run, is_last_try)

    def _next(self) -> tuple[PlannedRun, bool]:
        """The next run, and whether to wait for its folder: only once there is nothing else to do."""
        return (self._waiting.pop(), False) if self._waiting else (self._held.pop(0), True)

    def _handle(self, worker: "_Worker", event: dict[str, Any] | None) -> None:
        if event is None:
            self._remove(worker)
        elif event["event"] == "ready":
            worker.is_ready = True
        elif event["event"] == "held":
            run, worker.run = worker.run, None
            assert run is not None
            self._held.append(run)
            self._progress.held(run, event["reason"])
        else:
            run, worker.run, worker.is_leaving = worker.run, None, event["is_last"]
            assert run is not None
            self._ended(run, event["reason"])

    def _remove(self, worker: "_Worker") -> None:
        """Drop a worker that has ended: its device is free, and its current run has failed."""
        self._selector.unregister(worker.output)
        worker.output.close()
        self._workers.remove(worker)
        self._free.append(worker.device)
        if worker.run is None:
            return
        how = worker.how_it_ended()
        if not worker.is_ready:
            raise RunError(f"worker processes cannot start: the first {how}; see {_log_of(worker.run)}")
        status = read_json(worker.run.run_dir / STATUS) or {}
        left = f" ({status['reason']})" if status.get("state") == "resumable" else ""
        self._ended(worker.run, f"its process {how}{left}")

    def _ended(self, run: PlannedRun, reason: str | None) -> None:
        if reason is not None:
            self.failures.append(Failure(run.name, reason, _log_of(run)))
        self._progress.ended(run, reason)

    def _shut_down_all(self) -> None:
        """End all workers once they have saved their runs; a second Ctrl-C does not wait."""
        busy = [run.name for run in self._busy()]
        if busy:
            logger.info(f"stopping, after saving {', '.join(busy)} ...")
        for worker in self._workers:
            worker.shut_down()
        patience = time.monotonic() + _SAVE_S
        try:
            for worker in self._workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, patience - time.monotonic()))
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.wait()
                worker.output.close()
            self._selector.close()


class _Worker:
    """A process on a device, and its current run."""

    run: PlannedRun | None = None

    def __init__(self, device: Device, log: Path, lock: int) -> None:
        self.device = device
        self.is_ready = self.is_leaving = False
        self._unread = b""
        with log.open("ab") as errors, _interrupts_held():
            self.process = subprocess.Popen(
                WORKER,
                env=_environment(device),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=[lock],  # held by this process too: no other sweep starts before it has ended
            )
        assert self.process.stdin
        assert self.process.stdout
        self._input, self.output = self.process.stdin, self.process.stdout

    def start(self, run: PlannedRun, waits: bool) -> None:
        """Start a run; with `waits` also where another start may be using its folder."""
        self.run = run
        options = run.transfer.options
        options = options.with_given(**{"runtime.threads": self.device.threads})
        task = {
            "arguments": flags_of(replace(run.transfer, options=options)),
            "log": str(_log_of(run)),
            "folder": str(run.run_dir),
            "waits": waits,
            "timeout_s": options.runtime.timeout_s,
        }
        with suppress(BrokenPipeError):  # it has died, as its output will tell
            self._input.write(json.dumps(task).encode() + b"\n")
            self._input.flush()

    def read_events(self) -> Iterator[dict[str, Any] | None]:
        """The events that the process has sent since the last call; None once it has ended."""
        chunk = os.read(self.output.fileno(), 1 << 16)
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        yield from (json.loads(line) for line in lines)
        if not chunk:
            self.process.wait()
            yield None

    def how_it_ended(self) -> str:
        """Exit code or signal of the process, as text."""
        code = self.process.returncode
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"  # of real time
        return f"was killed by {name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")

    def shut_down(self) -> None:
        """Ask the process to end; it saves its run first."""
        with suppress(BrokenPipeError):
            self._input.close()


def _log_of(run: PlannedRun) -> Path:
    """Log file for the output of a run's process."""
    run.run_dir.mkdir(parents=True, exist_ok=True)
    return run.run_dir / SWEEP_LOG


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C in a terminal goes to every process; processes started in here ignore it and leave it to the sweep."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environment(device: Device) -> dict[str, str]:
    """Environment of a single-rank process, whatever job the sweep is part of; this package is importable from any
    folder."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PMI", "OMPI_"))}
    ours |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    ours |= {JOB_VARIABLE: job} if (job := job_name()) else {}
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), ours.get("PYTHONPATH")]))
    return ours if device.gpu is None else ours | {"CUDA_VISIBLE_DEVICES": device.gpu}
