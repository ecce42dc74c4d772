"""GroupNorm + ReLU on the device itself: against float64, by PyTorch's own checks, and far beyond 2^31 elements."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.kernels import group_norm_relu as module
from trainer.kernels.group_norm_relu import add_group_norm_relu, group_norm_relu, kernel_works, layout_copies

EPS = 1e-5
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
SHAPES = [  # N, C, H, W, G
    (3, 64, 56, 56, 32),
    (2, 256, 56, 56, 32),
    (2, 512, 28, 28, 32),
    (3, 1024, 14, 14, 32),
    (3, 4096, 14, 14, 32),
    (3, 2048, 7, 7, 32),
    (2, 8192, 7, 7, 32),
    (1, 64, 112, 112, 32),
    (2, 96, 15, 31, 32),
    (5, 1024, 1, 1, 32),  # one pixel
    (2, 33, 9, 9, 3),  # rows of odd channels are aligned to nothing
    (1, 39, 57, 57, 3),
]
LARGE = (2_700, 64, 112, 112)
LARGE_BYTES = 24 * 2**30


def batch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    n, c, h, w, _ = shape
    generator = torch.Generator().manual_seed(n + c + h + w)

    def activation() -> Tensor:
        return torch.randn(n, h, w, c, generator=generator).to(device, dtype).permute(0, 3, 1, 2)

    weight = (1 + 0.3 * torch.randn(c, generator=generator)).to(device)
    bias = (0.3 * torch.randn(c, generator=generator)).to(device)
    wanted = {"x": activation(), "residual": activation(), "weight": weight, "bias": bias}
    return {name: t.requires_grad_() for name, t in wanted.items()} | {"dy": activation(), "dtotal": activation()}


def errors(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Of the outputs and all gradients, against float64 rounded to their types, as shares of their norms."""
    given, groups = batch(shape, dtype, device), shape[-1]
    inputs = [given[name] for name in ("x", "residual", "weight", "bias")]
    y, total = add_group_norm_relu(*inputs[:2], groups, *inputs[2:], EPS)
    found = [y, total, *torch.autograd.grad((y, total), inputs, (given["dy"], given["dtotal"]))]
    # The sum is rounded before it is normalised; its gradient is that of each of the two.
    summed, weight, bias = (t.detach().double().requires_grad_() for t in (total, *inputs[2:]))
    expected = F.relu(F.group_norm(summed, groups, weight, bias, EPS))
    gradients = torch.autograd.grad(expected, (summed, weight, bias), given["dy"].double())
    dx = gradients[0] + given["dtotal"].double()
    truth = [expected, (inputs[0].double() + inputs[1].double()), dx, dx, *gradients[1:]]
    truth = [t.detach() for t in truth]
    names = ("y", "total", "dx", "dresidual", "dweight", "dbias")
    return {
        name: float((a.detach().double() - b.to(a.dtype).double()).norm() / b.norm().clamp(min=1e-30))
        for name, a, b in zip(names, found, truth, strict=True)
    }


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    assert device.type == "cpu" or kernel_works(device)
    for name, error in errors(shape, dtype, device).items():
        assert error <= TOLERANCES[dtype], name


@pytest.mark.parametrize("shape", [(2, 64, 7, 7, 32), (2, 64, 56, 56, 32)], ids=str)
def test_runs_repeat_and_samples_are_independent(shape: tuple[int, ...], device: torch.device) -> None:
    given = batch(shape, torch.bfloat16, device)

    def results(which: slice) -> list[Tensor]:
        x = given["x"].detach()[which].requires_grad_()
        y = group_norm_relu(x, shape[-1], given["weight"], given["bias"], EPS)
        gradients = torch.autograd.grad(y, (x, given["weight"], given["bias"]), given["dy"][which])
        return [y.detach(), *gradients]

    first = results(slice(None))
    for _ in range(20):  # programs end in another order each time
        assert all(map(torch.equal, results(slice(None)), first))
    alone = results(slice(1, 2))
    assert torch.equal(alone[0], first[0][1:])
    assert torch.equal(alone[1], first[1][1:])


def test_gradients_in_another_layout(device: torch.device) -> None:
    given = batch((2, 64, 9, 9, 32), torch.float32, device)
    inputs = [given[name] for name in ("x", "weight", "bias")]

    def gradients(dy: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(group_norm_relu(inputs[0], 32, *inputs[1:], EPS), inputs, dy)

    expected = gradients(given["dy"])
    layout_copies.clear()
    for dy in (given["dy"].contiguous(), given["dy"].repeat(1, 2, 1, 1)[:, :64]):
        assert all(map(torch.equal, gradients(dy), expected))
    spread = torch.ones(2, 64, 1, 1, device=device).expand(2, 64, 9, 9)
    assert all(map(torch.equal, gradients(spread), gradients(spread.contiguous(memory_format=torch.channels_last))))
    assert layout_copies == ({"gradient": 2} if module._kernel_takes(inputs[0], inputs[1]) else {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 64, 7, 7, 32), (2, 64, 56, 56, 32)], ids=str)
def test_opcheck(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if not kernel_works(device):
        pytest.skip("needs the kernels")
    given, groups = batch(shape, dtype, device), shape[-1]
    x, residual, weight, bias = (given[name] for name in ("x", "residual", "weight", "bias"))
    torch.library.opcheck(module._group_norm_relu, (x, groups, weight, bias, EPS))
    torch.library.opcheck(module._add_group_norm_relu, (x, residual, groups, weight, bias, EPS))
    moments = torch.zeros(len(x), groups, device=device), torch.ones(len(x), groups, device=device)
    arguments = [t.detach() for t in (x, *moments, weight, bias)]
    for dtotal in (None, given["dtotal"]):
        torch.library.opcheck(module._backward, (given["dy"], dtotal, *arguments))


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements() -> None:
    device = torch.device("cuda", 0)
    if torch.cuda.mem_get_info(device)[0] < LARGE_BYTES:
        pytest.skip(f"needs {LARGE_BYTES >> 30} GiB of free GPU memory")
    given = batch((1, *LARGE[1:], 32), torch.bfloat16, device)
    x, weight, bias = given["x"], given["weight"], given["bias"]
    alone = group_norm_relu(x, 32, weight, bias)
    (dx_alone,) = torch.autograd.grad(alone, x, x.detach())
    images = torch.zeros(LARGE, dtype=torch.bfloat16, device=device).contiguous(memory_format=torch.channels_last)
    images[-1] = x.detach()[0]
    y = group_norm_relu(images.requires_grad_(), 32, weight, bias)
    (dx,) = torch.autograd.grad(y, images, images.detach())
    assert torch.equal(y[-1], alone[0])
    assert torch.equal(dx[-1], dx_alone[0])
