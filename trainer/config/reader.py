"""Settings from what a TOML or JSON file holds, checked against the types of the configuration."""

import json
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import closest, nearest
from trainer.config.saved import RENAMED
from trainer.config.settings import setting_kinds

NO_VALUE = "None"
"""What stands for no value in a TOML file, which has no null."""

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}


def read_settings(content: Mapping[str, Any], where: str, extra: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The settings of a file by their dotted names, without those in `extra`, which are no settings.

    Raises InputError, with `where` in front, for a key that is not known and for a value of another type.
    """
    sections = _sections()
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key in sections:
            if not isinstance(value, dict):
                raise InputError(f"{where}: {key} is {_shown(value)}; it must be a section, [{key}]")
            found |= {f"{key}.{inside}": of_it for inside, of_it in value.items()}
        else:
            found[key] = value
    for old, new in RENAMED.items():
        if old in found:
            if new in found:
                raise InputError(f"{where}: {old} and {new} are two keys for one thing; leave out {old}")
            found[new] = found.pop(old)
    return {name: _checked(name, value, where) for name, value in found.items() if name not in extra}


def _checked(name: str, value: Any, where: str) -> Any:
    kinds = setting_kinds()
    if name not in kinds:
        raise InputError(f"{where}: unknown key {name!r}{_suggestion(name)}")
    kind = kinds[name]
    if value == NO_VALUE and NoneType in get_args(kind):
        return None
    if wrong := misfit(kind, value):
        raise InputError(f"{where}: {name} is {_shown(value)}{wrong}")
    return tuple(value) if isinstance(value, list) else value


def misfit(kind: Any, value: Any) -> str:
    """The end of a message about a value that is not of this type of a setting: "; it must be a number"; "" if it is.
    Tuples come as lists."""
    if _fits(kind, value):
        return ""
    is_wrong_choice = isinstance(value, str) and get_origin(kind) is Literal
    return nearest(value, get_args(kind)) if is_wrong_choice else f"; it must be {_type_text(kind)}"


def _sections() -> list[str]:
    return sorted({name.partition(".")[0] for name in setting_kinds() if "." in name})


def _suggestion(name: str) -> str:
    """The end of a message: which key was meant. One in another section, or with dashes, comes first."""
    plain = name.replace("-", "_")
    same = [
        known for known in setting_kinds() if known == plain or known.rpartition(".")[2] == plain.rpartition(".")[2]
    ]
    if same:
        section, _, key = same[0].rpartition(".")
        return f"; did you mean {key!r} in [{section}]?" if section else f"; did you mean {key!r}, above all sections?"
    section = name.rpartition(".")[0]
    near = [known for known in setting_kinds() if known.rpartition(".")[0] == section]
    if not section and (meant := closest(plain, [*near, *_sections()])) not in [None, *near]:
        return f"; did you mean [{meant}]?"
    return nearest(plain, near)


def _fits(kind: Any, value: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(one, value) for one in arguments)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in arguments)
    if origin is tuple:
        of_any_length = arguments[1:] == (...,)
        count = len(value) if of_any_length and isinstance(value, list) else len(arguments)
        return isinstance(value, list) and len(value) == count and all(_fits(arguments[0], one) for one in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


def _type_text(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_type_text(one) for one in arguments)
    if origin is Literal:
        return " or ".join(json.dumps(one) for one in arguments)
    if origin is tuple:
        items = _WORDS[arguments[0]].split(" ", 1)[1]
        return f"a list of {items.replace('text', 'texts').replace('number', 'numbers')}"
    return f'"{NO_VALUE}"' if kind is NoneType else _WORDS[kind]


def _shown(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False) if not isinstance(value, dict) else "a section"
