"""Filters that micro-batches share give the gradients of filters that each standardises for itself."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models import filters as module
from trainer.models.bit import BiTResNet, build_model

SIZES = (2, 3, 1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_model(dtype: torch.dtype) -> BiTResNet:
    torch.manual_seed(0)
    return build_model("r14x0.5", 5, "fan_in").to(dtype)


def micro_batches(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256, (size, 3, 32, 32), generator=generator).to(dtype),
            torch.randint(0, 5, (size,), generator=generator),
        )
        for size in SIZES
    ]


def gradients(model: BiTResNet) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def separately(model: BiTResNet, dtype: torch.dtype) -> dict[str, Tensor]:
    for images, labels in micro_batches(dtype):
        F.cross_entropy(model(images), labels, reduction="sum").backward()
    return gradients(model)


def shared(model: BiTResNet, dtype: torch.dtype, seen: Callable[[int], None] = lambda _: None) -> dict[str, Tensor]:
    for i, (images, labels) in enumerate(micro_batches(dtype), 1):
        with model.filter_sharing.micro_batch(last=i == len(SIZES)):
            F.cross_entropy(model(images), labels, reduction="sum").backward()
        seen(i)
    return gradients(model)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, truth in expected.items():
        assert (found[name] - truth).norm() <= tolerance * truth.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("checkpoint_stages", [0, 2])
def test_gradients_are_exact(dtype: torch.dtype, tolerance: float, checkpoint_stages: int) -> None:
    model = a_model(dtype)
    expected = separately(copy.deepcopy(model), dtype)
    model.checkpoint_stages = checkpoint_stages
    assert_same(shared(model, dtype), expected, tolerance)


def test_under_autocast() -> None:
    model, other = a_model(torch.float32), a_model(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = separately(other, torch.float32)
        found = shared(model, torch.float32)
    # Equal but for the order of sums: in fp32 although the filters are bf16.
    assert_same(found, expected, 1e-3)


def test_standardised_once_a_step_and_anew_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = a_model(torch.float32), []
    standardise = module.standardise
    monkeypatch.setattr(module, "standardise", lambda *arguments: (calls.append(1), standardise(*arguments))[1])
    shared(model, torch.float32)
    assert len(calls) == 1
    model.zero_grad()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.01)
    found = {name: g.clone() for name, g in shared(model, torch.float32).items()}
    assert len(calls) == 2
    model.zero_grad()
    assert_same(found, separately(model, torch.float32), 1e-4)


def test_weights_hear_of_the_last_pass_alone() -> None:
    model, heard = a_model(torch.float32), []
    weight = model.stages[0].blocks[0].conv1.weight
    weight.register_hook(lambda _: heard.append("hook"))
    weight.register_post_accumulate_grad_hook(lambda _: heard.append("accumulated"))
    shared(model, torch.float32, lambda i: heard.append(f"pass {i}"))
    assert heard == ["pass 1", "pass 2", "hook", "accumulated", "pass 3"]


def test_evaluation_standardises_once_until_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = a_model(torch.float32), []
    images, _ = micro_batches(torch.float32)[0]
    before = model(images).detach()
    standardise = module.standardise
    monkeypatch.setattr(module, "standardise", lambda *arguments: (calls.append(1), standardise(*arguments))[1])
    for expected_calls in (1, 2):
        with torch.inference_mode(), model.filter_sharing.unchanged():
            assert torch.equal(model(images), before)
            assert torch.equal(model(images), before)
        assert len(calls) == expected_calls
    with torch.no_grad():
        model.stages[0].blocks[0].conv1.weight.mul_(-1)
    with torch.inference_mode(), model.filter_sharing.unchanged():
        assert not torch.equal(model(images), before)


def test_frozen_weights_get_no_gradient() -> None:
    model = a_model(torch.float32)
    frozen = model.stages[1].blocks[0].conv2.weight.requires_grad_(False)
    found = shared(model, torch.float32)
    assert frozen.grad is None
    assert "stages.1.blocks.0.conv1.weight" in found


def test_empty_micro_batch() -> None:
    model = a_model(torch.float32)
    model(torch.zeros(0, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_failed_pass_leaves_nothing_to_the_next_step() -> None:
    model = a_model(torch.float32)
    (images, labels), *_ = micro_batches(torch.float32)
    with pytest.raises(RuntimeError, match="made up"), model.filter_sharing.micro_batch(last=False):  # noqa: PT012
        F.cross_entropy(model(images), labels).backward()
        raise RuntimeError("made up")
    model.zero_grad()
    found = shared(model, torch.float32)
    assert_same(found, separately(a_model(torch.float32), torch.float32), 1e-4)


def test_a_convolution_that_was_replaced_is_the_one_that_trains() -> None:
    model = a_model(torch.float32)
    unit = model.stages[0].blocks[0]
    unit.conv1 = module.StdConv2d(unit.conv1.in_channels, unit.conv1.out_channels, 1, bias=False)
    model(torch.zeros(1, 3, 32, 32)).sum().backward()
    assert unit.conv1.weight.grad is not None
