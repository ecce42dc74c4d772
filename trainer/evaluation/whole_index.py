"""What a model says of every sample of an index, by one process."""

from collections.abc import Callable

from torch import Tensor, nn

from data_pipelines.common.progress import Progress
from data_pipelines.loading.loader import Loader, read_ahead
from data_pipelines.loading.sampler import evaluation_order
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards.index import Index
from trainer.config import RuntimeConfig
from trainer.engine import Engine
from trainer.evaluation.outputs import Outputs


def outputs_of(
    index: Index,
    engine: Engine,
    loader: Loader,
    views: Augmentation,
    runtime: RuntimeConfig,
    num_outputs: int,
    label: str = "evaluation",
    output_of: Callable[[nn.Module, Tensor], Tensor] = nn.Module.__call__,
) -> Tensor:
    """Outputs of the engine's model, float32 [N, num_outputs] in the order of the index, on the device that holds them.
    label: of the progress. output_of: what is taken of the model's work on images, its output by default."""
    held = Outputs(len(index), num_outputs, engine.device)
    requests = evaluation_order(len(index), 0, 1, runtime.eval_batch_size)
    early = read_ahead(index, requests, runtime.read_ahead)
    with engine.evaluation(), Progress(label, len(index), "image", leave=False) as progress:
        for batch in loader(index, early, views, engine.device, engine.threads):
            held.put(int(batch.samples[0]), output_of(engine.model, batch.images))
            progress.update(len(batch.samples))
    return held.whole()
