"""Reading of user tables: separators, encodings and missing values."""

import codecs
import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest, nearest_of_several
from data_pipelines.datasets.similar_names import composed

_SEPARATORS = ",;\t|"
_IN_NO_TEXT = "\x1f"  # for a table of one column, whose cells may hold all the others
# Blank rows, and the line by which Excel knows the separator.
_BEFORE_NAMES = re.compile(r'(?:[,;\t| "]*(?:\r\n|\r|\n))*(?:sep=(?P<separator>[^\r\n])(?:\r\n|\r|\n))?')
_HEADER_CHARACTERS = 1 << 16
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NO_TEXT = {
    b"PK\3\4": "an Excel or LibreOffice workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed",
}
# What programs write where there is nothing, and Excel where there is an error.
_MISSING = {
    "nan", "-nan", "+nan", "none", "null", "nil", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "nat", "-1.#ind",
    "1.#qnan", "\\n", "-", "--", ".", "#ref!", "#value!", "#name?", "#div/0!", "#num!", "#null!",
}  # fmt: skip
# What programs that remove names write for all patients.
_NOBODY = {
    "anon", "anonym", "anonymous", "anonymized", "anonymised", "deidentified", "de-identified", "patient", "redacted",
    "removed", "unknown", "xxx", "xxxx", "xxxxx",
}  # fmt: skip
_WHOLE = re.compile(r"([+-]?[0-9]+)\.0*")
LITERAL = "--literal-nan"


def is_missing(cell: str) -> bool:
    """Whether a cell that is not blank is what programs write for one: nan, None, NULL, NA, n/a, - ..."""
    return cell.casefold() in _MISSING


def is_anonymous(patient: str) -> bool:
    """Whether a name of a patient is what stands for those whose names were removed: ANONYMOUS, unknown ..."""
    return patient.casefold() in _NOBODY


@dataclass(frozen=True)
class Table:
    """Some columns of a table: the cells of each, stripped, and the lines of the file that they stand in."""

    path: Path
    cells: dict[str, list[str]]
    lines: list[int]

    def at(self, row: int) -> str:
        return f"{self.path} line {self.lines[row]}"

    def require_text(self, column: str, rows: Iterable[int] | None = None) -> None:
        """Raise InputError for a cell of these rows, or of any, that is not UTF-8."""
        for row in range(len(self.lines)) if rows is None else rows:
            if not _is_text(self.cells[column][row]):
                raise InputError(f"{self.at(row)}: {column!r} is not UTF-8 text; {_to_utf8(self.path)}")

    def require_stated(self, column: str, remedy: str) -> None:
        """Raise InputError, with the remedy, for a cell that says by a word that there is nothing in it."""
        for row, cell in enumerate(self.cells[column]):
            if is_missing(cell):
                raise InputError(
                    f"{self.at(row)}: {column!r} is {cell!r}, which most programs write for a value that is missing; "
                    f"{remedy}, or take such words as they stand with {LITERAL}"
                )

    def require_named_patients(self, column: str, remedy: str) -> None:
        """Raise InputError, with the remedy, where a word for nobody stands as the patient of several rows."""
        counts = Counter(self.cells[column])
        for row, cell in enumerate(self.cells[column]):
            if counts[cell] > 1 and is_anonymous(cell):
                raise InputError(
                    f"{self.at(row)}: {column!r} is {cell!r}, as in {counts[cell]:,} rows: all whose names were "
                    f"removed would be one patient; {remedy}, or take such words as they stand with {LITERAL}"
                )

    def require_one_spelling(self, column: str) -> None:
        """Raise InputError where a number stands as 1 in one row and as 1.0 in another."""
        cells = self.cells[column]
        known = set(cells)
        for row, cell in enumerate(cells):
            whole = _WHOLE.fullmatch(cell)
            if whole and whole[1] in known:  # the number itself may be a patient's
                raise InputError(
                    f"{self.at(row)}: {column!r} is a number with a point that line "
                    f"{self.lines[cells.index(whole[1])]} has without one; write 1 instead of 1.0"
                )


