"""Entry points of the commands: parse flags, and print user errors as one message without a traceback."""

import codecs
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NoReturn, TypeVar

from data_pipelines.common import advice, streams
from data_pipelines.common.errors import InputError, RunError
from data_pipelines.common.flag_parser import parse_flags
from data_pipelines.common.limits import require_numbers
from data_pipelines.common.program import program, retyped
from data_pipelines.common.typed_paths import ON_COMMAND_LINE
from data_pipelines.common.version import version_line

Command = TypeVar("Command")
logging.getLogger("matplotlib").setLevel(logging.ERROR)  # or it warns of a home that cannot be written


def tell(message: str) -> None:
    """Print an error, with the rank if there are several. A program may replace this function."""
    rank = f"[rank {os.environ.get('RANK')}] " if world_size() > 1 else ""
    print(f"{rank}{message}", file=sys.stderr, flush=True)


def parse(
    command: type[Command],
    description: str | None,
    args: Sequence[str] | None = None,
    prog: str | None = None,
    **options: Any,
) -> Command:
    """Parse the command line, or `args`, into a dataclass; messages use its flags from then on.

    prog: how the program is called, where that is not its own name. options: of `parse_flags`. Raises InputError.
    """
    advice.belong_to(command)
    arguments = sys.argv[1:] if args is None else args
    parsed: Command = parse_flags(command, arguments, prog or program(), description, **options)
    require_numbers(parsed)
    return parsed


def world_size() -> int:
    """Number of ranks according to the launcher; 1 if it sets none."""
    size = os.environ.get("WORLD_SIZE", "")
    return int(size) if size.isdecimal() else 1


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a `main` so that it answers `--version`, and InputError and RunError end the process with their message and
    exit code 2 or 1."""

    @wraps(main)
    def wrapped() -> None:
        if main.__module__ == "__main__" or program().startswith(("bitscale", "python -m bitscale")):
            _with_names_in_utf8()
        streams.guard()
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")  # they name no file; our own messages do
        try:
            _to_the_last_word(_print_version if "--version" in sys.argv[1:] else main)
        except (InputError, RunError) as error:
            streams.outlive_readers()  # who may have left: the code is that of the error
            tell(f"error: {retyped(str(error))}")
            sys.exit(2 if isinstance(error, InputError) else 1)
        except KeyboardInterrupt as stop:
            print(stop.args[0] if stop.args else "interrupted", file=sys.stderr)
            sys.exit(130)
        finally:
            advice.belong_to(None)

    return wrapped


def answer_version() -> NoReturn:
    """Print the version and exit, before a program's slow imports."""
    entry_point(_print_version)()
    sys.exit()


def _print_version() -> None:
    print(version_line())


def _to_the_last_word(main: Callable[[], None]) -> None:
    """Run it and flush its output while errors in that can still be reported."""
    try:
        with ON_COMMAND_LINE:
            main()
    except SystemExit:  # of a parser that has printed its help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _with_names_in_utf8() -> None:
    """Restart this program in Python's UTF-8 mode if the locale has another encoding, so that a file has the same name
    under every locale, in run folders and manifests too."""
    if codecs.lookup(sys.getfilesystemencoding()).name != "utf-8" and not sys.flags.ignore_environment:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
