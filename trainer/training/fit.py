"""From a job to a trained model: its starting weights, the way back into an interrupted run, and its predictions."""

import sys
import time
from pathlib import Path

import torch

from data_pipelines.common.advice import has_flag, quoted
from data_pipelines.common.errors import InputError, RunError
from trainer import checkpoint
from trainer.engines.base import Engine
from trainer.evaluation.operating import KEY, fit_operating_points
from trainer.evaluation.predictions import of_index
from trainer.models.bit import BiTResNet, build_model
from trainer.models.weights import install, load_weights
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.run_folder.metric_logger import Tracker, write_status
from trainer.training.job import Job
from trainer.training.loop import judge, train
from trainer.training.memory import with_batches_that_fit
from trainer.training.memory_report import count_memory
from trainer.training.results import Outcome, Predicted
from trainer.training.signals import StopSignals


def train_and_predict(job: Job, engine: Engine) -> Outcome:
    """Train, and predict by the chosen checkpoint, while the ranks watch over each other."""
    with engine.heartbeat.watching(lambda reason: _leave_resumable(job, 0, reason)):
        return _train_and_predict(job, engine)


def _leave_resumable(job: Job, rank: int, reason: str) -> None:
    found = checkpoint.numbered(job.run_dir)
    saved = checkpoint.step_of(found[-1]) if found else 0
    write_status(job.run_dir, rank, "resumable", saved, job.total_steps, reason)


def _train_and_predict(job: Job, engine: Engine) -> Outcome:

    def make_ready(job: Job) -> None:
        _hand_over_model(job, engine)

    job = with_batches_that_fit(job, engine, make_ready)
    make_ready(job)
    if engine.rank == 0 and engine.device.type == "cuda":
        config = job.config
        memory = count_memory(
            config.model.name,
            job.train.num_classes,
            config.data.image_size,
            config.precision,
            config.runtime.checkpoint_stages,
        )
        print(f"memory of a rank: {memory.in_words(job.micro_batch_size(engine))}", file=sys.stderr, flush=True)
    seconds = _train(job, engine)
    engine.heartbeat.enter("finishing")
    wait_for_all(engine)  # rank 0 has written the last checkpoint before the others look for it
    found = [checkpoint.best_path(job.run_dir), *_newest_first(job)]
    path, loaded = _load_first_whole(job, engine, [path for path in found if path.is_file()])
    engine.load_state_dict(loaded.state)
    details = {"checkpoint": path.name, "checkpoint_step": loaded.about["step"]}
    # The only time that test is read.
    predicted: Predicted = {split: judge(job, engine, index) for split, index in job.held_out.items()}
    if engine.rank == 0 and "val" in predicted:
        index, logits = predicted["val"]
        try:
            checkpoint.add(path, **{KEY: fit_operating_points(of_index(index, logits.numpy())).to_dict()})
        except OSError as error:
            raise RunError(f"{path} cannot be written ({error}); make room and start the same command again") from error
    return Outcome(seconds, predicted, details)


def starting_model(job: Job, engine: Engine) -> BiTResNet:
    """The model as the run begins with it, on the CPU."""
    config = job.config
    torch.manual_seed(config.seed)
    settings = config.model
    assert settings.mean is not None and settings.std is not None  # noqa: PT018 - `make_job` has seen to it
    model = build_model(
        settings.name, job.train.num_classes, settings.head_init, settings.filter_init, settings.mean, settings.std
    )
    if settings.pretrained is not None:
        _load_pretrained(model, job, engine)
    return model


def _hand_over_model(job: Job, engine: Engine) -> None:
    model, optim = starting_model(job, engine), job.config.optim
    optimizer = SGDAGC(
        param_groups(model, job.train.num_classes, optim.agc_clipping, optim.agc_head),
        lr=0.0,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        nesterov=optim.nesterov,
    )
    engine.prepare(model, optimizer, job.blank_images(job.micro_batch_size(engine)))


