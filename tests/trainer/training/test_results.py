"""A finished run leaves its predictions, from which its metrics follow, and the keys of a few-shot subset."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nasty_names import NAMES
from tiny_sets import tiny_set

from data_pipelines.common.errors import RunError
from data_pipelines.common.printable import printable
from data_pipelines.shards.index import Index
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.evaluation.results import final_metrics, recompute, save_predictions
from trainer.evaluation.statistics.predictions import load_predictions, saved_splits
from trainer.models.bit import BiTResNet
from trainer.run_files import PREDICTIONS, RESULT, SUBSET
from trainer.training.job import write_subset
from trainer.training.run import LaunchOptions, run

CLASSES = ("cat", "dog", "eel")


def config_of(*sets: Path, **data: Any) -> Config:
    return Config(
        global_batch_size=4,
        precision="fp32",
        data=DataConfig(sets=tuple(map(str, sets)), image_size=32, resize=32, eval_view="squash", **data),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=2, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, eval_batch_size=4),
    )


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine training images of three classes, and as many of val and test."""
    folder = tmp_path_factory.mktemp("sets") / "animals"
    return tiny_set(folder, [0, 1, 2] * 3, CLASSES, splits=("train", "val", "test"), name="animals")


@pytest.mark.slow
def test_metrics_follow_from_the_predictions(animals: Path, engine: Engine, tmp_path: Path) -> None:
    config = config_of(animals, shots=2)
    result = run(config, LaunchOptions(tmp_path / "run"), engine, {"kind": "transfer", "overlap_excluded": True})
    assert json.loads((tmp_path / "run" / RESULT).read_text()) == result
    again = recompute(tmp_path / "run")
    assert again == {split: {k: v for k, v in result[split].items() if k != "images"} for split in ("val", "test")}
    assert {"loss", "top1", "auc", "ap", "f1", "auc/cat", "ap/dog", "f1/eel", "recall/cat"} <= again["test"].keys()
    with np.load(tmp_path / "run" / PREDICTIONS, allow_pickle=False) as file:
        assert file["classes"].tolist() == list(CLASSES)
        test = Index.load(animals, "test")
        assert file["test_keys"].tolist() == test.keys(np.arange(9)) == [f"test-{i:03d}" for i in range(9)]
        assert file["test_labels"].tolist() == test.labels.tolist()
        assert (file["val_logits"].shape, file["val_logits"].dtype) == ((9, 3), np.float32)
    assert result["left_out"] == {"val": [], "test": []}
    assert (result["mode"], result["prepared_size"], result["train_images"]) == ("finetune", [8, 8], 6)
    assert (result["source_sets"], result["overlap_excluded"]) == ([], True)


@pytest.mark.slow
def test_a_few_shot_subset_is_listed_by_key(animals: Path, engine: Engine, tmp_path: Path) -> None:
    train = Index.load(animals, "train")
    for shots in (None, 2, 1):
        about = {"kind": "transfer"}
        run(config_of(animals, shots=shots), LaunchOptions(tmp_path / "run", allow_config_change=True), engine, about)
        if shots is None:
            assert not (tmp_path / "run" / SUBSET).exists()
            continue
        with (tmp_path / "run" / SUBSET).open(newline="") as file:
            rows = [(row["key"], row["class"]) for row in csv.DictReader(file)]
        drawn = train.few_shot(shots, seed=0)
        assert rows == [(key, CLASSES[drawn.labels[i]]) for i, key in enumerate(drawn.keys(np.arange(3 * shots)))]


@pytest.mark.slow
def test_findings_and_joined_sets(engine: Engine, tmp_path: Path) -> None:
    nan = np.nan
    labels = [[1, 0, nan], [0, 1, nan], [nan, 1, 1], [1, 0, nan]]
    sets = [
        tiny_set(tmp_path / name, labels, ("mass", "edema", "hernia"), name=name, splits=("train", "test"))
        for name in ("one", "other")
    ]
    result = run(config_of(*sets), LaunchOptions(tmp_path / "run"), engine, {"kind": "pretrain"})
    assert result["left_out"] == {"test": ["hernia"]}
    again = recompute(tmp_path / "run")
    assert again == {"test": {name: value for name, value in result["test"].items() if name != "images"}}
    assert "auc/mass" in again["test"]
    assert "ap/hernia" not in again["test"]
    assert checkpoint.describe(checkpoint.best_or_latest(tmp_path / "run"))["sets"] == ["one", "other"]


def test_nonfinite_outputs_are_an_error_that_names_the_run(
    animals: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = BiTResNet.forward

    def broken(model: BiTResNet, images: torch.Tensor) -> torch.Tensor:
        logits = forward(model, images)
        if not torch.is_grad_enabled():
            logits[-1, 0] = torch.nan
        return logits

    monkeypatch.setattr(BiTResNet, "forward", broken)
    with pytest.raises(RunError, match=r"my-run: the model's outputs for 3 of 9 images are not finite"):
        run(config_of(animals), LaunchOptions(tmp_path / "my-run"), engine, {"kind": "transfer"})
    status = json.loads((tmp_path / "my-run" / "status.json").read_text())
    assert (status["state"], "my-run" in status["reason"]) == ("failed", True)
    assert not (tmp_path / "my-run" / RESULT).exists()


def test_facts_of_any_name_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [{name: f"{name} {number % 2}" for name in (*NAMES, "view_logits")} for number in range(4)]
    data = tiny_set(tmp_path / "data", [0, 1, 0, 1], CLASSES[:2], splits=("test",))
    monkeypatch.setattr(Index, "facts", lambda index: facts)
    save_predictions(tmp_path, {"test": (Index.load(data, "test"), torch.randn(4, 2))})
    assert saved_splits(tmp_path) == list(recompute(tmp_path)) == ["test"]
    found = load_predictions(tmp_path, "test")
    assert {name: list(values) for name, values in found.facts.items()} == {
        printable(name): [known[name] for known in facts] for name in facts[0]
    }
    assert set(found.grouped()) == set(found.facts)


def test_few_shot_subsets_of_any_class_are_listed(tmp_path: Path) -> None:
    data = tiny_set(tmp_path / "data", list(range(len(NAMES))), NAMES)
    write_subset(tmp_path, Index.load(data, "train"))
    with (tmp_path / SUBSET).open(newline="", encoding="utf-8") as file:
        found = [row["class"] for row in csv.DictReader(file)]
    assert found == [name.encode("utf-8", "backslashreplace").decode() for name in NAMES]


def test_very_many_logits_are_not_kept(
    animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test, val = Index.load(animals, "test"), Index.load(animals, "val").take(np.arange(5))
    monkeypatch.setattr("trainer.evaluation.results.MOST_LOGITS", 26)
    predicted = {"val": (val, torch.randn(5, 3)), "test": (test, torch.randn(9, 3))}
    metrics = final_metrics(predicted)
    assert metrics["test"].keys() == {"loss", "top1", "images"}
    assert "ap/cat" in metrics["val"]
    save_predictions(tmp_path, predicted)
    assert recompute(tmp_path).keys() == {"val"}
    assert "test has 27 logits; they are not kept" in capsys.readouterr().err
