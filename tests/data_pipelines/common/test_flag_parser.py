"""What is wrong with a command line is said in one plain line, with the nearest right name."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from data_pipelines.common.errors import InputError
from data_pipelines.common.flag_parser import parse_flags


@dataclass(frozen=True)
class Optim:
    """How weights change."""

    base_lr: float = 0.1
    """Learning rate."""
    nesterov: bool = False
    """Nesterov momentum."""


@dataclass(frozen=True)
class Tune:
    """Tune a model."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    pretrained: str
    """Where to start."""
    target: str
    """What to learn."""
    mode: Literal["finetune", "probe"] = "finetune"
    """What is learnt."""
    balance: bool = True
    """Equal shares."""
    optim: Optim = field(default_factory=Optim)


GOOD = ["a", "--pretrained", "x", "--target", "y"]


def parsed(*arguments: str) -> Tune:
    tune: Tune = parse_flags(Tune, arguments, "bitscale tune")
    return tune


def test_what_is_right_is_parsed() -> None:
    assert parsed(*GOOD, "--optim.base_lr=-1e3", "--no-balance") == Tune(
        Path("a"), "x", "y", balance=False, optim=Optim(base_lr=-1000.0)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--pretained", "x"], "unknown flag --pretained; did you mean --pretrained?"),
        ([*GOOD, "--base-lr", "1"], "unknown flag --base-lr; did you mean --optim.base-lr?"),
        ([*GOOD, "--zzz"], "unknown flag --zzz; bitscale tune --help lists those there are"),
        (["a"], "--pretrained and --target must be given; bitscale tune --help tells more"),
        (["a", "--target=y"], "--pretrained must be given; bitscale tune --help tells more"),
        (GOOD[1:], "RUN must be given; bitscale tune --help tells more"),
        ([*GOOD, "--mode=prob"], "--mode is 'prob', which is none of finetune, probe; did you mean probe?"),
        ([*GOOD, "--bogus", "3"], "unknown flag --bogus; bitscale tune --help lists those there are"),
        ([*GOOD, "5"], "5 is one word too many: it is not the value of a flag; bitscale tune --help tells more"),
        ([*GOOD, "--optim.base-lr"], "--optim.base-lr needs a value; bitscale tune --help tells more"),
        (
            [*GOOD, "--optim.base-lr", "x"],
            "--optim.base-lr is 'x'; it must be a number; bitscale tune --help tells more",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as refused:
        parsed(*arguments)
    assert str(refused.value) == message
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True)
class Label:
    """Label images."""

    label_column: str = ""
    """The column of the class."""
    label_columns: tuple[str, ...] = ()
    """The columns of findings."""
    patient_column: str = ""
    """The column of the patient."""
    coverage: float | None = None
    """Share that is covered."""
    crop: tuple[int, int] | None = None
    """Pixels."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--label-column", "Mass", "A b"],
            "--label-column takes one value, and was given Mass, A b; did you mean --label-columns Mass 'A b'?",
        ),
        (
            ["--label-columns", "A", "B", "--patient-column=Id", "X"],
            "--patient-column takes one value, and was given Id, X; bitscale label --help tells more",
        ),
        (["--coverage", "95%"], "--coverage is '95%'; it must be a number; bitscale label --help tells more"),
        (["--crop", "5"], "--crop is '5'; it must be {INT INT}; bitscale label --help tells more"),
        (["Mass"], "Mass is one word too many: it is not the value of a flag; bitscale label --help tells more"),
    ],
)
def test_what_a_flag_takes_is_said(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_flags(Label, arguments, "bitscale label")
    assert str(refused.value) == message


@dataclass(frozen=True)
class Train:
    """Train a model."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""


def test_who_asks_for_a_gpu_is_not_sent_to_the_cpu() -> None:
    with pytest.raises(InputError, match=r"--device is 'gpu', .*; did you mean cuda\?"):
        parse_flags(Train, ["--device", "gpu"], "bitscale train")


HELP = """\
usage: bitscale tune --pretrained STR --target STR RUN [FLAGS]

Tune a model.

arguments:
  RUN                    Run folder.

required:
  --pretrained STR       Where to start.
  --target STR           What to learn.

the rest:
  --mode finetune|probe  What is learnt. (default: finetune)
  --[no-]balance         Equal shares. (default: True)

How weights change:
  --optim.base-lr FLOAT  Learning rate. (default: 0.1)
  --optim.nesterov       Nesterov momentum.
"""


def test_words_before_the_flags_are_told_their_flags() -> None:
    def read(root: Path, out: Path, size: int = 3) -> None: ...

    def refusal(*arguments: str) -> str:
        with pytest.raises(InputError) as refused:
            parse_flags(read, arguments, "bitscale read")
        return str(refused.value)

    more = "bitscale read --help tells more"
    assert refusal("my photos", "--out", "o") == f"--root must be given; did you mean --root 'my photos'?; {more}"
    assert refusal("a", "b") == f"--root and --out must be given; did you mean --root a --out b?; {more}"
    assert refusal("a") == f"--root and --out must be given; {more}"
    assert (
        refusal("--root", "a", "--out", "b", "--size", "few") == f"--size is 'few'; it must be a whole number; {more}"
    )


def test_help_lists_flags_in_groups(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        parse_flags(Tune, ["a", "--help"], "bitscale tune", titles={"mode": "the rest", "balance": "the rest"})
    assert ended.value.code is None
    assert capsys.readouterr() == (HELP, "")


@dataclass(frozen=True)
class Normalise:
    """Normalise inputs."""

    mean: tuple[float, float, float] | None = None
    shots: tuple[int, ...] = ()
    scale: float = 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mean", "0.5,.5,5e-1"], "--mean is '0.5,.5,5e-1'; separate its values by spaces: --mean 0.5 .5 5e-1"),
        (["--mean=-1,2"], "--mean is '-1,2'; separate its values by spaces: --mean -1 2"),
        (["--shots", "1", "5,10"], "--shots is '5,10'; separate its values by spaces: --shots 5 10"),
        (["--shots", "5,x"], "--shots does not take ['5,x']; bitscale normalise --help tells more"),
        (["--scale", "0,5"], "--scale is '0,5'; it must be a number; bitscale normalise --help tells more"),
    ],
)
def test_numbers_in_one_word_are_told_apart(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_flags(Normalise, arguments, "bitscale normalise")
    assert str(raised.value) == message


def test_what_a_command_says_while_it_is_parsed_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def noisy(n: int = 0) -> None:
        print("a note", file=sys.stderr)
        if n:
            raise InputError("n is not 0")

    parse_flags(noisy, [], "noisy")
    with pytest.raises(InputError, match="n is not 0"):
        parse_flags(noisy, ["--n", "1"], "noisy")
    assert capsys.readouterr().err == "a note\n" * 2
