"""--match-authors sets what the authors' program does, and nothing else; what a user asks for beats it."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tyro
from options_with import options_with
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json
from data_pipelines.common.manifest import read_manifest, write_manifest
from data_pipelines.datasets.registry import DATASETS
from trainer import pretrain, transfer
from trainer.config import Config, Precision, RuntimeConfig, differences
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.finetuning.command_line import flags_of, read_transfer
from trainer.finetuning.finetune import (
    SCRATCH,
    Options,
    Transfer,
    by_protocol,
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
    match_authors,
    match_paper_code,
    setting,
)
from trainer.finetuning.settings import without_effect
from trainer.pretrain import parse
from trainer.recipes import RECIPES
from trainer.training.job import make_job
from trainer.training.model import prepare_model

EVERYWHERE = {
    "optim.nesterov": True,
    "optim.agc_head": "shape",
    "model.head_init": "torch",
    "model.filter_init": "torch",
}
ON_XRAYS = {"data.border": "reflect", "data.translation": 0.25}
ON_NATURAL = {"model.mean": [0.485, 0.456, 0.406], "model.std": [0.229, 0.224, 0.225]}
RANDAUGMENT = {"data.randaugment_space": "ildoonet", "data.randaugment_on": "image"}
FP16 = {"precision": "fp16"}
# By the beginning of a recipe's name, what the switch changes besides.


def warm_up(epochs: int) -> dict[str, Any]:
    return {"schedule.warmup_epochs": epochs, "schedule.warmup_steps": 0}


RECIPE_CHANGES: dict[str, dict[str, Any]] = {
    "embedded": {},
    "phantom": {},
    "imagenet1k_r50x1": FP16 | ON_NATURAL | RANDAUGMENT | warm_up(15) | {"schedule.epochs": 120},
    "imagenet1k_r50x1_120": FP16 | ON_NATURAL | RANDAUGMENT,
    "imagenet1k_r152x4": FP16 | ON_NATURAL | RANDAUGMENT | warm_up(15),
    "imagenet21k_": FP16 | ON_NATURAL | warm_up(2),
    "chexpert_": FP16 | ON_XRAYS,
    "mimic_": FP16 | ON_XRAYS,
    "nih_": FP16 | ON_XRAYS,
    "padchest_": FP16 | ON_XRAYS,
}
FINE_TUNING = EVERYWHERE | {"precision": "fp32", "data.mixup_weight": "step"}


def changes(before: Config, after: Config) -> dict[str, Any]:
    """The settings that differ, by name, and what they are afterwards."""
    lines = differences(before.to_dict(), after.to_dict())
    return {name: setting(after.to_dict(), name) for name in (line.partition(":")[0] for line in lines)}


@pytest.mark.parametrize("name", RECIPES)
def test_what_the_switch_changes_of_a_recipe(name: str) -> None:
    expected = RECIPE_CHANGES[max((start for start in RECIPE_CHANGES if name.startswith(start)), key=len)]
    recipe = RECIPES[name]()
    matched = match_authors(recipe)
    assert changes(recipe, matched) == EVERYWHERE | expected
    assert changes(recipe, matched).keys() <= SETTINGS.keys()
    assert match_authors(matched) == matched
    assert matched.runtime == recipe.runtime


def configured(folder: Path, options: Options | None = None, **single: Any) -> tuple[Config, Config]:
    """The configuration of a fine-tuning with these options, or single ones, and the one of its protocol."""
    given = Transfer(SCRATCH, str(folder), options=options or options_with(device="cpu", **single))
    target = open_target(given)
    return make_config(given, "r14x0.5", target)[0], by_protocol(given, "r14x0.5", target)


def target_of(folder: Path, name: str) -> Path:
    return tiny_set(folder, [0, 0, 1, 1], ("a", "b"), name=name, splits=("train", "val", "test"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, {"data.train_on": "train+val"}) for name in ("cifar10", "cifar100", "pets", "flowers102")),
        *((name, {"data.train_on": "train+val"}) for name in ("covidx", "tuberculosis")),
        ("mine", {}),
        (
            "padchest_cl",
            ON_XRAYS | {"data.train_on": "train+val", "model.mean": [0.5] * 3, "model.std": [0.5] * 3},
        ),
    ],
)
def test_what_the_switch_changes_of_a_fine_tuning(name: str, expected: dict[str, Any], tmp_path: Path) -> None:
    folder = target_of(tmp_path / "set", name)
    default, _ = configured(folder, train_on="train", image_size=32)
    matched, _ = configured(folder, match_authors=True, image_size=32)
    found = changes(default, matched)
    assert found.pop("name") == "scratch/set/full-shot-seed-0-authors"
    if name != "padchest_cl":
        expected = expected | {"data.train_view": "shorter_side_random_crop"}
    assert found == FINE_TUNING | expected
    assert found.keys() <= SETTINGS.keys()


def test_without_a_manifest_the_folder_names_the_target() -> None:
    recipe = RECIPES["embedded"]()
    config = replace(recipe, eval_every=None, schedule=replace(recipe.schedule, kind="hyperrule"))
    named = replace(config, data=replace(config.data, sets=("/data/padchest_cl",)))
    assert match_authors(named).model.mean == (0.5, 0.5, 0.5)
    assert match_authors(named, "mine").model.mean is None
    assert match_authors(config).model.mean is None
    assert match_authors(named).data.train_on == "train"  # which images there are is not for the switch to say


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
    found = departures(*configured(folder, classes=("a",), shots_at_most=True))
    assert found["data.classes"] == {"used": ["a"], "protocol": []}
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
    ("given", "message"),
    [
        (["--translation", "2"], r"^--data.translation is 2\.0; it must lie in \[0, 1\)"),
        (["--model.mean", "3", "3", "3"], "^--model.mean: mean is 3, 3, 3; it must lie in 0 to 1"),
        (["--model.std", "0.2", "0", "0.2"], "^--model.std: std is 0.2, 0, 0.2; it must lie above 0"),
    ],
)
def test_impossible_options_are_called_as_they_were_given(given: list[str], message: str, tmp_path: Path) -> None:
    folder = target_of(tmp_path / "set", "pets")
    with pytest.raises(InputError, match=message):
        configured(folder, read_transfer(["--pretrained", SCRATCH, "--target", str(folder), *given]).options)


@pytest.mark.parametrize("mode", ["probe", "knn"])
def test_the_authors_only_fine_tune(mode: Any) -> None:
    with pytest.raises(InputError, match=f"leave out --match-authors or --mode {mode}"):
        options_with(mode=mode, match_authors=True)


@pytest.mark.parametrize("switch", ["--match-authors", "--optim.paper-code", "--optim.paper_code"])
def test_the_switch_on_the_command_line(switch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = RECIPES["imagenet1k_r50x1"]
    command = parse(["imagenet1k_r50x1", switch])
    assert command.config == match_authors(recipe())
    assert command.result_fields == {"kind": "pretrain", "protocol": "authors", "departures": {}}
    for words in ([switch, "--optim.no-nesterov"], ["--optim.no-nesterov", switch]):
        command = parse(["imagenet1k_r50x1", *words, "--schedule.epochs", "90", "--seed", "3"])
        assert (command.config.optim.nesterov, command.config.model.head_init, command.config.seed) == (
            False,
            "torch",
            3,
        )
        assert command.result_fields["departures"] == {
            "schedule.epochs": {"used": 90.0, "protocol": 120},
            "optim.nesterov": {"used": False, "protocol": True},
        }


@pytest.mark.parametrize(
    ("words", "is_on"),
    [
        (["--match_authors"], True),
        (["--no-match-authors"], False),
        (["--optim.no-paper-code"], False),
        (["--match-authors", "--no-match_authors"], False),
        (["--optim.no-paper-code", "--match-authors"], True),
    ],
)
def test_of_several_switches_the_last_counts(
    words: list[str], is_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = parse(["embedded", *words])
    assert (command.match_authors, command.config.optim.nesterov) == (is_on, is_on)


def test_other_flags_are_checked_against_what_the_switch_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain recipe has 5,000 steps of warm-up, which nobody has asked for here."""
    monkeypatch.chdir(tmp_path)
    words = ["imagenet1k_r50x1", "--match-authors", "--schedule.warmup-epochs", "5", "--out", "run"]
    command = parse(words)
    assert (command.config.schedule.warmup_epochs, command.config.schedule.warmup_steps) == (5, 0)
    assert command.result_fields["departures"] == {"schedule.warmup_epochs": {"used": 5.0, "protocol": 15}}
    Path("run").mkdir()
    write_json(Path("run/config.json"), command.config.to_dict())
    assert parse(words).config == command.config
    with pytest.raises(InputError, match=r"--schedule\.warmup-epochs 5 and --schedule\.warmup-steps 5000"):
        parse([word for word in words if word != "--match-authors"])


