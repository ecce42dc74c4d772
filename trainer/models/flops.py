"""Floating-point operations of training a model, counted on the model itself."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.bit import build_model
from trainer.models.filters import StdConv2d


@lru_cache
def training_flops(name: str, num_classes: int, image_size: int, frozen_stages: int = 0) -> int:
    """Floating-point operations of one image's forward and backward pass in convolutions and head: 2 for each
    multiply-add, three times the forward's, without the first layer's gradient of the image; of what is frozen, the
    forward's alone."""
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, StdConv2d):
            multiply_adds = output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            multiply_adds = module.weight.numel()
        else:
            return
        passes = 2 if getattr(module, "in_channels", 0) == 3 else 3
        total += 2 * multiply_adds * (passes if module.weight.requires_grad else 1)

    with torch.device("meta"):
        model = build_model(name, num_classes)
        model.freeze(frozen_stages)
        for module in model.modules():
            module.register_forward_hook(count)
        model(torch.empty(1, 3, image_size, image_size))
    return total
