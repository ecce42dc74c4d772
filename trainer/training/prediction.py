"""Outputs of a run's model for every sample of a set, and the metrics of them, with all ranks."""

import numpy as np
from torch import Tensor

from data_pipelines.common.errors import RunError
from data_pipelines.common.progress import Progress as ProgressBar
from data_pipelines.loading.sampler import evaluation_order
from data_pipelines.loading.unreadable import UnreadableSample
from data_pipelines.shards.index import Index
from trainer.engine import Engine
from trainer.evaluation.outputs import NUM_GREY, Outputs, describe
from trainer.metrics import compute_metrics
from trainer.run_files import UNJUDGED
from trainer.training.job import Job
from trainer.training.step_monitor import ways_to_stay_finite
from trainer.training.unreadable_images import note_unjudged


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
