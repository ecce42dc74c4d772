"""Runs with frozen stages: these stay as the source has them, cost no memory of training, and resume as others do."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sets import tiny_set
from tiny_weights import SMALL, save_run, tensors_of

from data_pipelines.common.errors import InputError
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig, config_of
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.training.model import checkpoint_bytes
from trainer.training.run import LaunchOptions, run

TENSORS = tensors_of()
FROZEN = {name for name in TENSORS if name.startswith(("stem.", "stages.0.", "stages.1."))}
STEPS = 4


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("sets")
    animals = tiny_set(folder / "animals", [0, 1, 2] * 2, ("fish", "cat", "dog"), splits=("train", "test"))
    return Config(
        name="frozen",
        global_batch_size=4,
        precision="fp32",
        data=DataConfig(sets=(str(animals),), image_size=32, resize=32),
        model=ModelConfig(SMALL, pretrained=str(save_run(folder / "source", TENSORS)), frozen_stages=2),
        optim=OptimConfig(base_lr=0.3, rescale_lr=False, weight_decay=0.1),
        schedule=ScheduleConfig("cosine", epochs=None, steps=STEPS, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, loader="torch", save_every=2, micro_batch_size=2),
    )


@pytest.fixture(scope="module")
def whole(config: Config, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(config, LaunchOptions(folder), engine, {})
    return folder


def state_of(folder: Path, step: int = STEPS) -> dict[str, Any]:
    return checkpoint.load(checkpoint.path_of(folder, step)).state


def stopped_at(step: int, whole: Path, folder: Path) -> Path:
    """What a run leaves that was stopped at a step."""
    shutil.copytree(whole, folder)
    (folder / "result.json").unlink()
    for path in (folder / "checkpoints").iterdir():
        if path != checkpoint.path_of(folder, step):
            path.unlink()
    return folder


def test_what_is_frozen_is_as_the_source_has_it(whole: Path) -> None:
    state = state_of(whole)
    same = {name for name, tensor in state["model"].items() if torch.equal(tensor, TENSORS[name])}
    assert same == FROZEN
    assert state["momentum"].keys() == TENSORS.keys() - FROZEN


def test_a_checkpoint_is_as_large_as_is_said(config: Config, whole: Path) -> None:
    tensors = [tensor for part in ("model", "momentum") for tensor in state_of(whole)[part].values()]
    assert checkpoint_bytes(config, 3) == sum(tensor.nbytes for tensor in tensors)


def test_it_goes_on_bit_for_bit(config: Config, whole: Path, engine: Engine, tmp_path: Path) -> None:
    folder = stopped_at(2, whole, tmp_path / "run")
    run(config, LaunchOptions(folder), engine, {})
    for part in ("model", "momentum"):
        found, expected = state_of(folder)[part], state_of(whole)[part]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("stages", [0, 3])
def test_another_number_is_another_model(
    stages: int, config: Config, whole: Path, engine: Engine, tmp_path: Path
) -> None:
    folder = stopped_at(2, whole, tmp_path / "run")
    other = replace(config, model=replace(config.model, frozen_stages=stages))
    with pytest.raises(InputError, match=rf"a run of another model:\s+model\.frozen_stages: 2 -> {stages}"):
        run(other, LaunchOptions(folder, allow_config_change=True), engine, {})


@pytest.mark.slow
def test_the_batch_that_fits_is_found(config: Config, whole: Path, engine: Engine, tmp_path: Path) -> None:
    """Without the pre-trained weights, whose stages are frozen all the same."""
    auto = replace(config, runtime=replace(config.runtime, micro_batch_size="auto", eval_batch_size=6))
    run(auto, LaunchOptions(tmp_path), engine, {})
    assert state_of(tmp_path)["momentum"].keys() == state_of(whole)["momentum"].keys()


def test_runs_of_earlier_versions_trained_everything(config: Config) -> None:
    saved = config.to_dict()
    del saved["model"]["frozen_stages"]
    assert config_of(saved).model.frozen_stages == 0
