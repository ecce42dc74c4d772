"""Upper bounds for the numbers of all flags."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import signature
from math import inf, isfinite
from typing import Any, TypeVar, get_type_hints

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import as_typed

Made = TypeVar("Made")
_COUNTS = {
    *("batch_size", "eval_batch_size", "global_batch_size", "image_size", "images", "most_layers", "num_images"),
    *("ranks", "rounds", "steps", "threads", "turns", "window_steps", "windows"),
}
_MOST = {"seed": 2**63, "threads": 2**12, "epochs": 2**31, "warmup_epochs": 2**31}
_MOST_WHOLE = 2**31


def require_numbers(parsed: Any, prefix: str = "--") -> None:
    """Raise InputError for a number, in a dataclass or nested ones, that no flag can have: below 0, or below 1 for
    counts; not finite, unless it is in seconds; or an integer so large that it must be a slip."""
    kinds = get_type_hints(type(parsed), include_extras=True)
    for each in fields(parsed):
        value = getattr(parsed, each.name)
        if is_dataclass(value):
            is_flat = hasattr(kinds[each.name], "__metadata__")  # by which tyro leaves out the prefix
            require_numbers(value, prefix if is_flat else f"{prefix}{each.name}.")
            continue
        _require_number(prefix, each.name, value)


def with_checked_numbers(make: Callable[..., Made]) -> Callable[..., Made]:
    """The same function, for tyro to take flags from, with its numbers checked as by `require_numbers`."""

    @wraps(make)
    def checked(*arguments: Any, **options: Any) -> Made:
        for name, value in signature(make).bind(*arguments, **options).arguments.items():
            _require_number("--", name, value)
        return make(*arguments, **options)

    return checked


def _require_number(prefix: str, name: str, value: Any) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and (must := _what_it_must(name, number)):
            raise InputError(f"{prefix}{name.replace('_', '-')} is {as_typed(number)}; it must {must}")


def _what_it_must(name: str, number: float) -> str | None:
    if isinstance(number, float) and not isfinite(number):
        return None if number == inf and name.endswith("_s") else "be finite"
    if name in _COUNTS and not isinstance(number, bool) and number < 1:
        return "be at least 1"
    most = _MOST.get(name, inf if isinstance(number, float) else _MOST_WHOLE)
    return "not be negative" if number < 0 else f"be below {most:,}" if number >= most else None
