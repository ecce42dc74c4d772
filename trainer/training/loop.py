"""The training loop and evaluation, shared by pre-training and transfer."""

import numpy as np
from torch import Tensor

from data_pipelines.common.errors import RunError
from data_pipelines.common.progress import Progress as ProgressBar
from data_pipelines.loading.batch import Batch
from data_pipelines.loading.sampler import evaluation_order
from data_pipelines.loading.unreadable import UnreadableSample
from data_pipelines.shards.index import Index
from trainer.engine import Engine, Progress, RegroupError
from trainer.evaluation.outputs import NUM_GREY, Outputs, describe
from trainer.losses import batch_loss, count_labels, model_input
from trainer.metrics import compute_metrics
from trainer.profiling.recorder import recorded_steps
from trainer.run_files import UNJUDGED
from trainer.run_folder import MetricLogger
from trainer.training.job import Job
from trainer.training.saver import Saver, require_finite
from trainer.training.signals import NEVER, Stopped, StopSignals, leave_or_regroup
from trainer.training.step_monitor import StepMonitor, ways_to_stay_finite
from trainer.training.step_report import RankSums, StepReport
from trainer.training.throughput_meter import ThroughputMeter
from trainer.training.unreadable_images import note_unjudged


def train(job: Job, engine: Engine, metric_logger: MetricLogger, progress: Progress, stop: StopSignals = NEVER) -> None:
    """Update the model from `progress.step` to the job's end, evaluating on val and saving along the way.

    Raises RunError for a loss that is not finite; the last checkpoint is then from before it. Raises Stopped on every
    rank, with a checkpoint of this very step, once any rank was asked to `stop`. Raises RunError on every rank if
    checkpoints cannot be saved. With an elastic engine, raises RegroupError when ranks are lost, leave or wait to join:
    `progress` says how far this rank has come; and Left on ranks that were asked to stop while others go on.
    """
    with Saver(job, engine, progress.best) as saver:
        with recorded_steps(job, engine, progress.step):
            _train_steps(job, engine, metric_logger, progress, saver, stop)
        saver.finish()


def _train_steps(
    job: Job, engine: Engine, metric_logger: MetricLogger, progress: Progress, saver: Saver, stop: StopSignals
) -> None:
    first_step = progress.step
    batches = job.training_batches(engine, first_step)
    monitor, meter = StepMonitor(job, engine, first_step, saver.is_overdue), ThroughputMeter(job, engine)

    def evaluate_and_save(steps_done: int) -> None:
        if job.val is not None and job.is_due("eval", steps_done):
            monitor.flush()
            with meter.paused():
                require_finite(engine.model.parameters(), steps_done)
                metrics = evaluate(job, engine, job.val)
                row = {f"val/{name}": value for name, value in metrics.items()}
                progress.rows["val"] = (steps_done, row)
                metric_logger.scalars(steps_done, row)
                saver.save_if_best(steps_done, metrics[job.train.metric])
                monitor.observe_val(steps_done, metrics["loss"])
        stopping = monitor.stop_asked and steps_done < job.total_steps  # after the last step, `fit.py` decides
        if stopping and not engine.all_stop(lambda: stop.received is not None):
            raise leave_or_regroup(steps_done, stop)
        if stopping or monitor.save_asked or job.is_due("save", steps_done):
            monitor.flush()
            with meter.paused():
                saver.save(steps_done)
        if stopping:
            saver.finish(stopping=True)  # on all ranks: a launcher may kill them when the first ends
            raise Stopped(steps_done, stop.received_by_all())

    for steps_done, row in progress.rows.values():
        metric_logger.scalars(steps_done, row)  # unless the former rank 0 has written it
    if progress.is_owed:
        evaluate_and_save(first_step)
    elif progress.must_save:
        saver.save(first_step)
    for step in range(first_step, job.total_steps):
        progress.is_owed, progress.best = False, saver.best
        if monitor.regroup_asked:
            raise RegroupError("ranks wait to join")
        engine.begin_step(step)
        with meter.waiting():
            micro_batches = next(batches)
        report = train_step(job, engine, step, micro_batches, monitor, stop)
        steps_done = step + 1
        progress.step, progress.is_owed = steps_done, True
        monitor.observe(report)
        metric_logger.advance()
        meter.advance()
        if job.is_due("log", steps_done):
            monitor.flush()
            slowest_scalars, slowest_text = engine.heartbeat.slowest()
            row = meter.scalars(report)
            progress.rows["train"] = (steps_done, row)
            metric_logger.scalars(steps_done, row | saver.pop_timings() | slowest_scalars, slowest_text)
        evaluate_and_save(steps_done)
    progress.is_owed, progress.best = False, saver.best


