"""How much memory training takes, counted without running it: parameters, gradients, momentum and activations."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.config import Precision
from trainer.models.bit import MODELS, BiTResNet

_AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.bfloat16}  # of the same size
_FEW, _MORE = 2, 3  # images of the two passes whose difference is one image's


class Memory(NamedTuple):
    """Bytes of one rank that holds the whole model. `filters`: standardised, until the backward pass."""

    parameters: int
    gradients: int
    momentum: int
    filters: int
    activations_per_image: int

    def total(self, images: int) -> int:
        """With so many images in one pass."""
        return self.parameters + self.gradients + self.momentum + self.filters + images * self.activations_per_image

    def in_words(self, images: int) -> str:
        """One line."""
        parts = [
            ("weights", self.parameters),
            ("gradients", self.gradients),
            ("momentum", self.momentum),
            ("filters", self.filters),
            (f"activations of {images} images", images * self.activations_per_image),
        ]
        return ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts) + f": {self.total(images) / 1e9:.2f} GB"


def count_memory(
    name: str, num_classes: int, image_size: int, precision: Precision = "bf16", checkpoint_stages: int = 0
) -> Memory:
    """What a model of `MODELS` takes in training: what autograd keeps for the backward pass is counted on tensors
    without numbers. Workspaces of the libraries and the transient memory of a single layer are not in it."""
    with FakeTensorMode():
        model = BiTResNet(*MODELS[name], num_classes)
        model.checkpoint_stages = checkpoint_stages
        parameters = sum(p.nbytes for p in model.parameters())
        shape = image_size, image_size, 3
        per_image = kept_per_image(
            model, lambda images: torch.empty(images, *shape, dtype=torch.uint8).permute(0, 3, 1, 2), precision
        )
    itemsize = 4 if precision == "fp32" else 2
    filters = sum(p.numel() for p in model.parameters() if p.ndim == 4) * itemsize
    return Memory(parameters, parameters, parameters, filters, per_image)


def kept_per_image(model: nn.Module, batch_of: Callable[[int], Tensor], precision: Precision) -> int:
    """Bytes that autograd keeps for the backward pass of each image; batch_of: a batch of so many images."""
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
