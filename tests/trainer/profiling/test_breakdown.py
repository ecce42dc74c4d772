"""Where each instant of a trace goes, on made events; real runs are in test_recorder.py."""

import ast
import random
from pathlib import Path

import pytest
from made_events import BACKWARD, POOL, Event, copy, event, kernel, named, operation

from trainer import kernels
from trainer.kernels.ranges import HOROVOD, STANDARDISATION
from trainer.profiling.breakdown import Breakdown, break_down
from trainer.profiling.categories import (
    CATEGORIES,
    COMPUTING,
    category_of_kernel,
    category_of_operation,
)

FRAME = "autograd::engine::evaluate_function: "


def steps(count: int = 2, length: float = 1000) -> list[Event]:
    return [named(f"ProfilerStep#{i}", i * length, (i + 1) * length) for i in range(count)]


def nonzero(found: Breakdown) -> dict[str, float]:
    """Milliseconds of all steps together."""
    return {category: ms * found.steps for category, ms in found.ms.items() if ms}


def test_cpu_trace() -> None:
    found = break_down(
        [
            *steps(),
            named("phase: data", 0, 100),
            operation("aten::cat", 20, 90),  # of a loader: waiting all the same
            operation("aten::conv2d", 100, 400),
            operation("aten::empty", 110, 150),
            operation("aten::copy_", 200, 300),
            operation("bitscale::group_norm_relu", 400, 500),
            operation("aten::contiguous", 420, 430),
            named(STANDARDISATION, 500, 550),
            operation(f"{FRAME}_FiltersBackward", 550, 600),
            operation("aten::detach", 560, 561),
            operation("aten::max_pool2d", 600, 700),
            operation(f"{FRAME}torch::autograd::AccumulateGrad", 700, 780),
            operation("torch::distributed::reducer::mul_out", 720, 740),
            event("user_annotation", "gloo:all_reduce", 650, 900, POOL),
            named("phase: update", 900, 1000),
            named("Optimizer.step#SGDAGC.step", 910, 1000),
            operation("aten::mul", 920, 930),
            named("phase: saving", 1000, 1600),
            operation("aten::clone", 1100, 1200),
            operation("aten::conv2d", 1990, 2200),  # what lies beyond the last step does not count
        ]
    )
    assert not found.on_gpu
    assert (found.steps, found.step_ms, found.launches) == (2, 1.0, 0)
    assert nonzero(found) == pytest.approx(
        {
            "data": 0.1,
            "convolutions": 0.31,
            "norms": 0.1,
            "standardisation": 0.1,
            "other": 0.12,  # pooling, and the copy into a bucket
            "communication": 0.18,  # of 650 to 900 less pooling until 700 and the copy from 720 to 740
            "optimizer": 0.09,
            "idle": 0.4,
            "pause": 0.6,
        }
    )
    assert found.communication_ms == pytest.approx(0.125)  # a step
    assert found.other_ms == pytest.approx(
        {"aten::max_pool2d": 0.05, "aten::cat": 0.035, "torch::distributed::reducer::mul_out": 0.01}
        | {"aten::clone": 0.05}
    )


def test_a_wait_inside_an_exchange_is_communication() -> None:
    found = break_down([*steps(1), named(HOROVOD, 200, 500), operation("aten::copy_", 400, 450)])
    assert nonzero(found) == pytest.approx({"communication": 0.3, "idle": 0.7})
    assert found.communication_ms == pytest.approx(0.3)


