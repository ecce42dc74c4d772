"""A run leaves as a graph: its logits are the model's, and what follows from the run goes with it."""

import importlib.util
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_runs import FINDINGS, prepare_films, train_tiny, write_films
from tiny_weights import CLASSES, SMALL, Tensors, save_npz, save_run, tensors_of

from data_pipelines.common.errors import InputError, RunError
from trainer import export as program
from trainer.evaluation.calibration.operating import HEADS_KEY, KEY, OperatingPoints
from trainer.evaluation.evaluate_run import Evaluate, evaluate_run
from trainer.evaluation.exporting import graph_report
from trainer.evaluation.exporting.export_graph import export_graph
from trainer.models import graph
from trainer.models.bit import build_model
from trainer.models.export_settings import EXPORTED_FILES, Export

ROOT = Path(__file__).parents[3]
TENSORS = tensors_of()
POINTS = OperatingPoints(1.5, {"cat": 0.25, "dog": -1.0}, {"fish": "val has no positives of it"}, 40, no_val="")
ABOUT: dict[str, Any] = {
    "task": "single_label",
    "channels": 3,
    "resize": 36,
    "eval_view": "center_crop",
    "set_digests": {"digits": "0123456789abcdef"},
    "data_fingerprint": "f1f2",
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.3, 0.4),
}
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def short_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_report, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("graph") / "run", TENSORS, **ABOUT, **{KEY: POINTS.to_dict()})


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """Folders "onnx" and "torch"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_report, "SECONDS", 0.0)
        for name in ("onnx", "torch"):
            export_graph(Export(str(run), run.parent / name, name))  # type: ignore[arg-type]
    return run.parent


def pictures(count: int, channels: int = 3, side: int = 32) -> np.ndarray:
    return np.random.default_rng(count).integers(256, size=(count, side, side, channels), dtype=np.uint8)


def expected_of(images: np.ndarray, tensors: Tensors = TENSORS, name: str = SMALL, **options: Any) -> np.ndarray:
    model = build_model(name, len(tensors["head.bias"]), **options)
    model.load_state_dict(tensors)
    with torch.no_grad():
        logits: np.ndarray = model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    return logits


def logits_of(folder: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    logits: np.ndarray = session.run(["logits"], {"images": images})[0]
    return logits


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_batch_has_the_logits_of_the_model(exported: Path, count: int) -> None:
    images = pictures(count)
    expected = expected_of(images, mean=ABOUT["mean"], std=ABOUT["std"])
    assert difference(logits_of(exported / "onnx", images), expected) < TOLERANCE
    program = torch.export.load(exported / "torch" / "model.pt2")
    with torch.no_grad():
        assert difference(program.module()(torch.from_numpy(images)).numpy(), expected) < TOLERANCE
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") for name in operations), "torch alone must load it"


@pytest.mark.slow
def test_the_graph_says_what_it_takes(exported: Path) -> None:
    model = onnx.load(exported / "onnx" / "model.onnx")
    onnx.checker.check_model(model)
    (images,), (logits,) = model.graph.input, model.graph.output
    shape = [entry.dim_param or entry.dim_value for entry in images.type.tensor_type.shape.dim]
    assert (images.name, images.type.tensor_type.elem_type, shape) == (
        "images",
        onnx.TensorProto.UINT8,
        ["batch", 32, 32, 3],
    )
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    # Standardisation takes a variance of the filters; what is left are the means of GroupNorm and of the pooling.
    assert not {"ReduceSumSquare", "Sqrt", "Pow"} & {node.op_type for node in model.graph.node}
    with pytest.raises(Exception, match=r"index: 1 Got: 40 Expected: 32"):
        logits_of(exported / "onnx", pictures(1, side=40))
    for path in (exported / "onnx" / "model.onnx", exported / "torch" / "model.pt2"):
        assert str(ROOT).encode() not in path.read_bytes()


@pytest.mark.slow
def test_what_follows_from_the_run_goes_with_it(exported: Path, run: Path) -> None:
    files = {"bitscale.json": ""}
    torch.export.load(exported / "torch" / "model.pt2", extra_files=files)
    session = onnxruntime.InferenceSession(exported / "onnx" / "model.onnx")
    found = json.loads(session.get_modelmeta().custom_metadata_map["bitscale"])
    assert json.loads(files["bitscale.json"]) == found
    config = json.loads((exported / "onnx" / "config.json").read_text())
    assert config["bitscale"] == found
    assert found["classes"] == list(CLASSES)
    assert found["thresholds"] == {"cat": 0.25, "dog": -1.0, "fish": 0.0}
    assert found["unfitted"] == {"fish": "val has no positives of it"}
    assert (found["temperature"], found["temperature_unfitted"], found["task"]) == (1.5, "", "single_label")
    assert (found["sets"], found["data_fingerprint"]) == ({"digits": "0123456789abcdef"}, "f1f2")
    assert [step["step"] for step in found["preprocessing"]] == ["decode", "resize", "center_crop"]
    assert (found["mean"], found["std"]) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    assert 0 < config["report"]["largest_difference"] < TOLERANCE
    assert [row["batch_size"] for row in config["report"]["images_per_second"]] == [1, 16]
    assert all(row["ONNX Runtime"] > 0 < row["the model in PyTorch"] for row in config["report"]["images_per_second"])
    card = (exported / "onnx" / "MODEL_CARD.md").read_text()
    assert "| cat | 0.25 | fitted on val |" in card
    assert "| fish | 0 | val has no positives of it |" in card
    assert f"`bitscale evaluate {run}`" in card
    assert "Not a medical device" not in card
    assert sorted(os.listdir(exported / "onnx")) == ["MODEL_CARD.md", "config.json", "model.onnx"]


@pytest.mark.slow
def test_a_checkpoint_without_thresholds_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of grey images with several findings, as one copied out of its run folder, with weights beside the graph."""
    about = ABOUT | {"task": "multi_label", "channels": 1, "eval_view": "squash", "xray_size": 40, "bits": None}
    source = next((save_run(tmp_path / "run", TENSORS, **about) / "checkpoints").rglob("*.safetensors"))
    alone = source.rename(tmp_path / "alone.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "MOST_BYTES_INSIDE", 1000)
        export_graph(Export(str(alone), tmp_path / "out", "onnx"))
    assert "all thresholds are a probability of 0.5, and the temperature is 1, because" in capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "config.json").read_text())["bitscale"]
    assert found["thresholds"] == dict.fromkeys(CLASSES, 0.0)
    assert set(found["unfitted"]) == set(CLASSES)
    assert (found["temperature"], bool(found["temperature_unfitted"])) == (1.0, True)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "T = 1 (not fitted, because there is no val split" in card
    assert card.count("| there is no val split to choose it on |") == len(CLASSES)
    assert "Not a medical device" in card
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert set(sizes) <= set(EXPORTED_FILES)
    assert sizes["model.onnx"] < sizes["model.onnx.data"] / 10
    (tmp_path / "out").rename(tmp_path / "moved")
    images = pictures(2, channels=1)
    expected = expected_of(images, mean=ABOUT["mean"], std=ABOUT["std"])
    assert difference(logits_of(tmp_path / "moved", images), expected) < TOLERANCE


