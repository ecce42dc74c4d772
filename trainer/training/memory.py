"""Training memory, counted without running the model; and `--micro-batch-size auto`: the largest batches that fit every
rank, found by trying."""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import RunError
from data_pipelines.common.messages import logger
from data_pipelines.loading.batch import Batch
from trainer.config import Precision
from trainer.engine import Engine
from trainer.losses import batch_loss, model_input
from trainer.models.bit import MODELS, BiTResNet
from trainer.training.job import Job
from trainer.training.model import prepare_model

AUTO = "auto"
_SPARE = 0.06  # of a GPU's memory, for what comes later: the decoder's and the network's buffers
_AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.bfloat16}  # of the same size
_FEW, _MORE = 2, 3  # images of the two passes whose difference is one image's


class Memory(NamedTuple):
    """Bytes on a rank that holds the whole model. `filters`: standardised filters, kept until the backward pass."""

    parameters: int
    gradients: int
    momentum: int
    filters: int
    activations_per_image: int

    def total(self, images: int) -> int:
        """Bytes with this many images in one pass."""
        return self.parameters + self.gradients + self.momentum + self.filters + images * self.activations_per_image

    def summary(self, images: int) -> str:
        """One line for the user."""
        parts = [
            ("weights", self.parameters),
            ("gradients", self.gradients),
            ("momentum", self.momentum),
            ("filters", self.filters),
            (f"activations of {images} images", images * self.activations_per_image),
        ]
        return ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts) + f": {self.total(images) / 1e9:.2f} GB"


def count_memory(
    name: str,
    num_classes: int,
    image_size: int,
    precision: Precision = "bf16",
    checkpoint_stages: int = 0,
    frozen_stages: int = 0,
) -> Memory:
    """Training memory of a model of `MODELS`: what autograd keeps for the backward pass is counted on fake tensors.
    Does not include library workspaces and the temporary memory of single layers."""
    with FakeTensorMode():
        model = BiTResNet(*MODELS[name], num_classes)
        model.checkpoint_stages = checkpoint_stages
        model.freeze(frozen_stages)
        parameters = sum(p.nbytes for p in model.parameters())
        trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        shape = image_size, image_size, 3
        per_image = kept_per_image(
            model, lambda images: torch.empty(images, *shape, dtype=torch.uint8).permute(0, 3, 1, 2), precision
        )
    itemsize = 4 if precision == "fp32" else 2
    filters = sum(p.numel() for p in model.parameters() if p.ndim == 4) * itemsize
    return Memory(parameters, trained, trained, filters, per_image)


def kept_per_image(model: nn.Module, batch_of: Callable[[int], Tensor], precision: Precision) -> int:
    """Bytes that autograd keeps for the backward pass per image; batch_of: makes a batch of that many images."""
    few, more = (_kept_bytes(model, batch_of(images), precision) for images in (_FEW, _MORE))
    return (more - few) // (_MORE - _FEW)


def _kept_bytes(model: nn.Module, batch: Tensor, precision: Precision) -> int:
    storages: dict[int, int] = {}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)
        storages[storage._cdata] = storage.nbytes()
        return tensor

    dtype = _AMP_DTYPES.get(precision)
    with (
        torch.autocast(batch.device.type, dtype or torch.bfloat16, enabled=dtype is not None),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        model(batch)
    return sum(storages.values())


def resolve_micro_batch_size(job: Job, engine: Engine) -> Job:
    """The job with numbers in place of "auto", the same on every rank. Collective.

    They are found by trial passes of a model without its pre-trained weights, which stays in the engine. Raises
    RunError if not even the smallest batch fits.
    """
    runtime = job.config.runtime
    if runtime.micro_batch_size != AUTO:
        return job
    group_size, share = job.order.group_size, job.order.largest_share(engine.world_size)
    prepare_model(_with(job, group_size, 1), engine, loads=False)  # other weights need as much
    micro_batch_size = share
    if job.total_steps:
        micro_batch_size = _largest(share, group_size, engine, job, _train_once)
    most = max(len(index) for index in (job.train, *job.held_out.values()))
    eval_batch_size = min(runtime.eval_batch_size, -(-most // engine.world_size))
    eval_batch_size = _largest(eval_batch_size, 1, engine, job, _predict_once)
    _free_memory(engine)
    if engine.rank == 0:
        sizes = f"{eval_batch_size} in evaluation"
        if job.total_steps:
            passes = -(-share // micro_batch_size)
            sizes = f"{micro_batch_size} images per rank in one pass, {passes} of them make a step; {sizes}"
        logger.info(f"{flag('--micro-batch-size')} auto: {sizes}")
    return _with(job, micro_batch_size, eval_batch_size)


def _with(job: Job, micro_batch_size: int, eval_batch_size: int) -> Job:
    runtime = replace(job.config.runtime, micro_batch_size=micro_batch_size, eval_batch_size=eval_batch_size)
    return replace(job, config=replace(job.config, runtime=runtime))


def _largest(size: int, unit: int, engine: Engine, job: Job, trial: Callable[[Job, Engine, int], None]) -> int:
    """`size`, halved until the trial fits on every rank; a multiple of `unit`."""
    while True:
        failed = torch.tensor(float(not _fits(partial(trial, job, engine, size), engine)))
        if not engine.sum(failed):
            return size
        if size == unit:
            raise RunError(
                f"{job.run_dir}: not even {unit} image{'s' * (unit > 1)} of {job.config.data.image_size} pixels fit "
                f"into memory; take a smaller model or smaller images{_narrower(job.config.precision)}"
            )
        size = -(-size // (2 * unit)) * unit


def _narrower(precision: Precision) -> str:
    return f", or {flag('--precision')} bf16" if precision == "fp32" else ""


def _fits(attempt: Callable[[], None], engine: Engine) -> bool:
    try:
        attempt()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        fits = False
    else:
        fits = True
    _free_memory(engine)  # only now: the error kept the activations alive
    return fits


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(phrase in str(error) for phrase in ("can't allocate memory", "ALLOC_FAILED"))


def _free_memory(engine: Engine) -> None:
    for parameter in engine.model.parameters():
        parameter.grad = None
    gc.collect()
    if engine.device.type == "cuda":
        torch.cuda.empty_cache()


def _train_once(job: Job, engine: Engine, size: int) -> None:
    """Forward and backward pass of one micro-batch with everything allocated that training keeps, such as momentum.
    Ranks do not wait for each other."""
    device, task, num_classes = engine.device, job.train.task, job.train.num_classes
    reserved = [torch.zeros_like(parameter) for parameter in engine.model.parameters() if parameter.requires_grad]
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        reserved.append(torch.empty(int(total * _SPARE), dtype=torch.uint8, device=device))
    labels = torch.zeros(size, dtype=torch.int64) if task == "single_label" else torch.zeros(size, num_classes)
    mixup = torch.ones(size, device=device) if job.config.data.mixup_alpha else None
    batch = Batch(job.blank_images(size).to(device), labels.to(device), mixup, np.arange(size))
    with engine.accumulate(last=False):
        engine.backward(batch_loss(engine.model(model_input(batch)), batch, task), 1)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _predict_once(job: Job, engine: Engine, size: int) -> None:
    with engine.evaluation():
        engine.model(job.blank_images(size).to(engine.device)).float().cpu()
