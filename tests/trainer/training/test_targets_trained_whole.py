"""Fine-tuning on the images that the paper's authors train on: train and val of some targets, train of the others."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from options_with import options_with
from test_train_on import ALL, CLASSES
from tiny_sets import tiny_set

from data_pipelines.common import advice
from data_pipelines.common.errors import ImpossibleError, InputError
from trainer.finetuning.command_line import TransferCommand
from trainer.finetuning.finetune import SCRATCH, Options, Transfer, fine_tune, make_config, open_target, train_on_of
from trainer.training.job import make_job

ON_CPU_FLAGS = {"device": "cpu", "threads": 1, "loader": "torch"}


WHOLE = {"cifar10", "cifar100", "pets", "flowers102"}
AUTHORS = WHOLE | {"padchest_cl", "covidx", "tuberculosis"}


@pytest.mark.parametrize("match_authors", [False, True])
def test_which_targets_are_trained_on_whole(match_authors: bool) -> None:
    for name in (*AUTHORS, "digits", "films"):
        whole = name in (AUTHORS if match_authors else WHOLE)
        assert train_on_of(name, "finetune", match_authors) == ("train+val" if whole else "train"), name
        assert train_on_of(name, "probe", match_authors) == train_on_of(name, "knn", match_authors) == "train"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives a set of that name in a folder of another."""
    folders: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp("targets") / "mine"
            folders[name] = tiny_set(folder, [0, 1] * 3, CLASSES, name=name, splits=ALL)
        return folders[name]

    return of


@pytest.mark.parametrize(
    ("name", "given", "images"),
    [("pets", None, 12), ("pets", "train", 6), ("covidx", None, 6), ("covidx", "train+val", 12), ("films", None, 6)],
)
def test_fine_tuning_goes_by_the_name_of_the_set(name: str, given: Any, images: int, target: Any) -> None:
    transfer = Transfer(SCRATCH, str(target(name)), options=options_with(**ON_CPU_FLAGS, train_on=given))
    opened = open_target(transfer)
    config, _ = make_config(transfer, "r14x0.5", opened)
    assert config.data.train_on == ("train+val" if images == 12 else "train")
    assert len(opened.train) == len(make_job(config, Path("run")).train) == images
    assert opened.held_out == ({"test": 6} if images == 12 else {"val": 6, "test": 6})


def test_runs_from_before_all_images_were_the_default_go_on(
    target: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the four targets, by the flag that the refusal names."""
    monkeypatch.setattr(advice, "_command", TransferCommand)
    given = Transfer(SCRATCH, str(target("pets")), "2", 0, options_of(tmp_path))
    before = replace(given, options=options_of(tmp_path, train_on="train"))
    fine_tune(before)
    path = tmp_path / "scratch" / "mine" / "2-shot-seed-0" / "config.json"
    settings = json.loads(path.read_text())
    del settings["data"]["train_on"]
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"data.train_on: absent -> train\+val") as refusal:
        fine_tune(given)
    assert str(refusal.value).endswith(" --data.train-on train")
    assert "--allow-config-change" not in str(refusal.value)
    capsys.readouterr()
    fine_tune(before)
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "given", "warned"), [("pets", None, 0), ("pets", "train+val", 1)])
def test_a_target_without_val_is_warned_of_where_val_is_asked(
    name: str, given: Any, warned: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_set(tmp_path / "set", [0, 1] * 3, CLASSES, name=name, splits=("train", "test"))
    fine_tune(Transfer(SCRATCH, str(folder), "2", 0, options_of(tmp_path, train_on=given)))
    assert capsys.readouterr().err.count("has no val split: only train is trained on") == warned


def options_of(out: Path, **given: Any) -> Options:
    """Of two steps on the CPU."""
    small = {"model": "r14x0.5", "steps": 2, "image_size": 32, "batch_size": 4, "precision": "fp32"}
    return options_with(out=out, **small | ON_CPU_FLAGS | given)


@pytest.mark.slow
def test_a_fine_tuning_from_end_to_end(target: Any, tmp_path: Path) -> None:
    options = options_of(tmp_path)
    fine_tune(Transfer(SCRATCH, str(target("cifar100")), "5", 0, options))
    result = json.loads((tmp_path / "scratch" / "mine" / "5-shot-seed-0" / "result.json").read_text())
    assert (result["trained_on"], result["train_images"], "val" in result) == ("train+val", 10, False)
    with pytest.raises(ImpossibleError, match="5 shots asked for"):
        fine_tune(Transfer(SCRATCH, str(target("cifar100")), "5", 0, options.with_given(**{"data.train_on": "train"})))
