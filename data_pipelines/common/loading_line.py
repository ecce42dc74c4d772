"""The first line of a program whose imports take seconds."""

import sys
from collections.abc import Sequence

from data_pipelines.common.messages import is_rank_0

_WITH_TORCH = ("pretrain", "transfer", "sweep", "predict", "evaluate", "export", "report", "proximity", "inspect")
_ONLY_TEXT = {"-h", "--help", "--help-all", "--version"}


def say_what_is_loading(command: str, arguments: Sequence[str]) -> None:
    """On a terminal, say that a command has started, before it imports PyTorch; a log has its next line soon enough.
    Nothing for commands that do without, and for help."""
    if command in _WITH_TORCH and not _ONLY_TEXT & set(arguments) and is_rank_0() and sys.stderr.isatty():
        print(f"{command}: loading PyTorch ...", file=sys.stderr, flush=True)
