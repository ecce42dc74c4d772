"""Checks of correctness do without TF32, and leave the flags as they found them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.lib.device import exact_fp32
from benchmarks.lib.kernels import group_norm
from benchmarks.lib.throughput import comparison as throughput
from benchmarks.lib.throughput import optimizer
from data_pipelines.common.errors import RunError
from trainer.models.bit import PreActBottleneck

CPU = torch.device("cpu")


def flags() -> tuple[bool, bool, str]:
    return (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


EXACT = (False, False, "highest")


@pytest.fixture(params=["medium", "high", "highest"], autouse=True)
def before(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool, str]]:
    """What a user may have chosen; as it was again after the test."""
    found = flags()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision(request.param)
    yield flags()
    torch.backends.cudnn.allow_tf32 = found[0]
    torch.set_float32_matmul_precision(found[2])


class Recorder(TorchDispatchMode):
    """The flags at every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[tuple[bool, bool, str]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.setdefault(str(func), set()).add(flags())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("check", "operation"),
    [
        (lambda: throughput.check("r14x0.5", CPU), "aten.convolution_backward.default"),
        (lambda: group_norm.check(CPU, [(2, 64, 5, 3)], []), "aten.native_group_norm.default"),
        (lambda: optimizer.check("r14x0.5", CPU), "aten.copy_.default"),
    ],
    ids=["throughput", "group_norm", "optimizer"],
)
def test_checks_run_in_whole_fp32(check: Callable[[], Any], operation: str, before: tuple[bool, bool, str]) -> None:
    with Recorder() as recorder:
        check()
    assert operation in recorder.seen
    assert set().union(*recorder.seen.values()) == {EXACT}
    assert flags() == before


def test_flags_are_restored_after_a_failure(monkeypatch: pytest.MonkeyPatch, before: tuple[bool, bool, str]) -> None:
    forward = PreActBottleneck.forward

    def worse(unit: PreActBottleneck, x: torch.Tensor, *rest: Any) -> Any:
        y, shortcut = forward(unit, x, *rest)
        return (y * 1.5 if x.dtype == torch.float32 else y), shortcut

    monkeypatch.setattr(PreActBottleneck, "forward", worse)
    with pytest.raises(RunError, match="wrong by more than"):
        throughput.check("r14x0.5", CPU)
    assert flags() == before
    with exact_fp32():
        assert flags() == EXACT
    assert flags() == before
