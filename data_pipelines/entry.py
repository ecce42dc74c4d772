"""How every entry point ends: an error that is meant for people is one message, never a traceback."""

import os
import sys
from collections.abc import Callable
from functools import wraps

from data_pipelines.errors import InputError, RunError


def tell(message: str) -> None:
    """Print an error, naming the rank where there are several. A program may put another in its place."""
    rank = f"[rank {os.environ.get('RANK')}] " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"{rank}{message}", file=sys.stderr, flush=True)


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a `main` so that InputError and RunError end the process with their message and exit code 2 or 1."""

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
