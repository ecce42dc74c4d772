"""The step benchmarks refuse wrong results, say what they could not measure, and count what they claim."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import optimizer as optimizer_program
from benchmarks import throughput as throughput_program
from benchmarks.lib.throughput import comparison as throughput
from benchmarks.lib.throughput import optimizer, rounds
from benchmarks.lib.throughput.comparison import Throughput
from benchmarks.lib.throughput.models import (
    bound_step,
    images_and_labels,
    layout_probe,
    our_turn,
    with_cudnn_benchmark,
)
from benchmarks.lib.throughput.optimizer import OptimizerBenchmark
from data_pipelines.common.errors import InputError, RunError
from trainer.models.bit import PreActBottleneck
from trainer.models.timm_folder import ARCHITECTURES
from trainer.training.memory import kept_per_image

CPU = torch.device("cpu")
SMALL = "r14x0.5"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def of_small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Throughput]:
    """A function that makes settings for a small model, beside another small one in place of a twin."""
    monkeypatch.setitem(ARCHITECTURES, SMALL, "resnet10t")
    return partial(Throughput, SMALL, steps=1, batch_size=2, image_size=32, threads=1)


def tiny_contenders(fail: bool = False) -> dict[str, Any]:
    batch = images_and_labels(2, 32, CPU)

    def broken() -> Any:
        raise RuntimeError("out of\nluck")

    ours = lambda: our_turn(SMALL, batch, CPU, False, 1)  # noqa: E731
    return {throughput.OURS: ours, throughput.EAGER_LAST: ours, throughput.COMPILED_LAST: broken if fail else ours}


@pytest.mark.slow
def test_what_is_late_is_left_out_and_ours_is_measured_once(
    monkeypatch: pytest.MonkeyPatch, of_small: Callable[..., Throughput]
) -> None:
    monkeypatch.setattr(throughput, "contenders", lambda *_: tiny_contenders())
    monkeypatch.setattr(throughput, "check", lambda *_: {"loss": 0.0})
    monkeypatch.setattr(rounds, "gemm_flops_per_s", lambda _: 1e11)
    monkeypatch.setattr(throughput, "kept_beside_timm", lambda *_: {"ours_mb": 1.0, "timm_mb": 2.0, "ratio": 0.5})
    settings = of_small(rounds=3, limit_s=0)
    result = throughput.measure(settings, CPU)
    assert result["arguments"]["rounds"] == 1
    assert "images_per_s" in result["contenders"][throughput.OURS]
    assert result["contenders"][throughput.EAGER_LAST] == {"not_measured": "no time was left after 0 s"}


def test_cudnn_times_algorithms_in_that_contender_alone() -> None:
    seen = []

    def turn(steps: int) -> float:
        seen.append(torch.backends.cudnn.benchmark)
        return 1.0

    before = torch.backends.cudnn.benchmark
    assert with_cudnn_benchmark(turn)(2) == 1.0
    assert seen == [True]
    assert torch.backends.cudnn.benchmark == before


@pytest.mark.slow
def test_throughput_end_to_end(monkeypatch: pytest.MonkeyPatch, of_small: Callable[..., Throughput]) -> None:
    monkeypatch.setattr(throughput, "contenders", lambda *_: tiny_contenders(fail=True))
    monkeypatch.setattr(throughput, "check", lambda *_: {"loss": 0.0})
    monkeypatch.setattr(rounds, "gemm_flops_per_s", lambda _: 1e11)
    result = json.loads(json.dumps(throughput.measure(of_small(rounds=2), CPU)))
    rate = result["contenders"][throughput.OURS]["images_per_s"]
    assert 0 < rate["min"] <= rate["median"] <= rate["max"]
    assert result["contenders"][throughput.COMPILED_LAST] == {"not_measured": "out of"}
    assert result["ratios"].keys() == {throughput.EAGER_LAST}
    assert result["ratios"][throughput.EAGER_LAST]["met"] is False  # as fast as ours, not four times as slow
    kept = result["kept_for_backward_per_image"]
    assert kept["ratio"] == pytest.approx(kept["ours_mb"] / kept["timm_mb"])
    text = throughput.table(result)
    assert "not measured: out of" in text
    assert "energy" not in text
    assert "(target" not in text  # of utilisation there is one on a GPU, for r152x4
    result["utilisation_of_gemm"] = {"median": 0.61, "target": throughput.TARGET_UTILISATION_GPU["r152x4"]}
    assert "ours at 61% of that (target >= 55%)" in throughput.table(result)


@pytest.mark.slow
def test_energy_is_that_of_a_step(monkeypatch: pytest.MonkeyPatch, of_small: Callable[..., Throughput]) -> None:
    class Counter:
        def __init__(self, _: torch.device) -> None:
            pass

        def start(self) -> None:
            pass

        def stop(self) -> float:
            return 6.0

    monkeypatch.setattr(rounds, "EnergyCounter", Counter)
    monkeypatch.setattr(throughput, "contenders", lambda *_: tiny_contenders())
    monkeypatch.setattr(throughput, "check", lambda *_: {"loss": 0.0})
    monkeypatch.setattr(rounds, "gemm_flops_per_s", lambda _: 1e11)
    monkeypatch.setattr(throughput, "kept_beside_timm", lambda *_: {"ours_mb": 1.0, "timm_mb": 2.0, "ratio": 0.5})
    result = throughput.measure(of_small(rounds=1, steps=3), CPU)
    rows = result["contenders"].values()
    assert [row["joules_per_1000_images"] for row in rows] == [1000.0] * 3
    for row in rows:
        row["peak_gb"] = 1.25
    assert "| ours | 1.2 | 1000 |" in throughput.table(result)


def test_kept_activations_are_counted_by_image() -> None:
    class Twice(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = images.requires_grad_().sin()  # keeps the images
            return x * x  # keeps x

    def batch_of(images: int) -> torch.Tensor:
        return torch.zeros(images, 5)

    assert kept_per_image(Twice(), batch_of, "fp32") == 2 * 5 * 4


def test_a_wrong_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(throughput.check(SMALL, CPU).values()) < 0.05
    forward = PreActBottleneck.forward

    def worse(unit: PreActBottleneck, x: torch.Tensor, *rest: Any) -> Any:
        y, shortcut = forward(unit, x, *rest)
        return (y * 1.5 if x.dtype == torch.float32 else y), shortcut

    monkeypatch.setattr(PreActBottleneck, "forward", worse)
    with pytest.raises(RunError, match="wrong by more than"):
        throughput.check(SMALL, CPU)


def test_our_step_leaves_channels_last_nowhere() -> None:
    assert layout_probe(SMALL, images_and_labels(2, 64, CPU), CPU) == []


def test_the_bound_has_the_convolutions_and_no_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_: None)
    step = bound_step(SMALL, images_and_labels(2, 64, CPU), CPU)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["aten::convolution_backward"] == 17
    assert not any("norm" in name for name in counts)


@pytest.mark.slow
def test_optimizer_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "COPIED_BYTES", 1 << 24)
    result = json.loads(json.dumps(optimizer.measure(OptimizerBenchmark(SMALL, 2, threads=1), CPU)))
    assert result["error"] < 1e-6
    assert result["ms"].keys() == {"ours", "loop", "timm_clip_fused_sgd", "traffic_bound"}
    assert result["ratios"]["loop"]["target"] == 4.0
    assert optimizer.table(result).count("\n| ") == 5


def test_a_wrong_update_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "our_update", lambda model: torch.optim.SGD(model.parameters(), 1e-3, 0.9).step)
    with pytest.raises(RunError, match="wrong by more than"):
        optimizer.check(SMALL, CPU)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "r26x1"}, "no twin in timm"),
        ({"rounds": 0}, "at least 1"),
        ({"plan": "r1"}, "--plan r1 is not known; known: r101x1"),
        ({"gpu": "abacus"}, "--gpu abacus is not known"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Throughput(**arguments)


@pytest.mark.parametrize("program", [throughput_program, optimizer_program])
def test_no_gpu(program: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["benchmark", "--device", "cuda", "--out", str(tmp_path / "x.json")])
    with pytest.raises(SystemExit) as stopped:
        program.main()
    assert stopped.value.code == 2
    assert "not measured" in capsys.readouterr().err
