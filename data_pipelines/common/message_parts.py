"""Parts of messages: the nearest known name, and shortened lists."""

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from data_pipelines.common.advice import as_word

_MOST_NAMED = 20
_EXPONENT_FROM = 1e16  # as Python writes floats
_SYNONYMS = {"gpu": "cuda"}  # its nearest spelling is cpu


def closest(name: str, known: Sequence[str]) -> str | None:
    """The known name that is probably meant; None where none is near."""
    if _SYNONYMS.get(name.lower()) in known:
        return _SYNONYMS[name.lower()]
    return next(iter(get_close_matches(name, known, n=1)), None)


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error message: "; did you mean ...?" or "; known: ..."."""
    close = closest(name, known)
    return f"; did you mean {close!r}?" if close else f"; known: {', '.join(sorted(known))}"


def apart_in(word: str, known: Collection[str]) -> str:
    """The end of an error message for a word that holds several known names of a list, which is typed with spaces:
    "; separate names by spaces: A B"; "" for any other word."""
    parts = [part.strip() for part in re.split("[,;]", word)]
    is_several = len(parts) > 1 and {*parts} <= {*known}
    return f"; separate names by spaces: {' '.join(map(as_word, parts))}" if is_several else ""


def nearest_of_several(name: str, known: Sequence[str]) -> str:
    """As `nearest`, for a name of a list that is typed with spaces."""
    return apart_in(name, known) or nearest(name, known)


def as_typed(value: object) -> str:
    """A value of a setting, or a list of them, as it can be typed: 4 where Python writes 4.0."""
    return str(_whole(value))


def _whole(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_whole, value))
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXPONENT_FROM else value


def number(count: int, singular: str, plural: str = "") -> str:
    """Such as "1 patient" or "1,200 patients"."""
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def some_of(names: Sequence[str], most: int = _MOST_NAMED, separator: str = ", ") -> str:
    """The first of some names, and how many more there are: "cat, dog and 3 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def counted(left_out: Mapping[str, int]) -> str:
    """Such as ".mov (12), hidden files (3)", the most first."""
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{words} ({count:,})" for words, count in ordered)
