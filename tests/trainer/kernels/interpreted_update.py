"""The Triton kernels of standardisation and of the optimiser, in Triton's interpreter; run by test_interpreted.py."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.kernels import sgd_agc_triton, standardise_triton
from trainer.kernels.agc import Hyperparameters, clip_adaptively

SHAPES = [(6, 4, 3, 3), (3, 2050, 1, 1), (5, 7), (7,), (4, 3, 7, 7), (16,), (2, 1028)]


def draw(shapes: list[tuple[int, ...]], seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * scale for shape in shapes]


BANKS = [(4, 3, 7, 7), (3, 2050, 1, 1), (2, 64, 3, 3), (5, 16, 1, 1)]


def cut_from_one(tensors: list[Tensor]) -> list[Tensor]:
    """The same as views of one vector, as ZeRO has weights: some begin anywhere."""
    flat = torch.cat([tensors[0].new_zeros(1), *map(Tensor.flatten, tensors)])
    return [part.view(t.shape) for part, t in zip(flat[1:].split([t.numel() for t in tensors]), tensors, strict=True)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last, "flat"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_standardise(dtype: torch.dtype, layout: torch.memory_format | str) -> None:
    weights, gradients, gathered = (draw(BANKS, seed) for seed in range(3))
    weights = [weight * 0.3 + 1 for weight in weights]
    if isinstance(layout, str):
        weights = cut_from_one(weights)
    else:
        weights, gradients, gathered = (
            [t.contiguous(memory_format=layout) for t in tensors] for tensors in (weights, gradients, gathered)
        )
    found = standardise_triton.forward(weights, 1e-10, dtype)
    # To bf16 the interpreter cuts off where a GPU rounds.
    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    wide = [weight.double().requires_grad_() for weight in weights]
    expected = []
    for weight, (filters, _, _) in zip(wide, found, strict=True):
        variance, average = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
        expected.append((weight - average) / torch.sqrt(variance + 1e-10))
        assert filters.dtype == dtype
        assert (filters - expected[-1].to(dtype)).norm() < tolerance * expected[-1].norm()
    assert [filters.stride() for filters, _, _ in found] == [weight.stride() for weight in weights]
    gradients = [gradient.to(dtype) for gradient in gradients]
    _, means, rstds = zip(*found, strict=True)
    for more in ([None] * len(BANKS), gathered, [*gathered[:2], None, None]):
        results = standardise_triton.backward(gradients, more, weights, means, rstds)
        for i, result in enumerate(results):
            total = gradients[i].double() + (0 if more[i] is None else more[i])
            (truth,) = torch.autograd.grad(expected[i], wide[i], total, retain_graph=True)
            assert (result - truth).norm() < 2e-6 * truth.norm()


def count_launches(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[int]:
    """The programs of each launch of a kernel."""
    kernel, launches = getattr(module, name), []

    class Counted:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            launches.append(grid[0])
            return kernel[grid]

    monkeypatch.setattr(module, name, Counted())
    return launches


def test_a_launch_for_all_banks_and_one_back_for_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = count_launches(monkeypatch, standardise_triton, "standardise_rows")
    backward = count_launches(monkeypatch, standardise_triton, "standardise_rows_backward")
    weights = draw(BANKS * 2, 0)
    _, means, rstds = zip(*standardise_triton.forward(weights, 1e-10, torch.float32), strict=True)
    assert forward == [2 * sum(len(weight) for weight in draw(BANKS, 0))]
    standardise_triton.backward(weights[:4], [None] * 4, weights[:4], means[:4], rstds[:4])
    assert backward == [forward[0] // 2]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("clipping", [0.0, 0.05])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_update(momentum: float, clipping: float, nesterov: bool) -> None:
    nesterov = nesterov and momentum > 0
    hyper = Hyperparameters(clipping, 0.1, momentum, 1e-2, nesterov)
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
        found = sgd_agc_triton.update(mine, gradients, momenta, hyper, None)
        torch.testing.assert_close(found.squared_norm.double(), norm, rtol=1e-6, atol=0)
        assert (int(found.clipped), found.units) == ((int(stats.clipped), stats.units) if stats else (0, 0))
        assert stats is None or 0 < stats.clipped < stats.units
        for one, other in zip(mine, theirs, strict=True):
            assert (one - other).norm() <= 1e-6 * other.norm()


def test_an_overflow_leaves_all_as_it_was() -> None:
    weights, gradients = draw(SHAPES, 0), draw(SHAPES, 1)
    momenta = [torch.zeros_like(w) for w in weights]
    before = [w.clone() for w in weights]
    hyper = Hyperparameters(0.05, 0.1, 0.9, 0.0, False)
    sgd_agc_triton.update(weights, gradients, momenta, hyper, torch.ones(()))
    assert all(map(torch.equal, weights, before))
    assert not any(m.any() for m in momenta)
    sgd_agc_triton.update(weights, gradients, momenta, hyper, torch.zeros(()))
    assert not any(map(torch.equal, weights, before))


def test_launches_do_not_grow_with_the_number_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = count_launches(monkeypatch, sgd_agc_triton, "sgd_agc_units")
    for times in (1, 3):
        weights, gradients = draw(SHAPES * times, 0), draw(SHAPES * times, 1)
        sgd_agc_triton.update(weights, gradients, None, Hyperparameters(0.05, 0.1, 0.0, 0.0, False), None)
    assert len(launches) == 4
    assert sum(launches) == 4 * sum(shape[0] if len(shape) > 1 else 1 for shape in SHAPES)


def test_tables_go_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    on_device = sgd_agc_triton.on_device
    monkeypatch.setattr(
        sgd_agc_triton,
        "on_device",
        lambda numbers, device: (copies.append(len(numbers)), on_device(numbers, device))[1],
    )
    weights, gradients = draw(SHAPES, 0), draw(SHAPES, 1)
    for _ in range(3):
        sgd_agc_triton.update(weights, gradients, None, Hyperparameters(0.05, 0.1, 0.0, 0.0, False), None)
    assert sum(copies) == 3 * len(SHAPES)
    moved = [gradient.clone() for gradient in gradients]
    sgd_agc_triton.update(weights, moved, None, Hyperparameters(0.05, 0.1, 0.0, 0.0, False), None)
    assert sum(copies) == 6 * len(SHAPES)
