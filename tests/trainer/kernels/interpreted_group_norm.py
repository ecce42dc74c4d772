"""The Triton kernels themselves, on a CPU: run by test_group_norm_relu.py in a process with TRITON_INTERPRET=1.

The interpreter cuts bf16 and fp16 off where a GPU rounds to the nearest; expected values are stored the same way.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.kernels import group_norm_relu as module
from trainer.kernels import group_norm_split, group_norm_tile
from trainer.kernels.group_norm_parts import groups_of
from trainer.kernels.group_norm_relu import add_group_norm_relu, group_norm_relu, layout_copies
from trainer.kernels.group_norm_split import of_turn
from trainer.kernels.tiling import channel_block, power_of_2, split
from trainer.models.bit import build_model
from trainer.models.filters import StdConv2d

EPS = 1e-5
TILE_BOTH = (2, 64, 7, 7, 32)
SPLIT_BOTH = (2, 64, 18, 29, 1)  # a group of this size is too large to be held; its rows make two splits
torch.set_num_threads(1)
SHAPES = [  # N, C, H, W, G
    TILE_BOTH,
    SPLIT_BOTH,
    (3, 32, 1, 1, 4),
    (1, 8192, 1, 1, 32),
    (1, 8192, 7, 7, 32),
    (2, 64, 15, 31, 32),
    (1, 64, 15, 31, 64),
    (1, 32, 112, 112, 32),
    (2, 96, 7, 7, 48),
    (1, 96, 40, 40, 32),
    (1, 192, 28, 28, 32),
    (1, 1536, 5, 3, 8),
    (2, 40, 6, 7, 8),
    (1, 6144, 2, 2, 32),
    (1, 512, 10, 11, 2),
    (1, 33, 3, 3, 3),
]


class Case(NamedTuple):
    x: Tensor
    residual: Tensor
    weight: Tensor
    bias: Tensor
    dy: Tensor
    dtotal: Tensor
    num_groups: int


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, offset: float = 0.0) -> Case:
    n, c, h, w, groups = shape
    generator = torch.Generator().manual_seed(n + c + h + w + groups)

    def activation(offset: float = 0.0) -> Tensor:
        values = torch.randn(n, h, w, c, generator=generator) + offset
        return values.to(dtype).permute(0, 3, 1, 2)

    weight = (1 + 0.3 * torch.randn(c, generator=generator)).requires_grad_()
    bias = (0.3 * torch.randn(c, generator=generator)).requires_grad_()
    x, residual = activation(offset).requires_grad_(), activation().requires_grad_()
    return Case(x, residual, weight, bias, activation(), activation(), groups)


def exact(case: Case, x: Tensor) -> dict[str, Tensor]:
    """Output and gradients in float64, without what autograd or the kernels know of group norm."""
    x, weight, bias = (t.detach().double().requires_grad_() for t in (x, case.weight, case.bias))
    grouped = x.reshape(len(x), case.num_groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    normalised = (centred / torch.sqrt(variance + EPS)).reshape(x.shape)
    y = torch.relu(normalised * weight[:, None, None] + bias[:, None, None])
    dx, dweight, dbias = torch.autograd.grad(y, (x, weight, bias), case.dy.double())
    return {"y": y.detach(), "dx": dx, "dweight": dweight, "dbias": dbias}


def stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 values as the interpreter stores them in this type."""
    if dtype == torch.bfloat16:
        return (values.float().view(torch.int32) & -65536).view(torch.float32).double()
    return values.to(dtype).double()


def peak_error(value: Tensor, expected: Tensor) -> float:
    return ((value.double() - expected).abs().max() / expected.abs().max()).item()


def norm_error(value: Tensor, expected: Tensor) -> float:
    return ((value.double() - expected).norm() / expected.norm()).item()


