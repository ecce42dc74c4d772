"""The training loop and evaluation. Pre-training and transfer both run these two functions and no others."""

import math
from collections.abc import Iterable
from itertools import islice
from time import perf_counter

import torch
from torch import Tensor

from data_pipelines.errors import RunError
from data_pipelines.index import Index
from data_pipelines.order import evaluation_order
from trainer import checkpoint
from trainer.engines.base import Engine, Update
from trainer.job import Job
from trainer.losses import count_labels, loss_sum, model_input, targets
from trainer.metrics import compute_metrics
from trainer.signals import NEVER, Stopped, StopSignals
from trainer.tracking import Tracker, write_status
from trainer.watch import LossWatch


def train(
    job: Job, engine: Engine, tracker: Tracker, first_step: int, best: float | None, stop: StopSignals = NEVER
) -> None:
    """Update the model from `first_step` to the job's end, evaluating on val and saving on the way.

    `best` is the primary metric of the best checkpoint so far, None without one. Raises RunError for a loss that is not
    finite; the last checkpoint is then from before it. Raises Stopped on every rank, with a checkpoint of this very
    step, once any of them was asked to `stop`.
    """
    task, num_classes, runtime = job.train.task, job.train.num_classes, job.config.runtime
    batches, num_micro_batches = job.training_batches(engine, first_step)
    watch, meter = LossWatch(job), Meter()
    for step in range(first_step, job.total_steps):
        lr = job.schedule(step)
        engine.set_lr(lr)
        waiting = perf_counter()
        micro_batches = list(islice(batches, num_micro_batches))
        meter.waited_s += perf_counter() - waiting
        num_labels: Tensor | int = job.config.global_batch_size
        if task == "multi_label":
            num_labels = engine.sum(count_labels(micro_batches)).clamp(min=1)
        report = torch.zeros(engine.world_size + 1, dtype=torch.float64, device=engine.device)
        for i, batch in enumerate(micro_batches, 1):
            with engine.accumulate(last=i == len(micro_batches)):
                logits = engine.model(model_input(batch))
                loss = loss_sum(logits, targets(batch, task, num_classes), task) / num_labels
                engine.backward(loss * engine.world_size)
            report[engine.rank] += loss.detach()
        report[-1] = stop.received is not None
        report = engine.sum(report)
        update = engine.step()
        watch.see(step, lr, report)
        done = step + 1
        tracker.advance()
        meter.images += job.config.global_batch_size
        if due(done, runtime.log_every, job.total_steps):
            watch.settle()
            tracker.scalars(done, training_scalars(lr, report[:-1].sum(), update, meter))
            meter = Meter()
        if job.val is not None and due(done, job.config.eval_every, job.total_steps):
            watch.settle()
            started = perf_counter()
            require_finite(engine.model.parameters(), done)
            metrics = evaluate(job, engine, job.val)
            tracker.scalars(done, {f"val/{name}": value for name, value in metrics.items()})
            metric = metrics[job.train.metric]  # NaN is never better: the last checkpoint counts then
            if metric > (-math.inf if best is None else best):
                best = metric
                save(job, engine, done, best, checkpoint.BEST)
            meter.paused_s += perf_counter() - started
        stopping = watch.stop_asked and done < job.total_steps
        if stopping or due(done, runtime.save_every, job.total_steps):
            watch.settle()
            started = perf_counter()
            save(job, engine, done, best)
            write_status(job.run_dir, engine.rank, "running", done, job.total_steps)
            meter.paused_s += perf_counter() - started
        if stopping:
            engine.sum(torch.zeros(1))  # a launcher may kill all ranks when the first ends: rank 0 has saved by now
            raise Stopped(done, stop.received)


def evaluate(job: Job, engine: Engine, index: Index) -> dict[str, float]:
    """The metrics of the engine's model on every sample of an index, each counted once. Collective."""
    return compute_metrics(predict(job, engine, index), index)


def predict(job: Job, engine: Engine, index: Index, num_outputs: int | None = None) -> Tensor:
    """Logits of every sample of an index, float32 [N, C] on the CPU, on every rank; or what else the engine's model
    puts out, [N, num_outputs]. Collective. Raises RunError, on every rank, for outputs that are not finite."""
    requests = evaluation_order(len(index), engine.rank, engine.world_size, job.config.runtime.eval_batch_size)
    outputs = torch.zeros(len(index), num_outputs or index.num_classes)
    with engine.evaluation():
        for batch in job.load(engine, index, requests, job.evaluation):
            outputs[torch.from_numpy(batch.samples)] = engine.model(batch.images).float().cpu()
    outputs = engine.sum(outputs)
    ruined = int((~outputs.isfinite()).any(dim=1).sum())
    if ruined:
        raise RunError(
            f"{job.run_dir}: the model's outputs for {ruined} of {len(index)} images are not finite, so there are no "
            "metrics. Take --precision bf16 or fp32, lower the learning rate, or look at the weights it began with"
        )
    return outputs


def save(job: Job, engine: Engine, step: int, best: float | None, name: str | None = None) -> None:
    """Write a checkpoint after `step` updates and delete the oldest ones. Collective.

    Raises RunError, and leaves the checkpoints as they are, if a weight is not finite.
    """
    state = engine.state_dict()
    require_finite(state["model"].values(), step)
    if engine.rank == 0:
        path = checkpoint.path_of(job.run_dir, step) if name is None else job.run_dir / checkpoint.FOLDER / name
        checkpoint.save(path, state, {**job.about, "step": step, "best": best})
        checkpoint.prune(job.run_dir, job.config.runtime.keep_checkpoints)


def require_finite(weights: Iterable[Tensor], step: int) -> None:
    """Raise RunError if one of the weights after `step` updates is not finite."""
    norms = torch.stack(torch._foreach_norm([weight.detach() for weight in weights]))
    if not norms.isfinite().all():
        raise RunError(
            f"the weights after step {step} are not finite although the loss was; they are not saved, the last "
            "checkpoint is from before. Lower the learning rate or lengthen the warm-up"
        )


class Meter:
    """What happened since the last row of metrics."""

    def __init__(self) -> None:
        self.started = perf_counter()
        self.images = 0
        self.waited_s = 0.0
        self.paused_s = 0.0


def training_scalars(lr: float, loss: Tensor, update: Update, meter: Meter) -> dict[str, float]:
    """One row of metrics. Throughput leaves out evaluation and saving; reading the tensors waits for the device."""
    values = {
        "train/loss": loss.item(),
        "train/lr": lr,
        "train/grad_norm": update.grad_norm.item(),
        "train/clipped_share": update.clipped_share.item(),
    }
    elapsed_s = perf_counter() - meter.started - meter.paused_s
    return values | {
        "train/images_per_s": meter.images / elapsed_s,
        "train/data_wait_share": meter.waited_s / elapsed_s,
    }


def due(done: int, every: int | None, total: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after `done` of `total`."""
    return done == total or (every is not None and done % every == 0)
