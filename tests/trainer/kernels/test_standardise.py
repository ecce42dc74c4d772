"""Standardised filters and their gradients, in C++, in PyTorch, and in Triton's interpreter: float64 is the judge."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.kernels import standardise as module
from trainer.kernels.native import library
from trainer.kernels.standardise import standardise, standardise_backward

EPS = 1e-10
SHAPES = [(64, 3, 7, 7), (8, 64, 1, 1), (5, 17, 3, 3), (3, 1, 1, 1), (2, 600, 3, 3), (7, 5, 1, 1)]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["native", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(module, "_native_takes", lambda *_: False)
    elif library() is None:
        pytest.skip("needs a C++ compiler")


def banks(layout: torch.memory_format = torch.contiguous_format) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Weights, and two gradients for each."""
    generator = torch.Generator().manual_seed(0)
    drawn = [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(3)]
    drawn[0] = [weight * 0.3 + 0.1 for weight in drawn[0]]
    weights, gradients, gathered = ([t.contiguous(memory_format=layout) for t in tensors] for tensors in drawn)
    return weights, gradients, gathered


def by_the_formula(weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    wide = weight.double().requires_grad_()
    variance, mean = torch.var_mean(wide, dim=(1, 2, 3), keepdim=True, correction=0)
    filters = (wide - mean) / torch.sqrt(variance + EPS)
    return filters.detach(), torch.autograd.grad(filters, wide, gradient.double())[0]


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (found.double() - expected).norm() <= tolerance * (expected.norm() + 1e-3)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_float64(dtype: torch.dtype, layout: torch.memory_format) -> None:
    weights, gradients, gathered = banks(layout)
    for weight, bank, g, more in zip(weights, standardise(weights, EPS, dtype), gradients, gathered, strict=True):
        filters, expected = by_the_formula(weight, g.to(dtype).double() + more)
        assert (bank.filters.dtype, bank.filters.stride()) == (dtype, weight.stride())
        assert_close(bank.filters, filters.to(dtype), 1e-6 if dtype == torch.float32 else 1e-4)
        (found,) = standardise_backward([g.to(dtype)], [more], [weight], [bank])
        assert found.dtype == torch.float32
        assert_close(found, expected, 2e-6)
        (alone,) = standardise_backward([g.to(dtype)], [None], [weight], [bank])
        assert_close(alone, by_the_formula(weight, g.to(dtype))[1], 2e-6)


@pytest.mark.usefixtures("way")
def test_a_gradient_in_another_order() -> None:
    (weight, *_), (gradient, *_), _ = banks(torch.channels_last)
    (bank,) = standardise([weight], EPS, torch.float32)
    last, first = (
        standardise_backward([gradient.contiguous(memory_format=layout)], [None], [weight], [bank])[0]
        for layout in (torch.channels_last, torch.contiguous_format)
    )
    assert torch.equal(last, first)


@pytest.mark.skipif(library() is None, reason="needs a C++ compiler")
def test_threads_change_nothing() -> None:
    weights, gradients, _ = banks()
    results: list[Any] = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        made = standardise(weights, EPS, torch.bfloat16)
        back = standardise_backward(gradients, [None] * len(weights), weights, made)
        results.append([bank.filters for bank in made] + back)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_float64_stays_float64() -> None:
    weights, gradients, gathered = (list(map(Tensor.double, tensors)) for tensors in banks())
    for weight, bank, g, more in zip(
        weights, standardise(weights, EPS, torch.float64), gradients, gathered, strict=True
    ):
        filters, expected = by_the_formula(weight, g + more)
        assert_close(bank.filters, filters, 1e-14)
        assert_close(standardise_backward([g], [more], [weight], [bank])[0], expected, 1e-12)
