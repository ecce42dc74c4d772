"""Paths as typed by the user: a leading ~ or $NAME that the shell left is expanded, empty ones are refused."""

import os
import re
import sys
from itertools import pairwise
from pathlib import Path

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from data_pipelines.common.errors import InputError

ON_COMMAND_LINE = ConstructorRegistry()  # entered where command lines are parsed

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})(?=/|$)")


def typed_path(text: str, label: str = "a path") -> Path:
    """The path of a text, with the ~ or $NAME that it may begin with expanded, as where quotes kept the shell from it.

    label: what messages call it. Raises InputError for an empty text and for a variable that is not set.
    """
    if not text:
        raise InputError(
            f"{label} is empty, as where a variable of the shell is not set; write a path, or leave it out"
        )
    if variable := _VARIABLE.match(text):
        name = variable[1] or variable[2]
        if not os.environ.get(name):
            raise InputError(f"{label} is {text!r}, and ${name} is not set; set it, or write ./{text} for such a name")
        return Path(os.environ[name] + text[variable.end() :])
    return Path(os.path.expanduser(text))


@ON_COMMAND_LINE.primitive_rule
def _path_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: typed_path(words[0], _option_of(words[0])),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def _option_of(text: str) -> str:
    """The option of this command that has a value, if any has."""
    for option, value in pairwise(sys.argv):
        if option.startswith("--") and value == text:
            return option
    joined = (word.removesuffix(f"={text}") for word in sys.argv if word.startswith("--") and word.endswith(f"={text}"))
    return next(joined, "a path")
