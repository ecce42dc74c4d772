"""How every entry point ends: an error that is meant for people is one message, never a traceback."""

import os
import sys
from collections.abc import Callable
from functools import wraps

from data_pipelines.errors import InputError, RunError
from data_pipelines.typed_paths import ON_COMMAND_LINE


def tell(message: str) -> None:
    """Print an error, naming the rank where there are several. A program may put another in its place."""
    rank = f"[rank {os.environ.get('RANK')}] " if world_size() > 1 else ""
    print(f"{rank}{message}", file=sys.stderr, flush=True)


def world_size() -> int:
    """How many ranks the launcher says there are; 1 where it says no number."""
    said = os.environ.get("WORLD_SIZE", "")
    return int(said) if said.isdecimal() else 1


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a `main` so that InputError and RunError end the process with their message and exit code 2 or 1."""
    main = _with_paths_as_typed(main)

    @wraps(main)
    def wrapped() -> None:
        try:
            main()
        except (InputError, RunError) as error:
            tell(f"error: {error}")
            sys.exit(2 if isinstance(error, InputError) else 1)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapped


def _with_paths_as_typed(main: Callable[[], None]) -> Callable[[], None]:
    @wraps(main)
    def parsing() -> None:
        with ON_COMMAND_LINE:
            main()

    return parsing
