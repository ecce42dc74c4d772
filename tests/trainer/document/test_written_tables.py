"""Tables in Markdown, LaTeX and HTML: marks, escapes, seeds and p values."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from nasty_names import names

from data_pipelines.common.printable import printable
from trainer.document.blocks import Cell, Entry, Heading, Table, Title
from trainer.document.html_page import as_page
from trainer.document.latex import latex
from trainer.document.markdown import as_markdown

CELL = Cell(75.904, 0.0534, 5)
TABLE = Table(
    "full_shot_a b",
    "Accuracy & more, 5% of <all>.",
    "target",
    (Heading("r50x1", "one_a"), Heading("r50x1", "one_a+two|b", "+two|b"), Heading("r152x4", "none")),
    (
        ("first_set", (Entry(CELL, best=True), Entry(CELL, best=True, p=0.25, against="one_a"), Entry())),
        ("first_set, paper", (Entry(Cell(1.0, math.nan, 1)), Entry(CELL, p=0.0001, against="one_a"), Entry())),
    ),
    ("A note: p ≥ 0.05.",),
)
HOSTILE = r"""a_b & 50% of $x$ #1 {c} ~d ^e \f <g> |h| "i" ± 1 × 2 – 3"""


def html(table: Table) -> str:
    """A table as a page has it."""
    page = as_page([Title("t", 1), table], Path())
    return page[page.index("<figure") : page.index("</figure>") + len("</figure>")]


def markdown(table: Table) -> list[str]:
    """The lines of a table in Markdown, without its caption and notes."""
    return as_markdown([table]).split("\n\n")[1].split("\n")


def test_markdown() -> None:
    assert markdown(TABLE) == [
        "| target | r50x1, one_a | r50x1, one_a+two\\|b | r152x4, none |",
        "|---|---|---|---|",
        "| first_set | **75.90 ± 0.05** | ***75.90 ± 0.05*** |  |",
        "| first_set, paper | 1.00 | 75.90 ± 0.05 |  |",
    ]


def test_latex() -> None:
    text = latex([TABLE])
    assert r"\caption{Accuracy \& more, 5\% of \textless{}all\textgreater{}. A note: p $\geq$ 0.05.}" in text
    assert r"\label{tab:full-shot-a-b}" in text
    assert r"\begin{tabular}{lrrr}" in text
    assert r" & \multicolumn{2}{c}{r50x1} & \multicolumn{1}{c}{r152x4} \\" in text
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}" in text
    assert r"target & one\_a & +two\textbar{}b & none \\" in text
    bold, both = r"\textbf{75.90 $\pm$ 0.05}", r"\textbf{\textit{75.90 $\pm$ 0.05}}"
    assert rf"first\_set & {bold} & {both} &  \\" in text
    assert text.count("{") == text.count("}")


def test_latex_escapes_every_special_character() -> None:
    text = latex([Table("t", HOSTILE, HOSTILE, (Heading("", HOSTILE),), ((HOSTILE, (Entry(words=HOSTILE),)),))])
    body = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}", "", text)
    body = body.replace(r"$\pm$", "").replace(r"$\times$", "")
    for line in body.splitlines():
        if "a\\_b" in line:
            assert not re.search(r"(?<!\\)[%$#_]", line)
            assert not re.search(r"[~^<>|±×–]", line)
            assert re.search(r"50\\% of \\\$x\\\$ \\#1 \\\{c\\\}", line)


def test_wide_intervals_stand_below_their_means() -> None:
    entries = (Entry(words="+6.91 [-5.64, +19.46]"),)
    narrow = Table("t", "c.", "", (Heading("", "1-shot"),), (("a", entries),))
    assert "a & +6.91 [-5.64, +19.46] \\\\" in latex([narrow])
    wide = Table("t", "c.", "", (Heading("", "1-shot"),) * 6, (("a", entries * 6),))
    assert r"\begin{tabular}[t]{@{}r@{}}+6.91\\{}[-5.64, +19.46]\end{tabular}" in latex([wide])
    assert "<td>+6.91<small>[-5.64, +19.46]</small></td>" in html(narrow)
    best = (Entry(Cell(88.54, 0.135, 5, printed_std=0.13), best=True),)
    wide = Table("t", "c.", "", (Heading("", "1-shot"),) * 6, (("a", best * 6),))
    assert r"{@{}r@{}}\textbf{88.54 $\pm$ 0.13}\\{}[0.14]\end{tabular}" in latex([wide])


