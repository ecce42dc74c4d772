"""The text of a report is what it was made of, in Markdown, in HTML and on a terminal."""

import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from nasty_names import NAMES, names

from data_pipelines.common.printable import printable, visible
from trainer.document.blocks import BulletList, Paragraph, Picture, Title
from trainer.document.html_page import as_page
from trainer.document.markdown import as_markdown, markdown_words
from trainer.document.text import Bold, Code, Link, Text, joined, plain

TEXT = (Bold("Mixed"), ": see ", Link("a [b]", "a.csv"), " and ", Code("x `y`"), ", not `y` or **b**.")


def html_of(text: Text) -> str:
    """A text as a page has it."""
    page = as_page([Title("t", 1), Paragraph(text)], Path())
    return page[page.index("<p>") + len("<p>") : page.index("</p>")]


def read(markdown: str) -> str:
    """What Markdown says, where every mark is escaped."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown)


def marks(markdown: str) -> list[str]:
    """The marks that are not escaped."""
    unescaped = re.sub(r"\\[!-/:-@\[-`{-~]", "\u00b7", markdown)
    return re.findall(r"[`*$]|(?<!/)~|~(?!\w)|\]\(|<[a-zA-Z/!?]|&#?\w+;|\b_ |^(?:#+|[-+]|>|\d+[.)])(?: |$)", unescaped)


def test_what_is_bold_or_code_says_so_itself() -> None:
    assert markdown_words(TEXT) == r"**Mixed**: see [a \[b\]](a.csv) and `` x `y` ``, not \`y\` or \*\*b\*\*."
    assert html_of(TEXT) == "<b>Mixed</b>: see a [b] and <code>x `y`</code>, not `y` or **b**."
    assert plain(TEXT) == "Mixed: see a [b] and x `y`, not `y` or **b**."
    assert joined(["a", (Bold("b"),)], ", ") == ("a", ", ", Bold("b"))


@pytest.mark.parametrize(
    "usual",
    [
        "padchest_cl: mean AUC 0.91 [0.85, 0.97], p < 0.001; 5% of https://x.org/~a/b_c & d (r50x1).",
        "+6.91 [-5.64, +19.46]",
        "mean ± standard deviation",
    ],
)
def test_usual_words_are_left_as_they_are(usual: str) -> None:
    assert markdown_words(usual) == usual


@given(names())
def test_no_name_is_markup_in_markdown(name: str) -> None:
    found = markdown_words(name)
    assert read(found) == visible(name).lstrip()
    assert marks(found) == []
    assert "\n" not in found
    as_markdown([Title(name), Paragraph(name), BulletList((name,)), Picture("file", name, 1.0)]).encode("utf-8")


@pytest.mark.parametrize("name", ["# a", "- a", "+ a", "> a", "1. a", "12) a", "---", "===", "#", "a #", "    code"])
def test_no_name_begins_a_list_or_heading(name: str) -> None:
    assert not re.match(r"[ #>]|[-+=]|\d+[.)]", markdown_words(name))
    assert read(as_markdown([Title(name)])) == f"## {printable(name)}\n"
    assert not re.search(r"(?<!\\)#$", as_markdown([Title(name)]).strip("\n"))


@given(names())
def test_no_name_is_markup_in_html(name: str) -> None:
    found = html_of(name)
    assert not set(found) & set("<>\"'")
    assert html.unescape(found) == visible(name)
    found.encode("utf-8")


def test_code_holds_any_name() -> None:
    for name in NAMES:
        found = markdown_words((Code(name),))
        fence = re.match("`+", found)
        assert fence is not None
        assert found.endswith(fence[0])
        assert fence[0] not in found[len(fence[0]) : -len(fence[0])]
