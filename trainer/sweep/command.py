"""Sweep: python trainer/transfer.py sweep --sources RUN scratch --targets cifar10 --shots 1 5 full --seeds 5

Fine-tunes every source on every target with every number of shots and every seed, several at a time on this machine's
devices. The same command goes on where it was; finished runs are not made again.
"""

import fcntl
import json
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import IO, Annotated, Any

import torch
import tyro

from data_pipelines.common import streams
from data_pipelines.common.advice import quoted
from data_pipelines.common.cli import parse, world_size
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.files import read_json
from data_pipelines.common.messages import logger
from data_pipelines.common.program import program, retyped
from trainer.engines.device import cpu_threads, pick_device
from trainer.finetuning.command_line import OFTEN, todays
from trainer.finetuning.finetune import FULL, Options
from trainer.finetuning.settings import Settings, given_settings
from trainer.sweep.cost import cost_lines
from trainer.sweep.plan import Plan, make_plan, write_plan
from trainer.sweep.variations import FLAG, read_variations, require_one_value_each
from trainer.sweep.worker_pool import Device, WorkerPool

_OFTEN = ("--shots", "--seeds", FLAG, "--jobs", "--dry-run", "--skip-impossible", "--plan", *OFTEN)
LOCK = ".sweep.lock"
HANDOVER_S = 60  # in which the workers of a sweep that was killed save their runs and end


@dataclass(frozen=True)
class Sweep:
    """Fine-tuning of every source on every target. Lists may be written with spaces or with commas."""

    sources: tuple[str, ...]
    """Run folders or weights to start from; "scratch" starts from random weights instead."""
    targets: tuple[str, ...]
    """Prepared data sets to fine-tune on."""
    shots: tuple[str, ...] = (FULL,)
    """Training images per class, or "full"."""
    seeds: int = 5
    """How many seeds, from 0."""
    vary: tuple[str, ...] = ()
    """Settings and the values to try of each: optim.base-lr=0.003,0.03. Each value has a folder of its own below OUT,
    such as base-lr-0.003; of several settings all combinations are tried."""
    jobs: int | None = None
    """Runs at a time; None: one per GPU, or one on a CPU. They share the CPU cores."""
    skip_impossible: bool = False
    """List the cells that need more images than a target has, and run the others, instead of refusing all."""
    dry_run: bool = False
    """Print the plan with estimated hours, and stop."""
    plan: Path | None = None
    """Write the plan to this file for `python -m launchers.submit`, and stop."""
    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"--jobs is {self.jobs}; it must be at least 1")
        for name in ("sources", "targets", "shots"):
            object.__setattr__(self, name, _listed(getattr(self, name)))
            if not getattr(self, name):
                raise InputError(f"--{name} names none")


def _listed(words: tuple[str, ...]) -> tuple[str, ...]:
    """Words split at commas, except those that are existing paths."""
    return tuple(
        part for word in words for part in ([word] if Path(word).exists() else word.split(",")) if part.strip()
    )


def main_sweep(arguments: list[str]) -> None:
    """Parse the command line and sweep."""
    streams.outlive_readers()
    called = program()
    arguments = todays(arguments)
    require_one_value_each(arguments)
    called = called if called.endswith(" sweep") else f"{called} sweep"
    sweep = parse(Sweep, __doc__, args=arguments, prog=called, often=_OFTEN)
    sweep = replace(sweep, options=replace(sweep.options, given=given_settings(sweep.settings, arguments)))
    if world_size() > 1:
        raise InputError("a sweep starts its own processes; start it once, without torchrun")
    if sweep.plan is not None:
        plan = _plan(sweep)
        write_plan(sweep.plan, sweep.options.out.resolve().name, plan.runs)
        submit = f"python -m launchers.submit {quoted(sweep.plan)}"
        print(f"{len(plan.runs)} runs, {len(plan.pending)} of them to be made: {retyped(submit)}")
    elif sweep.dry_run:
        print("\n".join(cost_lines(_plan(sweep), devices(sweep))))
    else:
        with _locked(sweep.options.out) as lock, _stoppable():
            _make(sweep, lock)


def _plan(sweep: Sweep) -> Plan:
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
    plan = _plan(sweep)
    pending, num_finished = plan.pending, len(plan.runs) - len(plan.pending)
    if num_finished:
        logger.info(f"{num_finished} of {len(plan.runs)} runs are finished already")
    workers = devices(sweep)
    gpus = [each.gpu for each in workers if each.gpu is not None]
    logger.info(
        f"sweep: {len(pending)} runs, {sum(run.steps for run in pending):,} steps, {len(workers)} at a time on "
        f"{'GPU ' + ', '.join(dict.fromkeys(gpus)) if gpus else 'the CPU'}, in {sweep.options.out}"
    )
    pool = WorkerPool(pending, workers, lock)
    try:
        pool.run_all()
    except KeyboardInterrupt:
        ended = sum(run.has_result() for run in plan.runs)
        logger.info(f"stopped; the same command goes on: {ended} of {len(plan.runs)} runs are finished")
        raise
    if pool.failures:
        listed = "".join(f"\n  {name}: {reason}\n    see {log}" for name, reason, log in pool.failures)
        raise RunError(
            f"{len(pool.failures)} of {len(plan.runs)} runs failed; the same command tries them again{listed}"
        )
    print(retyped(f"all {len(plan.runs)} runs are finished: python trainer/report.py {quoted(sweep.options.out)}"))


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
