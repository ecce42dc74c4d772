"""Tables in LaTeX. The template escapes whatever it prints."""

import re
from collections.abc import Iterable, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data_pipelines.common.printable import printable
from trainer.document.blocks import Table, without_limits

_COMMANDS = {
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
    "α": r"$\alpha$",
    "∞": r"$_\infty$",
    "–": "--",
}
_SIGN = re.compile(rf"([-',])(?=\1)|[{re.escape(''.join(_COMMANDS))}]")  # TeX makes one sign of two such
_FITS = 100  # characters of a row that fit the page in footnotesize


def latex(tables: Iterable[Table]) -> str:
    r"""Tables for \input; they need \usepackage{booktabs}. Full width of a page, also in two columns."""
    tables = list(tables)
    rows = zip(tables, _labels(tables), map(_is_wide, tables), strict=True)
    return _environment().get_template("tables.tex.j2").render(tables=rows)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trainer.document"),
        autoescape=True,
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters |= {"escaped": _escaped, "limits": without_limits}
    return environment


def _escaped(value: object) -> Markup:
    """A text as TeX prints it. As markup, so that it is not escaped again, nor for HTML."""
    if isinstance(value, Markup):
        return value
    found = _SIGN.sub(lambda match: _COMMANDS.get(match[0], f"{match[0]}{{}}"), printable(str(value)))
    # At the beginning of a row these would be options of the command that ends the row before.
    return Markup(f"{{{found[0]}}}{found[1:]}" if found[:1] in ("[", "*") else found)


def _is_wide(table: Table) -> bool:
    """Whether a row does not fit the page, so that intervals stand below their means."""
    return any(len(title) + sum(len(entry.text) for entry in entries) > _FITS for title, entries in table.rows)


def _labels(tables: Sequence[Table]) -> list[str]:
    labels: list[str] = []
    for table in tables:
        label = re.sub("[^A-Za-z0-9]+", "-", table.name)
        labels.append(f"{label}-{len(labels) + 1}" if label in labels else label)
    return labels