def test_gpu_trace() -> None:
    nccl = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    found = break_down(
        [
            *steps(1),
            named("phase: data", 0, 100),
            named("phase: forward", 100, 1000),
            *kernel("Memcpy HtoD (Pinned -> Device)", 50, 150, 40, kind="gpu_memcpy"),
            operation("aten::conv2d", 100, 120),
            *kernel("sm90_xmma_fprop_implicit_gemm", 140, 300, 110),
            operation("bitscale::group_norm_relu", 120, 140),
            *kernel("forward_tile", 300, 350, 130),
            operation("aten::linear", 140, 160),
            *kernel("nvjet_tst_128x64", 350, 360, 150),  # the head's product, not a convolution
            # The backward pass is launched by a thread of its own.
            operation(f"{FRAME}ConvolutionBackward0", 200, 240, BACKWARD),
            operation("aten::convolution_backward", 210, 230, BACKWARD),
            *kernel("cutlass_wgrad", 400, 600, 220, BACKWARD),
            operation("c10d::allreduce_", 240, 250, BACKWARD),
            *kernel(nccl, 500, 800, 245, BACKWARD),
            *kernel("Memcpy DtoD (Device -> Device)", 780, 820, 900, kind="gpu_memcpy"),
            # A CUDA graph: one launch, and no operation.
            *kernel("backward_split", 900, 930, 895),
            *kernel("void cudnn::nchwToNhwcKernel<float>(int)", 930, 940, 895),
        ]
    )
    assert found.on_gpu
    assert nonzero(found) == pytest.approx(
        {
            "data": 0.05,
            "copies": 0.09 + 0.02,
            "convolutions": 0.16 + 0.2 + 0.01,
            "norms": 0.05 + 0.03,
            "other": 0.01,
            "communication": 0.2,
            "idle": 0.04 + 0.08 + 0.06,
        }
    )
    assert found.communication_ms == pytest.approx(0.3)
    assert found.launches == 7
    assert found.other_ms == pytest.approx({"aten::linear": 0.01})
    assert found.layout_copies == {("cudnn::nchwToNhwcKernel", "in cuDNN"): 1}


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_categories_add_up_and_exposed_is_not_overlapped(seed: int, on_gpu: bool) -> None:
    """Against counting ticks one by one."""
    draws, length = random.Random(seed), 200
    names = {"convolutions": "aten::conv2d", "norms": "bitscale::group_norm_relu", "other": "aten::mean"}
    events, computes, exchanges = steps(1, length), set(), set()
    at = -10
    while at < length + 10:
        start = at + draws.randrange(4)
        end = start + draws.randrange(1, 20)
        category = draws.choice(list(names))
        host = (start, end) if not on_gpu else (start, start + 2)
        events.append(operation(names[category], *host))
        if on_gpu:  # up to two at a time
            later = draws.randrange(30)
            events += kernel("some_kernel", start + later, end + later, start + 1)
            start, end = start + later, end + later
        computes |= {(tick, category) for tick in range(max(start, 0), min(end, length))}
        at = host[1]
    for _ in range(5):
        start = draws.randrange(length)
        end = start + draws.randrange(1, 40)
        exchange = event("user_annotation", "gloo:all_reduce", start, end, POOL)
        events += kernel("ncclKernel", start, end, -1) if on_gpu else [exchange]
        exchanges |= set(range(start, min(end, length)))
    found = break_down(draws.sample(events, len(events)))
    assert sum(found.ms.values()) == pytest.approx(found.step_ms)
    busy = {tick for tick, _ in computes}
    expected = {"communication": len(exchanges - busy), "idle": length - len(exchanges | busy)}
    for category in names:
        before = COMPUTING[: COMPUTING.index(category)]  # type: ignore[arg-type]
        taken = {tick for tick, other in computes if other in before}
        expected[category] = len({tick for tick, own in computes if own == category} - taken)
    assert nonzero(found) == pytest.approx({name: ticks / 1000 for name, ticks in expected.items() if ticks})
    assert found.communication_ms == pytest.approx(len(exchanges) / 1000)


def test_copies_to_another_layout() -> None:
    size, last, first = [8, 16, 4, 4], [256, 1, 64, 16], [256, 16, 4, 1]
    around = [operation("GeneratedBackwardFor_bitscale_group_norm_relu_defaultBackward", 10, 90)]
    around += [operation("bitscale::group_norm_relu_backward", 12, 80), operation("aten::contiguous", 13, 70)]
    found = break_down(
        [
            *steps(2),
            *around,
            copy(size, last, first, at=20),
            copy(size, last, last, at=30),
            copy([8, 16, 1, 1], [16, 1, 16, 16], [16, 1, 1, 1], at=40),  # both layouts at once
            copy([8, 16], [16, 1], [1, 8], at=50),
            copy([2, 16, 4, 4], first, last, at=100),
            copy([4, 16, 4, 4], first, last, at=110),
            event("cpu_op", "aten::copy_", 120, 121),  # without shapes
        ]
    )
    assert found.layout_copies == {
        ("aten::copy_", "channels-last to channels-first, up to 4x16x4x4"): 1.0,
        ("bitscale::group_norm_relu_backward", "channels-first to channels-last, up to 8x16x4x4"): 0.5,
    }


def test_no_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="no step was recorded"):
        break_down([operation("aten::conv2d", 0, 1)])


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("aten::cudnn_convolution", "convolutions"),
        ("ConvolutionBackward0", "convolutions"),
        ("aten::native_group_norm_backward", "norms"),
        ("NativeGroupNormBackward0", "norms"),
        ("bitscale::add_group_norm_relu", "norms"),
        ("_FiltersBackward", "standardisation"),
        ("Optimizer.zero_grad#SGDAGC.zero_grad", "optimizer"),
        ("c10d::broadcast_", "communication"),
        ("prims::convert_element_type", None),
        ("aten::addmm", None),
    ],
)
def test_operations_by_name(name: str, category: str | None) -> None:
    assert category_of_operation(name) == category


def test_our_own_kernels_are_known_by_name() -> None:
    """In CUDA graphs and compiled code nothing else says what they are."""
    of_files = {"group_norm": "norms", "standardise": "standardisation", "sgd_agc": "optimizer"}
    functions = [
        (path.name, node)
        for path in Path(kernels.__file__).parent.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(each) for each in node.decorator_list)
    ]
    # A kernel is what no other of these functions calls.
    called = {
        call.func.id
        for _, function in functions
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    seen = set()
    for file, function in functions:
        if function.name not in called:
            expected = next(category for start, category in of_files.items() if file.startswith(start))
            assert category_of_kernel(function.name, None, "") == expected, function.name
            seen.add(function.name)
    assert seen >= {"forward_tile", "backward_tile", "forward_split", "backward_split", "sgd_agc_units"}
    assert seen >= {"standardise_rows", "standardise_rows_backward"}


def test_every_category_has_its_place() -> None:
    assert set(break_down(steps()).ms) == set(CATEGORIES)
    assert nonzero(break_down(steps())) == {"idle": 2.0}
