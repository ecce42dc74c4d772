"""An error that is meant for people is one message and an exit code; a fault of the program stays a traceback."""

import warnings

import pytest

from data_pipelines.common.cli import entry_point
from data_pipelines.common.errors import InputError, RunError


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (RunError, 1)])
@pytest.mark.parametrize(("world_size", "prefix"), [(None, ""), ("", ""), ("1", ""), ("4", "[rank 3] ")])
def test_errors_for_people(
    error: type[Exception],
    code: int,
    world_size: str | None,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world_size is not None:
        monkeypatch.setenv("WORLD_SIZE", world_size)

    @entry_point
    def main() -> None:
        raise error("the shard is gone; fetch it again")

    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == code
    assert capsys.readouterr().err == f"{prefix}error: the shard is gone; fetch it again\n"


def test_several_ranks_without_a_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)

    @entry_point
    def main() -> None:
        raise InputError("the shard is gone; fetch it again")

    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert capsys.readouterr().err.endswith("error: the shard is gone; fetch it again\n")


def test_faults_of_the_program_are_not_hidden() -> None:
    @entry_point
    def main() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        main()


@pytest.mark.parametrize(("module", "heard"), [("PIL.TiffImagePlugin", 0), ("PIL", 0), ("PILOT", 1), ("trainer.x", 1)])
def test_libraries_do_not_warn_of_nameless_files(module: str, heard: int) -> None:
    @entry_point
    def main() -> None:
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "file.py", 1, module)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main()
    assert len(caught) == heard
