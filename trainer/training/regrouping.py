"""What an elastic run does besides training when its ranks change: who writes from now on, and what is kept of it."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger, rank_0_logger
from trainer import checkpoint
from trainer.engine import Engine, Progress, RankLostError
from trainer.run_files import RANKS
from trainer.run_folder import CsvLog, take_over
from trainer.training.job import Job
from trainer.training.saver import Saver
from trainer.training.signals import Stopped, StopSignals

_COLUMNS = ("step", "time", "ranks", "change", "rank", "host", "why")


def with_fixed_micro_batches(job: Job, engine: Engine) -> Job:
    """The job of an elastic run with a micro-batch size: where ranks are lost, the others' shares of a step grow, and
    their memory must not. Other jobs stay as they are."""
    runtime = job.config.runtime
    if not runtime.elastic or isinstance(runtime.micro_batch_size, int):
        return job
    return _with_micro_batches(job, job.order.largest_share(engine.world_size))


def _with_micro_batches(job: Job, size: int) -> Job:
    return replace(job, config=replace(job.config, runtime=replace(job.config.runtime, micro_batch_size=size)))


def regroup(job: Job, engine: Engine, progress: Progress, stop: StopSignals) -> tuple[Job, Progress]:
    """Go on with the ranks that are left, and those that have come. Collective over them.

    Raises Stopped, with a checkpoint, if all of them were asked to stop, and RankLostError, with a checkpoint, if they
    are too few.
    """
    started = perf_counter()
    progress = engine.regroup(progress, lambda: stop.received is not None)
    if engine.rank == 0:
        take_over(job.run_dir)
    # A rank that joins has made other shares of the batch, by itself.
    size = engine.gather(job.config.runtime.micro_batch_size)[progress.source]
    job = _with_micro_batches(job, size)
    if progress.must_save:  # rank 0 is another one: what the former had not yet written is lost
        progress.best = best_so_far(job, engine)
    _record(job, engine, progress.step)
    changes = engine.changes
    parts = [f"{each['name']} left ({each['why']})" for each in changes.left]
    parts += [f"{each['name']} joined" for each in changes.joined]
    words = "; ".join(parts) or "the same as before"
    number = f"{engine.world_size} rank{'s' * (engine.world_size > 1)}"
    rank_0_logger.info(f"{number} at step {progress.step}, {perf_counter() - started:.1f} s after the last: {words}")
    if changes.ends:
        _save_and_end(job, engine, progress, stop)
    return job, progress


def _record(job: Job, engine: Engine, step: int) -> None:
    log = CsvLog(job.run_dir / RANKS, _COLUMNS, enabled=engine.rank == 0)
    log.truncate(sys.maxsize)  # only the line that a killed rank has left unfinished
    now, number = time.strftime("%Y-%m-%d %H:%M:%S"), engine.world_size
    log.add((step, now, number, "left", each["name"], each["host"], each["why"]) for each in engine.changes.left)
    log.add((step, now, number, "joined", each["name"], each["host"], "") for each in engine.changes.joined)


def _save_and_end(job: Job, engine: Engine, progress: Progress, stop: StopSignals) -> None:
    with Saver(job, engine, progress.best) as saver:
        if progress.trained_s is None and progress.step > 0:
            saver.save(progress.step)
            saver.finish()
    if engine.changes.too_few is not None:
        raise RankLostError(f"too few ranks are left: {engine.changes.too_few}; saved")
    raise Stopped(progress.step, stop.received)


def best_so_far(job: Job, engine: Engine) -> float | None:
    """The metric of the best checkpoint, after checking that its weights are whole: no other file has them."""
    path, metric = checkpoint.best_path(job.run_dir), None
    if engine.rank == 0 and path.is_file():
        try:
            metric = checkpoint.load(path, parts=("model",)).metadata["best"]
        except checkpoint.DamagedError as error:
            quarantine(path, str(error))
    found: float | None = engine.gather(metric)[0]
    if found is not None and job.config.data.train_on == "train+val":
        raise InputError(
            f"{path} was chosen on val, which this run trains on; train on train alone as before, begin anew in "
            "another folder, or remove that file to go on from the last checkpoint"
        )
    return found


def quarantine(path: Path, problem: str) -> None:
    """Put a damaged checkpoint aside, and warn of it. Rank 0 only."""
    try:
        kept = f"it is kept as {checkpoint.quarantine(path).name}"
    except OSError as error:
        kept = f"it stays where it is ({error})"
    logger.warning(f"{problem.partition(';')[0]}; {kept}")
