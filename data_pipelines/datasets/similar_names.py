"""Names that differ so little that they probably mean the same."""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence

_NAMED = 5  # groups of names in notes
_ZEROS_BEFORE = re.compile(r"(?<![0-9.,])0+(?=[0-9])")
_ZEROS_BEHIND = re.compile(r"([+-]?[0-9]+)\.0*")  # as tables of programs have whole numbers


def composed(name: str) -> str:
    """In the Unicode form in which a letter and its accent are one character."""
    return unicodedata.normalize("NFC", name)


def _with_few_spaces(name: str) -> str:
    return " ".join(name.split())


def _with_few_zeros(name: str) -> str:
    whole = _ZEROS_BEHIND.fullmatch(name)
    return _ZEROS_BEFORE.sub("", whole[1] if whole else name)


_WAYS: dict[str, Callable[[str], str]] = {
    "Unicode form": composed,
    "capital and small letters": str.lower,
    "spaces": _with_few_spaces,
    "zeros": _with_few_zeros,
}


def plain(name: str, *, but: str = "") -> str:
    """What is the same of names that are taken for one; but: the way in which they may differ all the same."""
    for way, change in _WAYS.items():
        name = name if way == but else change(name)
    return name


def near(names: Iterable[str]) -> list[list[str]]:
    """Those of different names that are taken for one, together."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(plain(name), []).append(name)
    return [group for group in alike.values() if len(group) > 1]


def difference(names: Collection[str]) -> str:
    """In what names that are taken for one differ, such as "spaces"."""
    return ", ".join(way for way in _WAYS if len({plain(name, but=way) for name in names}) > 1)


def near_one(name: str, names: Iterable[str]) -> str:
    """What is to be said where a name that is none of `names` is taken for one of them; else ""."""
    for other in names:
        if plain(other) == plain(name):
            return f"; it has {other!r}, which differs from it only in {difference((name, other))}: give both one name"
    return ""


def class_name_notes(classes: Sequence[str]) -> list[str]:
    """What is to be said of classes whose names differ so little that they may be one."""
    groups = near(classes)
    notes = [
        f"classes that differ only in {difference(names)}: {', '.join(map(repr, names))}; are they one?"
        for names in groups[:_NAMED]
    ]
    more = len(groups) - _NAMED
    return [*notes, f"the same is true of {more:,} others"] if more > 0 else notes
