"""Columns of a user's table that a set stores as they are: none of paths or patients, and dates that can be used."""

import re
from collections.abc import Iterable, Mapping, Sequence

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.table import Table

_YEAR_LAST = re.compile(r"\d{1,2}([-/.])\d{1,2}\1(\d\d|\d{4})([T ].*)?", re.ASCII)
_STORED = "a set stores such values as they are, and keeps paths and patients as hashes alone"


def require_columns_apart(identifying: Mapping[str, str | None], stored: Mapping[str, Sequence[str]]) -> None:
    """Raise InputError if a column of paths or patients is also one whose values are stored. Both by flag: the column
    it names, None without; the columns it names."""
    for flag, column in identifying.items():
        for other, columns in stored.items():
            if column is not None and column in columns:
                raise InputError(f"{other} names {column!r}, which is {flag}; {_STORED}: name another column")


def require_facts_apart(patients: Sequence[str | None], facts: Iterable[Mapping[str, str]]) -> None:
    """Raise InputError for a fact of a table that is the number of the patient wherever both are known, of several
    patients. patients, facts: of each image, in the same order; a blank fact is not known."""
    same: dict[str, set[str]] = {}
    other: set[str] = set()
    for patient, known in zip(patients, facts, strict=True):
        for name, value in known.items():
            if patient is None or not value:
                continue
            if value == patient:
                same.setdefault(name, set()).add(patient)
            else:
                other.add(name)
    repeated = sorted(name for name, found in same.items() if name not in other and len(found) > 1)
    if repeated:
        raise InputError(f"--fact-columns names {repeated[0]!r}, which numbers the patients; {_STORED}: leave it out")


def date_notes(table: Table, facts: Sequence[str]) -> list[str]:
    """Notes on the facts of which most values are dates that the evaluation does not take, such as 14.01.2023."""
    known = {fact: [*filter(None, table.cells[fact])] for fact in facts}
    return [
        f"most values of the column {fact!r} are dates that do not begin with a year, so that bitscale evaluate --by "
        "month cannot take them; write them as 2023-01-14, or 2023-01, and prepare again"
        for fact, values in known.items()
        if 2 * sum(_YEAR_LAST.fullmatch(value) is not None for value in values) > len(values)
    ]
