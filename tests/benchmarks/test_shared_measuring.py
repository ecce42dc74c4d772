"""What all benchmarks share: the header of a result, spreads and ratios, and times of calls."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import protocol_effect
from benchmarks.lib.device import measured_device, times_ms
from benchmarks.lib.engines.comparison import EnginesBenchmark
from benchmarks.lib.kernels.host_time import HostTime
from benchmarks.lib.network.overlap import Overlap
from benchmarks.lib.results import header, ratio_of, spread_of, spread_text, write_result
from data_pipelines.common.errors import InputError


def test_a_header_says_where_a_result_was_made() -> None:
    found = json.loads(json.dumps(header("x", torch.device("cpu"), ["numpy", "no-such-package"])))
    assert found.keys() == {"benchmark", "commit", "machine", "versions"}
    assert found["machine"]["gpu"] is None
    assert found["machine"]["cores"] >= 1
    assert {"python", "torch", "numpy"} <= found["versions"].keys()
    assert "no-such-package" not in found["versions"]
    assert "gpu" not in header("x")["machine"]


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio_of([2.0, 9.0, 4.0], [1.0, 3.0, 1.0], 3.0) == {
        "median": 3.0,
        "min": 2.0,
        "max": 4.0,
        "target": 3.0,
        "met": True,
    }
    assert ratio_of([2.0], [1.0], 2.5)["met"] is False
    assert ratio_of([2.0], [1.0], None)["met"] is None
    assert spread_text(spread_of([1.0, 3.0, 2.0]), ".1f") == "2.0 (1.0-3.0)"
    with pytest.raises(ValueError, match="shorter"):
        ratio_of([1.0, 2.0], [1.0], None)


def test_a_result_is_json_with_its_table_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "new" / "x.json", {"a": 1}, "| a |\n")
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == {"a": 1}
    assert (tmp_path / "new" / "x.md").read_text() == "| a |\n"
    assert "| a |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: EnginesBenchmark(variants=("dpp",)), "--variants dpp is not known; did you mean 'ddp'"),
        (lambda: EnginesBenchmark(model="r26x2"), "--model r26x2 is not known; did you mean 'r26x1'"),
        (lambda: HostTime(models=("r50x1", "r50x2")), "--models r50x2 is not known; did you mean 'r50x3'"),
        (lambda: Overlap(model="resnet50"), "--model resnet50 is not known; known: r101x1, "),
        (lambda: Overlap(loads=(0.5, 0.0)), "--loads has 0; each must be above 0"),
        (lambda: protocol_effect.Settings(()), "RUNS must be given: folders of fine-tunings"),
        (lambda: measured_device("gpu"), "--device gpu is not known; did you mean 'cuda'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(ask: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        ask()


def test_a_result_that_cannot_be_kept_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"x\.json cannot be written \(.*\); choose another --out"):
        write_result(tmp_path / "file" / "x.json", {"a": 1}, "| a |\n")
    assert "| a |" in capsys.readouterr().out


def test_calls_on_a_cpu_are_timed_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton.testing", None)
    calls: list[int] = []
    times = times_ms(lambda: calls.append(1), torch.device("cpu"), cpu_calls=3, gpu_ms=1)
    assert len(times) == len(calls) == 3
    assert min(times) > 0


def test_calls_on_a_gpu_are_timed_by_do_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def do_bench(call: Any, **options: Any) -> list[float]:
        asked.update(options, call=call)
        return [1.0, 2.0]

    monkeypatch.setitem(sys.modules, "triton.testing", SimpleNamespace(do_bench=do_bench))
    assert times_ms(print, torch.device("cuda"), cpu_calls=3, gpu_ms=40) == [1.0, 2.0]
    assert asked == {"call": print, "warmup": 10, "rep": 40, "return_mode": "all"}
