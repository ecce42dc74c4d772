"""Trains a job's model: initial weights, resuming, training, final predictions."""

import signal
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data_pipelines.common.advice import has_flag, quoted
from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from data_pipelines.shards.index import Index
from trainer import checkpoint
from trainer.engine import Engine, Progress, RegroupError
from trainer.evaluation.results import novelty, operating_points, sample_of
from trainer.run_files import CHECKPOINTS
from trainer.run_folder import MetricLogger, write_status
from trainer.training.job import Job, RunOutput
from trainer.training.loop import train
from trainer.training.memory import count_memory, resolve_micro_batch_size
from trainer.training.model import prepare_model
from trainer.training.prediction import describe_readable, predict_readable
from trainer.training.regrouping import best_so_far, quarantine, regroup, with_fixed_micro_batches
from trainer.training.run_end import mark_resumable
from trainer.training.saver import UnsavedError
from trainer.training.signals import Stopped, StopSignals, left_or_regroup_error


def train_and_predict(job: Job, engine: Engine) -> RunOutput:
    """Train, then predict with the best checkpoint, or with the last if there is no best; the ranks watch each other
    meanwhile."""
    with engine.heartbeat.watching(lambda reason: mark_resumable(job, 0, reason)):
        if not engine.is_joining:
            job = resolve_micro_batch_size(job, engine)
        prepare_model(job, engine)
        if engine.rank == 0 and engine.device.type == "cuda":
            _tell_memory(job, engine)
        return _train_and_predict(job, engine)


def _tell_memory(job: Job, engine: Engine) -> None:
    config = job.config
    memory = count_memory(
        config.model.name,
        job.train.num_classes,
        config.data.image_size,
        config.precision,
        config.runtime.checkpoint_stages,
        config.model.frozen_stages,
    )
    logger.info(f"memory of a rank: {memory.summary(job.largest_pass(engine))}")


def _train_and_predict(job: Job, engine: Engine) -> RunOutput:
    """Train and predict; of an elastic run, again from where it is whenever its ranks change."""
    job, progress, regroups = with_fixed_micro_batches(job, engine), Progress(step=-1), engine.is_joining
    mark_ended = partial(_mark_ended, job, engine)
    while True:
        try:
            with StopSignals().listening(mark_ended) as stop:
                if regroups:
                    job, progress = regroup(job, engine, progress, stop)
                if progress.trained_s is None:
                    progress.trained_s = _train(job, engine, progress, stop)
            if stop.received is not None and stop.ends_evaluation:  # came while `listening` ended
                signal.raise_signal(stop.received)
            return _predict(job, engine, progress.trained_s)
        except RegroupError as error:
            logger.info(f"rank {engine.rank} regroups after {progress.step} steps: {error}")
        regroups = True  # not above: the error keeps alive what the round has made


def _mark_ended(job: Job, engine: Engine, reason: str) -> None:
    mark_resumable(job, engine.rank, reason)


def _predict(job: Job, engine: Engine, seconds: float) -> RunOutput:
    engine.heartbeat.enter("finishing")
    engine.barrier()  # rank 0 has written the last checkpoint before the others look for it
    found = [checkpoint.best_path(job.run_dir), *_newest_first(job)]
    path, loaded = _load_first_whole(job, engine, [path for path in found if path.is_file()])
    engine.load_state_dict(loaded.state)
    details = {"checkpoint": path.name, "checkpoint_step": loaded.metadata["step"]}
    # The only time that test is read.
    predicted = {split: predict_readable(job, engine, index) for split, index in job.held_out.items()}
    if "val" in predicted:
        _add_what_val_decides(job, engine, path, loaded, predicted["val"])
    return RunOutput(seconds, predicted, details)


def _add_what_val_decides(
    job: Job, engine: Engine, path: Path, loaded: checkpoint.Checkpoint, predicted: tuple[Index, Tensor]
) -> None:
    """Thresholds, temperature, prediction sets and novelty, for the checkpoint that is taken. Collective."""
    num_features = loaded.state["model"]["head.weight"].shape[1]
    described = [describe_readable(job, engine, sample_of(index), num_features) for index in (job.train, predicted[0])]
    if engine.rank == 0:
        try:
            checkpoint.add(path, **operating_points(*predicted), **novelty(*described))
        except OSError as error:
            raise UnsavedError(
                f"{path} cannot be written ({error}); make room and start the same command again"
            ) from error


def _train(job: Job, engine: Engine, progress: Progress, stop: StopSignals) -> float:
    """Resume, unless this goes on from a former group, and train; returns the seconds that all starts of the run
    took."""
    if progress.step < 0:
        progress.step, progress.best = _resume(job, engine)
    first_step = progress.step
    metric_logger = MetricLogger(job.run_dir, engine.rank, first_step, job.total_steps, job.config.name)
    try:
        write_status(job.run_dir, engine.rank, "running", first_step, job.total_steps)
        how = {"loader": job.loader_name, "world_size": engine.world_size, "device": engine.device.type}
        metric_logger.started(first_step, how)
        train(job, engine, metric_logger, progress, stop)
        if engine.sum(torch.tensor(float(stop.ends_evaluation))):  # came in the last steps, which do not report it
            if not engine.agree_to_stop(lambda: stop.ends_evaluation):
                raise left_or_regroup_error(job.total_steps, stop)
            raise Stopped(job.total_steps, stop.received_in_time())
        seconds = metric_logger.trained_s
    finally:
        metric_logger.close()
    return seconds


def _resume(job: Job, engine: Engine) -> tuple[int, float | None]:
    """Load the newest whole checkpoint and return its step and the metric of the best one; (0, None) without any.

    Damaged ones are quarantined. Raises InputError if there are no others.
    """
    best = best_so_far(job, engine)
    found = _newest_first(job) if engine.rank == 0 else []
    left = checkpoint.damaged(job.run_dir) if engine.rank == 0 else []
    if not engine.sum(torch.tensor(len(found) + len(left))):
        return 0, best
    _, loaded = _load_first_whole(job, engine, found)
    engine.load_state_dict(loaded.state)
    if engine.rank == 0:
        print(f"resuming {job.run_dir} at step {loaded.metadata['step']}", flush=True)
    return loaded.metadata["step"], best


def _newest_first(job: Job) -> list[Path]:
    return checkpoint.numbered(job.run_dir)[::-1]


def _load_first_whole(job: Job, engine: Engine, candidates: list[Path]) -> tuple[Path, checkpoint.Checkpoint]:
    """The first whole checkpoint among rank 0's candidates, and what every rank read of it; those before it are
    quarantined.

    Rank 0 decides, as another node's view of the folder may be older. Raises InputError if none is whole.
    """
    for name in engine.gather([path.name for path in candidates])[0]:
        path = job.run_dir / CHECKPOINTS / name
        loaded, problem = None, ""
        try:
            loaded = checkpoint.load(path)
        except checkpoint.DamagedError as error:
            problem = str(error)
        problems = engine.gather(problem)
        if loaded is not None and not any(problems):
            return path, loaded
        if not problems[0]:
            rank, message = next((rank, message) for rank, message in enumerate(problems) if message)
            raise InputError(f"rank {rank} cannot read what rank 0 can: {message}")
        if engine.rank == 0:
            quarantine(path, problem)
    raise InputError(
        f"{job.run_dir} has no complete checkpoint, only damaged ones; copy one back from elsewhere, or begin anew: "
        + ("--no-resume" if has_flag("--no-resume") else f"rm -r {quoted(job.run_dir)}")
    )
