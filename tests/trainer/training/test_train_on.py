"""Training on train and val: all of both is learnt from, and nothing is chosen on val."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sets import tiny_set

from data_pipelines.common.errors import ImpossibleError, InputError
from data_pipelines.common.splits import Split
from data_pipelines.shards.index import Index
from trainer import checkpoint, pretrain
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig, differences
from trainer.engines import ENGINES
from trainer.evaluation.evaluate_run import Evaluate, evaluate_run
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.evaluation.runs import open_run, own_data
from trainer.training.frozen_features import run_frozen
from trainer.training.job import Job, make_job
from trainer.training.run import LaunchOptions, run

ALL: tuple[Split, ...] = ("train", "val", "test")
CLASSES = ("cat", "dog")
ON_CPU = RuntimeConfig(device="cpu", threads=1, loader="torch")


def config_of(*sets: Path, mode: Any = "finetune", eval_every: int | None = None, **data: Any) -> Config:
    return Config(
        global_batch_size=4,
        precision="fp32",
        eval_every=eval_every,
        mode=mode,
        data=DataConfig(sets=tuple(map(str, sets)), image_size=32, resize=32, eval_view="squash", **data),
        model=ModelConfig("r14x0.5", head_init="fan_in"),
        optim=OptimConfig(base_lr=0.05, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=4, warmup_steps=0),
        runtime=replace(ON_CPU, save_every=2),
    )


def job_of(*sets: Path, **data: Any) -> Job:
    return make_job(config_of(*sets, **data), Path("run"))


def keys_of(index: Index) -> list[str]:
    return index.keys(np.arange(len(index)))


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cats and three dogs in each split."""
    return tiny_set(tmp_path_factory.mktemp("sets") / "animals", [0, 0, 1, 1, 1], CLASSES, name="animals", splits=ALL)


@pytest.fixture(scope="module")
def without_val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(
        tmp_path_factory.mktemp("sets") / "no_val", [0, 1], CLASSES, name="no_val", splits=("train", "test")
    )


def test_the_images_of_both_splits(animals: Path) -> None:
    apart, joined = job_of(animals), job_of(animals, train_on="train+val")
    assert apart.val is not None
    assert keys_of(joined.train) == keys_of(apart.train) + keys_of(apart.val)
    assert joined.train.labels.tolist() == [0, 0, 1, 1, 1] * 2
    assert [joined.train.encoded(row).tobytes() for row in range(10)] == [
        index.encoded(row).tobytes() for index in (apart.train, apart.val) for row in range(5)
    ]
    assert joined.val is None
    assert joined.held_out.keys() == {"test"}
    assert joined.order.epoch_size == 10
    assert (apart.metadata["trained_on"], joined.metadata["trained_on"]) == ("train", "train+val")
    assert joined.metadata["sets"] == ["animals"]
    assert joined.train.fingerprint != apart.train.fingerprint


def test_a_set_is_one_set_with_its_val(animals: Path, without_val: Path) -> None:
    """Of two sets only one of which has val, both count the same with --data.balance set."""
    job = job_of(animals, without_val, train_on="train+val", balance="set")
    assert job.metadata["sets"] == ["animals", "no_val"]
    assert len(job.train) == 12
    weights = job.train.weights("set")
    assert weights is not None
    assert weights[:10].sum() == pytest.approx(weights[10:].sum())
    assert job.metadata["trained_on"] == "train+val"


def test_a_set_without_val_is_trained_on_as_it_is(without_val: Path) -> None:
    plain, asked = job_of(without_val), job_of(without_val, train_on="train+val")
    assert plain.train.fingerprint == asked.train.fingerprint
    assert asked.metadata["trained_on"] == "train"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), shots=st.integers(1, 4))
def test_few_shot_subsets_are_drawn_from_both(animals: Path, seed: int, shots: int) -> None:
    config = config_of(animals, train_on="train+val", shots=shots)
    train = make_job(replace(config, seed=seed), Path("run")).train
    assert np.bincount(train.labels).tolist() == [shots, shots]
    assert len(set(keys_of(train))) == 2 * shots
    assert set(keys_of(train)) <= {f"{split}-{row:03d}" for split in ("train", "val") for row in range(5)}
    if shots == 4:
        assert {key for key in keys_of(train) if key.endswith(("-000", "-001"))} == {
            "train-000", "train-001", "val-000", "val-001",
        }  # fmt: skip
        with pytest.raises(ImpossibleError, match="fewer training images: cat"):
            job_of(animals, shots=shots)


def test_drawn_images_come_from_val_as_often_as_from_train(animals: Path) -> None:
    config = config_of(animals, train_on="train+val", shots=1)
    drawn = [key for seed in range(60) for key in keys_of(make_job(replace(config, seed=seed), Path("run")).train)]
    assert 40 <= sum(key.startswith("val") for key in drawn) <= 80


def test_what_would_be_chosen_on_val_is_refused(animals: Path) -> None:
    with pytest.raises(InputError, match=r"--eval-every 2 chooses the best .* on val, .*--eval-every None"):
        config_of(animals, eval_every=2, train_on="train+val")
    with pytest.raises(InputError, match="a linear probe chooses its L2 on val"):
        config_of(animals, mode="probe", train_on="train+val")
    with pytest.raises(InputError, match=r"train_on is 'val'"):
        config_of(animals, train_on="val")


def test_configurations_of_earlier_versions_trained_on_train(animals: Path) -> None:
    old = config_of(animals).to_dict()
    del old["data"]["train_on"]
    assert differences(old, config_of(animals).to_dict()) == []
    assert differences(old, config_of(animals, train_on="train+val").to_dict()) == [
        "data.train_on: absent -> train+val"
    ]


