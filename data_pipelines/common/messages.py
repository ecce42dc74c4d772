"""Loggers for progress messages on standard error: `logger` on every rank, `rank_0_logger` on rank 0 only.

Warnings and errors begin with their level, "warning: ..."; what is less than that is a line by itself.
"""

import logging
import os
import sys
from contextlib import suppress


class _StandardErrorHandler(logging.Handler):
    """Writes to the current standard error. A terminal that is gone is ignored."""

    def emit(self, record: logging.LogRecord) -> None:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        with suppress(OSError, ValueError):
            print(f"{level}{record.getMessage()}", file=sys.stderr, flush=True)


def is_rank_0() -> bool:
    """Whether this process speaks for all: rank 0, or one that has no rank."""
    return (os.environ.get("RANK") or "0") == "0"


logger = logging.getLogger("bitscale")
logger.addHandler(_StandardErrorHandler())
logger.setLevel(logging.INFO)
logger.propagate = False  # a library that sets up the root logger would have everything said twice
rank_0_logger = logger.getChild("rank_0")
rank_0_logger.addFilter(lambda record: is_rank_0())
