"""How a run ends: what `status.json` then says, and the exit code.

| end | state | exit code |
|---|---|---|
| all steps done, result written | finished | 0 |
| SIGTERM or SIGINT in the loop (`signals.py`): saved, `Stopped` | resumable | 143, 130; other ranks: see there |
| SIGUSR1 or SIGHUP in the loop: saved, `Stopped` | resumable | 0 |
| SIGTERM, SIGINT, SIGHUP too late for the loop: before the final evaluation; not SIGUSR1 | resumable | as above |
| SIGTERM on some ranks of an elastic run: these leave, `Left` | unchanged | 143 |
| a second signal (`signals.py`) | resumable | 128 + its number |
| SIGTERM, SIGHUP or Ctrl-C outside the loop: nothing to save | resumable | 143; 129; 1 |
| a rank was lost, or the last checkpoint or the result could not be written | resumable | 1 |
| a rank hung (`engines/watchdog.py`) | resumable | 75 |
| another start took over the folder (`run_folder/run_lock.py`) | the other's | 1 |
| RunError: training cannot go on, as when saving failed too often | failed | 1 |
| InputError: the user can mend it | failed | 2 |
| any other exception: a bug, with its traceback | failed | 1 |

Rank 0 writes the state. If only another rank fails, that is "resumable", and names the lost rank; why it failed is in
the log of that rank.

A start that is refused before its folder is opened (preflight, a wrong setting) leaves the status as it was. A process
that was killed, or ran out of memory, leaves "running", as does a rank whose main thread hangs so that the watchdog's
alarm ends it: `run_folder/run_status.py` sees from the heartbeat that the process is gone, on the same host, or silent.
When the launcher is gone, `engines/parent_watch.py` sends the rank a SIGTERM.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.messages import logger, rank_0_logger
from trainer import checkpoint
from trainer.engine import Engine, RankLostError
from trainer.run_folder import keep_in_log, release, resume_command, taken_over, write_status
from trainer.training.job import Job
from trainer.training.saver import UnsavedError
from trainer.training.signals import Left, Stopped, stop_reason


def mark_resumable(job: Job, rank: int, reason: str) -> None:
    """Write to status.json why a run ends that can go on; does nothing unless `rank` is 0."""
    _mark(job, rank, "resumable", reason)


def mark_finished(job: Job, rank: int) -> None:
    """Write to status.json that a run has its result; does nothing unless `rank` is 0."""
    write_status(job.run_dir, rank, "finished", job.total_steps, job.total_steps)


def _mark(job: Job, rank: int, state: str, reason: str) -> None:
    write_status(job.run_dir, rank, state, checkpoint.last_step(job.run_dir), job.total_steps, reason)


@contextmanager
def recorded_end(job: Job, engine: Engine) -> Iterator[None]:
    """Write to status.json why the run ended if it ends by an exception, and let go of its folder."""
    with _signals_outside_the_loop():
        try:
            yield
        except Left as left:  # the others go on, and rank 0 among them writes
            release(job.run_dir)
            logger.info(f"rank {engine.rank} leaves after {left.step} steps, as it was asked to; the others go on")
            raise
        except BaseException as error:
            state, reason = _state_and_reason(error)
            _mark(job, engine.rank, state, reason)
            release(job.run_dir)  # now: a launcher may end this rank at any time
            if isinstance(error, Stopped):
                _tell_stopped(job, engine, error, reason)
                engine.close()
            elif isinstance(error, RankLostError):
                keep_in_log(f"{error}: {error.__cause__}")
                raise RankLostError(f"{error}. {_resume_advice(job)}") from error
            elif isinstance(error, KeyboardInterrupt):
                raise RunError(f"interrupted. {_resume_advice(job)}") from None
            elif isinstance(error, SystemExit):
                if lost := taken_over(job.run_dir):
                    raise RunError(lost) from None
                rank_0_logger.info(f"terminated. {_resume_advice(job)}")
            raise


def _state_and_reason(error: BaseException) -> tuple[str, str]:
    """The state of a run that an exception ended, and why in words."""
    if isinstance(error, Stopped):
        return "resumable", stop_reason(error.received)
    if isinstance(error, RankLostError | UnsavedError):
        return "resumable", str(error)
    if isinstance(error, InputError | RunError):
        return "failed", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "resumable", "interrupted"
    if isinstance(error, SystemExit):
        return "resumable", "terminated"
    return "failed", f"{type(error).__name__}: {error}"


def _resume_advice(job: Job) -> str:
    return f"To resume from step {checkpoint.last_step(job.run_dir)}:\n  {resume_command(job.run_dir)}"


def _tell_stopped(job: Job, engine: Engine, stopped: Stopped, reason: str) -> None:
    if engine.rank == 0:
        print(
            f"{reason}; saved. To resume {job.run_dir} from step {stopped.step}:\n  {resume_command(job.run_dir)}",
            flush=True,
        )


@contextmanager
def _signals_outside_the_loop() -> Iterator[None]:
    """Outside the loop, in which `StopSignals.listening` replaces these handlers, there is nothing to save: SIGTERM and
    SIGHUP end the run, unless nohup has the latter ignored, and SIGUSR1, which announces a time limit, leaves the
    evaluation the time that is left."""

    def terminated(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    handlers: dict[int, Any] = {signal.SIGTERM: terminated, signal.SIGUSR1: signal.SIG_IGN}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = terminated
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
