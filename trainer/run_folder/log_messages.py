"""What a run says to people on the way."""

import sys
from contextlib import suppress


def say(line: str) -> None:
    """Print a line to standard error at once. A terminal that is gone is no reason to stop training."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
