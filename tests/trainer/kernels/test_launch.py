"""A kernel is looked up by Triton once for each kind of arguments; GroupNorm in eager mode goes straight to it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from trainer.kernels import group_norm_relu as module
from trainer.kernels.group_norm_relu import add_group_norm_relu, group_norm_relu
from trainer.kernels.launch import launch

Launches = list[tuple[Any, ...]]


class Compiled:
    """What Triton hands back for a kernel that it has compiled."""

    def __init__(self, launches: Launches) -> None:
        self.launches = launches

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return lambda *arguments: self.launches.append((grid, *arguments))


class Kernel:
    """Counts how often Triton looks for the code."""

    def __init__(self, interpreted: bool = False) -> None:
        self.looked_up: Launches = []
        self.launches: Launches = []
        self.interpreted = interpreted

    def __getitem__(self, grid: tuple[int]) -> Callable[..., Compiled | None]:
        def run(*arguments: Any, **options: Any) -> Compiled | None:
            self.looked_up.append((grid, *arguments, options))
            return None if self.interpreted else Compiled(self.launches)

        return run


def test_like_arguments_are_looked_up_once() -> None:
    kernel, x = Kernel(), torch.zeros(8)
    for programs in (3, 4, 5):
        launch(kernel, programs, (x, None), (7, 0.5), num_warps=4)
    assert kernel.looked_up == [((3,), x, None, 7, 0.5, {"num_warps": 4})]
    assert kernel.launches == [((programs, 1, 1), x, None, 7, 0.5) for programs in (4, 5)]


@pytest.mark.parametrize(
    ("tensors", "numbers"),
    [
        ((torch.zeros(8), None), (8, 0.5)),
        ((torch.zeros(8), torch.zeros(8)), (7, 0.5)),
        ((torch.zeros(8, dtype=torch.bfloat16), None), (7, 0.5)),
        ((torch.zeros(8)[1:], None), (7, 0.5)),  # not at a multiple of 16 bytes
    ],
)
def test_other_arguments_are_looked_up_anew(tensors: tuple[Tensor | None, ...], numbers: tuple[float, ...]) -> None:
    kernel = Kernel()
    launch(kernel, 3, (torch.zeros(8), None), (7, 0.5))
    launch(kernel, 3, tensors, numbers)
    assert len(kernel.looked_up) == 2
    assert kernel.launches == []


def test_other_options_are_looked_up_anew() -> None:
    kernel = Kernel()
    for warps in (4, 8, 4):
        launch(kernel, 3, (torch.zeros(8),), (7,), num_warps=warps)
    assert [options["num_warps"] for *_, options in kernel.looked_up] == [4, 8]


def test_an_interpreted_kernel_has_no_code_to_keep() -> None:
    kernel = Kernel(interpreted=True)
    launch(kernel, 3, (torch.zeros(8),), ())
    launch(kernel, 3, (torch.zeros(8),), ())
    assert len(kernel.looked_up) == 2


@pytest.fixture
def norm(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which ways were taken; what would compute is replaced."""
    ways: list[str] = []

    def forward(x: Tensor, residual: Tensor | None, *_: Any) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        ways.append("direct")
        return x.clone(), None if residual is None else x + residual, x.new_zeros(2, 32), x.new_ones(2, 32)

    def gradients(dy: Tensor, dtotal: Tensor | None, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ways.append("direct backward")
        return dy if dtotal is None else dy + dtotal, torch.ones(32), torch.ones(32)

    monkeypatch.setattr(module, "kernel_works", lambda _: True)
    monkeypatch.setattr(module, "_forward", forward)
    monkeypatch.setattr(module, "_gradients", gradients)
    return ways


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 32, 3, 3).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), torch.ones(32, requires_grad=True), torch.ones(32, requires_grad=True)


def test_eager_mode_does_without_the_library(norm: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_group_norm_relu", "_add_group_norm_relu", "_backward"):
        monkeypatch.setattr(module, name, None)
    x, weight, bias = inputs()
    group_norm_relu(x, 32, weight, bias).sum().backward()
    y, total = add_group_norm_relu(x, x.detach(), 32, weight, bias)
    (y + total).sum().backward()
    assert norm == ["direct", "direct backward"] * 2


def test_a_residual_has_the_gradient_of_the_sum(norm: list[str]) -> None:
    x, weight, bias = inputs()
    residual = x.detach().clone().requires_grad_()
    y, total = add_group_norm_relu(x, residual, 32, weight, bias)
    assert [g.unique().tolist() for g in torch.autograd.grad((y + total).sum(), (x, residual))] == [[2.0], [2.0]]
    _, total = add_group_norm_relu(x, residual, 32, weight, bias)
    dx, dresidual, dweight = torch.autograd.grad(total.sum(), (x, residual, weight), allow_unused=True)
    assert dx.unique().tolist() == dresidual.unique().tolist() == [1.0]
    assert dweight is None
    assert norm == ["direct", "direct backward", "direct"]  # the norm's own gradient was not asked for


def test_what_looks_on_sees_the_operation(norm: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def operation(x: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        called.append(type(x).__name__)
        return x, None, None

    monkeypatch.setattr(module, "_group_norm_relu", operation)
    x, weight, bias = inputs()
    with FlopCounterMode(display=False):
        group_norm_relu(x, 32, weight, bias)
    with FakeTensorMode() as mode:
        group_norm_relu(mode.from_tensor(x), 32, weight, bias)
    torch.func.vjp(lambda x: group_norm_relu(x, 32, weight, bias), x)
    assert called == ["Tensor", "FakeTensor", "Tensor"]
    assert norm == []


def test_a_hook_of_the_backward_pass_alone_sees_the_operation(norm: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_backward", lambda dy, *_: (norm.append("library"), (dy, None, None))[1])
    x, weight, bias = inputs()
    y = group_norm_relu(x, 32, weight, bias)
    with FlopCounterMode(display=False):
        y.sum().backward()
    y = group_norm_relu(x, 32, weight, bias)
    torch.autograd.grad(y.sum(), x, create_graph=True)
    assert norm == ["direct", "library", "direct", "library"]
