"""Keep standard output and error from failing the program when they are closed or have a narrow encoding."""

import errno
import os
import signal
import sys
from typing import Any, TextIO

from data_pipelines.common.errors import RunError

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # who read it, the terminal, or the stream itself
_NO_READER = 128 + signal.SIGPIPE  # the exit code of a program that dies of a closed pipe


class Stream:
    """A text stream that escapes characters its encoding lacks, and drops output that nobody reads any more.

    With `ends_program`, a reader that closes the stream, such as `| head`, ends the program quietly, and a full disk is
    a RunError.
    """

    def __init__(self, stream: TextIO, ends_program: bool = False) -> None:
        self._stream, self.ends_program = stream, ends_program

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        number = getattr(error, "errno", None)
        if number in _GONE:  # what is buffered, and what C libraries write, goes there too
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        if self.ends_program and number == errno.EPIPE:
            raise SystemExit(_NO_READER)
        if self.ends_program and isinstance(error, OSError) and number not in _GONE:
            self.ends_program = False
            raise RunError(f"standard output cannot be written ({error.strerror})") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard() -> None:
    """Install such streams in this process, and open those that were closed at its start: otherwise the next file
    opened would get the number of standard error, and what C libraries write there."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 as long as the process
        if not isinstance(stream, Stream):
            setattr(sys, name, Stream(stream, ends_program=name == "stdout"))


def outlive_readers() -> None:
    """From now on, continue when nobody reads the output any more: the program has more to do."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.ends_program = False
