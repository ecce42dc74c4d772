"""Refuses what would store paths or patients as they are beside the images of a user's own set."""

from collections.abc import Iterable, Mapping, Sequence

from data_pipelines.common.errors import InputError

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
