"""Carry a sweep out: what is planned, on which devices, by one process at a time for each folder."""

import fcntl
import json
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch

from data_pipelines.common.advice import quoted
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.files import read_json
from data_pipelines.common.message_parts import number
from data_pipelines.common.messages import logger
from data_pipelines.common.program import retyped
from trainer.engines.device import cpu_threads, pick_device
from trainer.sweep.options import Sweep
from trainer.sweep.plan import Plan, make_plan
from trainer.sweep.variations import read_variations
from trainer.sweep.worker_pool import Device, WorkerPool

LOCK = ".sweep.lock"
HANDOVER_S = 60  # in which the workers of a sweep that was killed save their runs and end


def run_sweep(sweep: Sweep) -> None:
    """Run what is left of a sweep. Raises InputError while another one holds its folder, RunError naming the runs that
    failed."""
    with _locked(sweep.options.out) as lock, _stoppable():
        _make(sweep, lock)


def plan_of(sweep: Sweep) -> Plan:
    """The plan, with messages about what it leaves out. Raises InputError if nothing is left in it."""
    varied = read_variations(sweep.vary, sweep.settings, sweep.options.given)
    plan = make_plan(
        sweep.sources, sweep.targets, sweep.shots, sweep.seeds, sweep.options, sweep.skip_impossible, varied
    )
    for line in plan.left_out:
        logger.info(f"left out (--overlap-excluded runs it): {line}")
    for line in plan.impossible:
        logger.info(f"skipped as impossible: {line}")
    for line in plan.notes:
        logger.info(f"note: {line}")
    if not plan.runs and plan.impossible:
        raise InputError("every cell is impossible or left out; nothing is left to run")
    if not plan.runs:
        raise InputError("every source shares images with every target; nothing is left to run")
    return plan


def devices(sweep: Sweep) -> list[Device]:
    """The devices that run one fine-tuning each at a time. Raises InputError for a device that does not exist."""
    runtime = sweep.options.runtime
    gpus: list[str | None] = [None]
    if pick_device(runtime.device, 0).type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = [*(visible.split(",") if visible else map(str, range(torch.cuda.device_count())))]
    jobs = sweep.jobs or len(gpus)
    threads = runtime.threads or max(1, cpu_threads(None) // jobs)
    return [Device(gpus[number % len(gpus)], threads) for number in range(jobs)]


def _make(sweep: Sweep, lock: int) -> None:
    """Run what is left. Raises RunError naming the runs that failed."""
    plan = plan_of(sweep)
    pending, num_finished = plan.pending, len(plan.runs) - len(plan.pending)
    if num_finished:
        logger.info(f"{num_finished} of {len(plan.runs)} runs are finished already")
    workers = devices(sweep)
    gpus = [each.gpu for each in workers if each.gpu is not None]
    logger.info(
        f"sweep: {number(len(pending), 'run')}, {sum(run.steps for run in pending):,} steps, {len(workers)} at a time "
        f"on {'GPU ' + ', '.join(dict.fromkeys(gpus)) if gpus else 'the CPU'}, in {sweep.options.out}"
    )
    pool = WorkerPool(pending, workers, lock)
    try:
        pool.run_all()
    except KeyboardInterrupt as stop:
        ended = sum(run.has_result() for run in plan.runs)
        stop.args = (f"stopped; the same command resumes: {ended} of {len(plan.runs)} runs are finished",)
        raise
    if pool.failures:
        listed = "".join(f"\n  {name}: {reason}\n    see {log}" for name, reason, log in pool.failures)
        raise RunError(
            f"{len(pool.failures)} of {len(plan.runs)} runs failed; the same command tries them again{listed}"
        )
    print(
        retyped(f"all {len(plan.runs)} runs are finished; to report them: bitscale report {quoted(sweep.options.out)}")
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, as sent by a batch system, stop a sweep like Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _locked(out: Path) -> Iterator[int]:
    """Hold the folder's lock, a file descriptor. Waits for it only if workers outlive a sweep that was killed.

    Raises InputError while another sweep holds it, or if the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error}); choose another --out") from error
    with file:
        _acquire(file, out)
        file.truncate(0)
        file.write(json.dumps({"host": platform.node(), "process": os.getpid()}))
        file.flush()
        yield file.fileno()


def _acquire(file: IO[str], out: Path) -> None:
    patience = time.monotonic() + HANDOVER_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            owner = read_json(out / LOCK) or {}
            if not _is_dead(owner) or time.monotonic() > patience:
                who = f"process {owner.get('process', 'unknown')} on {owner.get('host', 'this machine')}"
                raise InputError(
                    f"another sweep is running in {out} ({who}); wait for it, or choose another --out"
                ) from None
            time.sleep(0.1)
        except OSError as error:
            logger.warning(f"{out} knows no locks ({error}); start no second sweep in it")
            return


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the process that took the lock was on this machine and has ended."""
    if owner.get("host") != platform.node():
        return False
    try:
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
