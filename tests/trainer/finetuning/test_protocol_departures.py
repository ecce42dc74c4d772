"""What a user asks for beats --match-authors, and departs from the protocol; so does other data."""

import json
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tyro
from augmentation_values import OTHER_VALUES
from options_with import options_with
from protocol_changes import FINE_TUNING, ON_XRAYS, configured, target_of
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest, write_manifest
from data_pipelines.datasets.registry import DATASETS
from trainer import pretrain, transfer
from trainer.config import DataConfig, Precision, RuntimeConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.finetuning.command_line import flags_of, read_transfer
from trainer.finetuning.finetune import (
    SCRATCH,
    Options,
    Transfer,
    departures_of,
    make_config,
    open_target,
    train_on_of,
    warnings_of,
)
from trainer.finetuning.paper_protocol import (
    NO_PROTOCOL,
    PAPER_TARGETS,
    PREPARED,
    SETTINGS,
    departures,
    flat,
    setting,
)
from trainer.finetuning.settings import without_effect
from trainer.pretrain import parse
from trainer.recipes import RECIPES

# Of each option what the default and the authors' protocol have, and another value.
SINGLE: list[tuple[str, Any, str, Any, Any]] = [
    ("precision", "bf16", "precision", "bf16", "fp32"),
    ("head_init", "zero", "model.head_init", "zero", "torch"),
    ("filter_init", "kaiming", "model.filter_init", "kaiming", "torch"),
    ("nesterov", False, "optim.nesterov", False, True),
    ("agc_head", "name", "optim.agc_head", "name", "shape"),
    ("train_view", "resize_random_crop", "data.train_view", "resize_random_crop", "shorter_side_random_crop"),
    ("border", "black", "data.border", "black", "reflect"),
    ("translation", 0.15, "data.translation", 0.15, 0.25),
    ("mixup_weight", "pair", "data.mixup_weight", "pair", "step"),
    ("mean", (0.1, 0.2, 0.3), "model.mean", [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]),
    ("std", (0.1, 0.2, 0.3), "model.std", [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]),
]


def test_every_setting_of_the_switch_is_tested() -> None:
    named = {name for _, _, name, _, _ in SINGLE}
    assert named == {*FINE_TUNING, *ON_XRAYS, "data.train_view", "model.mean", "model.std"}


@pytest.mark.parametrize(("option", "value", "name", "used", "authors"), SINGLE, ids=[row[0] for row in SINGLE])
def test_a_flag_beats_the_switch_and_is_a_departure(
    option: str, value: Any, name: str, used: Any, authors: Any, tmp_path: Path
) -> None:
    of_xrays = option in ("border", "translation", "mean", "std")
    folder = target_of(tmp_path / "set", "padchest_cl" if of_xrays else "pets")
    options = options_with(match_authors=True, image_size=32, **{option: value})
    arguments = flags_of(Transfer(SCRATCH, str(folder), options=options))
    config, planned = configured(folder, read_transfer(arguments).options)
    assert setting(config.to_dict(), name) == used
    found = departures(config, planned)
    assert found.pop("data.image_size")["used"] == 32
    found.pop("data.resize", None)
    assert found == {name: {"used": used, "protocol": authors}}


def test_options_without_the_switch_depart_from_the_default(tmp_path: Path) -> None:
    folder = target_of(tmp_path / "set", "pets")
    config, planned = configured(folder, train_on="train")
    assert departures(config, planned).keys() <= {"data.train_on"}
    given = {"batch_size": 16, "base_lr": 0.01, "steps": 7, "mixup_alpha": 0.5, "nesterov": True, "flip": False}
    found = departures(*configured(folder, **given, weight_decay=0.0))
    assert found["optim.nesterov"] == {"used": True, "protocol": False}
    assert found["schedule.steps"] == {"used": 7, "protocol": 500}
    assert found.keys() == {
        "optim.nesterov",
        "schedule.steps",
        "data.mixup_alpha",
        "data.flip",
        "optim.base_lr",
        "global_batch_size",
    }


def test_every_setting_is_of_the_protocol_or_not() -> None:
    names = flat(RECIPES["embedded"]()).keys()
    assert SETTINGS.keys() | NO_PROTOCOL == names
    assert not SETTINGS.keys() & NO_PROTOCOL


