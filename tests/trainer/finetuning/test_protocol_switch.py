"""The switch --match-authors on the command line, beside other flags and for runs that began earlier."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from options_with import options_with
from protocol_changes import configured, target_of

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json
from trainer.config import differences
from trainer.finetuning.command_line import read_transfer
from trainer.finetuning.finetune import (
    SCRATCH,
)
from trainer.finetuning.paper_protocol import (
    match_authors,
    match_paper_code,
)
from trainer.pretrain import parse
from trainer.recipes import RECIPES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--translation", "2"], r"^--data.translation is 2; it must lie in \[0, 1\)"),
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
