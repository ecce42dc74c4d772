"""What one rank does in a step, layer by layer in the order of the backward pass: from arithmetic, or measured."""

import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from benchmarks.network import Job, Layer
from trainer.models.bit import build_model

_BYTES_OF_UPDATE = 5 * 4  # the update reads weight, gradient and momentum and writes weight and momentum, fp32


def job_of(
    model_name: str,
    num_classes: int,
    image_size: int,
    images: int,
    tflops: float,
    update_gb_s: float,
    kernel_us: float = 0.0,
    image_bytes: float = 0.0,
) -> Job:
    """A job of `images` images per rank whose convolutions and head run at `tflops` 1e12 operations/s; each layer takes
    at least `kernel_us`. The backward pass of a layer costs twice its forward pass."""
    layers, forward_s, elements = [], 0.0, 0
    for name, sizes, multiply_adds in _modules(model_name, num_classes, image_size):
        seconds = max(2 * multiply_adds * images / (tflops * 1e12), kernel_us * 1e-6)
        forward_s += seconds
        layers.append(Layer(name, sizes, 2 * seconds))
        elements += sum(sizes)
    update_s = elements * _BYTES_OF_UPDATE / (update_gb_s * 1e9)
    return Job(
        tuple(layers), forward_s, update_s, images, image_bytes, checkpoint_bytes=2.0 * 4 * elements
    )  # fp32 weights and momentum


def multiply_adds(model_name: str, num_classes: int, image_size: int) -> int:
    """Of the convolutions and the head in the forward pass of one image."""
    return sum(count for _, _, count in _modules(model_name, num_classes, image_size))


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


@lru_cache
def _modules(model_name: str, num_classes: int, image_size: int) -> list[tuple[str, tuple[int, ...], int]]:
    """(name, parameter sizes, multiply-adds of one image) of every module with parameters, last first."""
    with torch.device("meta"):
        model = build_model(model_name, num_classes)
        images = torch.empty(1, 3, image_size, image_size)
    found: list[tuple[str, tuple[int, ...], int]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            count = 0
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                weight = module.weight
                count = weight.numel() * output.numel() // weight.shape[0]  # one filter per output element
            sizes = tuple(parameter.numel() for parameter in module.parameters(recurse=False))
            found.append((name, tuple(reversed(sizes)), count))

        return hook

    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(note(name))
    model(images)
    return found[::-1]


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
