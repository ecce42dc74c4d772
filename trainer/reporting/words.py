"""Words of a report: plain, so that no name is taken for markup, unless they say that they are bold, code or a link."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipelines.common.printable import visible

# What Markdown, also GitHub's, takes for markup: not an underscore within a word, nor the brackets of "[0.1, 0.2]".
_MARKUP = re.compile(
    r"""\\(?=[!-/:-@\[-`{-~]|$)
    | [`*$]
    | (?<![^\W_])_ | _(?![^\W_])
    | (?<!/)~
    | \](?=[(\[:])
    | <(?=[a-zA-Z/!?])
    | &(?=\#?\w+;)
    | (?<!\S)\#(?=\#*$)""",
    re.VERBOSE,
)
_MARKUP_IN_BRACKETS = re.compile(_MARKUP.pattern + r" | [\[\]]", re.VERBOSE)
# What makes a list, a heading or a quotation of the line that it begins.
_FIRST_MARK = re.compile(r"^(\d{0,9})(?=[.)](?:\s|$)|\#{1,6}(?:\s|$)|[-+=](?:\s|$|[-=])|>)")


@dataclass(frozen=True)
class Bold:
    """Words that stand out."""

    text: str


@dataclass(frozen=True)
class Code:
    """What is to be typed, or stands so in a file."""

    text: str


@dataclass(frozen=True)
class Link:
    """Words that lead to a file beside the report."""

    text: str
    to: str


Text = str | tuple[str | Bold | Code | Link, ...]


def pieces(text: Text) -> tuple[str | Bold | Code | Link, ...]:
    """A text piece by piece."""
    return (text,) if isinstance(text, str) else text


def joined(texts: Sequence[Text], between: str) -> Text:
    """Some texts as one."""
    found: list[str | Bold | Code | Link] = []
    for place, text in enumerate(texts):
        found += [*([between] if place else []), *pieces(text)]
    return tuple(found)


def plain(text: Text) -> str:
    """A text for a terminal."""
    return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces(text))


def markdown_words(text: Text) -> str:
    """A text as a paragraph of Markdown."""
    parts: list[str] = []
    for piece in pieces(text):
        if isinstance(piece, Code):
            parts.append(_fenced(visible(piece.text)))
            continue
        words = markdown_text(piece if isinstance(piece, str) else piece.text, in_brackets=isinstance(piece, Link))
        if isinstance(piece, Bold):
            words = f"**{words}**"
        elif isinstance(piece, Link):
            words = f"[{words}]({piece.to})"
        parts.append(words)
    return _FIRST_MARK.sub(r"\1\\", "".join(parts).lstrip())


def markdown_text(text: str, in_brackets: bool = False) -> str:
    """Plain text within a line of Markdown, or between brackets there: nothing in it is markup."""
    return (_MARKUP_IN_BRACKETS if in_brackets else _MARKUP).sub(r"\\\g<0>", visible(text))


def _fenced(code: str) -> str:
    longest = max(map(len, re.findall("`+", code)), default=0)
    if not longest:
        return f"`{code}`"
    fence = "`" * (longest + 1)
    return f"{fence} {code} {fence}"


def html_words(text: Text) -> str:
    """A text as HTML; of a link only its words, since a page stands alone."""
    return "".join(map(_piece_html, pieces(text)))


def _piece_html(piece: str | Bold | Code | Link) -> str:
    words = html_text(piece if isinstance(piece, str) else piece.text)
    if isinstance(piece, Bold):
        return f"<b>{words}</b>"
    return f"<code>{words}</code>" if isinstance(piece, Code) else words


def html_text(text: str) -> str:
    """Plain text for HTML."""
    return html.escape(visible(text))
