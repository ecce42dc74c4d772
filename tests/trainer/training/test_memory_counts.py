"""The memory report counts what autograd keeps, without numbers and without a GPU."""

import pytest
import torch
from torch import Tensor

from benchmarks.lib.throughput.memory import plan
from trainer.models.bit import build_model
from trainer.training.memory import count_memory


@pytest.mark.slow
def test_parameters_momentum_and_filters() -> None:
    with torch.device("meta"):
        parameters = list(build_model("r50x1", 1000).parameters())
    memory = count_memory("r50x1", 1000, 64)
    assert memory.parameters == memory.gradients == memory.momentum == sum(4 * p.numel() for p in parameters)
    assert memory.filters == sum(2 * p.numel() for p in parameters if p.ndim == 4)
    assert memory.total(3) - memory.total(1) == 2 * memory.activations_per_image


def test_activations_are_those_of_a_real_pass() -> None:
    model = build_model("r14x0.5", 10)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    sizes = []
    for images in (2, 3):
        kept.clear()
        batch = torch.zeros(images, 64, 64, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            logits = model(batch)
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
        del logits
    assert count_memory("r14x0.5", 10, 64).activations_per_image == pytest.approx(sizes[1] - sizes[0], rel=0.02)


@pytest.mark.slow
def test_checkpointed_stages_keep_less_and_fp32_more() -> None:
    each = [count_memory("r26x1", 10, 64, checkpoint_stages=n).activations_per_image for n in (0, 1, 4)]
    assert each[0] > each[1] > each[2]
    assert count_memory("r26x1", 10, 64, "fp32").activations_per_image > 1.5 * each[0]


@pytest.mark.slow
def test_plan_says_that_it_is_an_estimate() -> None:
    text = plan("r26x1", "a100-40gb", 64)
    assert "estimated, not measured" in text
    assert text.count("\n| ") == 6