class Tags(HTMLParser):
    """Checks that tags are closed in order, and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_says_seeds_and_p_values() -> None:
    page = html(TABLE)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "<b>75.90 ± 0.05</b><small>n = 5</small>" in page
    assert "<b><i>75.90 ± 0.05</i></b><small>n = 5; p = 0.250 against one_a</small>" in page
    assert "n = 5; p &lt; 0.001 against one_a" in page
    assert "<th class=group colspan=2 scope=colgroup>r50x1</th>" in page
    assert "Accuracy & more, 5% of <all>." in tags.text


@pytest.mark.parametrize("field", ["caption", "stub", "title", "words", "notes"])
def test_html_escapes(field: str) -> None:
    bad = "<script>alert('x')</script>&"
    parts = {"caption": "", "stub": "", "title": "", "words": "", "notes": ""} | {field: bad}
    rows = ((parts["title"], (Entry(words=parts["words"]),)),)
    page = html(Table("t", parts["caption"], parts["stub"], (Heading("", "c"),), rows, (parts["notes"],)))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


COMMANDS = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"\textasciigrave{}": "`", r"$\pm$": "±", r"$\times$": "×",
    r"$\geq$": "≥", r"-{}": "-", r"'{}": "'", r",{}": ",", "{[}": "[", "{*}": "*",
    **{f"\\{sign}": sign for sign in "{}&%$#_"},
}  # fmt: skip
TOKEN = re.compile("|".join(map(re.escape, sorted(COMMANDS, key=len, reverse=True))) + "|.", re.DOTALL)


def of(name: str) -> Table:
    """A table that has this name wherever one may stand."""
    heading = Heading(name, name, name)
    return Table(name, name, name, (heading,), ((name, (Entry(CELL),)), (name, (Entry(words=name),))), (name,))


def of_latex(text: str) -> str:
    """What TeX prints of an escaped text; fails where a special character is not escaped."""
    parts = [COMMANDS.get(token, token) for token in TOKEN.findall(text)]
    assert not {"\\", "{", "}", "&", "%", "$", "#", "_", "~", "^"} & {
        token for token in TOKEN.findall(text) if token not in COMMANDS
    }
    return "".join(parts)


@given(names(1))
def test_any_name_in_latex(name: str) -> None:
    text = latex([of(name)])
    text.encode("utf-8")
    row = text.split("\\midrule\n")[1].split(" & ")[0]
    assert not row.startswith(("[", "*"))
    assert not re.search(r"--|''|,,", row) or "–" in name
    assert of_latex(row).replace("--", "–") == printable(name).replace("--", "–")
    assert re.search(r"\\label\{tab:[A-Za-z0-9-]*\}", text)


def test_labels_of_tables_differ() -> None:
    labels = re.findall(r"tab:[A-Za-z0-9-]+", latex([of("猫"), of("犬"), of("a b")]))
    assert len(labels) == len(set(labels)) == 3


@given(names(1))
def test_any_name_in_html_and_markdown(name: str) -> None:
    tags = Tags()
    page = html(of(name))
    tags.feed(page)
    assert tags.open == []
    assert printable(name) in tags.text
    lines = markdown(of(name))
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}) == 1
    "\n".join([page, *lines]).encode("utf-8")


def test_names_that_end_like_an_interval_are_whole() -> None:
    assert "<td>left [upper] lobe 0.93</td>" in html(
        Table("t", "c", "", (Heading("", "a"),), (("b", (Entry(words="left [upper] lobe 0.93"),)),))
    )
