"""A document in Markdown, with names escaped."""

import re

from data_pipelines.common.printable import printable, visible
from trainer.document.blocks import Block, BulletList, Entry, Paragraph, Picture, Table, Title
from trainer.document.text import Bold, Code, Link, Text, pieces

# What Markdown, also GitHub's, takes for markup: not an underscore within a word, nor the brackets of "[0.1, 0.2]".
_MARKUP = re.compile(
    r"""\\(?=[!-/:-@\[-`{-~]|$)
    | [`*$]
    | (?<![^\W_])_ | _(?![^\W_])
    | (?<!/)~ | ~(?!\w)
    | \](?=[(\[:])
    | <(?=[a-zA-Z/!?])
    | &(?=\#?\w+;)
    | (?<!\S)\#(?=\#*$)""",
    re.VERBOSE,
)
_MARKUP_IN_BRACKETS = re.compile(_MARKUP.pattern + r" | [\[\]]", re.VERBOSE)
# What makes a list, a heading or a quotation of the line that it begins.
_FIRST_MARK = re.compile(r"^(\d{0,9})(?=[.)](?:\s|$)|\#{1,6}(?:\s|$)|[-+=](?:\s|$|[-=])|>)")


def as_markdown(blocks: list[Block]) -> str:
    """The document as Markdown; its figures are files beside it."""
    parts = []
    for block in blocks:
        if isinstance(block, Title):
            parts.append(f"{'#' * block.level} {markdown_text(printable(block.text))}")
        elif isinstance(block, Paragraph):
            parts.append(markdown_words(block.text))
        elif isinstance(block, BulletList):
            parts.append("\n".join(f"- {markdown_words(text)}" for text in block.texts))
        elif isinstance(block, Picture):
            parts.append(f"![{markdown_text(block.caption, in_brackets=True)}]({block.name}.png)")
        else:
            parts += [markdown_words(block.caption), "\n".join(_table(block))]
            parts += [markdown_words(" ".join(block.notes))] if block.notes else []
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> list[str]:
    """The lines of a table, without its caption and notes."""
    titles = [f"{column.group}, {column.title}" if column.group else column.title for column in table.columns]
    lines = [f"| {' | '.join(map(_cell_text, [table.stub, *titles]))} |", "|---|" + "---|" * len(titles)]
    for title, entries in table.rows:
        lines.append(f"| {' | '.join([_cell_text(title), *map(_entry, entries)])} |")
    return lines


def _cell_text(text: str) -> str:
    return markdown_text(printable(text)).replace("|", "\\|")


def _entry(entry: Entry) -> str:
    text = _cell_text(entry.text)
    stars = "**" * entry.best + "*" * entry.insignificant
    return f"{stars}{text}{stars[::-1]}" if text else ""


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
