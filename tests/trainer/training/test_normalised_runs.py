"""Mean and standard deviation travel with weights: from published names into runs, predictions, exports and back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from tiny_sets import tiny_set
from tiny_weights import SMALL, Tensors, save_paper, save_run, save_timm, tensors_of

from data_pipelines.common.errors import InputError
from data_pipelines.image_files.image_verification import verify_image
from data_pipelines.image_files.png import encode_png
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import open_run
from trainer.models.export_weights import Export, export
from trainer.models.weights import load_weights
from trainer.normalisation import BIT_MEAN, BIT_STD, IMAGENET_MEAN, IMAGENET_STD
from trainer.training.job import make_job
from trainer.training.model import starting_model
from trainer.training.run import LaunchOptions, run

TENSORS, SIDE = tensors_of(), 32
RUNTIME = RuntimeConfig(device="cpu", threads=1, loader="torch")


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "animals"
    return tiny_set(folder, [0, 1, 2] * 2, ("fish", "cat", "dog"), splits=("train", "test"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ENGINES["ddp"](RUNTIME, "fp32")


def config_of(data: Path, source: Path | None, **model: Any) -> Config:
    return Config(
        global_batch_size=2,
        precision="fp32",
        data=DataConfig(sets=(str(data),), image_size=SIDE, resize=SIDE, eval_view="squash"),
        model=ModelConfig(SMALL, pretrained=None if source is None else str(source), **model),
        optim=OptimConfig(base_lr=1e-4),
        schedule=ScheduleConfig(epochs=None, steps=1, warmup_steps=0),
        runtime=RUNTIME,
    )


def published(folder: Path, tensors: Tensors = TENSORS) -> Path:
    """As the authors call and save what they trained on ImageNet."""
    return save_paper(folder / "imagenet1k_bit50x1" / "model.pth.tar", tensors)


def logits_of(run_dir: Path, image: np.ndarray, **about: Any) -> torch.Tensor:
    """By the run's predictor, `about` aside."""
    opened = open_run(run_dir)
    predictor = Predictor(replace(opened, metadata=opened.metadata | about), RUNTIME)
    encoded = verify_image(encode_png(image))
    return torch.from_numpy(predictor.of_images([encoded]))


def test_fine_tuning_goes_on_as_the_weights_were_trained(
    animals: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(config_of(animals, published(tmp_path)), LaunchOptions(tmp_path / "run"), engine, {})
    assert "warning" not in capsys.readouterr().err
    assert result["settings"]["model"]["mean"] == list(IMAGENET_MEAN)
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["model"]["std"] == list(IMAGENET_STD)
    about = checkpoint.describe(checkpoint.path_of(tmp_path / "run", 1))
    assert (about["mean"], about["std"]) == (list(IMAGENET_MEAN), list(IMAGENET_STD))
    weights = load_weights(str(tmp_path / "run"))  # a second fine-tuning begins with these
    assert (weights.mean, weights.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_model_and_frozen_features_of_a_run_are_normalised_so(animals: Path, engine: Engine, tmp_path: Path) -> None:
    for mode in ("finetune", "probe"):
        config = replace(config_of(animals, published(tmp_path)), mode=mode)
        model = starting_model(make_job(config, tmp_path / "none"), engine)
        assert (model.mean, model.std) == (IMAGENET_MEAN, IMAGENET_STD)
    model = starting_model(make_job(config_of(animals, None), tmp_path / "none"), engine)
    assert (model.mean, model.std) == (BIT_MEAN, BIT_STD)


def test_timms_models_bring_theirs(animals: Path, engine: Engine, tmp_path: Path) -> None:
    path = save_timm(tmp_path / "model.safetensors", TENSORS)
    settings = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = {"architecture": "resnetv2_50x1_bit", "pretrained_cfg": settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = starting_model(make_job(config_of(animals, path), tmp_path / "none"), engine)
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_explicit_values_win_and_are_said_to_differ(
    animals: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(animals, published(tmp_path), mean=BIT_MEAN)
    result = run(config, LaunchOptions(tmp_path / "run"), engine, {})
    model = result["settings"]["model"]
    assert (model["mean"], model["std"]) == (list(BIT_MEAN), list(IMAGENET_STD))
    assert "normalised by mean (0.485, 0.456, 0.406)" in (error := capsys.readouterr().err)
    assert "here they are normalised by (0.5, 0.5, 0.5)" in error
    with pytest.raises(InputError, match=r"model\.mean: \[0\.5, 0\.5, 0\.5\] -> \[0\.1, "):
        run(config_of(animals, published(tmp_path), mean=(0.1, 0.1, 0.1)), LaunchOptions(tmp_path / "run"), engine, {})


def test_a_resumed_run_keeps_its_normalisation(
    animals: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = published(tmp_path)
    first = run(config_of(animals, source), LaunchOptions(tmp_path / "run"), engine, {})
    nameless = shutil.copy(source, tmp_path / "some.pth.tar")
    assert run(config_of(animals, nameless), LaunchOptions(tmp_path / "run"), engine, {}) == first
    assert "is finished" in capsys.readouterr().out


def test_runs_of_earlier_versions_go_on_with_a_half(
    animals: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = published(tmp_path), tmp_path / "run"
    run(config_of(animals, source, mean=BIT_MEAN, std=BIT_STD), LaunchOptions(folder), engine, {})
    for name in ("config.json", "result.json"):
        content = json.loads((folder / name).read_text())
        for key in ("mean", "std"):
            del (content if name == "config.json" else content["settings"])["model"][key]
        (folder / name).write_text(json.dumps(content))
    capsys.readouterr()
    run(config_of(animals, source), LaunchOptions(folder), engine, {})
    assert "is finished" in capsys.readouterr().out
    (folder / "result.json").unlink()
    again = run(config_of(animals, source), LaunchOptions(folder), engine, {})
    assert again["settings"]["model"]["mean"] == list(BIT_MEAN)
    assert "here they are normalised by (0.5, 0.5, 0.5)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_predicts_exports_and_comes_back_with_it(tmp_path: Path) -> None:
    """timm, given the raw picture and what the exported configuration says, has the logits of the run's predictor."""
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    about = {"task": "single_label", "resize": SIDE, "eval_view": "squash", "channels": 3, "xray_size": None}
    large = tensors_of("r50x1")
    folder = save_run(tmp_path / "run", large, "r50x1", **about, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    logits = logits_of(folder, image)
    assert not torch.allclose(logits, logits_of(folder, image, mean=None, std=None), rtol=0.01)
    for format_ in ("timm", "npz"):
        export(Export(str(folder), tmp_path / format_, format_))
        back = load_weights(str(tmp_path / format_))
        assert (back.mean, back.std) == (IMAGENET_MEAN, IMAGENET_STD)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    prepare = create_transform(**resolve_model_data_config(theirs), is_training=False)
    with torch.no_grad():
        found = theirs(prepare(Image.fromarray(image))[None])
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_of_impossible_normalisation_is_refused(tmp_path: Path) -> None:
    about = {"task": "single_label", "resize": SIDE, "eval_view": "squash", "channels": 3, "xray_size": None}
    folder = save_run(tmp_path / "run", TENSORS, **about, mean=[0.5], std=[0.5])
    with pytest.raises(InputError, match=r"best\.safetensors: mean is 0\.5; it must be three numbers"):
        Predictor(open_run(folder), RUNTIME)
