"""Advice in messages that works when typed: flags of the running command, and paths quoted for the shell.

A setting has the same flag in all commands that train. Code that others share too says that flag, and is given what the
command at hand has instead: its own flag without the section, or the setting's name in config.json.
"""

import re
import shlex
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

import tyro

_OTHER_NAMES = {"--data.sets": "--target", "--global-batch-size": "--batch-size"}
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]")
_command: Any = None


def belong_to(command: Any) -> None:
    """Make `flag` use the flags of this command, a dataclass as tyro parses it; None: those of pretrain.py."""
    global _command
    _command = command


def flag(of_pretrain: str) -> str:
    """The running command's flag for a setting, given that of pretrain.py: "--data.shots" is "--shots" in transfer.py.
    Where the command has no such flag, the setting's name in config.json: "data.classes"."""
    if _command is None:
        return of_pretrain
    own = _flags(_command)
    called = (of_pretrain, f"--{of_pretrain[2:].rpartition('.')[2]}", _OTHER_NAMES.get(of_pretrain))
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
def _flags(command: Any, prefix: str = "--") -> frozenset[str]:
    """Of a dataclass and those in it, as tyro calls them."""
    found: list[str] = []
    for name, kind in get_type_hints(command, include_extras=True).items():
        marks, plain = getattr(kind, "__metadata__", ()), getattr(kind, "__origin__", kind)
        if tyro.conf.Suppress in marks:
            continue
        if is_dataclass(plain):
            found += _flags(cast(type, plain), prefix if marks else f"{prefix}{name.replace('_', '-')}.")
        else:
            found.append(f"{prefix}{name.replace('_', '-')}")
    return frozenset(found)
