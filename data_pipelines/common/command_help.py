"""Short help: names and one line for each, in groups, at the width of the terminal. Imports nothing slow."""

import re
import shutil
from collections.abc import Mapping
from textwrap import fill, wrap

_NARROWEST, _WIDEST = 40, 100
_CITATION = re.compile(r" \([^()]* \d{4}\)(?=\.)")
_GAP = 2
_WIDEST_NAME = 30


def grouped_help(usage: str, groups: Mapping[str, Mapping[str, str]], after: str = "") -> str:
    """A help text, without a newline at its end.

    usage: what stands first; its lines stay as they are. groups: titles to names to their line; an empty line leaves
    the name alone. after: a paragraph at the end.
    """
    width = _width()
    longest = max((len(name) for rows in groups.values() for name in rows), default=0)
    column = min(longest, _WIDEST_NAME, width // 2) + 2 * _GAP
    parts = [usage.rstrip()]
    for title, rows in groups.items():
        parts.append("\n".join([f"{title}:", *(_row(name, line, column, width) for name, line in rows.items())]))
    if after:
        parts.append(filled(after))
    return "\n\n".join(parts)


def filled(text: str) -> str:
    """The paragraphs of a text at the width of the terminal."""
    paragraphs = [" ".join(part.split()) for part in text.strip().split("\n\n")]
    return "\n\n".join(fill(part, _width(), break_long_words=False, break_on_hyphens=False) for part in paragraphs)


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns - 1, _NARROWEST), _WIDEST)


def _row(name: str, line: str, column: int, width: int) -> str:
    """A name and its line, which begins below a name that is too long."""
    lines = wrap(line, width - column, break_long_words=False, break_on_hyphens=False)
    beside = f"{' ' * _GAP}{name}"
    if lines and len(beside) + _GAP <= column:
        beside = f"{beside.ljust(column)}{lines.pop(0)}"
    return "\n".join([beside, *(" " * column + each for each in lines)])


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line, without its full stop and without whom it cites."""
    paragraph = _CITATION.sub("", " ".join((text or "").strip().split("\n\n")[0].split()))
    return paragraph.split(". ")[0].removesuffix(".")