def test_without_the_switch_the_protocol_is_the_recipe() -> None:
    command = parse(["imagenet1k_r50x1", "--no-match-authors", "--data.border", "reflect"])
    assert command.result_fields == {
        "kind": "pretrain",
        "protocol": "default",
        "departures": {"data.border": {"used": "reflect", "protocol": "black"}},
    }
    assert parse(["embedded"]).config == RECIPES["embedded"]()


def test_a_run_that_began_with_paper_code_goes_on_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["chexpert_r50x1", "--out", "run", "--optim.paper-code", "--seed", "5"]
    assert parse(arguments).config == replace(match_authors(RECIPES["chexpert_r50x1"]()), seed=5)
    old = replace(match_paper_code(RECIPES["chexpert_r50x1"]()), seed=5).to_dict() | {"data_fingerprint": "abc"}
    old["optim"] = {"paper_code": True} | {k: v for k, v in old["optim"].items() if k not in ("nesterov", "agc_head")}
    for name in ("border", "translation", "mixup_weight"):
        del old["data"][name]
    del old["model"]["filter_init"]
    Path("run").mkdir()
    assert "began" not in capsys.readouterr().err
    for _ in range(2):  # by this version, which writes the settings again in its own words, and by the next start
        write_json(Path("run/config.json"), old)
        command = parse(arguments)
        assert differences(old, command.config.to_dict() | {"data_fingerprint": "abc"}) == []
        assert "begun by an earlier version" in capsys.readouterr().err
        assert command.result_fields["protocol"] == "authors"
        assert command.result_fields["departures"]["model.head_init"] == {"used": "zero", "protocol": "torch"}
        old = command.config.to_dict() | {"data_fingerprint": "abc"}
    assert parse([*arguments, "--no-resume"]).config.model.head_init == "torch"
    write_json(Path("run/config.json"), match_authors(RECIPES["chexpert_r50x1"]()).to_dict())
    assert parse(arguments).config.model.head_init == "torch"


@pytest.mark.parametrize("by_authors", [False, True])
def test_training_does_what_the_settings_say(by_authors: bool, tmp_path: Path) -> None:
    recipe = RECIPES["embedded"]()
    data = replace(recipe.data, sets=(str(target_of(tmp_path / "set", "mine")),))
    config = replace(recipe, data=data, runtime=RuntimeConfig(device="cpu", loader="torch"))
    job = make_job(match_authors(config) if by_authors else config, tmp_path / "run")
    prepared: list[Any] = []
    engine: Any = SimpleNamespace(rank=0, world_size=1, prepare=lambda *given: prepared.extend(given))
    prepare_model(job, engine)
    model, optimizer, _ = prepared
    names = {parameter: name for name, parameter in model.named_parameters()}
    (free,) = (group for group in optimizer.param_groups if not group["agc_clipping"])
    assert {group["nesterov"] for group in optimizer.param_groups} == {by_authors}
    assert [names[p] for p in free["params"]] == ["head.weight"] + ["head.bias"] * (not by_authors)
    assert bool(model.head.weight.any()) == by_authors
    stem = model.stem["conv"].weight
    assert (stem.abs().max().item() <= stem[0].numel() ** -0.5) == by_authors


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