@pytest.mark.parametrize(
    ("flags", "name", "used", "recipe"),
    [
        ("--schedule.kind step", "schedule.kind", "step", "cosine"),
        ("--data.eval-view squash", "data.eval_view", "squash", "center_crop"),
        ("--optim.no-rescale-lr", "optim.rescale_lr", False, True),
        ("--data.scaled-decode --data.randaugment-on crop", "data.scaled_decode", True, False),
        ("--data.shuffle blocks", "data.shuffle", "blocks", "full"),
        ("--data.join union", "data.join", "union", "intersection"),
        ("--data.classes a b", "data.classes", ["a", "b"], []),
        ("--data.one-label", "data.one_label", True, False),
        ("--data.shots-at-most", "data.shots_at_most", True, False),
    ],
)
def test_no_departure_of_a_pre_training_is_lost(flags: str, name: str, used: Any, recipe: Any) -> None:
    found = parse(["imagenet1k_r50x1", "--match-authors", *flags.split()]).result_fields["departures"]
    assert found[name] == {"used": used, "protocol": recipe}
    assert found.keys() <= {name, "data.randaugment_on"}


def test_images_that_a_fine_tuning_leaves_out_are_departures(tmp_path: Path) -> None:
    folder = target_of(tmp_path / "set", "pets")
    found = departures(*configured(folder, classes=("b", "a"), shots_at_most=True))
    assert found["data.classes"] == {"used": ["b", "a"], "protocol": []}
    assert found["data.shots_at_most"] == {"used": True, "protocol": False}
    folder = target_of(tmp_path / "xrays", "padchest_cl")
    assert "data.shots_at_most" in departures(*configured(folder, shots_at_most=True))
    assert departures(*configured(folder, shots_at_most=True, match_authors=True)) == {}  # they take what there is


