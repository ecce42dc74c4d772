"""The command line of a fine-tuning: dotted flags, those of earlier versions, and what they may not say at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from options_with import options_with
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from trainer.config import Config, flag_of, setting_kinds
from trainer.finetuning.command_line import read_transfer, todays
from trainer.finetuning.finetune import SCRATCH, Transfer, departures_of, make_config, open_target

NEEDED = ["--pretrained", SCRATCH, "--target", "digits"]
NOT_GIVEN = {"name", "data.sets", "data.shots", "model.pretrained"}  # --target, --shots, --pretrained


def given_by(*words: str) -> Any:
    return read_transfer([*NEEDED, *words]).options.given


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--optim.weight-decay 1e-4 --optim.agc-clipping 0", {"optim.weight_decay": 1e-4, "optim.agc_clipping": 0.0}),
        ("--data.no-flip --data.randaugment-ops 2", {"data.flip": False, "data.randaugment_ops": 2}),
        ("--data.image_size=64 --schedule.epochs 5", {"data.image_size": 64, "schedule.epochs": 5.0}),
        ("--eval-every 10 --threads 2", {"eval_every": 10, "runtime.threads": 2}),
        ("--image-size 64 --resize 80 --steps 7", {"data.image_size": 64, "data.resize": 80, "schedule.steps": 7}),
        (
            "--batch-size=8 --base_lr 0.1 --model r26x1",
            {"global_batch_size": 8, "optim.base_lr": 0.1, "model.name": "r26x1"},
        ),
        ("--nesterov True --keep-aspect False", {"optim.nesterov": True, "data.train_view": "resize_random_crop"}),
        (
            "--nesterov False --keep-aspect True",
            {"optim.nesterov": False, "data.train_view": "shorter_side_random_crop"},
        ),
        ("--mixup-alpha None --precision None --one-label", {"data.one_label": True}),
        ("--mean 0.1 0.2 0.3 --classes a None", {"model.mean": (0.1, 0.2, 0.3), "data.classes": ("a", "None")}),
    ],
)
def test_what_a_command_line_gives(words: str, given: dict[str, Any]) -> None:
    found = given_by(*words.split())
    assert found == given


def test_every_setting_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_transfer(["--help"])
    output = capsys.readouterr().out
    assert [name for name in setting_kinds() if name not in NOT_GIVEN and flag_of(name) not in output] == []


def test_old_flags_are_noted_with_the_new_name(capsys: pytest.CaptureFixture[str]) -> None:
    given_by("--image-size", "64", "--resume-anyway")
    notes = capsys.readouterr().err.splitlines()
    assert "note: --image-size is now --data.image-size" in notes
    assert "note: --resume-anyway is now --allow-config-change" in notes


def test_names_of_pretrain_are_taken_for_its_own() -> None:
    words = todays(["--model.pretrained", "a", "--data.sets", "b", "--data.shots", "5"])
    assert words == ["--pretrained", "a", "--target", "b", "--shots", "5"]


def test_two_flags_for_one_thing_are_refused() -> None:
    with pytest.raises(InputError, match=r"--image-size and --data\.image-size are two flags for one thing"):
        given_by("--data.image-size", "64", "--image-size", "32")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("targets") / "mine"
    return tiny_set(folder, [0, 0, 1, 1], ("a", "b"), splits=("train", "test"))


def configured(target: Path, **given: Any) -> tuple[Config, dict[str, Any]]:
    transfer = Transfer(SCRATCH, str(target), options=options_with(device="cpu", **given))
    opened = open_target(transfer)
    config, _ = make_config(transfer, "r14x0.5", opened)
    return config, departures_of(config, transfer, opened)


def test_settings_beyond_the_rule_are_taken_and_depart(target: Path) -> None:
    given = {"weight_decay": 1e-4, "agc_clipping": 0.0, "flip": False, "randaugment_ops": 2}
    config, departed = configured(target, **given)
    assert (config.optim.weight_decay, config.optim.agc_clipping) == (1e-4, 0.0)
    assert (config.data.flip, config.data.randaugment_ops) == (False, 2)
    assert departed.keys() == {"optim.weight_decay", "optim.agc_clipping", "data.flip", "data.randaugment_ops"}


def test_resize_follows_the_image_size(target: Path) -> None:
    assert (configured(target)[0].data.image_size, configured(target)[0].data.resize) == (128, 160)
    assert configured(target, image_size=64)[0].data.resize == 80
    assert configured(target, resize=200)[0].data.resize == 200
    with pytest.raises(InputError, match=r"--data\.resize is 40, below --data\.image-size 128"):
        configured(target, resize=40)


def test_epochs_count_instead_of_the_steps_of_the_rule(target: Path) -> None:
    schedule = configured(target, epochs=3.0)[0].schedule
    assert (schedule.epochs, schedule.steps) == (3.0, None)


def test_a_new_run_on_a_cpu_is_fp32_and_a_begun_one_as_it_was(target: Path, tmp_path: Path) -> None:
    config, departed = configured(target, out=tmp_path)
    assert (config.precision, departed) == ("fp32", {})
    folder = tmp_path / config.name
    folder.mkdir(parents=True)
    for begun in ("bf16", "fp32"):
        (folder / "config.json").write_text(json.dumps({"precision": begun}), encoding="utf-8")
        config, departed = configured(target, out=tmp_path)
        assert (config.precision, departed) == (begun, {})
    config, departed = configured(target, out=tmp_path, precision="bf16")
    assert (config.precision, departed["precision"]["protocol"]) == ("bf16", "fp32")
