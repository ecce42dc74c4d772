"""Layer timings of one rank in the order of the backward pass: computed for the shipped model, or measured."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.lib.network.model import Layer, StepWork
from benchmarks.lib.network.profile import Profile, Workload
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


def step_work_of(work: Workload, rates: Profile, image_bytes: float = 0.0, filters_last: bool = False) -> StepWork:
    """The work of a rank that computes at a profile's rates; a kernel of the backward pass is two.

    Gradients come in the shipped model's own order, or with `filters_last` those of the filters after all others.
    """

    def seconds(kernels: tuple[int, ...], launches: int) -> float:
        return sum(
            max(flops * work.images / (rates.tflops * 1e12), launches * rates.kernel_us * 1e-6) for flops in kernels
        )

    trace = trace_step(work.model, work.num_classes, work.image_size)
    layers: list[Layer] = []
    for gradient in _filters_last(trace.backward) if filters_last else trace.backward:
        if gradient.kernels or not layers:
            layers.append(Layer(gradient.name, (gradient.elements,), seconds(gradient.kernels, 2)))
        else:  # no kernel ran since the one before: both are ready together
            layers[-1] = replace(layers[-1], elements=(*layers[-1].elements, gradient.elements))
    update_bytes = sum(gradient.elements for gradient in trace.backward) * _BYTES_OF_UPDATE
    update_s = update_bytes / (rates.update_gb_s * 1e9)
    return StepWork(tuple(layers), seconds(trace.forward, 1), update_s, work.images, image_bytes)


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


def scaled_to(step_work: StepWork, compute_s: float) -> StepWork:
    """The work with all its computing stretched to a measured time of a step."""
    factor = compute_s / step_work.compute_s
    layers = tuple(replace(layer, backward_s=layer.backward_s * factor) for layer in step_work.layers)
    return replace(
        step_work, layers=layers, forward_s=step_work.forward_s * factor, update_s=step_work.update_s * factor
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
