"""The arithmetic of training, against known counts and PyTorch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.lib.network.layers import trace_step
from trainer.models.bit import build_model
from trainer.models.flops import training_flops


def test_flops_of_r50x1_are_the_known_ones() -> None:
    # 4.1 G multiply-adds forward; torchvision's ResNet-50 has as many.
    forward = training_flops("r50x1", 1000, 224) / 3 / 2
    assert forward == pytest.approx(4.1e9, rel=0.05)


def test_flops_are_those_that_torch_counts() -> None:
    """Of operations as they run, forward and backward, without the first layer's gradient of the image."""
    model = build_model("r14x0.5", 7)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, 64, 64)).sum().backward()
    assert training_flops("r14x0.5", 7, 64) == pytest.approx(counter.get_total_flops() / 2)


def test_they_are_those_of_the_scaling_model() -> None:
    trace = trace_step("r14x0.5", 7, 64)
    backward = sum(sum(gradient.kernels) for gradient in trace.backward)
    assert training_flops("r14x0.5", 7, 64) == sum(trace.forward) + backward
