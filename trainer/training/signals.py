"""Stopping a run by a signal, as at SIGTERM: all ranks save and end, whichever of them received it.

Who sends it: a shell, or SLURM when a job is cancelled (SIGTERM) or nearly out of time (SIGUSR1, to the script
`launchers/slurm/job.sbatch`, which hands it on through `srun` to `launchers/slurm/node.sh`, and that to the ranks).
torchrun hands SIGTERM on to its ranks (`launchers/agent.py` gives their exit code), as do `launchers/elastic.py` for
`--elastic` and `launchers/job.py` for the programs of a plan. `engines/parent_watch.py` sends a rank SIGTERM when its
launcher is gone, `run_folder/run_lock.py` when another start has taken over its folder.

Who listens: `StopSignals` notes the signal while `fit.py` has it listen.
Who is told: the next step's report sums these notes over the ranks (`step_report.py`); `StepMonitor.stop_asked` is true
one step later.
Who saves: `between_steps.py`, and raises `Stopped`, with exit code 143 after SIGTERM. A signal in the last steps, too
late for the loop, is obeyed by `fit.py` before the final evaluation. Outside the loop there is nothing to save, and
`run_end.py` handles the signal itself. A second signal, `SAME_REQUEST_S` after the first or later, ends the process at
once.
Who records it: `run_end.py` writes "resumable" to status.json, and lists all other ends with their exit codes.
Who resumes: whoever gives the same command again (`run_folder/resume_command.py`), or, with `--requeue`, a SLURM job,
which queues itself again where the run is resumable and further than before, but not when cancelled
(`launchers/script.py`).
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from data_pipelines.common.messages import logger
from trainer.engine import RegroupError
from trainer.engines.parent_watch import launcher_is_gone, nodes_may_change

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_RESTART_CODE = 75  # torchrun starts ranks again whose exit code is not 0
_ON_ITS_WAY_S, _POLL_S = 5.0, 0.05
SAME_REQUEST_S = 2.0  # within which a launcher may hand on what has come from a terminal or scheduler already


class StopSignals:
    """The stop signals that this rank has received. None are noted without `listening`."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def listening(self, leave: Callable[[str], None] | None = None) -> Iterator["StopSignals"]:
        """Record SIGTERM, SIGINT, SIGUSR1 and SIGHUP instead of dying of them.

        A second one ends the process at once, even where the main thread waits for something that never comes; `leave`
        is called first. The same request from two sides does not count as a second, nor does SIGUSR1 after SIGUSR1:
        schedulers send it repeatedly.
        """
        numbers = [
            number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP
        ]
        previous = {number: signal.signal(number, self._receive) for number in numbers}
        # Python's handlers run in the main thread, when it comes to; what is written here comes at once.
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        woken = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        watching = threading.Thread(target=_watch, args=(reader, leave), daemon=True)
        watching.start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in previous.items():
                signal.signal(number, handler)
            writer.close()
            watching.join()
            reader.close()

    @property
    def ends_evaluation(self) -> bool:
        """Whether the signal that this rank has received also ends a run that has only its final evaluation left.
        SIGUSR1, which announces a time limit, leaves it the time that remains."""
        return self.received not in (None, signal.SIGUSR1)

    def received_in_time(self) -> signal.Signals | None:
        """The signal that this rank has received. Where nodes may change, waits a moment for one that is on its way to
        all ranks: without one, this rank's node goes on."""
        deadline = time.monotonic() + _ON_ITS_WAY_S
        while self.received is None and nodes_may_change() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self.received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)


def stop_reason(received: signal.Signals | None) -> str:
    """Why this rank stops, as text. received: the signal that it has had, None if another rank was asked to."""
    if launcher_is_gone():  # in whose place this process sends itself one
        return "stopped because the launcher is gone"
    return "stopped because another rank was" if received is None else f"stopped by {received.name}"


def _watch(reader: socket.socket, leave: Callable[[str], None] | None) -> None:
    first, since = None, 0.0
    for number in iter(lambda: reader.recv(1), b""):
        received, now = number[0], time.monotonic()
        if received not in _SIGNALS:
            continue
        if first is None:
            first, since = received, now
        elif now - since > SAME_REQUEST_S and not received == first == signal.SIGUSR1:
            why = f"{signal.Signals(received).name} after {signal.Signals(first).name}"
            reason = f"ended at once by {why}"
            if launcher_is_gone():  # in whose place this process sends itself both
                why, reason = "the launcher is gone, and saving takes too long", "ended with its launcher, unsaved"
            logger.info(f"{why}: ending at once")
            with suppress(Exception):  # whatever happens, it must end
                if leave is not None:
                    leave(reason)
            os._exit(128 + received)


NEVER = StopSignals()


class Stopped(SystemExit):
    """The run was stopped and saved after `step` updates; starting it again resumes there.

    The exit code is 128 + the signal's number on the rank that received SIGTERM or SIGINT. It is 0 after SIGUSR1 and
    SIGHUP, and on ranks that were not asked: torchrun, which was not asked to stop either, would start them again after
    any other code. Where nodes may change it is 75 there, for that very reason: nodes that were not asked go on.
    """

    def __init__(self, step: int, received: signal.Signals | None) -> None:
        code = _RESTART_CODE if received is None and nodes_may_change() else 0
        super().__init__(128 + received if received in (signal.SIGTERM, signal.SIGINT) else code)
        self.step, self.received = step, received


class Left(SystemExit):
    """This rank was asked to stop, and leaves an elastic run that goes on without it. The exit code is 128 + the
    signal's number."""

    def __init__(self, step: int, received: signal.Signals) -> None:
        super().__init__(128 + received)
        self.step, self.received = step, received


def left_or_regroup_error(step: int, stop: StopSignals) -> Left | RegroupError:
    """What a rank of an elastic run raises after `step` updates, when some ranks but not all are asked to stop."""
    return RegroupError("a rank was asked to stop") if stop.received is None else Left(step, stop.received)
