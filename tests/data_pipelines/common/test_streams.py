"""Neither a closed stream nor an encoding of few characters ends a program otherwise than its work does."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.common.errors import RunError
from data_pipelines.common.streams import Stream

ROOT = Path(__file__).resolve().parents[3]
NO_READER = 141
BEGIN = "import os, sys; from dataclasses import dataclass; from data_pipelines.common import cli, streams; "
PRINTS = BEGIN + "cli.entry_point(lambda: print('x' * 100_000))()"
WARNS = BEGIN + "cli.entry_point(lambda: (print('a warning', file=sys.stderr), print('a result')))()"
HELPS = BEGIN + "cli.entry_point(lambda: cli.parse(dataclass(type('Command', (), {})), 'd' * 100_000))()"
ON = "streams.outlive_readers(), print('x' * 100_000, flush=True), os.mkdir(sys.argv[1])"
GOES_ON = BEGIN + f"cli.entry_point(lambda: ({ON}))()"


def shell(program: str, redirected: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """A Python program with its streams redirected by a shell: exit code, standard output and error."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirected}', "bash", sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=buffered | environment,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(("program", "arguments"), [(PRINTS, []), (HELPS, ["--help"])], ids=["prints", "--help"])
def test_a_reader_who_leaves_ends_the_program_quietly(program: str, arguments: list[str]) -> None:
    assert shell(program, '| true; exit "${PIPESTATUS[0]}"', *arguments) == (NO_READER, "", "")


@pytest.mark.parametrize("redirected", ["2>&-", "2> >(exec 0<&-)", "2> /dev/full"])
def test_nobody_reads_the_warnings(redirected: str) -> None:
    assert shell(WARNS, redirected) == (0, "a result\n", "")


def test_nobody_reads_the_result() -> None:
    assert shell(WARNS, ">&-") == (0, "", "a warning\n")


def test_a_full_disk_is_an_error_that_is_told() -> None:
    code, _, error = shell(PRINTS, "> /dev/full")
    assert (code, error) == (1, "error: standard output cannot be written (No space left on device)\n")


@pytest.mark.parametrize("redirected", ['| true; exit "${PIPESTATUS[0]}"', ">&-", "> /dev/full"])
def test_a_program_with_more_to_do_goes_on(redirected: str, tmp_path: Path) -> None:
    assert shell(GOES_ON, redirected, str(tmp_path / "done")) == (0, "", "")
    assert (tmp_path / "done").is_dir()


def test_no_file_gets_the_number_of_standard_error() -> None:
    program = BEGIN + "cli.entry_point(lambda: print(os.open('/dev/null', os.O_WRONLY) > 2))()"
    assert shell(program, "2>&- 0<&-") == (0, "True\n", "")


def test_an_encoding_of_few_characters_escapes_the_others() -> None:
    program = BEGIN + r"cli.entry_point(lambda: print('caf\u00e9 \udcfc'))()"
    assert shell(program, "", PYTHONIOENCODING="ascii") == (0, "caf\\xe9 \\udcfc\n", "")
    assert shell(program, "", PYTHONIOENCODING="utf-8") == (0, "café \\udcfc\n", "")


class Gone:
    """A terminal that is closed in the middle of a run."""

    def __init__(self, number: int) -> None:
        self._number, self._file = number, os.open(os.devnull, os.O_WRONLY)

    def write(self, text: str) -> int:
        raise OSError(self._number, os.strerror(self._number))

    def flush(self) -> None:
        raise OSError(self._number, os.strerror(self._number))

    def fileno(self) -> int:
        return self._file


@pytest.mark.parametrize("number", [errno.EIO, errno.EPIPE, errno.EBADF, errno.ENOSPC])
def test_a_terminal_that_is_gone_stops_no_run(number: int) -> None:
    stream = Stream(Gone(number))  # type: ignore[arg-type]
    assert stream.write("the loss") == 8
    stream.flush()


def test_a_terminal_that_is_gone_ends_no_other_command() -> None:
    stream = Stream(Gone(errno.EIO), ends_program=True)  # type: ignore[arg-type]
    stream.write("the result")
    with pytest.raises(RunError, match="No space left"):
        Stream(Gone(errno.ENOSPC), ends_program=True).flush()  # type: ignore[arg-type]
