"""Runs that start from other weights: which they are decides, not where they lie, and a kept head keeps its classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sets import tiny_set
from tiny_weights import SMALL, save_npz, save_paper, save_run, save_timm, tensors_of

from data_pipelines.common.errors import InputError
from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig, differences
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.finetuning.finetune import models_of, sets_of, source_name
from trainer.run_files import STATUS
from trainer.run_folder import write_status
from trainer.training.run import LaunchOptions, run

CLASSES = ("cat", "dog", "fish")
TENSORS = tensors_of()


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "animals"
    return tiny_set(folder, [0, 1, 2] * 2, ("fish", "cat", "dog"), splits=("train", "test"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return ENGINES["ddp"](RuntimeConfig(device="cpu", threads=1), "fp32")


def config_of(data: Path, source: Path, **model: Any) -> Config:
    return Config(
        global_batch_size=2,
        precision="fp32",
        data=DataConfig(sets=(str(data),), image_size=32, resize=32),
        model=ModelConfig(SMALL, pretrained=str(source), **model),
        optim=OptimConfig(base_lr=1e-12),
        schedule=ScheduleConfig(epochs=None, steps=1, warmup_steps=0),
        runtime=RuntimeConfig(device="cpu", threads=1, loader="torch"),
    )


@pytest.mark.slow
def test_the_same_weights_elsewhere_are_the_same_run(
    animals: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(config_of(animals, save_npz(tmp_path / "a.npz", TENSORS)), LaunchOptions(tmp_path / "run"), engine, {})
    for other in (save_timm(tmp_path / "b.safetensors", TENSORS), save_run(tmp_path / "c", TENSORS)):
        assert run(config_of(animals, other), LaunchOptions(tmp_path / "run"), engine, {}) == first
        assert "is finished" in capsys.readouterr().out
    another = save_npz(tmp_path / "a.npz", tensors_of(seed=1))
    with pytest.raises(InputError, match=r"model.pretrained_weights: \w+ -> \w+"):
        run(config_of(animals, another), LaunchOptions(tmp_path / "run"), engine, {})


def test_weights_of_an_unfinished_run_are_named(
    animals: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever starts from them, and only where they are read."""
    source = save_run(tmp_path / "source", TENSORS)
    told = []
    for state in ("finished", "resumable"):
        if state == "resumable":
            write_status(source, 0, state, 9, 1200)
        for _ in range(2):  # the second time it is finished
            run(config_of(animals, source), LaunchOptions(tmp_path / state), engine, {})
            told.append("source is not finished: these weights are of step 7 of 1,200" in capsys.readouterr().err)
    assert told == [False, False, True, False]


def test_when_a_run_finished_is_kept(animals: Path, engine: Engine, tmp_path: Path) -> None:
    config, launch = config_of(animals, save_run(tmp_path / "source", TENSORS)), LaunchOptions(tmp_path / "run")
    run(config, launch, engine, {})
    status = tmp_path / "run" / STATUS
    ended = status.read_bytes()
    run(config, launch, engine, {})
    assert status.read_bytes() == ended
    write_status(tmp_path / "run", 0, "running", 1, 1)  # killed when it had its result
    run(config, launch, engine, {})
    assert json.loads(status.read_text())["state"] == "finished"


def test_a_kept_head_goes_on_with_its_classes(animals: Path, engine: Engine, tmp_path: Path) -> None:
    source = save_run(tmp_path / "source", TENSORS)
    run(config_of(animals, source, keep_head=True), LaunchOptions(tmp_path / "kept"), engine, {})
    state = checkpoint.load(checkpoint.path_of(tmp_path / "kept", 1)).state["model"]
    torch.testing.assert_close(state["head.weight"], TENSORS["head.weight"][[2, 0, 1]])
    torch.testing.assert_close(state["stem.conv.weight"], TENSORS["stem.conv.weight"])
    run(config_of(animals, source), LaunchOptions(tmp_path / "new"), engine, {})
    assert checkpoint.load(checkpoint.path_of(tmp_path / "new", 1)).state["model"]["head.weight"].abs().max() < 1e-6


def test_a_head_of_other_classes_is_refused(animals: Path, engine: Engine, tmp_path: Path) -> None:
    source = save_run(tmp_path / "source", tensors_of(num_classes=4), classes=[*CLASSES, "cow"])
    with pytest.raises(InputError, match="has 4 outputs, the data have 3 classes"):
        run(config_of(animals, source, keep_head=True), LaunchOptions(tmp_path / "run"), engine, {})


def test_transfers_know_what_their_sources_are(tmp_path: Path) -> None:
    paper = str(save_paper(tmp_path / "chexpert_mimic_bit50x1" / "model.pth.tar", TENSORS))
    own = str(save_run(tmp_path / "mine", TENSORS))
    assert models_of([paper, "scratch", own], None) == {paper: SMALL, "scratch": SMALL, own: SMALL}
    assert [source_name(source) for source in (paper, own, "scratch")] == ["chexpert_mimic_bit50x1", "mine", "scratch"]
    assert [sets_of(source) for source in (paper, own, "scratch")] == [["chexpert", "mimic_cxr"], ["digits"], []]


def test_paths_count_only_while_the_weights_are_not_known() -> None:
    before: dict[str, Any] = {"model": {"pretrained": "a", "pretrained_weights": "1"}}
    after = {"model": {"pretrained": "b", "pretrained_weights": "1"}}
    assert differences(before, after) == []
    assert differences(before, {"model": {"pretrained": "b", "pretrained_weights": "2"}}) == [
        "model.pretrained: a -> b",
        "model.pretrained_weights: 1 -> 2",
    ]
    assert differences({"model": {"pretrained": "a"}}, {"model": {"pretrained": "b"}}) == ["model.pretrained: a -> b"]


def test_runs_from_before_heads_could_be_kept_go_on() -> None:
    assert differences({"model": {}}, {"model": {"keep_head": False}}) == []
    assert differences({"model": {}}, {"model": {"keep_head": True}}) == ["model.keep_head: absent -> True"]


def test_a_head_cannot_be_kept_of_nothing() -> None:
    with pytest.raises(InputError, match=r"--model.keep-head needs pre-trained weights"):
        ModelConfig(SMALL, keep_head=True)
