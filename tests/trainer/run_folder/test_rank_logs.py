"""What a rank prints is kept beside the run, and an error of many ranks is told once."""

import faulthandler
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipelines.common import cli
from data_pipelines.common.errors import RunError
from trainer.run_folder import rank_logs


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], None]]:
    """`install_rank_log`, undone in the end; for the test to call, as pytest changes the streams after fixtures."""
    monkeypatch.setattr(rank_logs, "_log", None)
    was_enabled = faulthandler.is_enabled()

    def install() -> None:
        for module, name in ((sys, "stdout"), (sys, "stderr"), (sys, "excepthook"), (cli, "tell")):
            monkeypatch.setattr(module, name, getattr(module, name))
        rank_logs.install_rank_log()

    yield install
    if was_enabled:
        faulthandler.enable(sys.__stderr__)


def alone(rank: int) -> Any:
    """What is needed of an engine."""
    return SimpleNamespace(rank=rank, gather=lambda value: [value])


def log_of(run_dir: Path, rank: int) -> str:
    (path,) = (run_dir / "logs").glob(f"*-{rank}.log")
    return path.read_text()


def test_output_from_before_the_folder_is_known_is_kept(
    install: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install()
    print("a warning", file=sys.stderr)
    rank_logs.open_rank_log(tmp_path / "one", alone(3))
    print("on standard output")
    sys.stderr.write("\r 50% of a progress bar")
    rank_logs.open_rank_log(tmp_path / "two", alone(3))  # the next run of a sweep
    print("of the second run")
    assert log_of(tmp_path / "one", 3).splitlines()[1:] == ["a warning", "on standard output"]
    assert log_of(tmp_path / "two", 3).splitlines()[1:] == ["of the second run"]
    printed = capsys.readouterr()
    assert printed.out == "on standard output\nof the second run\n"
    assert "a warning" in printed.err


def test_without_install_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_logs, "_log", None)
    rank_logs.open_rank_log(tmp_path, alone(0))
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_a_warning(
    install: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install()
    (tmp_path / "logs").write_text("a file")
    rank_logs.open_rank_log(tmp_path, alone(0))
    assert "there will be no log" in capsys.readouterr().err


def test_one_of_many_ranks_tells_the_error_with_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_logs, "_meeting_place", lambda: tmp_path)
    with ThreadPoolExecutor(8) as pool:
        alike = [pool.submit(rank_logs._with_others, f"the loss of rank {rank}", str(rank), 8) for rank in range(8)]
        counts = [one.result() for one in alike]
    assert sorted(counts) == [0] * 7 + [8]


def test_other_errors_are_told_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_logs, "_meeting_place", lambda: tmp_path)
    monkeypatch.setattr(rank_logs, "WAIT_S", 0.2)
    with ThreadPoolExecutor(3) as pool:
        messages = ["the loss is not finite", "the loss is not finite", "another rank stopped"]
        futures = [pool.submit(rank_logs._with_others, message, str(rank), 3) for rank, message in enumerate(messages)]
        counts = [future.result() for future in futures]
    assert sorted(counts) == [0, 1, 2]
    assert counts[2] == 1


def test_error_is_told_though_the_rank_to_tell_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_logs, "_meeting_place", lambda: tmp_path)
    monkeypatch.setattr(rank_logs, "WAIT_S", 0.1)
    assert rank_logs._with_others("lost", "1", 4) == 1
    (folder,) = tmp_path.iterdir()
    (folder / "told").unlink()
    assert rank_logs._with_others("lost", "2", 4) == 1


def test_ranks_meet_where_nobody_else_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_logs.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(rank_logs, "_log", None)
    place = rank_logs._meeting_place()
    assert place == rank_logs._meeting_place()
    assert place.stat().st_mode & 0o777 == 0o700
    other = tmp_path / "other"
    place.rename(other)
    place.symlink_to(other)
    with pytest.raises(PermissionError, match="somebody else"):
        rank_logs._meeting_place()


def test_entry_point_tells_through_the_log(
    install: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install()

    @cli.entry_point
    def main() -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(rank_logs, "WAIT_S", 0.1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    rank_logs.open_rank_log(tmp_path, alone(0))
    with pytest.raises(SystemExit, match="1"):
        main()
    assert capsys.readouterr().err == "[rank 0] error: the disk is full\n"
    assert "error: the disk is full" in log_of(tmp_path, 0)
    assert list((tmp_path / "logs").glob(".errors-*"))
