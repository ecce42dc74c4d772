"""GroupNorm + ReLU in C++: float64 is the judge, and no number depends on threads or on the other samples."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.kernels import group_norm_relu as module
from trainer.kernels.group_norm_relu import add_group_norm_relu, group_norm_relu, layout_copies
from trainer.kernels.native import library
from trainer.models.bit import build_model

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C++ compiler")

TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-3}
SHAPES = [
    (2, 64, 56, 56, 32),
    (2, 256, 28, 28, 32),  # more than a core's cache in the backward
    (2, 96, 15, 31, 32),
    (2, 2048, 7, 7, 32),
    (3, 1024, 1, 1, 32),
    (1, 32, 112, 112, 32),
    (1, 8192, 7, 7, 32),
    (2, 10, 3, 5, 2),  # no full vector
    (2, 39, 5, 5, 3),
    (2, 40, 3, 3, 1),
]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make(shape: tuple[int, ...], dtype: torch.dtype, offset: float = 0.0) -> list[Tensor]:
    """x, residual, weight, bias, dy, dtotal; the first four want gradients."""
    generator = torch.Generator().manual_seed(0)
    n, c, h, w, _ = shape

    def activation() -> Tensor:
        return torch.randn(n, h, w, c, generator=generator).add(offset).to(dtype).permute(0, 3, 1, 2)

    x, residual, dy, dtotal = (activation() for _ in range(4))
    weight, bias = (torch.randn(c, generator=generator) for _ in range(2))
    return [*(t.requires_grad_() for t in (x, residual, weight, bias)), dy - offset, dtotal - offset]


def error(found: Tensor, expected: Tensor) -> float:
    """Against float64 rounded to the type, as a share of the norm."""
    return ((found.double() - expected.to(found.dtype).double()).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, residual, weight, bias, dy, dtotal = make(shape, dtype)
    wide = [t.detach().double().requires_grad_() for t in (x, residual, weight, bias)]
    y = group_norm_relu(x, shape[4], weight, bias)
    expected = F.relu(F.group_norm(wide[0], shape[4], *wide[2:]))
    assert error(y, expected) < TOLERANCES[dtype]
    found = torch.autograd.grad(y, (x, weight, bias), dy)
    truth = torch.autograd.grad(expected, (wide[0], *wide[2:]), dy.double())
    assert max(map(error, found, truth)) < TOLERANCES[dtype]

    y, total = add_group_norm_relu(x, residual, shape[4], weight, bias)
    assert torch.equal(total, x + residual)
    wide[0] = total.detach().double().requires_grad_()
    expected = F.relu(F.group_norm(wide[0], shape[4], *wide[2:]))
    assert error(y, expected) < TOLERANCES[dtype]
    found = torch.autograd.grad((y, total), (x, residual, weight, bias), (dy, dtotal))
    truth = torch.autograd.grad(expected, (wide[0], *wide[2:]), dy.double())
    assert torch.equal(found[0], found[1])
    truth = (truth[0] + dtotal.double(), *truth[1:])
    assert max(map(error, (found[0], *found[2:]), truth)) < TOLERANCES[dtype]


def test_small_variance_beside_a_large_mean() -> None:
    x, _, weight, bias, dy, _ = make((2, 64, 15, 15, 32), torch.float32, offset=1000.0)
    wide = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    y, expected = group_norm_relu(x, 32, weight, bias), F.relu(F.group_norm(wide[0], 32, *wide[1:]))
    assert error(y, expected) < 1e-4
    found, truth = torch.autograd.grad(y, x, dy)[0], torch.autograd.grad(expected, wide[0], dy.double())[0]
    assert error(found, truth) < 1e-3


def test_a_constant_input_is_its_bias() -> None:
    weight, bias = torch.randn(2, 64).unbind()
    y = group_norm_relu(torch.full((1, 64, 5, 5), 3.25), 32, weight, bias)
    torch.testing.assert_close(y, bias.relu().view(1, 64, 1, 1).expand_as(y))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_sample_is_what_it_is_alone_on_any_number_of_threads(dtype: torch.dtype) -> None:
    x, _, weight, bias, dy, _ = make((3, 128, 14, 14, 32), dtype)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        y = group_norm_relu(x, 32, weight, bias)
        results.append([y, *torch.autograd.grad(y, (x, weight, bias), dy)])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
    y = group_norm_relu(x[1:2], 32, weight, bias)
    assert torch.equal(y, results[0][0][1:2])
    assert torch.equal(torch.autograd.grad(y, x, dy[1:2])[0][1:2], results[0][1][1:2])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_group(bad: float, dtype: torch.dtype) -> None:
    x, _, weight, bias, *_ = make((2, 64, 3, 3, 32), dtype)
    clean = group_norm_relu(x, 32, weight, bias)
    spoilt = x.detach().clone(memory_format=torch.preserve_format)
    spoilt[1, 5, 1, 1] = bad
    y = group_norm_relu(spoilt, 32, weight, bias)
    assert y[1, 4:6].isnan().all()
    others = torch.ones(2, 64, dtype=torch.bool)
    others[1, 4:6] = False
    assert torch.equal(y[others], clean[others])


def test_other_layouts_work_and_are_counted() -> None:
    x, _, weight, bias, dy, _ = make((2, 64, 5, 7, 32), torch.float32)
    expected = group_norm_relu(x, 32, weight, bias)
    before = layout_copies.copy()
    y = group_norm_relu(x.contiguous(), 32, weight, bias)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.autograd.grad(y, x, dy.contiguous())
    made = {name: layout_copies[name] - before[name] for name in ("input", "gradient")}
    assert made == {"input": 2, "gradient": 1}  # the input once more in the backward


def test_autograd_and_fake_formulas_hold() -> None:
    x, residual, weight, bias, dy, dtotal = make((2, 64, 5, 7, 32), torch.bfloat16)
    torch.library.opcheck(module._group_norm_relu, (x, 32, weight, bias, 1e-5))
    torch.library.opcheck(module._add_group_norm_relu, (x, residual, 32, weight, bias, 1e-5))
    arguments = [t.detach() for t in (x, torch.zeros(2, 32), torch.ones(2, 32), weight, bias)]
    torch.library.opcheck(module._backward, (dy, None, *arguments))
    torch.library.opcheck(module._backward, (dy, dtotal, *arguments))


def test_compile_keeps_it_whole() -> None:
    x, _, weight, bias, *_ = make((2, 64, 5, 7, 32), torch.bfloat16)
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        targets.extend(str(node.target) for node in graph.graph.nodes if "norm" in str(node.target))
        return graph.forward

    compiled = torch.compile(lambda x: group_norm_relu(x, 32, weight, bias), fullgraph=True, backend=backend)
    assert torch.equal(compiled(x), group_norm_relu(x, 32, weight, bias))
    assert "bitscale.group_norm_relu.default" in targets


def test_only_inputs_outputs_and_moments_are_kept() -> None:
    model = build_model("r14x0.5", 5)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    unit = model.stages[0].blocks[0]
    x = torch.randn(4, 32, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        unit(x)
    # The input and three norms' outputs; what enters the second and third norm; for each norm two moments.
    activations = 3 * 4 * 32 * 64 * 2 + 3 * 4 * 32 * 64 * 2
    weights = sum(2 * p.numel() for p in unit.parameters() if p.ndim == 4)
    held = sum(t.nbytes for t in kept.values() if t.ndim == 4 and t.shape[0] == 4)
    assert held == activations
    assert sum(t.nbytes for t in kept.values()) < activations + 2 * weights + 3 * 2 * 4 * 32 * 4 + 2000