def train_step(
    job: Job, engine: Engine, step: int, micro_batches: list[Batch], monitor: StepMonitor, stop: StopSignals
) -> StepReport:
    """One update from this rank's micro-batches of a step. Never waits for the device. Collective."""
    lr, task = job.schedule(step), job.train.task
    engine.set_lr(lr)
    engine.expect_samples(_num_samples(micro_batches), job.config.global_batch_size)
    num_labels: Tensor | int = job.config.global_batch_size
    if task == "multi_label":
        num_labels = engine.exchange(count_labels(micro_batches)).clamp(min=1)
    losses = []
    for batch in micro_batches:
        with engine.accumulate(last=batch is micro_batches[-1]):
            logits = engine.model(model_input(batch))
            losses.append(engine.backward(batch_loss(logits, batch, task), num_labels))
    unreadable = [image for batch in micro_batches if not batch.is_padding for image in batch.unreadable]
    sums = RankSums.over_ranks(engine, losses, stop.received is not None, len(unreadable), monitor.is_overdue())
    update = engine.step(monitor.is_nonfinite(sums.losses))
    return StepReport(step, lr, sums, update, unreadable)


def _num_samples(micro_batches: list[Batch]) -> int:
    return sum(len(batch.samples) for batch in micro_batches if not batch.is_padding)


def evaluate(job: Job, engine: Engine, index: Index) -> dict[str, float]:
    """Metrics of the engine's model on every sample of an index, each counted once; unreadable samples are left out.
    Collective."""
    readable, outputs = predict_readable(job, engine, index)
    return compute_metrics(outputs, readable)


def predict_readable(job: Job, engine: Engine, index: Index) -> tuple[Index, Tensor]:
    """The readable samples of an index, nearly always all of them, and their logits, as from `predict`."""
    outputs, is_unreadable = _predict(job, engine, index, None)
    if not is_unreadable.any():
        return index, outputs
    return index.take(np.flatnonzero(~is_unreadable.numpy())), outputs[~is_unreadable]


def predict(job: Job, engine: Engine, index: Index, num_outputs: int | None = None) -> Tensor:
    """Logits of every sample of an index, float32 [N, C] on the CPU, on every rank; or other outputs of the engine's
    model, [N, num_outputs]. Collective. Raises RunError, on every rank, for outputs that are not finite, and for images
    that cannot be read."""
    outputs, is_unreadable = _predict(job, engine, index, num_outputs)
    if is_unreadable.any():
        number = int(is_unreadable.sum())
        raise RunError(f"{number} of {len(index)} images cannot be read; {job.run_dir / UNJUDGED} lists them")
    return outputs


def describe_readable(job: Job, engine: Engine, index: Index, num_features: int) -> tuple[Index, Tensor]:
    """The readable samples of an index, and what tells their novelty, float32 [N, num_features + 80], on every rank.
    Collective. Raises RunError where that is not finite."""
    outputs, is_unreadable = _predict(job, engine, index, num_features + NUM_GREY, describes=True)
    return index.take(np.flatnonzero(~is_unreadable.numpy())), outputs[~is_unreadable]


def _predict(
    job: Job, engine: Engine, index: Index, num_outputs: int | None, describes: bool = False
) -> tuple[Tensor, Tensor]:
    """Outputs, or with `describes` descriptions, and bool [N] which samples could not be read. Of descriptions these
    are not listed: they are no part of a result."""
    requests = evaluation_order(len(index), engine.rank, engine.world_size, job.config.runtime.eval_batch_size)
    # The last column: 1 where the image is unreadable.
    buffer = Outputs(len(index), (num_outputs or index.num_classes) + 1, engine.device)
    unreadable: list[UnreadableSample] = []
    label, num_local = "evaluation" if num_outputs is None else "features", sum(len(each.samples) for each in requests)
    with engine.evaluation(), ProgressBar(label, num_local, "image", leave=False) as progress:
        for batch in job.load(engine, index, requests, job.evaluation):
            engine.heartbeat.enter("evaluation")
            outputs = describe(engine.model, batch.images)[1] if describes else engine.model(batch.images)
            # A batch is a contiguous run of rows, so its first row places it.
            buffer.put(int(batch.samples[0]), outputs)
            unreadable += batch.unreadable
            progress.update(len(batch.samples))
    outputs = buffer.whole()
    for one in unreadable:
        outputs[one.sample, -1] = 1
    outputs = engine.sum(outputs).cpu()
    is_unreadable, outputs = outputs[:, -1] > 0, outputs[:, :-1]
    if is_unreadable.any() and not describes:
        note_unjudged(job, engine, index, unreadable)
    num_nonfinite = int((~outputs.isfinite()).any(dim=1).sum())
    if num_nonfinite:
        raise RunError(
            f"{job.run_dir}: the model's outputs for {num_nonfinite} of {len(index)} images are not finite, so there "
            f"are no metrics. Look at the weights it began with, {ways_to_stay_finite(job.config)}"
        )
    return outputs.contiguous(), is_unreadable
