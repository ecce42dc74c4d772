"""Saves checkpoints in the background: a copy in host memory, written by a thread of rank 0, which retries if the disk
fails."""

import math
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipelines.common.advice import flag, has_flag
from data_pipelines.common.errors import RunError
from data_pipelines.common.messages import logger
from trainer import checkpoint
from trainer.engine import Engine
from trainer.run_folder import require_lock, taken_over, write_status
from trainer.training.job import Job

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # before a failed write is tried again; the last one repeats
LAST_PAUSES_S = (1.0, 3.0, 6.0)  # at the end of the run, when nothing more will be due


class UnsavedError(RunError):
    """A run that ends could not write its checkpoint or its result; the same command goes on from what there is."""


class _Target(NamedTuple):
    path: Path
    metadata: dict[str, Any]
    copied: dict[str, Any]  # in the host's memory
    on_device: torch.cuda.Event | None  # after which the copy is whole


class _Failed(NamedTuple):
    target: _Target
    error: OSError


class Saver:
    """Writes the checkpoints of a run. All methods but `pop_timings` and `is_overdue` are collective.

    A failed write is retried until the next save is due. The best weights, which no later save holds, are kept in
    memory beside the next copy until they are written or surpassed. After `--max-failed-saves` failures in a row `save`
    raises RunError, on every rank.
    """

    def __init__(self, job: Job, engine: Engine, best: float | None) -> None:
        self._job, self._engine = job, engine
        self.best = best
        """The primary metric of the best weights so far, None without any."""
        self._saved_at = perf_counter()
        self._step = -1  # of the copy in the host's memory
        self._copied: dict[str, Any] = {}
        self._on_device: torch.cuda.Event | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writes: list[Future[_Failed | None]] = []
        self._is_last_try = threading.Event()  # try once, and no more
        self._is_ending = False  # failures are told at the end, and not each time
        self._failed_in_a_row = 0
        self._timings: dict[str, float] = {}

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for a write in progress, whether or not it succeeds."""
        self._is_last_try.set()
        self._thread.shutdown()

    def is_overdue(self) -> bool:
        """On rank 0, whether the run has gone on for too long since the last checkpoint. Not collective."""
        most_s = self._job.max_unsaved_s
        return most_s is not None and self._engine.rank == 0 and perf_counter() - self._saved_at > most_s

    def save(self, step: int, best: float | None = None) -> None:
        """Begin to write a checkpoint after `step` updates: the one of this step, or the best one with its metric.

        Waits only for the write before. Raises RunError, with the checkpoints unchanged, if a weight is not finite or
        if another start has taken over the folder.
        """
        started = perf_counter()
        self._engine.heartbeat.enter("saving")
        require_lock(self._job.run_dir, self._engine)
        unsaved_best = None
        if step != self._step:  # the best one and the numbered one of a step share a copy
            failed = self._join_writes()
            self._agree(failed)
            unsaved_best = self._keep_best(failed)
            self._count("save/wait_s", started)
            state = self._engine.state_dict()
            require_finite(state["model"].values(), step)
            copying = perf_counter()
            if self._engine.rank == 0:
                self._copy(state)
            self._step = step
            self._count("save/copy_s", copying)
        self.best = self.best if best is None else best
        if best is None:
            self._saved_at = perf_counter()
        if self._engine.rank == 0:
            self._begin(self._target(step, best))
            if unsaved_best is not None and best is None:
                self._begin(unsaved_best)
        self._count("save/stall_s", started)

    def save_if_best(self, step: int, metric: float) -> None:
        """Begin to write the best checkpoint if `metric` exceeds all earlier ones; NaN never does. Raises as `save`."""
        if metric > (-math.inf if self.best is None else self.best):
            self.save(step, metric)

    def finish(self) -> None:
        """Wait until all is written. Raises UnsavedError on every rank if that fails."""
        started = perf_counter()
        self._engine.heartbeat.enter("saving")
        failed = self._join_writes()
        self._is_ending = True
        require_lock(self._job.run_dir, self._engine)
        for pause_s in LAST_PAUSES_S:
            if not failed:
                break
            threading.Event().wait(pause_s)
            for each in failed:
                self._begin(each.target)
            failed = self._join_writes()
        self._count("save/stall_s", started)
        if self._engine.sum(torch.tensor(float(bool(failed)))):
            raise UnsavedError(f"{_why(failed)}. Fix that, and the same command goes on from what is saved")

    def pop_timings(self) -> dict[str, float]:
        """Seconds since the last call: training stalled by saving ("save/stall_s", of which "save/wait_s" for the write
        before and "save/copy_s" for the copy), and writing in the background ("save/write_s")."""
        figures, self._timings = self._timings, {}
        return figures

    def _count(self, name: str, started: float) -> None:
        if self._engine.rank == 0:
            self._timings[name] = self._timings.get(name, 0.0) + perf_counter() - started

    def _join_writes(self) -> list[_Failed]:
        """Wait for the writes in progress, and return those that failed."""
        self._is_last_try.set()
        ended = [write.result() for write in self._writes]
        self._is_last_try.clear()
        self._writes.clear()
        return [failed for failed in ended if failed is not None]

    def _agree(self, failed: list[_Failed]) -> None:
        """Count failures, the same on every rank."""
        any_failed = self._engine.sum(torch.tensor(float(bool(failed))))
        self._failed_in_a_row = self._failed_in_a_row + 1 if any_failed else 0
        most = self._job.config.runtime.max_failed_saves
        if self._failed_in_a_row >= most:
            raise RunError(
                f"{most} saves in a row failed ({flag('--max-failed-saves')}): {_why(failed)}. Fix that and start the "
                f"same command again: {self._left()}"
            )

    def _left(self) -> str:
        """The checkpoints from which the run can resume, as text."""
        with suppress(OSError):
            found = checkpoint.numbered(self._job.run_dir)
            return f"{found[-1].name} is still there" if found else "there is no checkpoint yet"
        return "which checkpoints are left cannot be seen"

    def _keep_best(self, failed: list[_Failed]) -> _Target | None:
        """The best weights, if writing them failed, in memory that the next copy does not overwrite."""
        unsaved = next((each.target for each in failed if each.target.path.name == checkpoint.BEST), None)
        if unsaved is not None and unsaved.copied is self._copied:
            self._copied = {}
        return unsaved

    def _target(self, step: int, best: float | None) -> _Target:
        run_dir, metadata = self._job.run_dir, self._job.metadata | {"step": step}
        if best is None:
            path = checkpoint.path_of(run_dir, step)
        else:
            path, metadata = checkpoint.best_path(run_dir), metadata | {"best": best}
        return _Target(path, metadata, self._copied, self._on_device)

    def _copy(self, state: dict[str, Any]) -> None:
        self._on_device = None
        for part in ("model", "momentum"):
            buffers = self._copied.setdefault(part, {})
            for name in buffers.keys() - state[part].keys():
                del buffers[name]
            for name, tensor in state[part].items():
                if name not in buffers:
                    # Pinned, so that the copy runs beside what the GPU does next.
                    buffers[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
                buffers[name].copy_(tensor.detach(), non_blocking=True)
                if tensor.is_cuda and self._on_device is None:
                    self._on_device = torch.cuda.Event()
        self._copied["loss_scaler"] = dict(state["loss_scaler"])
        if self._on_device is not None:
            self._on_device.record()

    def _begin(self, target: _Target) -> None:
        self._writes.append(self._thread.submit(self._write, target))

    def _write(self, target: _Target) -> _Failed | None:
        """Write, retrying after pauses; once somebody waits for it, a last time. Returns the failure, or None."""
        for tried, pause_s in enumerate(chain(PAUSES_S, repeat(PAUSES_S[-1]))):
            started, is_last = perf_counter(), self._is_last_try.is_set()
            if lost := taken_over(self._job.run_dir):
                return _Failed(target, OSError(lost))
            try:
                if target.on_device is not None:
                    target.on_device.synchronize()
                checkpoint.save(target.path, target.copied, target.metadata)
            except OSError as error:
                failed = _Failed(target, error)
                if tried == 0 and not self._is_ending:
                    logger.warning(f"{_describe(failed)}; it will be tried again")
            else:
                self._timings["save/write_s"] = self._timings.get("save/write_s", 0.0) + perf_counter() - started
                if tried:
                    logger.warning(f"{target.path} is saved after all")
                self._tidy(target.path)
                return None
            if is_last:
                return failed
            self._is_last_try.wait(pause_s)
        raise AssertionError("there is no last pause")

    def _tidy(self, path: Path) -> None:
        if path.name == checkpoint.BEST or taken_over(self._job.run_dir):
            return
        run_dir = self._job.run_dir
        write_status(run_dir, 0, "running", checkpoint.step_of(path), self._job.total_steps)
        try:
            checkpoint.point_to(path)
            checkpoint.prune(run_dir, self._job.config.runtime.keep_checkpoints)
        except OSError as error:
            logger.warning(f"{path} is saved, but {error}")


def _why(failed: list[_Failed]) -> str:
    return _describe(failed[0]) if failed else "a checkpoint cannot be saved, see the message of rank 0"


def _describe(failed: _Failed) -> str:
    path, error = failed.target.path, failed.error
    room = ""
    with suppress(OSError, StopIteration):
        folder = next(part for part in path.absolute().parents if part.is_dir())
        free, needed = shutil.disk_usage(folder).free / 1e6, _num_bytes(failed.target.copied) / 1e6
        room = f"; {free:,.0f} MB are free, and it takes {needed:,.0f}"
    return f"{path} cannot be saved ({error.strerror or error}{room})"


def _num_bytes(copied: dict[str, Any]) -> int:
    return sum(tensor.nbytes for part in ("model", "momentum") for tensor in copied[part].values())


def require_finite(weights: Iterable[Tensor], step: int) -> None:
    """Raise RunError if one of the weights after `step` updates is not finite."""
    norms = torch.stack(torch._foreach_norm([weight.detach() for weight in weights]))
    if not norms.isfinite().all():
        longer = " or lengthen the warm-up" if has_flag("--schedule.warmup-steps") else ""
        raise RunError(
            f"the weights after step {step} are not finite although the loss was; they are not saved, and what was "
            f"saved before stays as it is. Lower the learning rate{longer}"
        )
