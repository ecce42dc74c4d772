"""Compilation of the residual units. On a CPU nothing is recorded as graphs; all else is as on a GPU."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from data_pipelines.common.errors import InputError
from trainer.config import RuntimeConfig
from trainer.engines import ENGINES
from trainer.engines.compilation import compile_no_units, compile_units
from trainer.models.bit import BiTResNet, PreActBottleneck

IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def small_model() -> BiTResNet:
    """Two residual units."""
    torch.manual_seed(0)
    return BiTResNet((1, 1), 0.5, 10)


def run_as(monkeypatch: pytest.MonkeyPatch, run: Callable[[int, Tensor], Tensor]) -> None:
    """Let `compile` make of each unit one whose branch goes through `run`, which learns how often it ran."""

    def compiled(unit: PreActBottleneck, **_: object) -> None:
        passes = 0

        def call(*arguments: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal passes
            passes += 1
            branch, shortcut = PreActBottleneck.forward(unit, *arguments)
            return run(passes, branch), shortcut

        unit._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", compiled)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.slow
def test_compiled_units_have_the_same_gradients(graphs: bool) -> None:
    plain, model = small_model(), small_model()
    assert compile_units(model, IMAGES, nullcontext, graphs) is None
    assert all(unit._compiled_call_impl is not None for unit in model.units)
    assert all(parameter.grad is None for parameter in model.parameters())
    for each in (plain, model):
        each.features(IMAGES).square().mean().backward()
    for expected, found in zip(plain.parameters(), model.parameters(), strict=True):
        if expected.grad is not None:
            assert found.grad is not None
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_graphs_that_replay_something_else_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    run_as(monkeypatch, lambda passes, branch: branch * (1.1 if passes > 4 else 1.0))  # two a step
    problem = compile_units(model, IMAGES, nullcontext, graphs=True)
    assert problem is not None
    assert problem.startswith("CUDA graphs give another gradient of ")
    compile_no_units(model)
    assert all(unit._compiled_call_impl is None for unit in model.units)


@pytest.mark.slow
def test_a_replay_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(passes: int, branch: Tensor) -> Tensor:
        if passes == 3:
            raise RuntimeError("overwritten by a later run\nand more")
        return branch

    model = small_model()
    run_as(monkeypatch, run)
    assert compile_units(model, IMAGES, nullcontext, graphs=True) == "overwritten by a later run"


class _OneMemory(torch.autograd.Function):
    """The identity, whose gradients all lie in one place, as those that a graph computes do."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, memory: Tensor) -> Tensor:
        ctx.memory = memory
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.memory.copy_(gradient).detach(), None


def test_gradients_outlive_the_graphs_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next replay writes where this one has written."""

    def compiled(unit: PreActBottleneck, **_: object) -> None:
        memory = torch.empty_like(unit.norm2.weight, requires_grad=False)

        def call(*arguments: Tensor) -> tuple[Tensor, Tensor]:
            weights = {"norm2.weight": _OneMemory.apply(unit.norm2.weight, memory)}
            unit._compiled_call_impl = None
            outputs = functional_call(unit, weights, arguments)
            unit._compiled_call_impl = call
            return outputs

        unit._compiled_call_impl = call

    plain, model = small_model(), small_model()
    monkeypatch.setattr(nn.Module, "compile", compiled)
    compile_units(model, IMAGES, nullcontext, graphs=True)
    for each in (plain, model):
        for images in IMAGES.split(1):
            each.features(images).square().mean().backward()
    for expected, found in zip(plain.units, model.units, strict=True):
        assert expected.norm2.weight.grad is not None
        assert found.norm2.weight.grad is not None
        torch.testing.assert_close(found.norm2.weight.grad, expected.norm2.weight.grad)


def test_cuda_graphs_need_a_gpu() -> None:
    with pytest.raises(InputError, match="take True on a CPU"):
        ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1, compile="graphs"), "fp32")
    with pytest.raises(InputError, match="--checkpoint-stages"):
        RuntimeConfig(compile="graphs", checkpoint_stages=1)
