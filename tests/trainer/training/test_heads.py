"""A run with a head for each set: every head can be told, tested, used and exported by itself."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from test_results import config_of
from tiny_sets import tiny_set

from bitscale.api import open_classifier
from data_pipelines.common.errors import InputError
from trainer import checkpoint
from trainer.config import Config, RuntimeConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.evaluation.assessment.output_names import NUMBERS
from trainer.evaluation.calibration.operating import HEADS_KEY
from trainer.evaluation.evaluate_run import CARD, Evaluate, evaluate_run
from trainer.evaluation.exporting.export_graph import export_graph
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.evaluation.runs import open_run
from trainer.evaluation.statistics.predictions import load_predictions
from trainer.metrics import all_metrics
from trainer.models.bit import build_model
from trainer.models.export_weights import Export, export
from trainer.models.weights import load_weights
from trainer.run_files import CONFIG
from trainer.training.launch_options import LaunchOptions
from trainer.training.run import run
from trainer.training.start import summary

NAN = np.nan
FINDINGS = {"one": ("mass", "edema", "hernia"), "two": ("edema", "mass")}
LABELS = {
    "one": [[1, 0, NAN], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, NAN, 0]],
    "two": [[1, 0], [0, 1], [1, 1], [0, 0]],
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sets that name the same findings in another order, and one of their own."""
    root = tmp_path_factory.mktemp("sets")
    splits: Any = ("train", "val", "test")
    return [
        tiny_set(root / name, LABELS[name], FINDINGS[name], name=name, splits=splits, pictures=range(at, at + 5))
        for at, name in ((0, "one"), (10, "two"))
    ]


@pytest.fixture(scope="module")
def config(sets: list[Path]) -> Config:
    whole = config_of(*sets, join="heads", images=8, images_per_set="even")
    return replace(whole, model=replace(whole.model, head_init="fan_in"))


