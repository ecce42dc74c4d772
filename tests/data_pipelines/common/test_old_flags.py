"""Flags of earlier versions are read as those of today, with a note."""

import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.common.old_flags import translate

NAMES = {"--run-dir": "--out", "--optim.paper-code": "--match-authors"}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--run-dir", "a", "--seed", "1"], ["--out", "a", "--seed", "1"]),
        (["--run_dir=a=b"], ["--out=a=b"]),
        (["--optim.no-paper-code"], ["--no-match-authors"]),
        (["--out", "a", "--run-dir", "a"], ["--out", "a", "--out", "a"]),
        (["--run-dirs", "a", "x--run-dir"], ["--run-dirs", "a", "x--run-dir"]),
    ],
)
def test_old_names_become_new_ones(given: list[str], read: list[str]) -> None:
    assert translate(given, NAMES) == read


def test_each_old_name_is_noted_once(capsys: pytest.CaptureFixture[str]) -> None:
    translate(["--run-dir", "a", "--run-dir", "a"], NAMES)
    assert capsys.readouterr().err.count("--run-dir is now --out") == 1


def test_old_and_new_with_different_values_are_refused() -> None:
    with pytest.raises(InputError, match="--run-dir and --out are two flags for one thing"):
        translate(["--run-dir", "a", "--out=b"], NAMES)
