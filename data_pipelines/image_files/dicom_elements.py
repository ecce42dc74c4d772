"""DICOM header elements, tolerant of those that are missing, empty, multi-valued or of the wrong type."""

import math
from collections.abc import Iterable
from typing import Any


def element_text(dataset: Any, keyword: str) -> str:
    """The first value as stripped text, "" if there is none."""
    value = _value(dataset, keyword)
    return "" if value is None or isinstance(value, bytes) else str(value).strip(" \0\n\r\t")


def number_of(dataset: Any, keyword: str) -> float | None:
    """The first value as a finite number, None if there is none."""
    try:
        number = float(_value(dataset, keyword))
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def items_of(dataset: Any, keyword: str) -> list[Any]:
    """The items of a sequence."""
    try:
        return [item for item in dataset.get(keyword) or [] if hasattr(item, "get")]
    except Exception:  # a value that is no sequence
        return []


def holder_of(dataset: Any, macro: str, keywords: tuple[str, ...]) -> Any:
    """The data set that has the elements of a macro, if one of `keywords` is in it: the header itself; else its
    functional groups, those of the frame before those that frames share (part 3, C.7.6.16); `dataset` if they are
    nowhere."""
    groups = items_of(dataset, "PerFrameFunctionalGroupsSequence") + items_of(dataset, "SharedFunctionalGroupsSequence")
    holders = [dataset, *(item for group in groups for item in items_of(group, macro))]
    return next((holder for holder in holders if any(_value(holder, word) is not None for word in keywords)), dataset)


def _value(dataset: Any, keyword: str) -> Any:
    try:
        value = dataset.get(keyword)
    except Exception:  # a value that its type does not allow
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return value
    return next(iter(value), None)
