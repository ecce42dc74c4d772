"""The GroupNorm benchmark refuses a wrong kernel, counts the model's layers, and says what it could not measure."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import group_norm as module
from benchmarks.group_norm import COMPILED, NHWC, OURS, GroupNormBenchmark, check, layers, measure, table, verdict
from data_pipelines.common.errors import InputError, RunError

CPU = torch.device("cpu")
TINY = GroupNormBenchmark(rounds=2, models=("r14x0.5:1",), image_size=32, compile_s=0)


@pytest.fixture
def plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU torch's own pair stands for the kernel."""
    monkeypatch.setattr(module, "kernel_works", lambda _: True)
    monkeypatch.setattr(module, "CHECKED", [(2, 64, 5, 3)])


@pytest.mark.usefixtures("plain_path")
def test_end_to_end(tmp_path: Path) -> None:
    result = json.loads(json.dumps(measure(TINY, CPU)))
    assert {"commit", "machine", "versions", "arguments", "how", "checked", "copy_gb_per_s"} <= result.keys()
    assert [each["dtype"] for each in result["checked"]] == ["float32", "bfloat16"]
    (model,) = result["models"]
    assert sum(row["layers"] for row in model["layers"]) == 13
    first = model["layers"][0]
    spread = first["ms"][OURS]["both"]
    assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert first["bound_ms"]["both"] == pytest.approx(2.5 * first["bound_ms"]["forward"])
    sums = sum(row["layers"] * row["ms"][NHWC]["both"]["median"] for row in model["layers"])
    assert model["total_ms"][NHWC]["both"] == pytest.approx(sums)
    assert COMPILED not in model["total_ms"]
    assert table(result).count("\n| ") == 2 + len(model["layers"])


@pytest.mark.parametrize(
    ("share", "keeps", "expected"), [(0.9, True, "is needless"), (1.1, True, "stays"), (0.9, False, "stays")]
)
def test_the_rule_by_which_torchs_own_kernels_are_taken(share: float, keeps: bool, expected: str) -> None:
    models = [{"total_ms": {OURS: {"both": 2.0}, NHWC: {"both": 2.0 * each}}} for each in (0.5, share)]
    text = verdict({"models": models, "torch_keeps_channels_last": keeps})
    assert f"so ours {expected}." in text
    assert f"at most {share:.2f} times" in text
    assert torch.__version__.partition("+")[0] in text


@pytest.mark.usefixtures("plain_path")
def test_a_layer_without_compiled_contender_is_not_measured() -> None:
    result = measure(TINY, CPU)
    rows = result["models"][0]["layers"]
    rows[0]["ms"][COMPILED] = rows[0]["ms"][NHWC]
    assert table(result).count("not measured") == len(rows)  # the others, and the sum


def test_layers_of_the_models() -> None:
    shapes = layers("r50x1", 4, 224)
    assert sum(shapes.values()) == 49
    assert shapes[4, 64, 56, 56] == 7
    assert shapes[4, 2048, 7, 7] == 3


def test_a_wrong_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = module.group_norm_relu

    def scaled(*arguments: Tensor) -> Tensor:
        return ours(*arguments) * 1.01  # type: ignore[arg-type]

    monkeypatch.setattr(module, "group_norm_relu", scaled)
    with pytest.raises(RunError, match="wrong by more than"):
        check(CPU, [(2, 64, 5, 3)], [])


def test_large_tensors_are_compared_with_the_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = module.group_norm_relu
    shape = (3, 64, 5, 3)
    assert check(CPU, [], [shape])[0]["last_sample_as_alone"]
    monkeypatch.setattr(module, "group_norm_relu", lambda x, *rest: ours(x.roll(1, 0), *rest))
    with pytest.raises(RunError, match="large tensors"):
        check(CPU, [], [shape])


def test_no_kernel_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "kernel_works", lambda _: False)
    with pytest.raises(RunError, match="does not run here"):
        measure(TINY, CPU)


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["group_norm"])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 2
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("models", [("r50:8",), ("r50x1",), ("r50x1:0",), ("r50x1:many",)])
def test_models_that_are_none(models: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="MODEL:BATCH"):
        GroupNormBenchmark(models=models)
