"""Columns of a user's table that a set stores as they are: none of paths or patients, and notes on facts of no use."""

import re
from collections.abc import Iterable, Mapping, Sequence

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.table import Table

_FEW = 20  # images, of which each may have its own value by chance
# Less than `dates.are_dates` takes: an accession number of twelve digits may begin like a date and go on like a time.
_YEAR_FIRST = re.compile(r"(19|20)\d\d(\d{4}|[-/.]\d{1,2}([-/.]\d{1,2})?)([T ].*)?", re.ASCII)
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


def fact_notes(table: Table, facts: Sequence[str]) -> list[str]:
    """Notes on the facts that are of no use to the evaluation: most values are dates such as 14.01.2023, or most are
    of one image alone, as accession numbers are. No value is named."""
    notes = []
    for fact in facts:
        values = [*filter(None, table.cells[fact])]
        if _are_mostly(_YEAR_LAST, values):
            notes.append(
                f"most values of the column {fact!r} are dates that do not begin with a year, so that bitscale "
                "evaluate --by month cannot take them; write them as 2023-01-14, or 2023-01, and prepare again"
            )
        elif _are_mostly_of_one_image(fact, values):
            notes.append(
                f"the column {fact!r} has {len(set(values)):,} values in {len(values):,} images, too many to tell "
                "results apart by; if they say who a patient is, prepare again without it, as the set and its "
                "pages show them"
            )
    return notes


def _are_mostly(pattern: re.Pattern[str], values: Sequence[str]) -> bool:
    return 2 * sum(pattern.fullmatch(value) is not None for value in values) > len(values)


def _are_mostly_of_one_image(fact: str, values: Sequence[str]) -> bool:
    """Of neither ages nor dates, which the evaluation puts into bands and months."""
    is_banded = fact.casefold() == "age" or _are_mostly(_YEAR_FIRST, values)
    return len(values) > _FEW and 2 * len(set(values)) > len(values) and not is_banded
