"""Checks of settings, whose messages name the running command's flags."""

from typing import Any, Literal, get_args, get_origin, get_type_hints

from data_pipelines.common.advice import with_own_flags
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest


def require(condition: bool, message: str) -> None:
    """Raise InputError with the message, which names flags of pretrain.py, unless the condition holds."""
    if not condition:
        raise InputError(with_own_flags(message))


def require_known_choices(config: Any) -> None:
    """Raise InputError for a value that is none of its field's choices."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise InputError(f"{name} is {value!r}{nearest(str(value), get_args(kind))}")
