"""`--profile STEPS`: records some steps with torch.profiler and writes a trace and a table to the run folder."""

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from data_pipelines.common.cpus import cpu_name
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_atomically
from data_pipelines.common.messages import logger, rank_0_logger
from trainer.config import Config
from trainer.engine import Engine
from trainer.profiling.breakdown import Breakdown, break_down
from trainer.profiling.categories import PAUSES, PHASE
from trainer.profiling.table import headline, table
from trainer.run_files import PROFILE

_FREE, _PROFILER_WARM_UP = 3, 1  # steps: without the profiler, and with it before it counts
WARM_UP_STEPS = _FREE + _PROFILER_WARM_UP


class Recorded(Protocol):
    """What the recorder needs to know of a run; a `Job` has it."""

    @property
    def config(self) -> Config: ...
    @property
    def run_dir(self) -> Path: ...
    @property
    def total_steps(self) -> int: ...


def require_steps_to_profile(job: Recorded) -> None:
    """Raise InputError if a run is too short for the profile asked for."""
    wanted, most = job.config.runtime.profile, job.total_steps - WARM_UP_STEPS
    if wanted is None or wanted <= most:
        return
    needed = f"--profile {wanted} needs {wanted + WARM_UP_STEPS} steps, {WARM_UP_STEPS} of them to warm up"
    remedy = f"Take --profile {most} or less, or a longer run" if most > 0 else "Leave it out, or make the run longer"
    raise InputError(f"{needed}; this run has {job.total_steps}. {remedy}")


def warn_profile_not_recorded(job: Recorded, engine: Engine, why: str) -> None:
    """Warn that a start with --profile that trains nothing records nothing."""
    if job.config.runtime.profile is not None and engine.rank == 0:
        logger.warning(f"--profile records nothing: {why}")


@contextmanager
def recorded_steps(job: Recorded, engine: Engine, first_step: int) -> Iterator[None]:
    """Context of the training loop: rank 0 records the steps after the warm-up. If a resumed or stopped run has fewer
    than asked for, records these and says so. Writes to RUN/profile as soon as they are done."""
    steps = _steps_left(job, engine, first_step)
    if not steps:
        yield
        return
    recorder = _Recorder(job, engine, first_step, steps) if engine.rank == 0 else None
    engine.heartbeat.listener = None if recorder is None else recorder.enter
    try:
        yield
    except SystemExit:  # the run was asked to stop
        _end(recorder, engine)
        engine.barrier()  # a launcher may kill this rank when the first of the others ends
        raise
    finally:
        _end(recorder, engine)


def _end(recorder: "_Recorder | None", engine: Engine) -> None:
    engine.heartbeat.listener = None
    if recorder is not None:
        recorder.end()


def _steps_left(job: Recorded, engine: Engine, first_step: int) -> int:
    wanted = job.config.runtime.profile
    if wanted is None:
        return 0
    left = max(0, job.total_steps - first_step - WARM_UP_STEPS)
    if left < wanted:
        fewer = f"only {left} are recorded" if left else "none is recorded"
        why = f"this start has {job.total_steps - first_step} steps left, {WARM_UP_STEPS} of them to warm up"
        rank_0_logger.warning(f"--profile {wanted}: {fewer}, as {why}")
    return min(wanted, left)


class _Recorder:
    """Follows the phases of the loop. Failures are printed, and training goes on."""

    def __init__(self, job: Recorded, engine: Engine, first_step: int, steps: int) -> None:
        self._job, self._engine, self._first = job, engine, first_step + WARM_UP_STEPS
        self._on_gpu = engine.device.type == "cuda"
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it reports on itself, and on GPUs that are not there
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=_FREE, warmup=_PROFILER_WARM_UP, active=steps, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self._steps, self._begun = steps, -1
        self._phase: Any = None
        self._clock: list[float] = []
        self._paused = self._written = self._failed = False

    def enter(self, phase: str, step: int | None) -> None:
        """The loop begins a phase; of a step, if that begins with it."""
        if self._written or self._failed:
            return
        try:
            self._leave_phase()
            if step is not None:
                self._next_step()
            if self._begun >= WARM_UP_STEPS and not self._written:
                self._phase = record_function(f"{PHASE}{phase}")
                self._phase.__enter__()
            elif phase in PAUSES and self._begun > 0:
                self._paused = True
        except Exception as error:  # of the profiler's libraries, which have no common base class
            self._give_up(error)

    def end(self) -> None:
        """The loop is over. Writes what there is, if that has not been done."""
        if self._written or self._failed:
            return
        recorded = self._begun - WARM_UP_STEPS + 1
        try:
            self._leave_phase()
            if recorded < self._steps:
                number = _count(max(0, recorded), "recorded step")
                logger.warning(f"--profile {self._steps}: this start ends after {number}")
            if self._begun >= 0:
                self._wait_for_device()
                self._profile.stop()
        except Exception as error:  # as above; and the error that ended the loop must not be hidden
            self._give_up(error)

    def _next_step(self) -> None:
        self._begun += 1
        if self._begun in (1, _FREE):
            self._clock.append(perf_counter())
        if self._begun in (WARM_UP_STEPS, WARM_UP_STEPS + self._steps):
            self._wait_for_device()
        if self._begun == 0:
            self._profile.start()
        else:
            self._profile.step()

    def _wait_for_device(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self._engine.device)

    def _leave_phase(self) -> None:
        if self._phase is not None:
            self._phase.__exit__(None, None, None)
            self._phase = None

    def _write(self, recorded: profile) -> None:
        """Trace and table, once the profiler has them."""
        self._written = True
        if self._begun < WARM_UP_STEPS:
            return
        with TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(path))
            trace = path.read_bytes()
        found = break_down(json.loads(trace)["traceEvents"])
        words = table(found, self._title(found), self._unrecorded_ms())
        if self._on_gpu and not found.on_gpu:
            logger.warning("the profiler saw nothing on the GPU, so the table shows the host alone")
        target = self._job.run_dir / PROFILE / f"steps-{self._first}-{self._first + found.steps - 1}"
        try:
            target.parent.mkdir(exist_ok=True)
            # Not with_suffix: the file's name has no suffix that could be replaced.
            write_atomically(Path(f"{target}.md"), lambda temporary: temporary.write_text(words, encoding="utf-8"))
            write_atomically(Path(f"{target}.json.gz"), lambda temporary: _compress(trace, temporary))
            logger.info(f"profile: {headline(found)} {target}.md has the rest, {target.name}.json.gz the trace")
        except OSError as error:
            logger.warning(f"{target.parent} cannot be written ({error}); what was recorded:\n{words}")

    def _title(self, found: Breakdown) -> str:
        config, engine = self._job.config, self._engine
        where = torch.cuda.get_device_name(engine.device) if self._on_gpu else cpu_name()
        parts = (
            config.model.name,
            f"{config.data.image_size} px",
            f"batch {config.global_batch_size} over {_count(engine.world_size, 'rank')}",
            config.precision,
            f"{config.runtime.engine} ({engine.transport})",
            where if self._on_gpu else f"{where} ({_count(engine.threads, 'thread')} each)",
            f"torch {torch.__version__}",
            f"rank 0, {_count(found.steps, 'step')} from step {self._first} on",
        )
        return ", ".join(parts)

    def _unrecorded_ms(self) -> float | None:
        """Of a step of the warm-up, the first left out."""
        if self._paused or len(self._clock) < 2:
            return None
        return (self._clock[1] - self._clock[0]) * 1e3 / (_FREE - 1)

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning(f"--profile fails, and training goes on without it: {reason}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _compress(content: bytes, path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(content)