def read_table(
    path: Path, columns: Sequence[str], option: str = "", remedy: str = "", listed: Collection[str] = ()
) -> Table:
    """These columns of a table with their names in the first row: UTF-8, or UTF-16 with its mark, separated by commas,
    semicolons, tabs or bars. Rows without any content are passed over.

    option: of the command line, before the name of the file; remedy: for a column that is not there. listed: the
    columns that come from lists of names.
    Raises InputError for what is no such table.
    """
    label = f"{option} {path}".strip()
    if not path.is_file():
        raise InputError(f"{label} is not a file")
    text, separators, first_line = _content(path, label)
    try:
        separator, header = _header(text, separators, columns)
        places = {name: _place(path, name, header, label, remedy, name in listed) for name in columns}
        cells: dict[str, list[str]] = {name: [] for name in columns}
        lines = []
        for line, row in _rows(text, separator):
            if len(row) < len(header) or any(row[len(header) :]):
                raise InputError(f"{path} line {line + first_line} has {len(row)} cells, the first has {len(header)}")
            lines.append(line + first_line)
            for name, place in places.items():
                cells[name].append(row[place])
    except csv.Error as error:
        raise InputError(f"{label} cannot be read as CSV ({error}); it must be UTF-8 text with commas") from error
    if not lines:
        raise InputError(f"{label} has no rows; write them below the names of its columns")
    return Table(path, cells, lines)


def _content(path: Path, label: str) -> tuple[str, Sequence[str], int]:
    """The text, the separators that it may have, and how many lines of the file stand before it."""
    try:
        encoded = path.read_bytes()
        for beginning, what in _NO_TEXT.items():
            if encoded.startswith(beginning):
                raise InputError(f"{label} is {what}; save it as CSV with the encoding UTF-8")
        if encoded.startswith(_UTF16):
            text = encoded.decode("utf-16")
        else:
            text = encoded.decode("utf-8-sig", errors="surrogateescape")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{label} cannot be read ({error})") from error
    if "\0" in text:
        order = "BE" if text.startswith("\0") else "LE"
        raise InputError(f"{label} holds zero bytes, as UTF-16 does; {_to_utf8(path, f'UTF-16{order}')}")
    if not text.strip():
        raise InputError(f"{label} is empty; its first row must name the columns")
    before = _BEFORE_NAMES.match(text)
    assert before is not None
    return text[before.end() :], before["separator"] or _SEPARATORS, len(before[0].splitlines())


def _to_utf8(path: Path, encoding: str = "WINDOWS-1252") -> str:
    made = path.with_name(f"{path.stem}-utf8{path.suffix}")
    convert = f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(made))}"
    return f"save it with the encoding UTF-8 (Excel: CSV UTF-8), or convert it: {convert}"


def _is_text(cell: str) -> bool:
    return cell.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in cell)


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The line of each row below the first that is not blank, and its cells, stripped."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    next(rows)
    for row in rows:
        stripped = [cell.strip() for cell in row]
        if any(stripped):
            yield rows.line_num, stripped


def _header(text: str, separators: Sequence[str], columns: Sequence[str]) -> tuple[str, list[str]]:
    """The separator, and the names of the columns up to the last that has one: by the first separator that gives all
    `columns`, else by that which gives the most names."""
    headers = {separator: _split(text, separator) for separator in separators}
    having = [separator for separator, names in headers.items() if {composed(name) for name in columns} <= {*names}]
    best = having[0] if having else max(headers, key=lambda separator: len(headers[separator]))
    if len(headers[best]) == 1:
        return _IN_NO_TEXT, headers[best]
    return best, headers[best]


def _split(text: str, separator: str) -> list[str]:
    row = next(csv.reader(io.StringIO(text[:_HEADER_CHARACTERS], newline=""), delimiter=separator))
    names = [composed(name.strip()) for name in row]
    while names and not names[-1]:
        names.pop()
    return names


def _place(path: Path, name: str, header: list[str], label: str, remedy: str, is_listed: bool) -> int:
    name = composed(name)
    if header.count(name) == 1:
        return header.index(name)
    if not all(map(_is_text, header)):
        raise InputError(f"{label} is not UTF-8 text; {_to_utf8(path)}")
    meant = nearest_of_several(name, header) if is_listed else nearest(name, header)
    fault = f"two columns {name!r}; rename one" if name in header else f"no column {name!r}{meant}"
    raise InputError(f"{label} has {fault}{remedy}")
