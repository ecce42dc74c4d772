"""What is frozen has no backward pass, no state and no cost of its own, and the rest is trained as ever."""

import pytest
import torch
import torch.nn.functional as F
from gradient_order import IMAGES, gradient_order
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trainer.models.bit import BiTResNet, build_model
from trainer.models.flops import training_flops
from trainer.optim.sgd_agc import SGDAGC, param_groups
from trainer.training.memory import count_memory

NAME = "r14x0.5"
BEFORE = ("stem.", "stages.0.", "stages.1.", "stages.2.", "stages.3.")
ALL = range(5)


def frozen_model(stages: int) -> BiTResNet:
    torch.manual_seed(0)
    model = build_model(NAME, 7, "fan_in")
    model.freeze(stages)
    return model


def is_frozen(name: str, stages: int) -> bool:
    return stages > 0 and name.startswith(BEFORE[: stages + 1])


def trained_names(stages: int) -> set[str]:
    return {name for name, _ in build_model(NAME, 7).named_parameters() if not is_frozen(name, stages)}


@pytest.mark.parametrize("stages", ALL)
def test_gradients_are_those_of_the_whole_model(stages: int) -> None:
    found: list[dict[str, Tensor]] = []
    for model in (frozen_model(stages), frozen_model(0)):
        for last in (False, True):  # two micro-batches
            with model.filter_sharing.micro_batch(last):
                F.cross_entropy(model(IMAGES), torch.tensor([1, 6])).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == trained_names(stages)
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("stages", ALL)
def test_no_backward_pass_runs_below_the_boundary(stages: int, last: bool) -> None:
    """Of no micro-batch: those before the last one gather no gradients of frozen filters either."""
    model, below = frozen_model(stages), []
    frozen_parts = [model.stem["conv"], *model.units[:stages]] if stages else []
    for part in frozen_parts:
        part.register_forward_hook(lambda *seen: below.append(seen[2]))
    kept = set()
    with model.filter_sharing.micro_batch(last):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.add(t.data_ptr()), t)[1], lambda t: t):
            loss = model(IMAGES).sum()
        outputs = [one for output in below for one in (output if isinstance(output, tuple) else (output,))]
        assert len(below) == len(frozen_parts)
        assert not any(one.requires_grad or one.data_ptr() in kept for one in outputs)
        reached = gradient_order(model, loss, Tensor.backward).keys()
    filters = sum("conv" in name for name in trained_names(stages))
    assert reached == {name for name in trained_names(stages) if last or "conv" not in name}
    assert len(model.filter_sharing.gathered) == (0 if last else filters)


def test_a_checkpointed_stage_that_is_frozen_keeps_nothing() -> None:
    model = frozen_model(1)
    model.checkpoint_stages = 2
    order = gradient_order(model, model(IMAGES).sum(), Tensor.backward)
    assert order.keys() == trained_names(1)


@pytest.mark.parametrize("stages", ALL)
def test_flops_are_those_that_torch_counts(stages: int) -> None:
    model = frozen_model(stages)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, 64, 64)).sum().backward()
    assert training_flops(NAME, 7, 64, stages) == counter.get_total_flops() / 2


@pytest.mark.slow
def test_each_frozen_stage_saves_work_and_memory() -> None:
    flops = [training_flops(NAME, 7, 64, stages) for stages in ALL]
    assert flops == sorted(flops, reverse=True)
    assert flops[4] < 0.36 * flops[0]
    memory = [count_memory(NAME, 7, 64, frozen_stages=stages) for stages in ALL]
    activations = [one.activations_per_image for one in memory]
    assert activations == sorted(activations, reverse=True)
    assert activations[4] < 0.03 * activations[0]
    for stages, one in enumerate(memory):
        trained = sum(p.nbytes for name, p in build_model(NAME, 7).named_parameters() if not is_frozen(name, stages))
        assert one.gradients == one.momentum == trained
        assert one.parameters == memory[0].parameters


def test_the_optimiser_never_sees_what_is_frozen() -> None:
    """Neither weight decay nor clipping nor momentum; what is trained is clipped as ever."""
    model = frozen_model(2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = param_groups(model, 7, 0.01)
    assert sum(len(group["params"]) for group in groups) == len(trained_names(2))
    optimizer = SGDAGC(groups, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        F.cross_entropy(model(IMAGES), torch.tensor([1, 6])).backward()
        optimizer.step()
        optimizer.zero_grad()
    names = {p: name for name, p in model.named_parameters()}
    assert {names[p] for p in optimizer.state} == trained_names(2)
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == trained_names(2)


def test_what_was_frozen_can_be_trained_again() -> None:
    model = frozen_model(4)
    model.freeze(0)
    model(IMAGES).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