@pytest.fixture(scope="module")
def run_dir(animals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on train and val."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(config_of(animals, train_on="train+val"), folder)
    return folder


def train(config: Config, folder: Path, allow_config_change: bool = False) -> dict[str, Any]:
    engine = ENGINES["ddp"](config.runtime, "fp32")
    metadata = {"kind": "transfer", "target_set": "animals", "source": "scratch"}
    return run(config, LaunchOptions(folder, allow_config_change=allow_config_change), engine, metadata)


def test_the_last_checkpoint_counts_and_nothing_is_fitted(run_dir: Path) -> None:
    result = json.loads((run_dir / "result.json").read_text())
    assert (result["trained_on"], result["train_images"], result["checkpoint_step"]) == ("train+val", 10, 4)
    assert "val" not in result
    assert not checkpoint.best_path(run_dir).exists()
    found = checkpoint.describe(checkpoint.best_or_latest(run_dir))
    assert found["trained_on"] == "train+val"
    assert "operating_points" not in found
    points = open_run(run_dir).points()
    assert (points.thresholds, points.temperature, points.images) == ({}, 1.0, 0)
    assert points.why_unfitted("cat") == "val was trained on"


def test_pages_say_why_nothing_was_fitted(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = evaluate_run(Evaluate(run_dir, device="cpu", threads=1, force=True, resamples=100)).read_text()
    assert "the temperature is 1: val was trained on" in page
    assert "no val split" not in page
    assert "Trained on animals (train+val), 10 images" in (run_dir / "MODEL_CARD.md").read_text()
    capsys.readouterr()
    alone = Path(shutil.copy(checkpoint.best_or_latest(run_dir), tmp_path / "model.safetensors"))
    sample = tmp_path / "sample.png"
    sample.write_bytes(own_data(open_run(run_dir), "test")[0].encoded(0).tobytes())
    predict_images(Predict(alone, (sample,), tmp_path / "predictions.csv", device="cpu", threads=1))
    assert "the temperature is 1, because val was trained on" in capsys.readouterr().err


def test_such_a_run_is_not_tested_on_its_val(run_dir: Path, animals: Path, tmp_path: Path) -> None:
    settings = Evaluate(run_dir, data=str(animals), device="cpu", threads=1, out=tmp_path / "out", resamples=100)
    refused = r"was trained on train and val, so it cannot be tested on val; take --split test"
    copy = shutil.copytree(animals, tmp_path / "copy")
    for data in (None, str(animals), str(copy)):
        with pytest.raises(InputError, match=refused):
            evaluate_run(replace(settings, split="val", data=data))
    # Another set may be called alike.
    namesake = tiny_set(tmp_path / "namesake", [0, 1, 1], CLASSES, name="animals", pictures=[7, 8, 9], splits=ALL)
    for split, data, told in (
        ("val", namesake, "another set"),
        ("all", animals, "images are among these"),
    ):
        evaluate_run(replace(settings, split=split, data=str(data), out=tmp_path / split))
        warnings = json.loads((tmp_path / split / "evaluation.json").read_text())["warnings"]
        assert any(told in warning for warning in warnings), split
    evaluate_run(replace(settings, split="test"))
    warnings = json.loads((tmp_path / "out" / "evaluation.json").read_text())["warnings"]
    assert not any("training images are among these" in warning for warning in warnings)


@pytest.mark.slow
def test_a_run_that_chose_on_val_does_not_go_on_so(animals: Path, tmp_path: Path) -> None:
    """Its best checkpoint would pass for the result of what is trained on val from now on."""
    train(config_of(animals, eval_every=2), tmp_path / "run")
    with pytest.raises(InputError, match=r"data.train_on: train -> train\+val\n[^$]* --data\.train-on train$"):
        train(config_of(animals, train_on="train+val"), tmp_path / "run")
    with pytest.raises(InputError, match=r"best.safetensors was chosen on val, which this run trains on"):
        train(config_of(animals, train_on="train+val"), tmp_path / "run", allow_config_change=True)
    checkpoint.best_path(tmp_path / "run").unlink()
    result = train(config_of(animals, train_on="train+val"), tmp_path / "run", allow_config_change=True)
    assert (result["trained_on"], "val" in result) == ("train+val", False)


def test_neighbours_may_be_those_of_val(animals: Path, tmp_path: Path) -> None:
    engine = ENGINES["ddp"](ON_CPU, "fp32")
    metadata = {"kind": "transfer", "mode": "knn"}
    result = run_frozen(config_of(animals, train_on="train+val"), LaunchOptions(tmp_path / "run"), engine, metadata)
    assert (result["train_images"], result["trained_on"]) == (10, "train+val")
    with pytest.raises(InputError, match="a linear probe chooses its L2 on val"):
        run_frozen(
            config_of(animals, train_on="train+val"), LaunchOptions(tmp_path / "probe"), engine, {"mode": "probe"}
        )


def test_pre_training_takes_it_where_nothing_is_chosen(
    animals: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["pretrain.py", "embedded", "--data.sets", str(animals), "--data.train-on", "train+val", "--plan"]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit):
        pretrain.main()
    assert "take --eval-every None" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*given, "--eval-every", "None"])
    pretrain.main()
    assert json.loads(capsys.readouterr().out)["train_images"] == 10


def test_pre_training_warns_of_it_too(
    animals: Path,
    without_val: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    one_step = ["--schedule.steps", "1", "--schedule.warmup-steps", "0", "--global-batch-size", "4", "--device", "cpu"]
    for folder, warned in ((without_val, 1), (animals, 0)):
        given = ["embedded", "--data.sets", str(folder), "--data.train-on", "train+val", "--eval-every", "None"]
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *given, *one_step, "--out", folder.name, "--threads", "1"])
        pretrain.main()
        assert capsys.readouterr().err.count("has no val split: only train is trained on") == warned
