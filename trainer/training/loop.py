"""The training loop, shared by pre-training and transfer."""

from torch import Tensor

from data_pipelines.loading.batch import Batch
from trainer.engine import Engine, Progress
from trainer.losses import batch_loss, count_labels, model_input
from trainer.profiling.recorder import recorded_steps
from trainer.run_folder import MetricLogger
from trainer.training.between_steps import BetweenSteps
from trainer.training.job import Job
from trainer.training.saver import Saver
from trainer.training.signals import NEVER, StopSignals
from trainer.training.step_monitor import StepMonitor
from trainer.training.step_report import RankSums, StepReport


def train(job: Job, engine: Engine, metric_logger: MetricLogger, progress: Progress, stop: StopSignals = NEVER) -> None:
    """Update the model from `progress.step` to the job's end, evaluating on val and saving along the way.

    Raises RunError for a loss or gradient that is not finite, unless such updates are left out (`--non-finite skip`);
    the last checkpoint is then from before it. Raises Stopped on every rank, with a checkpoint of this very step, once
    any rank was asked to `stop`. Raises RunError on every rank if checkpoints cannot be saved, and RankLostError if a
    rank is lost. With an elastic engine, raises RegroupError instead, also when ranks leave or wait to join: `progress`
    says how far this rank has come; and Left on ranks that were asked to stop while others go on.
    """
    with Saver(job, engine, progress.best) as saver:
        with recorded_steps(job, engine, progress.step):
            batches = job.training_batches(engine, progress.step)
            between_steps = BetweenSteps(job, engine, metric_logger, progress, saver, stop)
            between_steps.begin()
            for step in range(progress.step, job.total_steps):
                engine.begin_step(step)
                with between_steps.meter.waiting():
                    micro_batches = next(batches)
                report = train_step(job, engine, step, micro_batches, between_steps.monitor, stop)
                between_steps.observe(report)
        saver.finish()


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
