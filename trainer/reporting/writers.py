"""Tables as Markdown, LaTeX, HTML and rows of a CSV file."""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

import pandas as pd

from data_pipelines.common.printable import printable
from trainer.reporting.cells import p_text
from trainer.reporting.tables import Entry, Heading, Table
from trainer.reporting.words import html_text, markdown_text

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "–": "--",
}
_LATEX_SIGN = re.compile(rf"([-',])(?=\1)|[{re.escape(''.join(_LATEX))}]")  # TeX makes one sign of two such
_LIMITS = re.compile(r" \[(?=[-+]?\d|not available)")
_LONG = 60  # characters of a heading, which then has several lines
_FITS = 100  # characters of a row that fit the page in footnotesize


def markdown(table: Table) -> list[str]:
    """A table as lines of Markdown, without its caption and notes."""
    titles = [f"{column.group}, {column.title}" if column.group else column.title for column in table.columns]
    lines = [f"| {' | '.join(map(_markdown_text, [table.stub, *titles]))} |", "|---|" + "---|" * len(titles)]
    for title, entries in table.rows:
        lines.append(f"| {' | '.join([_markdown_text(title), *map(_markdown_entry, entries)])} |")
    return lines


def _markdown_text(text: str) -> str:
    return markdown_text(printable(text)).replace("|", "\\|")


def _markdown_entry(entry: Entry) -> str:
    text = _markdown_text(entry.text)
    stars = "**" * entry.best + "*" * entry.insignificant
    return f"{stars}{text}{stars[::-1]}" if text else ""


def latex(tables: Iterable[Table]) -> str:
    r"""Tables for \input; they need \usepackage{booktabs}. Full width of a page, also in two columns."""
    parts = ["% Needs \\usepackage{booktabs} in the preamble."]
    tables = list(tables)
    for table, label in zip(tables, _labels(tables), strict=True):
        groups = _groups(table.columns)
        wide = max((len(title) + sum(len(entry.text) for entry in row) for title, row in table.rows), default=0) > _FITS
        lines = [
            r"\begin{table*}",
            rf"\centering\{'script' if wide else 'footnote'}size\setlength{{\tabcolsep}}{{4pt}}",
            rf"\caption{{{_latex_text(' '.join([table.caption, *table.notes]))}}}\vspace{{4pt}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            *([] if groups is None else _latex_groups(groups)),
            _latex_row([_latex_text(table.stub), *(_latex_heading(column, groups) for column in table.columns)]),
            r"\midrule",
            *(
                _latex_row([_latex_text(title), *(_latex_entry(e, wide) for e in entries)])
                for title, entries in table.rows
            ),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex_text(text: str) -> str:
    found = _LATEX_SIGN.sub(lambda match: _LATEX.get(match[0], f"{match[0]}{{}}"), printable(text))
    return f"{{{found[0]}}}{found[1:]}" if found[:1] in ("[", "*") else found  # options of what ends the row before


def _labels(tables: Sequence[Table]) -> list[str]:
    labels: list[str] = []
    for table in tables:
        label = re.sub("[^A-Za-z0-9]+", "-", table.name)
        labels.append(f"{label}-{len(labels) + 1}" if label in labels else label)
    return labels


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_groups(groups: list[tuple[str, int]]) -> list[str]:
    heads = [rf"\multicolumn{{{width}}}{{c}}{{{_latex_text(name)}}}" for name, width in groups]
    rules, first = [], 2
    for _, width in groups:
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return [_latex_row(["", *heads]), "".join(rules)]


def _latex_heading(column: Heading, groups: list[tuple[str, int]] | None) -> str:
    return _latex_text(column.title if groups is None else column.short or column.title)


def _latex_entry(entry: Entry, wide: bool) -> str:
    text = _latex_text(entry.text)
    mean, limits = _without_limits(text)
    if wide and limits:  # below the mean
        return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{_latex_marked(mean, entry)}\\{{}}{limits}\end{{tabular}}"
    return _latex_marked(text, entry)


def _latex_marked(text: str, entry: Entry) -> str:
    if text and entry.insignificant:
        text = rf"\textit{{{text}}}"
    return rf"\textbf{{{text}}}" if text and entry.best else text


def _groups(columns: Sequence[Heading]) -> list[tuple[str, int]] | None:
    """The groups of neighbouring columns and their widths; None for columns without groups."""
    if not any(column.group for column in columns):
        return None
    return [(name, len(list(of_group))) for name, of_group in groupby(columns, key=lambda column: column.group)]


def as_html(table: Table) -> str:
    """A table as HTML with its caption above and its notes below; each cell says its seeds and its p value."""
    groups = _groups(table.columns)
    lines = ["<figure class=table>", f"<figcaption>{html_text(table.caption)}</figcaption>", "<table>", "<thead>"]
    if groups is not None:
        heads = [f"<th class=group colspan={width} scope=colgroup>{html_text(name)}</th>" for name, width in groups]
        lines.append(f"<tr><th></th>{''.join(heads)}</tr>")
    titles = [column.title if groups is None else column.short or column.title for column in table.columns]
    heads = [_html_head("col", title) for title in titles]
    lines += [f"<tr><th>{html_text(table.stub)}</th>{''.join(heads)}</tr>", "</thead>", "<tbody>"]
    for title, entries in table.rows:
        paper = " class=paper" if title.endswith(", paper") else ""
        cells = "".join(map(_html_entry, entries))
        lines.append(f"<tr{paper}>{_html_head('row', title)}{cells}</tr>")
    lines += ["</tbody>", "</table>"]
    lines += [f"<p class=note>{html_text(' '.join(table.notes))}</p>"] if table.notes else []
    return "\n".join([*lines, "</figure>"])


def _html_head(scope: str, title: str) -> str:
    long = " class=long" * (len(title) > _LONG)
    return f"<th{long} scope={scope}>{html_text(printable(title))}</th>"


def _without_limits(text: str) -> tuple[str, str]:
    """A value, and what stands in brackets behind it: an interval, or another spread; "" for neither, as in a name."""
    found = _LIMITS.search(text)
    return (text[: found.start()], text[found.start() + 1 :]) if found else (text, "")


def _html_entry(entry: Entry) -> str:
    text, limits = _without_limits(html_text(printable(entry.text)))
    if entry.insignificant:
        text = f"<i>{text}</i>"
    if entry.best:
        text = f"<b>{text}</b>"
    small = [limits] if limits else []
    if entry.cell and entry.cell.n:
        small.append(f"n = {entry.cell.n}")
    if entry.p is not None:
        small.append(html_text(f"{p_text(entry.p)} against {entry.against}"))
    aside = f"<small>{'; '.join(small)}</small>" if small else ""
    return f"<td>{text}{aside}</td>"


def as_rows(tables: Iterable[Table]) -> pd.DataFrame:
    """Every number of some tables, a row each, in full precision; percent."""
    rows = [
        {
            "table": table.name,
            "row": title,
            "group": column.group,
            "column": column.title,
            "mean": entry.cell.mean,
            "std": entry.cell.std,
            "printed_std": entry.cell.printed_std,
            "n": entry.cell.n,
            "not_a_number": entry.cell.not_numbers,
            "best": entry.best,
            "p": entry.p,
            "against": entry.against,
        }
        for table in tables
        for title, entries in table.rows
        for column, entry in zip(table.columns, entries, strict=True)
        if entry.cell and entry.text
    ]
    return pd.DataFrame(rows)