@pytest.mark.slow
def test_the_card_has_the_evaluations_of_the_run(tmp_path: Path) -> None:
    films = write_films(tmp_path / "raw", 24)
    run = train_tiny(prepare_films(films, tmp_path / "set"), tmp_path / "run")
    evaluate_run(Evaluate(run, device="cpu", resamples=100))
    export_graph(Export(str(run), tmp_path / "out", "torch"))
    card, of_run = ((folder / "MODEL_CARD.md").read_text() for folder in (tmp_path / "out", run))
    section = of_run[of_run.index("## Evaluation on set, test") :]
    assert section in card
    assert card.count("Has numbers of patients' images") == of_run.count("Has numbers of patients' images") == 1
    assert all(f"| {name} |" in card[: card.index(section)] for name in FINDINGS)
    other = next(path for path in (run / "checkpoints").rglob("*.safetensors"))
    export_graph(Export(str(other), tmp_path / "other", "torch"))  # which was not the one evaluated, perhaps
    assert "## Evaluation on" not in (tmp_path / "other" / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_other_logits_are_refused_and_nothing_is_left(
    exported: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = {path.name: path.read_bytes() for path in (exported / "torch").iterdir()}
    monkeypatch.setattr(graph_report, "TOLERANCE", 0.0)
    for out, force in ((tmp_path / "out", False), (exported / "torch", True)):
        with pytest.raises(RunError, match=r"differ from the model's in float64 by .* of the largest, more than 0"):
            export_graph(Export(str(run), out, "torch", force=force))
    assert os.listdir(tmp_path) == []
    assert {path.name: path.read_bytes() for path in (exported / "torch").iterdir()} == earlier
    assert sorted(path.name for path in exported.iterdir()) == ["onnx", "run", "torch"]
    broken = save_run(tmp_path / "broken", TENSORS | {"head.bias": torch.tensor([0.0, float("nan"), 1.0])}, **ABOUT)
    with pytest.raises(RunError, match="outputs of the model are not finite"):
        export_graph(Export(str(broken), tmp_path / "out", "torch"))


@pytest.mark.slow
def test_a_run_with_several_heads_leaves_with_one(tmp_path: Path) -> None:
    heads = {"one": ["cat"], "two": ["dog", "fish"]}
    of_heads = {"two": replace(POINTS, thresholds={"dog": 0.5}).to_dict()}
    about = ABOUT | {"task": "multi_label", "heads": heads, HEADS_KEY: of_heads}
    run = save_run(tmp_path / "run", TENSORS, **about)
    images = pictures(3)
    expected = expected_of(images, mean=ABOUT["mean"], std=ABOUT["std"])
    for name, columns in (("one", slice(0, 1)), ("two", slice(1, 3))):
        export_graph(Export(str(run), tmp_path / name, "onnx", head=name))
        assert difference(logits_of(tmp_path / name, images), expected[:, columns]) < TOLERANCE
        found = json.loads((tmp_path / name / "config.json").read_text())["bitscale"]
        assert (found["head"], found["classes"]) == (name, heads[name])
    assert found["thresholds"] == {"dog": 0.5, "fish": 0.0}
    with pytest.raises(InputError, match=r"a head for each of its sets \(one, two\); name one with --head"):
        export_graph(Export(str(run), tmp_path / "out", "onnx"))


@pytest.mark.parametrize(
    ("of_one", "of_more", "message"),
    [
        (1.0, 1.0002, "differ from the model's in float64 by 0.0002"),
        (1.0002, 1.0, "differ from the model's in float64 by 0.0002"),
        (np.nan, 1.0, "by nan of the largest"),
        (1.0, np.nan, "by nan of the largest"),
        (1.00005, 1.00005, ""),
    ],
)
def test_images_alone_and_together_are_compared(of_one: float, of_more: float, message: str) -> None:
    """As a share of the largest logit, which is 50."""

    def exact(images: np.ndarray) -> np.ndarray:
        return np.tile(np.array([[1.0, -50.0]], dtype=np.float32), (len(images), 1))

    def graph_of_two(images: np.ndarray) -> np.ndarray:
        return exact(images) * np.array(of_one if len(images) == 1 else of_more)

    if not message:
        assert graph_report.largest_difference(exact, graph_of_two, 32, 3) == pytest.approx(5e-5, rel=1e-2)
        return
    with pytest.raises(RunError, match=message):
        graph_report.largest_difference(exact, graph_of_two, 32, 3)


def test_what_cannot_leave_is_refused_before_any_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "graph_of", None)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="--as-stored is for --format timm; leave it out with --format onnx"):
        Export(str(run), out, "onnx", as_stored=True)
    with pytest.raises(InputError, match="has one head alone; leave out --head x"):
        export_graph(Export(str(run), out, "onnx", head="x"))
    weights = save_npz(tmp_path / "weights.npz", TENSORS)
    with pytest.raises(InputError, match="is not a complete checkpoint"):
        export_graph(Export(str(weights), out, "onnx"))
    with pytest.raises(InputError, match="neither a run folder nor a checkpoint"):
        export_graph(Export("resnetv2_50x1_bit.goog_in21k", out, "torch"))
    views = save_run(tmp_path / "views", TENSORS, **ABOUT | {"eval_view": "random_resized_crop"})
    with pytest.raises(InputError, match="evaluated on random views"):
        export_graph(Export(str(views), out, "onnx"))
    old = save_run(tmp_path / "old", TENSORS)
    with pytest.raises(InputError, match="does not say task"):
        export_graph(Export(str(old), out, "onnx"))
    out.mkdir()
    (out / "model.onnx").touch()
    with pytest.raises(InputError, match="holds an earlier export; replace it with --force"):
        export_graph(Export(str(run), out, "onnx"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InputError, match=r"pip install -e '\.\[onnx\]', or take --format torch"):
        export_graph(Export(str(run), out, "onnx", force=True))


@pytest.mark.slow
def test_the_command_says_how_to_run_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["export.py", str(run), "--out", str(out), "--format", "torch"])
    program.main()
    said = capsys.readouterr().out
    assert re.search(r"differ from the model's in float64 by at most \S+ of the largest", said)
    assert re.search(
        r"Images per second on this CPU as busy as it was, 16 at a time: torch\.export [\d.,]+, the model in PyTorch",
        said,
    )
    assert f'torch.export.load("{out}/model.pt2").module()' in said
