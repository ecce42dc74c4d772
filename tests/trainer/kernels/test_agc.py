"""Adaptive clipping does what the paper's formula says, unit by unit."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.kernels.agc import clip_adaptively, unit_norms

SHAPES = {
    "conv": (8, 4, 3, 3),
    "1x1 conv": (16, 8, 1, 1),
    "linear": (10, 6),
    "one unit": (1, 12),
    "vector": (7,),
    "scalar in a vector": (1,),
    "scalar": (),
}


def by_the_formula(weight: Tensor, gradient: Tensor, clipping: float) -> tuple[np.ndarray, int]:
    """Equation 3 of arXiv:2102.06171 as a plain loop over units: the clipped gradient and how many units it clipped."""
    rows = len(weight) if weight.ndim > 1 else 1
    clipped, count = gradient.numpy().copy().reshape(rows, -1), 0
    for unit, weights in zip(clipped, weight.numpy().reshape(rows, -1), strict=True):
        norm = math.sqrt(math.fsum(g * g for g in unit))
        limit = clipping * max(math.sqrt(math.fsum(w * w for w in weights)), 1e-3)
        if norm > limit:
            unit *= limit / norm
            count += 1
    return clipped.reshape(gradient.shape), count


def draw(shapes: Sequence[tuple[int, ...]], seed: int, ratio: float) -> tuple[list[Tensor], list[Tensor]]:
    """Weights, and gradients whose units lie on both sides of `ratio` times their weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    gradients = []
    for weight in weights:
        sizes = torch.rand(weight.shape[:1], dtype=torch.float64, generator=generator).mul(4).sub(2).exp()
        noise = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
        gradients.append(noise * ratio * sizes.view(weight.shape[:1] + (1,) * (weight.ndim - 1)))
    return weights, gradients


def check(weights: list[Tensor], gradients: list[Tensor], clipping: float) -> int:
    """Clip, compare with the formula, and return the number of clipped units."""
    expected = [by_the_formula(w, g, clipping) for w, g in zip(weights, gradients, strict=True)]
    squared_norm = sum(g.square().sum().item() for g in gradients)
    before = [w.clone() for w in weights]
    stats = clip_adaptively(weights, gradients, clipping)
    for gradient, (clipped, _) in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient.numpy(), clipped, rtol=1e-12, atol=0)
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))
    assert stats.squared_norm.item() == pytest.approx(squared_norm, rel=1e-12)
    assert stats.clipped.item() == sum(count for _, count in expected)
    assert stats.units == sum(len(w) if w.ndim > 1 else 1 for w in weights)
    return int(stats.clipped)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_one_tensor(shape: tuple[int, ...]) -> None:
    for seed in range(5):
        check(*draw([shape], seed, 0.01), clipping=0.01)


def test_all_tensors_at_once() -> None:
    units = sum(shape[0] if len(shape) > 1 else 1 for shape in SHAPES.values())
    assert 0 < check(*draw(list(SHAPES.values()), 0, 0.01), clipping=0.01) < units


def test_channels_last_filters() -> None:
    weights, gradients = draw([(8, 4, 3, 3)], 1, 0.1)
    for tensors in (weights, gradients):
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    assert check(weights, gradients, 0.1) > 0
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 6), max_size=4).map(tuple), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    clipping=st.floats(1e-3, 10),
)
def test_any_shapes(shapes: list[tuple[int, ...]], seed: int, clipping: float) -> None:
    check(*draw(shapes, seed, clipping), clipping=clipping)


def test_zero_gradients_stay_zero_and_are_not_counted() -> None:
    gradient = torch.zeros(4, 3)
    stats = clip_adaptively([torch.randn(4, 3)], [gradient], 0.01)
    assert not gradient.any()
    assert (stats.squared_norm.item(), stats.clipped.item(), stats.units) == (0, 0, 4)


def test_weights_near_zero_count_as_a_norm_of_one_thousandth() -> None:
    weights = torch.tensor([[0.0, 0.0], [6e-4, 0.0], [2e-3, 0.0]], dtype=torch.float64)
    gradients = torch.tensor([[3.0, 4.0]] * 3, dtype=torch.float64)
    clip_adaptively([weights], [gradients], 0.01)
    torch.testing.assert_close(
        gradients.norm(dim=1), torch.tensor([1e-5, 1e-5, 2e-5], dtype=torch.float64), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(("gradient", "clipped"), [((1.5, 2.0), 0), ((1.5, math.nextafter(2.0, 3.0)), 1)])
def test_a_gradient_exactly_at_the_limit_is_left_alone(gradient: tuple[float, float], clipped: int) -> None:
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64)  # of norm 5, so that 0.5 allows 2.5
    found = torch.tensor([gradient], dtype=torch.float64)
    assert clip_adaptively([weight], [found], 0.5).clipped.item() == clipped
    assert found[0].tolist() == pytest.approx((1.5, 2.0), rel=1e-15)
    assert clipped or found[0].tolist() == [1.5, 2.0]


@pytest.mark.parametrize(("gradient", "expected"), [(-3.0, -0.2), (0.1, 0.1), (0.0, 0.0)])
def test_a_scalar_is_one_unit(gradient: float, expected: float) -> None:
    found = torch.tensor(gradient, dtype=torch.float64)
    stats = clip_adaptively([torch.tensor(2.0, dtype=torch.float64)], [found], 0.1)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-15)
    assert (stats.clipped.item(), stats.units) == (expected != gradient, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_gradient_stays_so_and_spoils_no_other_unit(bad: float) -> None:
    weights, gradients = draw([(4, 3), (5,), (6, 2, 1, 1)], 2, 0.1)
    clean = [gradient.clone() for gradient in gradients]
    clip_adaptively(weights, clean, 0.05)
    gradients[0][1, 2] = bad
    stats = clip_adaptively(weights, gradients, 0.05)
    assert not gradients[0][1].isfinite().all()
    others = [gradients[0][[0, 2, 3]], *gradients[1:]]
    for found, expected in zip(others, [clean[0][[0, 2, 3]], *clean[1:]], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert not stats.squared_norm.isfinite()


def test_unit_norms_of_a_scalar_a_vector_and_a_matrix() -> None:
    found = unit_norms([torch.tensor(-2.0), torch.tensor([3.0, 4.0]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])])
    assert [norms.tolist() for norms in found] == [[2.0], [5.0], [5.0, 1.0]]
