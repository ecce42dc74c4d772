"""From a job to a trained model: its starting weights, the way back into an interrupted run, and its predictions."""

import sys
import time

import torch

from trainer import checkpoint
from trainer.engines.base import Engine
from trainer.evaluation.operating import KEY, choose
from trainer.evaluation.predictions import of_index
from trainer.job import Job
from trainer.loop import predict, train
from trainer.memory import with_batches_that_fit
from trainer.memory_report import count_memory
from trainer.models.bit import BiTResNet, build_model
from trainer.models.weights import install, load_weights
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.results import Outcome, Predicted
from trainer.signals import StopSignals
from trainer.tracking import Tracker, write_status


def train_and_predict(job: Job, engine: Engine) -> Outcome:
    """Train, and predict by the chosen checkpoint."""

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
    wait_for_all(engine)  # rank 0 has written the last checkpoint before the others look for it
    path = checkpoint.chosen(job.run_dir)
    loaded = checkpoint.load(path)
    engine.load_state_dict(loaded.state)
    details = {"checkpoint": path.name, "checkpoint_step": loaded.about["step"]}
    # The only time that test is read.
    predicted: Predicted = {split: (index, predict(job, engine, index)) for split, index in job.held_out.items()}
    if engine.rank == 0 and "val" in predicted:
        index, logits = predicted["val"]
        checkpoint.add(path, **{KEY: choose(of_index(index, logits.numpy())).to_dict()})
    return Outcome(seconds, predicted, details)


def starting_model(job: Job, engine: Engine) -> BiTResNet:
    """The model as the run begins with it, on the CPU."""
    config = job.config
    torch.manual_seed(config.seed)
    model = build_model(config.model.name, job.train.num_classes, config.model.head_init)
    if config.model.pretrained is not None:
        _load_pretrained(model, job, engine)
    return model


def _hand_over_model(job: Job, engine: Engine) -> None:
    model, optim = starting_model(job, engine), job.config.optim
    optimizer = SGDAGC(
        param_groups(model, job.train.num_classes, optim.agc_clipping, optim.paper_code),
        lr=0.0,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        nesterov=optim.paper_code,
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
        with StopSignals().listening() as stop:
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
    """Load the newest checkpoint: steps done and the best metric so far; (0, None) without one."""
    found = checkpoint.numbered(job.run_dir)
    # Rank 0 decides: another node's view of the folder may be older.
    step = int(engine.sum(torch.tensor(checkpoint.step_of(found[-1]) if engine.rank == 0 and found else 0)))
    if step == 0:
        return 0, None
    loaded = checkpoint.load(checkpoint.path_of(job.run_dir, step))
    engine.load_state_dict(loaded.state)
    if engine.rank == 0:
        print(f"resuming {job.run_dir} at step {loaded.about['step']}", flush=True)
    return loaded.about["step"], loaded.about["best"]


def wait_for_all(engine: Engine) -> None:
    """Go on when every rank is here."""
    engine.sum(torch.zeros(1))