@pytest.fixture(scope="module")
def finished(config: Config, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, run(config, LaunchOptions(folder), engine, {"kind": "pretrain"})


@pytest.mark.slow
def test_each_head_is_measured_on_its_own_set(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    predictions = load_predictions(folder, "test")
    assert predictions.classes == ("one: mass", "one: edema", "one: hernia", "two: edema", "two: mass")
    for name, rows, columns in (("one", slice(0, 5), slice(0, 3)), ("two", slice(5, 9), slice(3, 5))):
        np.testing.assert_array_equal(predictions.labels[rows, columns], np.array(LABELS[name], dtype=np.float32))
        logits, labels = (
            torch.from_numpy(values[rows, columns]) for values in (predictions.logits, predictions.labels)
        )
        expected = all_metrics(logits, labels, FINDINGS[name])
        assert result["heads"][name]["test"] == expected | {"images": rows.stop - rows.start}
        assert f"{name} {expected['auc']:.2%}" in summary(result)


def test_checkpoints_say_heads_and_images_of_each_set(finished: tuple[Path, dict[str, Any]]) -> None:
    metadata = checkpoint.describe(checkpoint.best_or_latest(finished[0]))
    assert metadata["heads"] == {name: list(findings) for name, findings in FINDINGS.items()}
    assert metadata["images_of_sets"] == {"one": 4, "two": 4}
    for name, points in metadata[HEADS_KEY].items():
        assert set(points["thresholds"]) == set(FINDINGS[name])
    assert finished[1]["train_images"] == 8
    assert json.loads((finished[0] / CONFIG).read_text())["data"]["images_per_set"] == "even"


def test_a_run_says_its_heads_and_images_first(
    config: Config, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError):
        run(config, LaunchOptions(tmp_path / "run"), engine, {"kind": "pretrain"}, train_fn=_broken)
    assert "8 images of one (4, a head of 3), two (4, a head of 2) at 32 px" in capsys.readouterr().err


def _broken(*_: Any) -> Any:
    raise RuntimeError


def test_a_head_predicts_as_the_run_did(
    finished: tuple[Path, dict[str, Any]], sets: list[Path], tmp_path: Path
) -> None:
    folder, out = finished[0], tmp_path / "predictions.csv"
    expected = load_predictions(folder, "test").logits[5:, 3:]
    predict_images(Predict(folder, (next(sets[1].glob("test/*.tar")),), out, head="two", device="cpu", threads=1))
    rows = list(csv.DictReader(out.open()))
    logits = [[float(row[f"{name} logit"]) for name in FINDINGS["two"]] for row in rows]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert not any("hernia" in name for name in rows[0])
    assert open_classifier(folder, "cpu", threads=1, head="one").classes == FINDINGS["one"]


@pytest.mark.slow
def test_a_head_is_evaluated_on_its_own_set_or_another(finished: tuple[Path, dict[str, Any]], sets: list[Path]) -> None:
    folder, result = finished

    def numbers(**options: Any) -> dict[str, Any]:
        page = evaluate_run(Evaluate(folder, force=True, resamples=100, device="cpu", threads=1, **options))
        return {"folder": page.parent.name} | json.loads((page.parent / NUMBERS).read_text())

    own, other = numbers(head="one"), numbers(head="one", data=str(sets[1]))
    assert (own["folder"], own["head"], own["data"]) == ("evaluation-one-test-head-one", "one", "one")
    assert list(own["set_digests"]) == ["one"]
    assert own["images"] == 5
    for name in FINDINGS["one"]:
        assert own["findings"][name]["auc"]["value"] == pytest.approx(result["heads"]["one"]["test"][f"auc/{name}"])
    assert (other["folder"], other["images"]) == ("evaluation-two-test-head-one", 4)
    assert other["findings"]["hernia"]["images"] == 0
    assert "Head: one, one of 2 (one, two)." in other["provenance"]
    card = (folder / CARD).read_text()
    assert " --head one " in card
    assert "Labels of the head two: edema, mass" in card


def test_operating_points_are_those_of_the_head(finished: tuple[Path, dict[str, Any]]) -> None:
    points = open_run(finished[0], "two").points()
    assert set(points.thresholds) == set(FINDINGS["two"])
    assert points.images == 4
    assert points.temperature != open_run(finished[0], "one").points().temperature


@pytest.mark.parametrize(("head", "message"), [
    (None, r"has a head for each of its sets \(one, two\); name one with --head, such as --head one"),
    ("tow", "has no head 'tow'; did you mean 'two'"),
])  # fmt: skip
def test_a_head_must_be_named(
    head: str | None, message: str, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        open_run(finished[0], head)
    with pytest.raises(InputError, match=message):
        export(Export(str(finished[0]), tmp_path / "out", head=head))
    assert not (tmp_path / "out").exists()


def test_an_exported_head_has_its_rows_alone(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    whole = load_weights(str(finished[0]))
    export(Export(str(finished[0]), tmp_path / "out", head="two"))
    found = load_weights(str(tmp_path / "out"))
    assert (found.classes, found.heads, found.num_classes) == (FINDINGS["two"], {}, 2)
    for part in ("head.weight", "head.bias"):
        assert torch.equal(found.tensors[part], whole.tensors[part][3:])
    with pytest.raises(InputError, match="has one head alone; leave out --head two"):
        export(Export(str(tmp_path / "out"), tmp_path / "again", head="two"))


@pytest.mark.slow
def test_a_head_leaves_as_a_graph(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    export_graph(Export(str(finished[0]), tmp_path / "out", "onnx", head="two"))
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["bitscale"])
    points = open_run(finished[0], "two").points()
    assert (about["head"], about["classes"]) == ("two", list(FINDINGS["two"]))
    assert (about["thresholds"], about["temperature"]) == (points.thresholds, points.temperature)
    side, channels = about["image_size"], about["channels"]
    images = np.random.default_rng(0).integers(256, size=(3, side, side, channels), dtype=np.uint8)
    model = build_model("r14x0.5", 5)
    model.load_state_dict(load_weights(str(finished[0])).tensors)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()[:, 3:]
    (logits,) = session.run(["logits"], {"images": images})
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_transfer_begins_with_the_backbone(
    finished: tuple[Path, dict[str, Any]], sets: list[Path], engine: Engine, tmp_path: Path
) -> None:
    config = config_of(sets[1])
    config = replace(config, model=replace(config.model, pretrained=str(finished[0])))
    result = run(config, LaunchOptions(tmp_path / "run"), engine, {"kind": "transfer"})
    assert "heads" not in result
    changed = replace(config, model=replace(config.model, keep_head=True))
    with pytest.raises(InputError, match="has 5 outputs, the data have 2 classes; leave out"):
        run(changed, LaunchOptions(tmp_path / "kept"), engine, {"kind": "transfer"})


def test_a_run_does_not_go_on_with_other_heads(
    finished: tuple[Path, dict[str, Any]], config: Config, engine: Engine
) -> None:
    union = replace(config, data=replace(config.data, join="union"))
    with pytest.raises(InputError, match="its model cannot go on with these"):
        run(union, LaunchOptions(finished[0]), engine, {"kind": "pretrain"})
    fewer = replace(config, data=replace(config.data, images=6))
    with pytest.raises(InputError, match=r"data\.images: 8 -> 6"):
        run(fewer, LaunchOptions(finished[0]), engine, {"kind": "pretrain"})
    assert run(config, LaunchOptions(finished[0]), engine, {"kind": "pretrain"}) == finished[1]
