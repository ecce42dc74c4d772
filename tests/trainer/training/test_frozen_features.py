"""A probe and neighbours on frozen features are runs like any other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_ranks import run_ranks
from sklearn.linear_model import LogisticRegression
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.common.splits import Split
from data_pipelines.loading.sampler import evaluation_order
from trainer.config import Config, DataConfig, ModelConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.evaluation.results import recompute
from trainer.models.bit import build_model
from trainer.run_files import PREDICTIONS
from trainer.training.frozen_features import run_frozen
from trainer.training.job import make_job
from trainer.training.run import LaunchOptions
from trainer.training.run import run as train
from trainer.training.start import summary

CLASSES = ("cat", "dog", "eel")
ALL: tuple[Split, ...] = ("train", "val", "test")


def config_of(data: Path, **runtime: Any) -> Config:
    return Config(
        global_batch_size=4,
        precision="fp32",
        data=DataConfig(sets=(str(data),), image_size=32, resize=32, eval_view="squash"),
        model=ModelConfig("r14x0.5"),
        schedule=ScheduleConfig(warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, **{"eval_batch_size": 5, **runtime}),
    )


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of each split are the same 24, so that neighbours are certain of them."""
    return tiny_set(tmp_path_factory.mktemp("sets") / "animals", [0, 1, 2] * 8, CLASSES, splits=ALL)


@pytest.fixture(scope="module")
def lungs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = [[i % 2, np.nan if i % 5 == 0 else i // 4 % 2] for i in range(24)]
    return tiny_set(tmp_path_factory.mktemp("sets") / "lungs", labels, ("mass", "edema"), splits=("train", "test"))


def predictions(run_dir: Path) -> dict[str, np.ndarray]:
    with np.load(run_dir / PREDICTIONS) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("mode", ["probe", "knn"])
@pytest.mark.parametrize("data", ["animals", "lungs"])
def test_results_are_those_of_any_run(
    data: str, mode: str, engine: Engine, tmp_path: Path, request: pytest.FixtureRequest, capsys: Any
) -> None:
    config, start = config_of(request.getfixturevalue(data)), LaunchOptions(tmp_path / "run")
    result = run_frozen(config, start, engine, {"kind": "transfer", "mode": mode})
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    assert (result["mode"], result["settings"]["mode"], result["total_steps"]) == (mode, mode, 0)
    again = recompute(tmp_path / "run")
    for split, metrics in again.items():
        assert metrics == {name: value for name, value in result[split].items() if name != "images"}
    assert again.keys() == ({"val", "test"} if data == "animals" else {"test"})
    metric = "top1" if data == "animals" else "auc"
    assert result["test"][metric] > 0.85  # the pictures of training, if in another view of theirs
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"
    assert ("linear probe" if mode == "probe" else "nearest 20 neighbours") in summary(result)

    capsys.readouterr()
    assert run_frozen(config, start, engine, {"mode": mode}) == result
    assert "run is finished" in capsys.readouterr().out
    other = "knn" if mode == "probe" else "probe"
    with pytest.raises(InputError, match=f"mode: {mode} -> {other}"):
        run_frozen(config, start, engine, {"mode": other})
    with pytest.raises(InputError, match=f"mode: {mode} -> finetune"):
        train(config, start, engine, {})


def test_the_probe_is_logistic_regression_on_the_models_features(lungs: Path, engine: Engine, tmp_path: Path) -> None:
    """Without val its penalty is scikit-learn's default, as features are as the evaluation sees the images."""
    config = config_of(lungs)
    result = run_frozen(config, LaunchOptions(tmp_path / "run"), engine, {"mode": "probe"})
    assert result["probe"] == {"l2": 1 / 24, "val": {}, "converged": True}
    job = make_job(config, tmp_path)
    torch.manual_seed(config.seed)
    model = build_model("r14x0.5", 2)
    splits = {}
    for name, index in (("train", job.train), ("test", job.test)):
        assert index is not None
        (batch,) = job.load(engine, index, evaluation_order(24, 0, 1, 24), job.evaluation)
        splits[name] = (model.features(batch.images).detach().double().numpy(), index.labels[:, 0])
    mean, std = splits["train"][0].mean(axis=0), splits["train"][0].std(axis=0)
    solver = LogisticRegression(C=1.0, max_iter=10_000, tol=1e-9)
    solver.fit((splits["train"][0] - mean) / std, splits["train"][1])
    expected = solver.decision_function((splits["test"][0] - mean) / std)
    np.testing.assert_allclose(predictions(tmp_path / "run")["test_logits"][:, 0], expected, atol=2e-2)


def test_val_chooses_the_penalty(animals: Path, engine: Engine, tmp_path: Path, monkeypatch: Any) -> None:
    scores = iter([0.3, 0.5, 0.5, 0.6, 0.6, 0.2])
    monkeypatch.setattr("trainer.training.frozen_features.compute_metrics", lambda *_: {"top1": next(scores)})
    result = run_frozen(config_of(animals), LaunchOptions(tmp_path / "run"), engine, {"mode": "probe"})
    assert result["probe"]["l2"] == 0.01
    assert result["probe"]["val"] == {"10": 0.3, "1": 0.5, "0.1": 0.5, "0.01": 0.6, "0.001": 0.6, "0.0001": 0.2}
    assert result["checkpoint"] == "a linear probe with L2 0.01, chosen on val"
    monkeypatch.setattr("trainer.training.frozen_features.compute_metrics", lambda *_: {"top1": float("nan")})
    result = run_frozen(config_of(animals), LaunchOptions(tmp_path / "nan"), engine, {"mode": "probe"})
    assert result["probe"]["l2"] == 1 / 24


def runs_on_rank(data: Path, folder: Path) -> None:
    engine = ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")
    for mode in ("probe", "knn"):
        run_frozen(config_of(data, micro_batch_size="auto"), LaunchOptions(folder / mode), engine, {"mode": mode})
    engine.close()


@pytest.mark.slow
def test_two_ranks_say_what_one_says(animals: Path, tmp_path: Path, engine: Engine) -> None:
    run_ranks(2, runs_on_rank, animals, tmp_path / "two")
    for mode in ("probe", "knn"):
        run_frozen(config_of(animals), LaunchOptions(tmp_path / "one" / mode), engine, {"mode": mode})
        one, two = predictions(tmp_path / "one" / mode), predictions(tmp_path / "two" / mode)
        assert one.keys() == two.keys()
        for name in one:
            if "logits" in name:
                np.testing.assert_allclose(two[name], one[name], atol=1e-2)
            else:
                assert (two[name] == one[name]).all()
