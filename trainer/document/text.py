"""Text of a document: plain, so that names are never taken for markup, unless marked as bold, code or a link."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bold:
    """Bold text."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text that is typed, or that stands in a file."""

    text: str


@dataclass(frozen=True)
class Link:
    """Text with a link to a file beside the document."""

    text: str
    to: str


Text = str | tuple[str | Bold | Code | Link, ...]


def pieces(text: Text) -> tuple[str | Bold | Code | Link, ...]:
    """The parts of a text."""
    return (text,) if isinstance(text, str) else text


def joined(texts: Sequence[Text], between: str) -> Text:
    """Several texts concatenated."""
    found: list[str | Bold | Code | Link] = []
    for place, text in enumerate(texts):
        found += [*([between] if place else []), *pieces(text)]
    return tuple(found)


def plain(text: Text) -> str:
    """A text for a terminal."""
    return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces(text))