def _train(job: Job, engine: Engine) -> float:
    """Resume and train; returns seconds."""
    first_step, best = _resume(job, engine)
    tracker = Tracker(job.run_dir, engine.rank, first_step, job.total_steps, job.config.name)
    started = time.monotonic()
    try:
        write_status(job.run_dir, engine.rank, "running", first_step, job.total_steps)
        tracker.started(first_step, {"loader": job.loader_name, "world_size": engine.world_size})
        with StopSignals().listening(lambda reason: _leave_resumable(job, engine.rank, reason)) as stop:
            train(job, engine, tracker, first_step, best, stop)
    finally:
        tracker.close()
    return time.monotonic() - started


def _load_pretrained(model: BiTResNet, job: Job, engine: Engine) -> None:
    settings = job.config.model
    weights = load_weights(str(settings.pretrained))
    warnings = install(weights, model, settings.name, job.train.classes, settings.keep_head)
    if engine.rank == 0:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)


def _resume(job: Job, engine: Engine) -> tuple[int, float | None]:
    """Load the newest whole checkpoint: steps done and the metric of the best one; (0, None) without any.

    Damaged ones are set aside. Raises InputError where there are no others.
    """
    best = _best_so_far(job, engine)
    found = _newest_first(job) if engine.rank == 0 else []
    left = checkpoint.damaged(job.run_dir) if engine.rank == 0 else []
    if not engine.sum(torch.tensor(len(found) + len(left))):
        return 0, best
    _, loaded = _load_first_whole(job, engine, found)
    engine.load_state_dict(loaded.state)
    if engine.rank == 0:
        print(f"resuming {job.run_dir} at step {loaded.about['step']}", flush=True)
    return loaded.about["step"], best


def _best_so_far(job: Job, engine: Engine) -> float | None:
    """The metric of the best checkpoint, once its weights are seen to be whole: no other file has them."""
    path, metric = checkpoint.best_path(job.run_dir), None
    if engine.rank == 0 and path.is_file():
        try:
            metric = checkpoint.load(path, parts=("model",)).about["best"]
        except checkpoint.DamagedError as error:
            _set_aside(path, str(error))
    found: float | None = engine.gather(metric)[0]
    if found is not None and job.config.data.train_on == "train+val":
        raise InputError(
            f"{path} was chosen on val, which this run trains on; train on train alone as before, begin anew in "
            "another folder, or remove that file to go on from the last checkpoint"
        )
    return found


def _newest_first(job: Job) -> list[Path]:
    return checkpoint.numbered(job.run_dir)[::-1]


def _load_first_whole(job: Job, engine: Engine, candidates: list[Path]) -> tuple[Path, checkpoint.Checkpoint]:
    """The first of rank 0's candidates that is whole, and what every rank read of it; those before it are set aside.

    Rank 0 decides: another node's view of the folder may be older. Raises InputError where none is whole.
    """
    for name in engine.gather([path.name for path in candidates])[0]:
        path = job.run_dir / checkpoint.FOLDER / name
        loaded, problem = None, ""
        try:
            loaded = checkpoint.load(path)
        except checkpoint.DamagedError as error:
            problem = str(error)
        problems = engine.gather(problem)
        if loaded is not None and not any(problems):
            return path, loaded
        if not problems[0]:
            rank, said = next((rank, said) for rank, said in enumerate(problems) if said)
            raise InputError(f"rank {rank} cannot read what rank 0 can: {said}")
        if engine.rank == 0:
            _set_aside(path, problem)
    raise InputError(
        f"{job.run_dir} has no whole checkpoint, only damaged ones; copy one back from elsewhere, or begin anew: "
        + ("--no-resume" if has_flag("--no-resume") else f"rm -r {quoted(job.run_dir)}")
    )


def _set_aside(path: Path, problem: str) -> None:
    try:
        kept = f"it is kept as {checkpoint.set_aside(path).name}"
    except OSError as error:
        kept = f"it stays where it is ({error})"
    print(f"warning: {problem.partition(';')[0]}; {kept}", file=sys.stderr, flush=True)


def wait_for_all(engine: Engine) -> None:
    """Go on when every rank is here."""
    engine.sum(torch.zeros(1))
