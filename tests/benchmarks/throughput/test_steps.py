"""The trial of the loop says where the host waits, and refuses a loss that does not fall."""

import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.lib.throughput import steps
from benchmarks.lib.throughput.models import images_and_labels
from benchmarks.lib.throughput.steps import Steps, host_waits, measure, table
from data_pipelines.common.errors import InputError, RunError

CPU = torch.device("cpu")
TINY = Steps("r14x0.5", batch_size=2, image_size=32, steps=2, precisions=("fp32",), threads=1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_end_to_end() -> None:
    result = measure(TINY, CPU)
    before, after = result["precisions"]["fp32"]["losses"]
    assert after < before
    assert result["machine"]["gpu"] is None
    profiled = result["profile"]
    assert profiled["ms_in_operations"] > 0
    assert sum(row["share"] for row in profiled["longest"]) <= 1 + 1e-9
    assert any("convolution" in row["name"] for row in profiled["longest"])
    assert "not measured: no GPU" in table(result)


def test_a_loss_that_does_not_fall_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "loss_of", lambda *_: float("nan"))
    with pytest.raises(RunError, match="the loss went nan -> nan"):
        steps.try_precision("fp32", replace(TINY, steps=1), images_and_labels(2, 32, CPU))


def test_waits_of_the_host_are_counted_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[object] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with host_waits(torch.device("cuda")) as waits:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert modes == ["warn", 0]
    ((place, count),) = waits.items()
    assert count == 3
    assert place.startswith("benchmarks/throughput/test_steps.py:")


def test_nobody_waits_for_a_cpu() -> None:
    with pytest.warns(UserWarning, match="synchronizing"), host_waits(CPU) as waits:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    assert not waits


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("batch_size", 0), ("model", "r50")])
def test_wrong_arguments(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name.replace("_", "-")):
        replace(TINY, **{name: value})
