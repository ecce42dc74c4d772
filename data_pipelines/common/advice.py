"""Advice in messages that works when typed: flags of the running command, and paths quoted for the shell.

Code that several commands share says the flag of pretrain.py, and is given that of the command at hand.
"""

import re
import shlex
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

_OTHER_NAMES = {
    "--data.sets": "--target",
    "--eval-batch-size": "--batch-size",
    "--global-batch-size": "--batch-size",
    "--model.name": "--model",
}
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]")
_command: Any = None


def belong_to(command: Any) -> None:
    """Make `flag` use the flags of this command, a dataclass as tyro parses it; None: those of pretrain.py."""
    global _command
    _command = command


def flag(of_pretrain: str) -> str:
    """The running command's flag for a setting, given that of pretrain.py: "--data.classes" is "--classes" in
    transfer.py. Where the command has no such flag, the setting's name in config.json: "data.classes"."""
    if _command is None:
        return of_pretrain
    own = _flags(_command)
    called = (f"--{of_pretrain[2:].rpartition('.')[2]}", _OTHER_NAMES.get(of_pretrain))
    return next((name for name in called if name in own), of_pretrain[2:].replace("-", "_"))


def has_flag(of_pretrain: str) -> bool:
    """Whether the running command has a flag for a setting."""
    return flag(of_pretrain).startswith("--")


def with_own_flags(text: str) -> str:
    """A message that names flags of pretrain.py, rewritten with those of the running command."""
    return _FLAG.sub(lambda found: flag(found[0]), text)


def quoted(path: str | Path) -> str:
    """A path as one shell word that is not taken for an option."""
    return as_word(no_option(path))


def no_option(path: str | Path) -> str:
    """A path that no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def as_word(text: str) -> str:
    """A text as one word of a shell command; where a terminal cannot show it, as bash writes it."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").encode(errors="surrogateescape")
    return f"$'{escaped.decode(errors='backslashreplace')}'"


@cache
def _flags(command: Any) -> frozenset[str]:
    """Of a dataclass and those in it, which have no prefix in any command but pretrain.py."""
    kinds = get_type_hints(command)
    inner: list[frozenset[str]] = [
        _flags(kind) for kind in kinds.values() if isinstance(kind, type) and is_dataclass(kind)
    ]
    return frozenset(f"--{each.name.replace('_', '-')}" for each in fields(command)).union(*inner)
