"""The blocks of a document: headings, paragraphs, lists, tables and figures."""

import re
from dataclasses import dataclass
from itertools import groupby

from trainer.document.text import Text

SIGNIFICANT = 0.05
"""The p value below which a difference is called significant."""
_LIMITS = re.compile(r" \[(?=[-+]?\d|not available)")


@dataclass(frozen=True)
class Title:
    """A heading; level 1 is the document's own."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """on_page: it is included in the HTML page."""

    text: Text
    warning: bool = False
    on_page: bool = True


@dataclass(frozen=True)
class BulletList:
    """A list of texts."""

    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Picture:
    """A figure on disk: `<name>.png` and `<name>.svg`, its caption, and its width in inches."""

    name: str
    caption: str
    width: float


@dataclass(frozen=True)
class Cell:
    """A metric over seeds, in percent. std: sample standard deviation, NaN for fewer than two seeds; n: number of seeds
    in the mean; not_numbers: number of further seeds, whose metric is NaN. printed_std: the published value, where
    `std` corrects it."""

    mean: float
    std: float
    n: int
    not_numbers: int = 0
    printed_std: float | None = None

    def text(self, plus_minus: str = " ± ") -> str:
        """Mean and spread as a table has them; says so where seeds are missing from the mean. A printed spread comes
        first, the corrected one in brackets."""
        if self.n == 0:
            return f"NaN ({self.not_numbers} of {self.not_numbers})" if self.not_numbers else ""
        spread = f"{plus_minus}{self.std:.2f}" if self.n > 1 else ""
        if self.printed_std is not None:
            spread = f"{plus_minus}{self.printed_std:.2f} [{self.std:.2f}]"
        missing = f" ({self.not_numbers} of {self.n + self.not_numbers} NaN)" if self.not_numbers else ""
        return f"{self.mean:.2f}{spread}{missing}"


@dataclass(frozen=True)
class Entry:
    """A table entry. p: of Welch's test against the same model's next smaller source, `against`."""

    cell: Cell | None = None
    words: str = ""
    best: bool = False
    p: float | None = None
    against: str = ""

    @property
    def text(self) -> str:
        """What is printed."""
        return self.cell.text() if self.cell else self.words

    @property
    def insignificant(self) -> bool:
        """Whether more pre-training data made no significant difference."""
        return self.p is not None and self.p >= SIGNIFICANT


@dataclass(frozen=True)
class Heading:
    """A column heading: its group, such as a model, its full title, and a shorter one for use below the group."""

    group: str
    title: str
    short: str = ""


@dataclass(frozen=True)
class Table:
    """A table as data. stub: the head of the row titles. rows: (title, an entry for each column)."""

    name: str
    caption: str
    stub: str
    columns: tuple[Heading, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of neighbouring columns and their widths in columns; [] for columns without groups."""
        if not any(column.group for column in self.columns):
            return []
        return [(name, len(list(columns))) for name, columns in groupby(self.columns, key=lambda column: column.group)]

    @property
    def heads(self) -> list[str]:
        """The titles of the columns, short where their groups stand above them."""
        return [column.short or column.title if self.groups else column.title for column in self.columns]


Block = Title | Paragraph | BulletList | Table | Picture


def p_text(p: float) -> str:
    """A p value as printed in tables."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def without_limits(text: str) -> tuple[str, str]:
    """A value, and what stands in brackets behind it: an interval, or another spread; "" for neither, as in a name."""
    found = _LIMITS.search(text)
    return (text[: found.start()], text[found.start() + 1 :]) if found else (text, "")
