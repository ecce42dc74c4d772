"""Paths that the shell left in quotes or empty: `~` and `$NAME` are expanded, and an empty one is refused."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

from data_pipelines.common.cli import entry_point
from data_pipelines.common.errors import InputError
from data_pipelines.common.typed_paths import typed_path
from data_pipelines.datasets.catalog import data_root, find
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.preparation.pseudonymize import SALT_VARIABLE, salt_path
from data_pipelines.prepare import main

Parse = Callable[..., "Settings"]


@dataclass(frozen=True)
class Settings:
    out: Path
    table: Path | None = None
    more: tuple[Path, ...] = (Path("a"),)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home folder, and the value of $PLACE; NOWHERE is set to nothing."""
    for name, value in {"HOME": str(tmp_path), "PLACE": str(tmp_path), "NOWHERE": ""}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """A function that parses a command line as entry points do."""

    def parsed(*words: str) -> Settings:
        monkeypatch.setattr(sys, "argv", ["program", *words])
        found: list[Settings] = []
        entry_point(lambda: found.append(tyro.cli(Settings)))()
        return found[0]

    return parsed


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~/set", "{}/set"),
        ("~", "{}"),
        ("$PLACE/set", "{}/set"),
        ("${PLACE}", "{}"),
        ("./~/set", "~/set"),
        ("./$PLACE", "$PLACE"),
        ("a/~/b", "a/~/b"),
        ("a$PLACE", "a$PLACE"),
        ("$RECYCLE.BIN", "$RECYCLE.BIN"),
        ("~nobody-of-that-name/x", "~nobody-of-that-name/x"),
        (" spaced name", " spaced name"),
    ],
)
def test_what_the_shell_left(text: str, path: str, parse: Parse, home: Path) -> None:
    expected = Path(path.format(home))
    assert typed_path(text) == expected
    assert parse("--out", text, "--table", text, "--more", text, text) == Settings(expected, expected, (expected,) * 2)
    assert parse(f"--out={text}").out == expected


@pytest.mark.parametrize("text", ["", "$NOWHERE/set", "${NOWHERE}", "$NOT_SET_AT_ALL/x"])
@pytest.mark.parametrize("option", ["--out", "--table", "--more"])
@pytest.mark.parametrize("is_joined", [False, True])
def test_what_is_no_path(
    text: str, option: str, is_joined: bool, parse: Parse, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{option}={text}"] if is_joined and option != "--more" else [option, text]
    with pytest.raises(SystemExit) as end:
        parse(*(["--out", "x"] if option != "--out" else []), *words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert f"error: {option} is " in error
    assert ("not set" if text else f"{option} is empty") in error


def test_no_and_none_stay_what_they_are(parse: Parse) -> None:
    assert parse("--out", "x", "--table", "None") == Settings(Path("x"))


def test_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for value, expected in {"": Path("data"), "~/sets": home / "sets", "$PLACE": home}.items():
        monkeypatch.setenv("BITSCALE_DATA", value)
        assert data_root() == expected
    monkeypatch.setenv(SALT_VARIABLE, "~/salt")
    assert salt_path() == home / "salt"
    monkeypatch.setenv("BITSCALE_DATA", "$NOWHERE/x")
    with pytest.raises(InputError, match=r"BITSCALE_DATA is '\$NOWHERE/x', and \$NOWHERE is not set"):
        data_root()


def test_sets_are_found_by_paths_as_typed(class_folders: Callable[..., Path], home: Path) -> None:
    prepare(image_folder(class_folders(), 0, 0), Output(home / "set"))
    assert find("~/set") == home / "set"
    with pytest.raises(InputError, match="the name of a data set is empty"):
        find("")


def test_out_through_a_folder_that_is_not_there(
    class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(
        sys, "argv", ["prepare", "image-folder", "--root", str(class_folders()), "--out", "none/b/../../c"]
    )
    main()
    assert "none/b/../../c: c, single_label" in capsys.readouterr().out
    assert (home / "c" / "manifest.json").is_file()
    assert not (home / "none").exists()