@pytest.mark.parametrize("name", PAPER_TARGETS)
def test_what_a_run_is_trained_on_is_decided_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `train_on_of` says, the images and the configuration of a run agree with it."""
    folder = target_of(tmp_path / "set", name)
    assert train_on_of(name, "finetune", match_authors=True) == "train+val"
    monkeypatch.setattr("trainer.finetuning.finetune.train_on_of", lambda *given: "train")
    config, _ = configured(folder, match_authors=True)
    assert config.data.train_on == "train"
    assert open_target(Transfer(SCRATCH, str(folder), options=Options(match_authors=True))).held_out == {
        "val": 4,
        "test": 4,
    }


# What manifests of a target may say, and what of it the authors' program has otherwise.
SPLIT = {"prepared.split": {"used": "official", "protocol": "authors"}}


CUT = {"prepared.xray_cut": {"used": "square", "protocol": "whole"}}


DRAWN = {"prepared.split_by": {"used": "patient", "protocol": "image"}}


@pytest.mark.parametrize(
    ("name", "recorded", "expected"),
    [
        ("flowers102", {}, SPLIT),
        ("flowers102", {"split": "authors"}, {}),
        ("covidx", {}, CUT),
        ("covidx", {"xray_cut": "whole"}, {}),
        ("tuberculosis", {}, CUT | DRAWN),
        ("tuberculosis", {"xray_cut": "whole"}, DRAWN),
        ("tuberculosis", {"xray_cut": "whole", "split_by": "image"}, {}),
        ("padchest_cl", {}, DRAWN),
        ("padchest_cl", {"split_by": "image"}, {}),
        *((name, {}, {}) for name in ("cifar10", "cifar100", "pets", "mine")),
    ],
)
def test_other_data_than_the_authors_is_a_departure(
    name: str, recorded: dict[str, str], expected: dict[str, Any], tmp_path: Path
) -> None:
    folder = target_of(tmp_path / "data" / "set", name)
    manifest = {key: value for key, value in read_manifest(folder).items() if key != "format_version"}
    write_manifest(folder, manifest | recorded)
    for by_authors in (True, False):
        given = Transfer(SCRATCH, str(folder), options=Options(match_authors=by_authors))
        target = open_target(given)
        config, _ = make_config(given, "r14x0.5", target)
        assert departures_of(config, given, target) == (expected if by_authors else {})
        warnings = warnings_of(given, config, target, [])
        assert len(warnings) == bool(by_authors and expected)
        for warning in warnings:
            for key, pair in expected.items():
                assert f"{PREPARED[key]}: {pair['used']} instead of {pair['protocol']}" in warning
            assert prepared_as(shlex.split(warning.partition("for theirs: ")[2])) == tmp_path / "data-authors" / "set"


def prepared_as(command: list[str]) -> Path:
    """Where a command prepares a set as the authors' program has it; its options must be those of the set's reader."""
    assert command[:2] == ["bitscale", "prepare"]
    name, *flags, out_flag, out = command[2:]
    wanted = {key: value for key, value in PAPER_TARGETS[name].prepared.items() if key != "xray_cut"}
    pairs = zip(flags[::2], flags[1::2], strict=True)
    given = {flag.removeprefix("--").replace("-", "_"): value for flag, value in pairs}
    assert (given, out_flag) == ({"root": "DIR"} | wanted, "--out")
    with pytest.raises(InputError, match="DIR"):  # it is understood, but there is no such folder
        tyro.cli(DATASETS[name], args=flags)
    return Path(out)


def test_departures_are_told_of_xrays_too_small_for_the_protocol(tmp_path: Path) -> None:
    """The run asks for less than is stored, its protocol for more."""
    folder = tiny_set(
        tmp_path / "lungs", [0, 0, 1, 1], ("a", "b"), splits=("train", "val", "test"), side=128, patients="apart"
    )
    found = departures(*configured(folder, match_authors=True, image_size=100))
    assert found["data.image_size"] == {"used": 100, "protocol": 480}


def test_options_without_effect_are_said(tmp_path: Path) -> None:
    folder = target_of(tmp_path / "set", "pets")

    def reasons(folder: Path, **given: Any) -> list[str]:
        return without_effect(options_with(**given).given, configured(folder, **given)[0])

    single = {"border": "reflect", "translation": 0.2, "mixup_weight": "step", "nesterov": True}
    single["train_view"] = "shorter_side_random_crop"
    assert [line.split()[0] for line in reasons(folder, **single)] == [
        "--data.border",
        "--data.translation",
        "--data.mixup-weight",
    ]
    assert not reasons(folder, **single, mixup_alpha=0.1)[2:]
    (line,) = reasons(folder, nesterov=True, mode="knn")
    assert line == "--optim.nesterov has no effect: --mode knn trains no model"
    xrays = target_of(tmp_path / "xrays", "padchest_cl")
    (line,) = reasons(xrays, train_view="shorter_side_random_crop", border="reflect")
    assert line == "--data.train-view has no effect: training images are seen by xray_affine"
    assert reasons(xrays, train_view="squash") == []


@pytest.mark.parametrize(
    "name", sorted(OTHER_VALUES.keys() & {field.name for field in fields(DataConfig)} - {"resize"})
)
def test_no_augmentation_reaches_frozen_features(name: str, tmp_path: Path) -> None:
    folder, given = target_of(tmp_path / "set", "pets"), {name: OTHER_VALUES[name], "mode": "knn"}
    (line,) = without_effect(options_with(**given).given, configured(folder, **given)[0])
    assert line.endswith("--mode knn trains no model"), "name it in _OF_TRAINING of finetuning/settings.py"


@pytest.mark.slow
def test_results_say_their_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    precisions: list[str] = []
    engine = ENGINES["ddp"]

    def noted(runtime: RuntimeConfig, precision: Precision) -> Engine:
        precisions.append(precision)
        return engine(runtime, precision)

    monkeypatch.setitem(ENGINES, "ddp", noted)
    tiny = ["--device", "cpu", "--threads", "1"]
    pictures = target_of(tmp_path / "pictures", "mine")
    one_step = ["--schedule.steps", "1", "--schedule.warmup-steps", "0"]
    arguments = ["embedded", "--match-authors", "--data.sets", str(pictures), *one_step, *tiny]
    monkeypatch.setattr(sys, "argv", ["pretrain", *arguments, "--optim.no-nesterov"])
    pretrain.main()
    result = json.loads(Path("runs/embedded/result.json").read_text())
    assert result["protocol"] == "authors"
    assert result["departures"]["optim.nesterov"] == {"used": False, "protocol": True}
    assert result["settings"]["model"]["head_init"] == "torch"

    folder = target_of(tmp_path / "lungs", "padchest_cl")
    words = ["--pretrained", "runs/embedded", "--target", str(folder), "--match-authors", "--image-size", "32"]
    monkeypatch.setattr(sys, "argv", ["transfer", *words, "--steps", "1", "--batch-size", "4", *tiny])
    transfer.main()
    run = Path("runs/transfer/embedded/lungs/full-shot-seed-0-authors")
    result, settings = json.loads((run / "result.json").read_text()), json.loads((run / "config.json").read_text())
    assert result["protocol"] == "authors"
    assert precisions == ["fp32", settings["precision"]]
    asked_for = {"global_batch_size", "schedule.steps", "data.image_size", "data.resize"}
    assert result["departures"].keys() == asked_for | {"prepared.split_by"}
    assert capsys.readouterr().err.count("warning: the authors' program has other data than") == 1
    assert (settings["precision"], settings["optim"]["nesterov"], settings["model"]["head_init"]) == (
        "fp32",
        True,
        "torch",
    )
