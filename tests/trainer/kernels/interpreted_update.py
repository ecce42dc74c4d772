"""The Triton kernels of standardisation and of the optimiser, in Triton's interpreter; run by test_interpreted.py."""

import pytest
import torch
from torch import Tensor

from trainer.kernels import sgd_agc_triton, standardise_triton
from trainer.optim.agc import Rates, clip_adaptively

SHAPES = [(6, 4, 3, 3), (3, 2050, 1, 1), (5, 7), (7,), (4, 3, 7, 7), (16,), (2, 1028)]


def draw(shapes: list[tuple[int, ...]], seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * scale for shape in shapes]


@pytest.mark.parametrize("shape", [(4, 3, 7, 7), (3, 2050, 1, 1), (2, 64, 3, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_standardise(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight, gradient, gathered = (draw([shape], seed)[0] for seed in range(3))
    weight = weight * 0.3 + 1
    filters, mean, rstd = torch.empty_like(weight, dtype=dtype), torch.empty(shape[0]), torch.empty(shape[0])
    standardise_triton.forward(weight, filters, mean, rstd, 1e-10)
    wide = weight.double().requires_grad_()
    variance, average = torch.var_mean(wide, dim=(1, 2, 3), keepdim=True, correction=0)
    expected = (wide - average) / torch.sqrt(variance + 1e-10)
    # To bf16 the interpreter cuts off where a GPU rounds.
    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    assert (filters - expected.to(dtype)).norm() < tolerance * expected.norm()
    for more in (None, gathered):
        total = gradient.to(dtype).double() + (0 if more is None else more)
        (truth,) = torch.autograd.grad(expected, wide, total, retain_graph=True)
        found = standardise_triton.backward(gradient.to(dtype), more, weight, mean, rstd)
        assert (found - truth).norm() < 2e-6 * truth.norm()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("clipping", [0.0, 0.05])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_update(momentum: float, clipping: float, nesterov: bool) -> None:
    nesterov = nesterov and momentum > 0
    rates = Rates(clipping, 0.1, momentum, 1e-2, nesterov)
    mine = draw(SHAPES, 0)
    theirs = [w.double().requires_grad_() for w in mine]
    momenta = [torch.zeros_like(w) for w in mine] if momentum else None
    reference = torch.optim.SGD(theirs, 0.1, momentum, weight_decay=1e-2, nesterov=nesterov, fused=False)
    for step in range(2):
        gradients = draw(SHAPES, 1 + step, 0.1)
        gradients[0][:2] *= 1e-3
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g.double()
        grads = [p.grad for p in theirs]
        norm = torch.cat([g.flatten() for g in grads]).square().sum()
        stats = None if not clipping else clip_adaptively([p.detach() for p in theirs], grads, clipping)
        reference.step()
        found = sgd_agc_triton.update(mine, gradients, momenta, rates, None)
        torch.testing.assert_close(found.squared_norm.double(), norm, rtol=1e-6, atol=0)
        assert (int(found.clipped), found.units) == ((int(stats.clipped), stats.units) if stats else (0, 0))
        assert stats is None or 0 < stats.clipped < stats.units
        for one, other in zip(mine, theirs, strict=True):
            assert (one - other).norm() <= 1e-6 * other.norm()


def test_an_overflow_leaves_all_as_it_was() -> None:
    weights, gradients = draw(SHAPES, 0), draw(SHAPES, 1)
    momenta = [torch.zeros_like(w) for w in weights]
    before = [w.clone() for w in weights]
    rates = Rates(0.05, 0.1, 0.9, 0.0, False)
    sgd_agc_triton.update(weights, gradients, momenta, rates, torch.ones(()))
    assert all(map(torch.equal, weights, before))
    assert not any(m.any() for m in momenta)
    sgd_agc_triton.update(weights, gradients, momenta, rates, torch.zeros(()))
    assert not any(map(torch.equal, weights, before))


def test_launches_do_not_grow_with_the_number_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[int] = []
    launch = sgd_agc_triton._launch
    monkeypatch.setattr(
        sgd_agc_triton, "_launch", lambda tensors, *rest: (launches.append(len(tensors)), launch(tensors, *rest))[1]
    )
    for times in (1, 3):
        weights, gradients = draw(SHAPES * times, 0), draw(SHAPES * times, 1)
        sgd_agc_triton.update(weights, gradients, None, Rates(0.05, 0.1, 0.0, 0.0, False), None)
    assert len(launches) == 4
    assert sum(launches) == 4 * len(SHAPES)
