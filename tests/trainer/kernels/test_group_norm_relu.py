"""GroupNorm + ReLU where no kernel runs; and, in a process of their own, the kernels in Triton's interpreter."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from data_pipelines.common.errors import InputError
from trainer.kernels import group_norm_relu as module
from trainer.kernels.group_norm_relu import add_group_norm_relu, group_norm_relu, kernel_works

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 7, 7, generator=generator).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 64, generator=generator).unbind()
    return x, weight, bias


@pytest.mark.slow
def test_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    tests = Path(__file__).with_name("interpreted_group_norm.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--show-capture=no", str(tests)]
    root = str(Path(module.__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kernel_takes", lambda *_: False)


@pytest.mark.usefixtures("without_kernels")
def test_plain_path_is_torch(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias = batch
    expected = F.relu(F.group_norm(x, 32, weight, bias, 1e-3))
    y = group_norm_relu(x, 32, weight, bias, 1e-3)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    again, total = add_group_norm_relu(x, x, 32, weight, bias, 1e-3)
    assert torch.equal(total, 2 * x)
    assert torch.equal(again, group_norm_relu(2 * x, 32, weight, bias, 1e-3))


@pytest.mark.usefixtures("without_kernels")
def test_compile_takes_the_plain_path_apart(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias = batch
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(lambda x: group_norm_relu(x, 32, weight, bias), fullgraph=True, backend=backend)
    assert torch.equal(compiled(x), group_norm_relu(x, 32, weight, bias))
    assert not any("bitscale" in target for target in targets)


@pytest.mark.parametrize("function", [group_norm_relu, lambda x, *rest: add_group_norm_relu(x, x, *rest)])
def test_channels_that_do_not_divide_into_the_groups(function: Callable[..., object]) -> None:
    with pytest.raises(InputError, match="48 channels do not divide into 32 groups"):
        function(torch.zeros(1, 48, 2, 2), 32, torch.ones(48), torch.zeros(48))


@pytest.mark.parametrize("residual", [torch.zeros(1, 32, 1, 1), torch.zeros(1, 32, 2, 2, dtype=torch.bfloat16)])
def test_a_residual_that_does_not_match(residual: Tensor) -> None:
    with pytest.raises(InputError, match="cannot add"):
        add_group_norm_relu(torch.zeros(1, 32, 2, 2), residual, 32, torch.ones(32), torch.zeros(32))


def test_empty_batch() -> None:
    weight = torch.ones(32, requires_grad=True)
    y = group_norm_relu(torch.zeros(0, 32, 4, 4), 32, weight, weight)
    y.sum().backward()
    assert y.shape == (0, 32, 4, 4)
    assert weight.grad is not None
    assert weight.grad.abs().max() == 0


def on_gpu(monkeypatch: pytest.MonkeyPatch, works: bool, dtype: torch.dtype, ndim: int = 4) -> Tensor:
    """What comes out for a channels-first tensor on a GPU that need not be there."""
    monkeypatch.setattr(module, "kernel_works", lambda _: works)
    with FakeTensorMode():
        x = torch.empty((2, 32, 4, 4)[:ndim], device=CUDA, dtype=dtype)
        weight = torch.empty(32, device=CUDA)
        return group_norm_relu(x, 32, weight, weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_gpu_takes_the_kernel_and_keeps_channels_last(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    y = on_gpu(monkeypatch, works=True, dtype=dtype)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("works", "dtype", "ndim"), [(False, torch.bfloat16, 4), (True, torch.float64, 4), (True, torch.bfloat16, 3)]
)
def test_a_gpu_takes_the_plain_path(
    works: bool, dtype: torch.dtype, ndim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_group_norm_relu", None)
    assert on_gpu(monkeypatch, works, dtype, ndim).dtype == dtype


def why_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: torch.device) -> str:
    monkeypatch.setattr(module, "_is_native", lambda _: False)
    module._found_to_work.cache_clear()
    assert not kernel_works(device)
    warning = capsys.readouterr().err
    assert not kernel_works(device)
    assert capsys.readouterr().err == ""  # once is enough
    module._found_to_work.cache_clear()
    assert warning.startswith("warning: GroupNorm runs without its Triton kernel")
    assert warning.count("\n") == 1
    return warning


def test_no_triton(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "HAS_TRITON", False)
    assert "pip install triton" in why_not(monkeypatch, capsys, CUDA)


def test_a_gpu_too_old_for_bf16(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    assert "Tesla T4 is older than compute capability 8.0" in why_not(monkeypatch, capsys, CUDA)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    monkeypatch.setattr(module, "HAS_TRITON", True)
    monkeypatch.setattr(module, "_forward", fail)
    assert "Failed to find C compiler." in why_not(monkeypatch, capsys, CPU)


def test_the_compiler_takes_whether_kernels_work_for_a_constant() -> None:
    def marked(device: torch.device) -> bool:
        return device.type == "cpu"

    assert vars(torch.compiler.assume_constant_result(marked)).items() <= vars(kernel_works).items()
    assert vars(marked)
