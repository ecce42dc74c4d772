"""The recipe `own` chooses settings by what a set holds and what the machine has, says why, and chooses once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from trainer.config import DataConfig, differences
from trainer.pretrain import parse
from trainer.splits import few_test_images, require_several_classes


@pytest.fixture(autouse=True)
def on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def given(*more: str, labels: list[int] | None = None, side: int = 40) -> list[str]:
    if not Path("mine").exists():
        tiny_set(Path("mine"), labels or [0, 1] * 10, ["a", "b"], splits=("train", "test"), side=side)
    return ["own", "--data.sets", "mine", "--threads", "2", *more]


def test_small_pictures_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    config = parse(given()).config
    assert (config.name, config.data.sets) == ("own_mine", ("mine",))
    assert (config.data.image_size, config.data.resize, config.model.name) == (64, 72, "r14x0.5")
    assert (config.schedule.epochs, config.schedule.steps, config.schedule.warmup_epochs) == (60, None, 3)
    assert (config.global_batch_size, config.eval_every, config.precision) == (16, 3, "fp32")
    assert config.data.balance == "none"
    error = capsys.readouterr().err
    assert "own: data.image_size 64: half of the 20 training images have a shorter side of at most 40 pixels" in error
    assert error.count("own: ") == 4


def test_large_pictures_only_as_far_as_the_time_goes() -> None:
    assert parse(given(side=140)).config.data.image_size == 128
    assert parse(given("--threads", "1")).config.data.image_size == 128


def test_flags_beat_choices_which_follow_them(capsys: pytest.CaptureFixture[str]) -> None:
    config = parse(given("--data.image-size", "32", "--global-batch-size", "4")).config
    assert (config.data.image_size, config.data.resize) == (32, 36)
    assert (config.global_batch_size, config.eval_every) == (4, 15)
    assert "own: data.image_size 32 as given; own would take 64: " in capsys.readouterr().err
    schedule = parse(given("--schedule.steps", "40")).config.schedule
    assert (schedule.steps, schedule.warmup_steps, schedule.warmup_epochs) == (40, 2, None)
    assert parse(given("--schedule.epochs", "2")).config.schedule.warmup_epochs == 0.1


def test_uneven_classes_are_balanced() -> None:
    assert parse(given(labels=[0] * 20 + [1] * 4)).config.data.balance == "class"
    assert parse(given("--data.balance", "none")).config.data.balance == "none"


def test_a_large_gpu_and_many_images_take_a_larger_model(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: Any = type("Memory", (), {"total_memory": 80e9})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert parse(given(side=140)).config.model.name == "r26x1"
    config = parse(given()).config
    assert (config.precision, config.data.image_size) == ("bf16", 128)
    assert parse(given("--device", "cpu")).config.precision == "fp32"


def test_a_begun_run_keeps_what_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = parse(given()).config.to_dict()
    chosen["model"]["name"] = "r26x1"  # as on another machine
    Path("runs/own_mine").mkdir(parents=True)
    Path("runs/own_mine/config.json").write_text(json.dumps(chosen), encoding="utf-8")
    capsys.readouterr()
    assert differences(chosen, parse(given()).config.to_dict()) == []
    error = capsys.readouterr().err
    assert "goes on with what runs/own_mine/config.json says; nothing is chosen anew" in error
    assert "own: " not in error
    assert parse(given("--no-resume")).config.model.name == "r14x0.5"


def test_a_file_may_stand_on_own() -> None:
    given()
    Path("my.toml").write_text('base = "own"\n[data]\nsets = ["mine"]\n[optim]\nbase_lr = 0.1\n', encoding="utf-8")
    config = parse(["my.toml", "--threads", "2"]).config
    assert (config.name, config.optim.base_lr, config.data.image_size) == ("my", 0.1, 64)


def test_own_needs_a_set() -> None:
    with pytest.raises(InputError, match=r"own looks at your images; name the prepared set with --data\.sets"):
        parse(["own"])


@pytest.mark.parametrize(("count", "points"), [(1, 45), (4, 35), (29, 17)])
def test_a_tiny_test_split_is_warned_of(count: int, points: int, tmp_path: Path) -> None:
    data = parse(given()).config.data
    tiny_set(tmp_path / "few", [0] * count, ["a", "b"], splits=("train", "test"))
    (warning,) = few_test_images(type(data)(sets=("few",)))
    assert f"{count} image" in warning
    assert f"up to {points} points" in warning
    assert warning.endswith("; add images")  # half of all are in test already


def test_a_test_split_of_some_size_is_not_warned_of() -> None:
    given(labels=[0, 1] * 15)
    assert few_test_images(parse(given()).config.data) == []


@pytest.mark.slow
def test_a_single_class_is_refused_with_the_reason() -> None:
    tiny_set(Path("alone"), [0] * 8, ["cats"], splits=("train", "test"))
    reason = "alone: there is one class only, 'cats', and nothing to tell apart"
    with pytest.raises(InputError, match=reason):
        parse(["own", "--data.sets", "alone"])
    with pytest.raises(InputError, match=reason):
        require_several_classes(DataConfig(sets=("alone",)))
    given()
    require_several_classes(DataConfig(sets=("mine",)))
    with pytest.raises(InputError, match=r"only, 'a', .*name more with --data\.classes"):
        require_several_classes(DataConfig(sets=("mine",), classes=("a",)))