def ours(case: Case) -> dict[str, Tensor]:
    y = group_norm_relu(case.x, case.num_groups, case.weight, case.bias, EPS)
    dx, dweight, dbias = torch.autograd.grad(y, (case.x, case.weight, case.bias), case.dy)
    return {"y": y.detach(), "dx": dx, "dweight": dweight, "dbias": dbias}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which launches were made, in order."""
    made: list[str] = []
    assert module.kernel_works(torch.device("cpu"))  # launches one itself, once

    def record(name: str, launch: Callable[..., object]) -> Callable[..., object]:
        return lambda *arguments: (made.append(name), launch(*arguments))[1]

    for kernels in (group_norm_tile, group_norm_split):
        for direction in ("forward", "backward"):
            name = f"{kernels.__name__.rpartition('_')[2]} {direction}"
            monkeypatch.setattr(kernels, direction, record(name, getattr(kernels, direction)))
    return made


def test_both_kinds_of_kernel_are_tested(launched: list[str]) -> None:
    ours(make(TILE_BOTH))
    ours(make(SPLIT_BOTH))
    assert launched == ["tile forward", "tile backward", "split forward", "split backward"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp32(shape: tuple[int, ...]) -> None:
    case = make(shape)
    expected = exact(case, case.x)
    for name, value in ours(case).items():
        assert peak_error(value, expected[name]) < 1e-6, name


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (TILE_BOTH, torch.bfloat16),
        (SPLIT_BOTH, torch.bfloat16),
        (TILE_BOTH, torch.float16),
        (SPLIT_BOTH, torch.float16),
        ((1, 96, 28, 28, 32), torch.bfloat16),
        ((1, 1024, 7, 7, 4), torch.bfloat16),
    ],
    ids=str,
)
def test_half_precision(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    case = make(shape, dtype)
    expected = exact(case, case.x)
    for name, value in ours(case).items():
        kept = dtype if name in ("y", "dx") else torch.float32
        assert value.dtype == kept, name
        assert norm_error(value, stored(expected[name], kept)) < 1e-3, name


@pytest.mark.parametrize("shape", [TILE_BOTH, SPLIT_BOTH, (1, 32, 57, 57, 32)], ids=str)
def test_a_mean_far_from_zero(shape: tuple[int, ...]) -> None:
    case = make(shape, torch.bfloat16, offset=100.0)
    expected = exact(case, case.x)
    for name, value in ours(case).items():
        kept = torch.bfloat16 if name in ("y", "dx") else torch.float32
        assert norm_error(value, stored(expected[name], kept)) < 1e-3, name


@pytest.mark.parametrize("shape", [TILE_BOTH, SPLIT_BOTH], ids=str)
def test_residual(shape: tuple[int, ...]) -> None:
    case = make(shape)
    y, total = add_group_norm_relu(case.x, case.residual, case.num_groups, case.weight, case.bias, EPS)
    inputs = (case.x, case.residual, case.weight, case.bias)
    dx, dresidual, dweight, dbias = torch.autograd.grad((y, total), inputs, (case.dy, case.dtotal))
    assert torch.equal(total, case.x + case.residual)
    expected = exact(case, total)
    assert torch.equal(dx, dresidual)
    assert peak_error(y, expected["y"]) < 1e-6
    assert peak_error(dx, expected["dx"] + case.dtotal.double()) < 1e-6
    assert peak_error(dweight, expected["dweight"]) < 1e-6
    assert peak_error(dbias, expected["dbias"]) < 1e-6


@triton.jit
def note_turns(seconds_ptr, units_ptr, units, ahead, block: tl.constexpr):
    turn = tl.arange(0, block)
    is_second, unit = of_turn(turn, units, ahead)
    tl.store(seconds_ptr + turn, is_second.to(tl.int32), mask=turn < 2 * units)
    tl.store(units_ptr + turn, unit, mask=turn < 2 * units)


def turns(units: int, ahead: int) -> list[tuple[bool, int]]:
    """(whether it is a second pass, the unit) of every turn, in their order."""
    seconds, taken = torch.zeros(2, 2 * units, dtype=torch.int32).unbind()
    note_turns[(1,)](seconds, taken, units, ahead, power_of_2(2 * units))
    return list(zip(seconds.bool().tolist(), taken.tolist(), strict=True))


@pytest.mark.parametrize(
    ("samples", "of_sample", "ahead"), [(1, 1, 1), (5, 3, 3), (5, 3, 7), (9, 4, 36), (40, 10, 202)]
)
def test_no_program_waits_for_one_that_begins_later(samples: int, of_sample: int, ahead: int) -> None:
    units = samples * of_sample
    taken = turns(units, ahead)
    assert sorted(taken) == [(is_second, unit) for is_second in (False, True) for unit in range(units)]
    begun: set[int] = set()
    for is_second, unit in taken:
        if is_second:
            first = unit // of_sample * of_sample
            assert set(range(first, first + of_sample)) <= begun
        else:
            begun.add(unit)


def read_again(order: list[tuple[bool, int]], unit_bytes: int, cache_bytes: int) -> float:
    """Share of second passes that find their unit no more in a cache that drops what was used longest ago."""
    cache: OrderedDict[int, None] = OrderedDict()
    missed = 0
    for is_second, unit in order:
        missed += is_second and unit not in cache
        cache.pop(unit, None)
        if not is_second:  # what is not needed again is marked to leave the cache first
            cache[unit] = None
        while len(cache) * unit_bytes > cache_bytes:
            cache.popitem(last=False)
    return missed / (len(order) // 2)


@pytest.mark.parametrize(
    "shape",
    [(256, 64, 56, 56), (64, 256, 56, 56), (16, 1024, 56, 56), (128, 512, 28, 28), (64, 4096, 14, 14)],
    ids=str,
)
@pytest.mark.parametrize("tensors", [1, 2])  # x forward; x and dy backward
def test_second_passes_find_in_the_cache_what_they_read(shape: tuple[int, ...], tensors: int) -> None:
    samples, channels, height, width = shape
    cut = split(height * width, 32, channels // 32, 2)
    units, l2_bytes = samples * cut.units, 40 * 2**20  # of an A100; an H200 has 50 MiB, a B200 126
    unit_bytes = tensors * 2 * cut.rows * cut.block_c
    assert read_again(turns(units, min(cut.ahead, units)), unit_bytes, l2_bytes * 3 // 4) == 0
    assert read_again(turns(units, units), unit_bytes, l2_bytes) > 0.5  # a pass at a time


def test_either_result_of_the_residual_alone() -> None:
    case = make(TILE_BOTH)
    y, total = add_group_norm_relu(case.x, case.residual, case.num_groups, case.weight, case.bias, EPS)
    (from_y,) = torch.autograd.grad(y, case.x, case.dy, retain_graph=True)
    assert peak_error(from_y, exact(case, total)["dx"]) < 1e-6
    for grad in torch.autograd.grad(total, (case.x, case.residual), case.dtotal):
        assert torch.equal(grad, case.dtotal)


def test_statistics_are_those_of_the_stored_sum() -> None:
    case = make(TILE_BOTH, torch.bfloat16)
    y, total = add_group_norm_relu(case.x, case.residual, case.num_groups, case.weight, case.bias, EPS)
    exact_sum = case.x.detach().double() + case.residual.detach().double()
    assert torch.equal(total.detach().double(), stored(exact_sum, torch.bfloat16))
    assert norm_error(y.detach(), stored(exact(case, total)["y"], torch.bfloat16)) < 1e-3


@given(
    n=st.integers(1, 3),
    groups=st.integers(1, 12),
    group_size=st.integers(1, 12),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    in_registers=st.booleans(),
)
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
def test_any_shape(n: int, groups: int, group_size: int, h: int, w: int, in_registers: bool) -> None:
    case = make((n, groups * group_size, h, w, groups))
    with pytest.MonkeyPatch.context() as patch:
        if not in_registers:
            patch.setattr(module, "tile", lambda *_: None)
        got = ours(case)
    expected = exact(case, case.x)
    # A group of few values may have next to no variance: what is divided by it has its rounding magnified.
    few = group_size * h * w < 8
    for name, value in got.items():
        scale = max(expected[name].abs().max().item(), 1.0)
        error = (value.double() - expected[name]).abs().max().item()
        assert error <= (1e-3 if few else 2e-6) * scale, name


@pytest.mark.parametrize("shape", [TILE_BOTH, SPLIT_BOTH], ids=str)
def test_no_gradient_passes_where_the_output_is_zero(shape: tuple[int, ...]) -> None:
    case = make(shape)
    y = group_norm_relu(case.x, case.num_groups, case.weight, case.bias)
    assert (y == 0).any()
    for grad in torch.autograd.grad(y, (case.x, case.weight, case.bias), torch.where(y == 0, case.dy, 0)):
        assert grad.abs().max() == 0


@pytest.mark.parametrize("shape", [TILE_BOTH, SPLIT_BOTH], ids=str)
def test_a_sample_is_independent_of_its_batch_and_of_chance(shape: tuple[int, ...]) -> None:
    case = make(shape)
    together, again = ours(case), ours(case)
    assert all(torch.equal(together[name], again[name]) for name in together)
    last = slice(1, 2)
    alone = ours(case._replace(x=case.x.detach()[last].requires_grad_(), dy=case.dy[last]))
    assert torch.equal(alone["y"], together["y"][last])
    assert torch.equal(alone["dx"], together["dx"][last])


@pytest.mark.parametrize("shape", [TILE_BOTH, SPLIT_BOTH], ids=str)
def test_nan_is_seen_in_its_own_group_only(shape: tuple[int, ...]) -> None:
    case = make(shape)
    with torch.no_grad():
        case.x[0, 0, 0, 0] = float("nan")
    y = ours(case)["y"]
    group_size = case.x.shape[1] // case.num_groups
    assert y[0, :group_size].isnan().all()
    assert not y[0, group_size:].isnan().any()
    assert not y[1].isnan().any()


def test_other_layouts_work_are_copied_and_counted() -> None:
    case = make(TILE_BOTH)
    layout_copies.clear()
    expected = ours(case)
    assert layout_copies == {}
    nchw = case._replace(x=case.x.detach().contiguous().requires_grad_(), dy=case.dy.contiguous())
    wider = torch.cat([case.x.detach(), case.x.detach()], 1).contiguous(memory_format=torch.channels_last)
    sliced = case._replace(x=wider[:, : case.x.shape[1]].requires_grad_())
    for other in (nchw, sliced):
        layout_copies.clear()
        got = ours(other)
        assert all(torch.equal(got[name], expected[name]) for name in got)
        assert got["y"].is_contiguous(memory_format=torch.channels_last)
        assert got["dx"].is_contiguous(memory_format=torch.channels_last)
        assert layout_copies == {"input": 2, **({"gradient": 1} if other is nchw else {})}


def test_a_spread_out_gradient_is_no_lost_layout() -> None:
    case = make(TILE_BOTH)
    layout_copies.clear()
    y = group_norm_relu(case.x, case.num_groups, case.weight, case.bias)
    y.backward(torch.ones(2, 64, 1, 1).expand(y.shape))
    assert layout_copies == {}


def test_empty_batch() -> None:
    case = make((0, 64, 7, 7, 32))
    got = ours(case)
    assert got["y"].shape == got["dx"].shape == (0, 64, 7, 7)
    assert torch.equal(got["dweight"], torch.zeros(64))
    y, total = add_group_norm_relu(case.x, case.residual, 32, case.weight, case.bias)
    assert y.shape == total.shape == (0, 64, 7, 7)


def test_gradients_have_the_type_of_the_weights() -> None:
    case = make(TILE_BOTH)
    moments = torch.zeros(2, 32), torch.ones(2, 32)
    weights = case.weight.detach().half(), case.bias.detach().bfloat16()
    _, dweight, dbias = module._backward(case.dy, None, case.x.detach(), *moments, *weights)
    assert (dweight.dtype, dbias.dtype) == (torch.float16, torch.bfloat16)


@triton.jit
def count_owners(
    of_channel_ptr, of_group_ptr, members_ptr, channels, group_size: tl.constexpr, groups: tl.constexpr,
    block_g: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    channel, channel_mask, group, group_mask, member = groups_of(
        tl.program_id(0), channels, group_size, groups, block_g, block_c
    )
    tl.atomic_add(of_channel_ptr + channel, 1, mask=channel_mask)
    tl.atomic_add(of_group_ptr + group, 1, mask=group_mask)
    tl.atomic_add(members_ptr + group, tl.sum((member & channel_mask[None, :]).to(tl.int32), axis=1), mask=group_mask)


@pytest.mark.parametrize(("num_groups", "group_size"), [(32, 3), (32, 2), (7, 5), (13, 24), (1, 40), (9, 1), (3, 192)])
def test_every_channel_and_group_has_one_program(num_groups: int, group_size: int) -> None:
    # Run one after the other, as here, programs that share a channel would put each other's faults right.
    block = channel_block(num_groups, group_size, 256)
    assert block is not None
    channels = num_groups * group_size
    of_channel = torch.zeros(channels, dtype=torch.int32)
    of_group, members = torch.zeros(2, num_groups, dtype=torch.int32).unbind()
    count_owners[(block.blocks,)](of_channel, of_group, members, channels, group_size, *block[:3])
    assert of_channel.tolist() == [1] * channels
    assert of_group.tolist() == [1] * num_groups
    assert members.tolist() == [group_size] * num_groups


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 32, 3, 5, 8), torch.channels_last),
        ((2, 32, 3, 5, 8), torch.contiguous_format),
        ((2, 32, 1, 1, 4), torch.contiguous_format),
        ((0, 32, 3, 3, 32), torch.channels_last),
    ],
    ids=str,
)
def test_opcheck(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    case = make(shape)
    x, residual, dy, dtotal = (
        t.detach().contiguous(memory_format=layout) for t in (case.x, case.residual, case.dy, case.dtotal)
    )
    weight, bias = case.weight, case.bias
    x.requires_grad_()
    torch.library.opcheck(module._group_norm_relu, (x, case.num_groups, weight, bias, EPS))
    torch.library.opcheck(module._add_group_norm_relu, (x, residual, case.num_groups, weight, bias, EPS))
    moments = torch.zeros(len(x), case.num_groups), torch.ones(len(x), case.num_groups)
    arguments = [t.detach() for t in (x, *moments, weight, bias)]
    torch.library.opcheck(module._backward, (dy, None, *arguments))
    torch.library.opcheck(module._backward, (dy, dtotal, *arguments))


def test_compile_keeps_the_operation_whole() -> None:
    case = make(TILE_BOTH)
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        targets.extend(str(node.target) for node in graph.graph.nodes if "norm" in str(node.target))
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def both(x: Tensor) -> Tensor:
        y, total = add_group_norm_relu(x, case.residual, case.num_groups, case.weight, case.bias)
        return group_norm_relu(y * 2, case.num_groups, case.weight, case.bias) + total

    module._found_to_work.cache_clear()  # found out while tracing, as in a model that is compiled before its first step
    compiled = torch.compile(both, fullgraph=True, backend=backend)(case.x)
    (dx,) = torch.autograd.grad(compiled, case.x, case.dy)
    assert targets == ["bitscale.add_group_norm_relu.default", "bitscale.group_norm_relu.default"]
    assert torch.equal(compiled, both(case.x))
    assert torch.equal(dx, torch.autograd.grad(both(case.x), case.x, case.dy)[0])


def test_only_input_moments_and_output_are_kept_for_the_backward() -> None:
    case = make((2, 64, 14, 14, 32), torch.bfloat16)
    conv = StdConv2d(64, 32, 3, padding=1, bias=False)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        y = group_norm_relu(case.x, case.num_groups, case.weight, case.bias)
        conv(y)
    activations = [t for t in kept.values() if t.shape[0] == 2 and t.ndim in (2, 4)]
    assert {case.x.data_ptr(), y.data_ptr()} <= kept.keys()
    moments = 2 * (2 * 32) * 4
    assert sum(t.nbytes for t in activations) == case.x.nbytes + y.nbytes + moments
    without_them = [t for t in kept.values() if not any(t is other for other in activations)]
    assert max(t.numel() for t in without_them) <= conv.weight.numel()


def test_second_derivatives_are_refused() -> None:
    case = make(TILE_BOTH)
    y = group_norm_relu(case.x, case.num_groups, case.weight, case.bias)
    (dx,) = torch.autograd.grad(y.sum(), case.x, create_graph=True)
    with pytest.raises(RuntimeError, match="backward"):
        torch.autograd.grad(dx.sum(), case.x)


def test_a_model_gives_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch, launched: list[str]) -> None:
    torch.manual_seed(0)
    model: nn.Module = build_model("r14x0.5", 5, "fan_in").to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (1, 3, 32, 32)).contiguous(memory_format=torch.channels_last)

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(F.cross_entropy(model(images), torch.tensor([4])), model.parameters()))

    fused = gradients()
    assert len(launched) == 2 * 13
    monkeypatch.setattr(module, "_kernel_takes", lambda *_: False)
    plain = gradients()
    assert len(launched) == 2 * 13
    assert all(norm_error(a, b.double()) < 1e-5 for a, b in zip(fused, plain, strict=True))
