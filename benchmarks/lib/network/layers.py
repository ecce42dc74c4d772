"""What one rank does in a step, in the order of its backward pass: the shipped model's order with durations from
arithmetic, or all of it measured."""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.lib.network.model import Job, Layer
from trainer.models.bit import build_model

_BYTES_OF_UPDATE = 5 * 4  # the update reads weight, gradient and momentum and writes weight and momentum, fp32
_aten = torch.ops.aten
_NORMS = (_aten.native_group_norm, _aten.native_group_norm_backward)  # no FLOPs to speak of, but kernels


class Gradient(NamedTuple):
    """A gradient, and the floating-point operations of each kernel that the backward pass runs between the one before
    and this one, for one image."""

    name: str
    elements: int
    kernels: tuple[int, ...]


class Trace(NamedTuple):
    """What a step of the shipped model runs for one image: FLOPs of each kernel of the forward pass, and the gradients
    in the order in which autograd has them ready."""

    forward: tuple[int, ...]
    backward: tuple[Gradient, ...]


def job_of(
    model_name: str,
    num_classes: int,
    image_size: int,
    images: int,
    tflops: float,
    update_gb_s: float,
    kernel_us: float = 0.0,
    image_bytes: float = 0.0,
    filters_last: bool = False,
) -> Job:
    """A job of `images` images per rank whose convolutions and head run at `tflops` 1e12 operations/s; each kernel
    takes at least `kernel_us`, one of the backward pass twice that, as it is two. Gradients come in the shipped
    model's own order, or with `filters_last` those of the filters after all others."""

    def seconds(kernels: tuple[int, ...], launches: int) -> float:
        return sum(max(flops * images / (tflops * 1e12), launches * kernel_us * 1e-6) for flops in kernels)

    trace = trace_step(model_name, num_classes, image_size)
    order = _filters_last(trace.backward) if filters_last else trace.backward
    layers: list[Layer] = []
    for _, ready in groupby(order, key=_Together()):
        gradients = list(ready)
        sizes = tuple(gradient.elements for gradient in gradients)
        layers.append(Layer(gradients[0].name, sizes, seconds(gradients[0].kernels, 2)))
    elements = sum(gradient.elements for gradient in trace.backward)
    return Job(
        tuple(layers),
        seconds(trace.forward, 1),
        elements * _BYTES_OF_UPDATE / (update_gb_s * 1e9),
        images,
        image_bytes,
        checkpoint_bytes=2.0 * 4 * elements,  # fp32 weights and momentum
    )


def _filters_last(backward: Sequence[Gradient]) -> list[Gradient]:
    kernels: tuple[int, ...] = ()
    first, last = [], []
    for gradient in backward:
        kernels += gradient.kernels
        if "conv" in gradient.name:
            last.append(gradient._replace(kernels=()))
        else:
            first.append(gradient._replace(kernels=kernels))
            kernels = ()
    return [*first, last[0]._replace(kernels=kernels), *last[1:]]


class _Together:
    """A key by which gradients are grouped between which no kernel runs."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, gradient: Gradient) -> int:
        self._number += bool(gradient.kernels)
        return self._number


def scaled_to(job: Job, compute_s: float) -> Job:
    """The job with all its computing stretched to a measured time of a step."""
    factor = compute_s / job.compute_s
    layers = tuple(Layer(layer.name, layer.elements, layer.backward_s * factor) for layer in job.layers)
    return Job(
        layers,
        job.forward_s * factor,
        job.update_s * factor,
        job.images,
        job.image_bytes,
        job.checkpoint_bytes,
        job.save_every,
    )


class _Kernels(TorchDispatchMode):
    """Notes the FLOPs of each convolution, matrix product and norm that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in flop_registry:
            self.flops.append(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
        elif packet in _NORMS:
            self.flops.append(0)
        return out

    def take(self) -> tuple[int, ...]:
        """What was noted since it was last asked for."""
        taken, self.flops = tuple(self.flops), []
        return taken


@lru_cache
def trace_step(model_name: str, num_classes: int, image_size: int) -> Trace:
    """Forward and backward pass of the shipped model as engines run it, on tensors without numbers."""
    with torch.device("meta"):
        model = build_model(model_name, num_classes)
        images = torch.empty(1, 3, image_size, image_size)
    backward: list[Gradient] = []
    with _Kernels() as kernels, model.filter_sharing.micro_batch(last=True):
        loss = model(images).sum()
        forward = kernels.take()

        def note(name: str) -> Callable[[Tensor], None]:
            return lambda parameter: backward.append(Gradient(name, parameter.numel(), kernels.take()))

        for name, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(note(name))
        loss.backward()
    return Trace(forward, tuple(backward))


def measured_layers(
    backward: Callable[[], None], parameters: list[tuple[str, nn.Parameter]], device: str
) -> list[Layer]:
    """The layers as one backward pass shows them: which gradient came when. `backward` runs forward and backward."""
    arrived: list[tuple[str, int, float]] = []

    def note(name: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            arrived.append((name, parameter.numel(), time.perf_counter()))

        return hook

    handles = [parameter.register_post_accumulate_grad_hook(note(name)) for name, parameter in parameters]
    try:
        backward()
    finally:
        for handle in handles:
            handle.remove()
    previous = [arrived[0][2], *(when for _, _, when in arrived)]
    return [
        Layer(name, (elements,), when - before)
        for (name, elements, when), before in zip(arrived, previous, strict=False)
    ]
