"""Several values of a setting in one sweep: which there are, where their runs go, and what is refused."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from options_with import options_with
from tiny_sets import tiny_set
from tiny_weights import save_run, tensors_of

from data_pipelines.common.errors import InputError
from trainer.config import setting_kinds, with_plain_settings
from trainer.finetuning.command_line import read_transfer
from trainer.finetuning.settings import Settings
from trainer.sweep.plan import Plan, make_plan, write_plan
from trainer.sweep.variations import folder_of, read_variations, require_one_value_each, variants_of
from trainer.training.job import settings_of
from trainer.transfer import main

Planned = Callable[..., Plan]


def read(*words: str, **given: Any) -> Any:
    of_command = options_with(**given).given
    return read_variations(words, with_plain_settings(Settings(), of_command), of_command)


@pytest.mark.parametrize(
    ("word", "values", "folder"),
    [
        ("optim.base-lr=0.003,3e-5", (0.003, 3e-5), "base-lr-0.003"),
        ("optim.base_lr=1", (1.0,), "base-lr-1.0"),
        ("model.frozen-stages=0,4", (0, 4), "frozen-stages-0"),
        ("optim.nesterov=true,False", (True, False), "nesterov-true"),
        ("schedule.kind=cosine,hyperrule", ("cosine", "hyperrule"), "kind-cosine"),
        ("schedule.epochs=None,2", (None, 2.0), "epochs-None"),
        ("optim.base-lr=0.00001", (1e-5,), "base-lr-1e-05"),
        ("data.balance=none,class", ("none", "class"), "balance-none"),
        ("data.train-on=train+val", ("train+val",), "train-on-train+val"),
        ("model.mean=0.5 0.5 0.4,0 0 0", ((0.5, 0.5, 0.4), (0.0, 0.0, 0.0)), "mean-0.5-0.5-0.4"),
        ("data.classes=cat dog,1 2", (("cat", "dog"), ("1", "2")), "classes-cat-dog"),
        ("global-batch-size=64,128", (64, 128), "global-batch-size-64"),
        ("mode=finetune,probe", ("finetune", "probe"), "mode-finetune"),
    ],
)
def test_values_are_those_that_flags_take(word: str, values: tuple[Any, ...], folder: str) -> None:
    ((name, found),) = read(word).items()
    assert name in setting_kinds()
    assert (found, [type(value) for value in found]) == (values, [type(value) for value in values])
    assert folder_of({name: found[0]}) == folder


def test_folders_of_any_values_are_plain_and_distinct() -> None:
    values = [(word,) for word in ("../up", "a/b", "a_b", "a-b", "-x", "é", "e", ".", "x" * 300)]
    values += [("a", "b"), ("a", "b", "c"), ("a", "b-c"), ("a/b", "c")]
    folders = [folder_of({"data.classes": value}) for value in values]
    assert len(set(folders)) == len(values)
    assert all(name.isascii() and "/" not in name and " " not in name and len(name) < 120 for name in folders)


def test_several_settings_make_a_grid() -> None:
    variants = variants_of(read("optim.base-lr=0.1,0.2", "model.frozen-stages=0,2"))
    assert [folder_of(one) for one in variants] == [
        "base-lr-0.1_frozen-stages-0",
        "base-lr-0.1_frozen-stages-2",
        "base-lr-0.2_frozen-stages-0",
        "base-lr-0.2_frozen-stages-2",
    ]
    assert variants_of({}) == [{}]


REFUSED = [
    ("optim.base-lrr=1,2", "unknown setting 'optim.base-lrr'; did you mean 'optim.base-lr'"),
    ("base-lr=1,2", "unknown setting 'base-lr'; did you mean 'optim.base-lr'"),
    ("optim.image-size=32", "unknown setting 'optim.image-size'; did you mean 'data.image-size'"),
    ("colour=red", "unknown setting 'colour'; known: data.balance"),
    ("optim.base-lr", r"optim.base-lr: its values are missing, as in --vary optim.base-lr=0.003,0.03"),
    ("optim.base-lr=", "its values are missing"),
    ("optim.base-lr=0.1,0.2,1e-1", "--vary optim.base-lr: 1e-1 is there twice"),
    ("optim.base-lr=0.1,", "--vary optim.base-lr=0.1,: a value is missing; write them with commas and without"),
    ("optim.base-lr=fast", "'fast' is no value of it; it must be a number"),
    ("optim.base-lr=nan", "'nan' is no value of it; it must be a number"),
    ("optim.base-lr=None", "'None' is no value of it; it must be a number"),
    ("optim.base-lr=0.1,-1", "--optim.base-lr is -1"),
    ("global-batch-size=0,8", "--global-batch-size is 0"),
    ("model.frozen-stages=1.5", "'1.5' is no value of it; it must be a whole number"),
    ("schedule.kind=cosin", "'cosin' is no value of it; did you mean 'cosine'"),
    ("optim.nesterov=maybe", "it must be true or false"),
    ("seed=0,1", "--vary seed: a sweep takes several by --seeds"),
    ("shots=1,5", "--vary shots: a sweep takes several by --shots"),
    ("model.pretrained=a,b", "a sweep takes several by --sources"),
    ("data.sets=a,b", "a sweep takes several by --targets"),
    ("name=a,b", "a run's name is that of its source"),
    ("model.name=r50x1,r26x1", "each source brings its own model"),
    ("data.join=union", "a fine-tuning has one target"),
    ("device=cpu,cuda", "--vary device: it does not change what is learnt"),
    ("runtime.threads=1,2", "it does not change what is learnt"),
    ("data.max-bad=1,2", "it does not change what is learnt"),
]


@pytest.mark.parametrize(("word", "message"), REFUSED)
def test_refused_with_what_was_meant(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(word)


def test_a_setting_is_named_once() -> None:
    with pytest.raises(InputError, match=r"--vary optim.base-lr is there twice; put all its values behind one"):
        read("optim.base-lr=1", "optim.base_lr=2")
    with pytest.raises(InputError, match=r"--vary optim.base-lr and --optim.base-lr set the same; leave out --optim"):
        read("optim.base-lr=1,2", base_lr=0.1)
    with pytest.raises(InputError, match=r"--optim\.nesterov needs momentum"):
        read("optim.nesterov=false,true", momentum=0.0)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--optim.base-lr 0.003 0.03 --shots 1 5", "--vary optim.base-lr=0.003,0.03"),
        ("--optim.base_lr=0.003,0.03", "--vary optim.base-lr=0.003,0.03"),
        ("--schedule.kind cosine, step", "--vary schedule.kind=cosine,step"),
        ("--vary optim.base-lr=1,2 --vary optim.momentum=0,0.9", "--vary A=1,2 B=3,4"),
    ],
)
def test_what_many_would_type_is_answered_with_the_flag(words: str, meant: str) -> None:
    with pytest.raises(InputError, match=meant):
        require_one_value_each(words.split())


def test_one_value_and_lists_pass() -> None:
    words = "--optim.base-lr 0.1 --data.classes a b --model.mean 1 2 3 --shots 1 5 --optim.nesterov --sources a,b"
    require_one_value_each(words.split())


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """A function that plans a sweep over a source and a target with these variations."""
    monkeypatch.chdir(tmp_path)
    tiny_set(tmp_path / "data" / "cats", [0, 0, 1, 1, 1], ("few", "many"), splits=("train", "val", "test"))
    save_run(tmp_path / "mine", tensors_of())

    def plan(*vary: str, sources: tuple[str, ...] = ("mine",), shots: tuple[str, ...] = ("1",), **given: Any) -> Plan:
        options = options_with(**{"out": Path("out"), "image_size": 32, **given})
        varied = read_variations(vary, with_plain_settings(Settings(), options.given), options.given)
        return make_plan(sources, ("data/cats",), shots, 2, options, varied=varied)

    return plan


def folders(plan: Plan, seed: int = 0) -> list[str]:
    return [str(run.run_dir) for run in plan.runs if run.transfer.seed == seed]


def test_every_value_has_its_folder_and_settings(planned: Planned) -> None:
    plan = planned("optim.base-lr=0.003,0.03", weight_decay=0.1)
    assert folders(plan) == [f"out/base-lr-{lr}/mine/cats/1-shot-seed-0" for lr in ("0.003", "0.03")]
    assert [run.name for run in plan.runs] == [str(run.run_dir.relative_to("out")) for run in plan.runs]
    assert len({run.name for run in plan.runs}) == 4
    assert [run.transfer.seed for run in plan.runs] == [0, 0, 1, 1]
    assert [run.config.optim.base_lr for run in plan.runs[:2]] == [0.003, 0.03]
    assert all(run.config.optim.weight_decay == 0.1 for run in plan.runs)


def test_a_trial_is_the_run_that_its_flags_would_make(planned: Planned) -> None:
    """The same settings and name: what is varied decides the folder alone."""
    trial, alone = planned("optim.base-lr=0.03").runs[0], planned(base_lr=0.03).runs[0]
    assert trial.config == alone.config
    assert str(alone.run_dir) == f"out/{alone.config.name}"
    assert settings_of(trial.config, "x") == settings_of(alone.config, "x")
    write_plan(Path("plan.json"), "a", [trial])
    (task,) = json.loads(Path("plan.json").read_text())["tasks"]
    assert task["name"] == "base-lr-0.03/mine/cats/1-shot-seed-0"
    assert task["done"] == "out/base-lr-0.03/mine/cats/1-shot-seed-0/result.json"
    assert task["command"][task["command"].index("--out") + 1] == "out/base-lr-0.03"
    assert read_transfer(task["command"][2:]) == trial.transfer


def test_values_that_change_the_images_are_planned_on_theirs(planned: Planned) -> None:
    shutil.rmtree("data/cats")
    labels = [0, 0, 1, 1, 1, 2]
    tiny_set(Path("data/cats"), labels, ("few", "many", "one"), splits=("train", "val", "test"))
    plan = planned("data.classes=few many,many one", shots=("full",), epochs=2.0, batch_size=1)
    trials = [(run.trial, run.steps) for run in plan.runs[:2]]
    assert trials == [("classes-few-many", 2 * 5), ("classes-many-one", 2 * 4)]


def test_scratch_has_no_stages_to_freeze(planned: Planned) -> None:
    plan = planned("model.frozen-stages=2,0", sources=("mine", "scratch"))
    assert folders(plan) == [
        "out/frozen-stages-2/mine/cats/1-shot-seed-0",
        "out/frozen-stages-0/mine/cats/1-shot-seed-0",
        "out/scratch/cats/1-shot-seed-0",
    ]
    assert [run.config.model.frozen_stages for run in plan.runs[:3]] == [2, 0, 0]
    (note,) = plan.notes
    assert note.startswith("scratch to cats: --model.frozen-stages has no effect in some trials, which are made once")
    plan = planned(sources=("mine", "scratch"), frozen_stages=2)
    assert [run.config.model.frozen_stages for run in plan.runs[:2]] == [2, 0]
    assert plan.notes == ["scratch: all stages are trained, as from scratch there are no weights to keep"]


def test_what_changes_no_run_is_refused_or_made_once(planned: Planned) -> None:
    with pytest.raises(InputError, match=r"--vary data.border changes no run: training images are seen by"):
        planned("data.border=black,reflect")
    with pytest.raises(InputError, match=r"--vary model.frozen-stages changes no run: from scratch"):
        planned("model.frozen-stages=0,1", sources=("scratch",), model="r14x0.5")
    plan = planned("data.mixup-alpha=0,0.2", "data.mixup-weight=pair,step")
    assert [name.split("/")[1] for name in folders(plan)] == [
        "mixup-alpha-0.0", "mixup-alpha-0.2_mixup-weight-pair", "mixup-alpha-0.2_mixup-weight-step",
    ]  # fmt: skip


def test_the_command_plans_trials(
    planned: Planned, run_main: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    words = "sweep --sources mine --targets data/cats --shots 1 --seeds 1 --device cpu --plan plan.json --vary"
    code, said, error = run_main(main, "transfer.py", *words.split(), "optim.base-lr=0.1,0.2", "data.flip=true,false")
    assert (code, "4 runs, 4 of them to be made" in said) == (0, True), error
    names = [task["name"] for task in json.loads((tmp_path / "plan.json").read_text())["tasks"]]
    assert names[0] == "base-lr-0.1_flip-true/mine/cats/1-shot-seed-0"
    code, _, error = run_main(main, "transfer.py", *words.split(), "optim.bas-lr=0.1,0.2")
    assert (code, "did you mean 'optim.base-lr'?" in error) == (2, True), error


@pytest.mark.slow
def test_the_command_makes_trials_side_by_side(
    planned: Planned, run_main: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    double = Path(__file__).with_name("worker_double.py")
    monkeypatch.setattr("trainer.sweep.worker_pool.WORKER", [sys.executable, str(double)])
    runs = [f"mine/cats/1-shot-seed-{seed}" for seed in (0, 1)]
    monkeypatch.setenv("FATES", json.dumps(dict.fromkeys(runs, "good")))
    words = (
        "sweep --sources mine --targets data/cats --shots 1 --seeds 2 --device cpu --out lr --vary optim.base-lr=1,2"
    )
    code, said, error = run_main(main, "transfer.py", *words.split())
    assert (code, "all 4 runs are finished; to report them: " in said) == (0, True), error
    for lr in ("1.0", "2.0"):
        for run in runs:
            (line,) = (tmp_path / "lr" / f"base-lr-{lr}" / run / "run.log").read_text().splitlines()
            given = read_transfer(json.loads(line)["words"]).options
            assert (given.given["optim.base_lr"], str(given.out)) == (float(lr), f"lr/base-lr-{lr}")
    assert "[4/4]" in error
