"""The comparison of exported logits writes what it measured."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import exported_logits
from benchmarks.exported_logits import ExportedLogits, drawn_model
from data_pipelines.common.errors import InputError, RunError
from trainer.evaluation.exporting import graph_report
from trainer.models import graph as graphs

SMALL = "r14x0.5"


@pytest.mark.slow
def test_differences_are_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "logits.json"
    monkeypatch.setattr("sys.argv", ["x", "--models", SMALL, "--image-size", "32", "--out", str(out)])
    exported_logits.main()
    result = json.loads(out.read_text())
    (row,) = result["models"]
    assert 0 < row["largest_difference"] < result["tolerance"] == graph_report.TOLERANCE
    assert f"| {SMALL} | {row['parameters'] / 1e6:.1f} |" in out.with_suffix(".md").read_text()


@pytest.mark.slow
def test_a_graph_of_other_weights_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    other = graphs.graph_of(drawn_model(SMALL, 1), 32, 1)
    monkeypatch.setattr(graphs, "graph_of", lambda *_: other)
    with pytest.raises(RunError, match="differ from the model's"):
        exported_logits.measure(SMALL, ExportedLogits((SMALL,), 32))


def test_no_weight_of_the_drawn_model_is_constant() -> None:
    model = drawn_model(SMALL, 0)
    assert all(parameter.std() > 0 for parameter in model.parameters() if parameter.numel() > 1)
    assert torch.equal(model.head.weight, drawn_model(SMALL, 0).head.weight)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"models": ("r5",)}, "r5; there are r50x1"), ({"image_size": 0}, "at least 1")]
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportedLogits(**wrong)  # type: ignore[arg-type]
