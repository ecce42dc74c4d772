"""Dates as DICOM headers and tables write them, and the months, quarters and years that they lie in."""

import re
from collections.abc import Iterable
from datetime import date
from typing import Literal, get_args

Period = Literal["month", "quarter", "year"]
PERIODS: tuple[Period, ...] = get_args(Period)
_PARTS: dict[Period, int] = {"month": 12, "quarter": 4, "year": 1}  # of a year
# 20230114 (DICOM's DA), 20230114093000.00+0100 (its DT), 202301, 2023-01-14, 2023/1/14, 2023.01.14 (DICOM before 1993),
# 2023-01, 2023-01-14T09:30. Orders in which the year is not first are left out: 01/02/2023 is one of two days.
_WHOLE = re.compile(r"(\d{4})(\d\d)(?:(\d\d)(?:\d\d){0,3}(?:\.\d+)?(?:[+-]\d{4})?)?", re.ASCII)
_PARTED = re.compile(r"(\d{4})([-/.])(\d{1,2})(?:\2(\d{1,2})(?:[T ].*)?)?", re.ASCII)


def day_of(text: str) -> date | None:
    """The day of a date, the first of its month where it has no day; None for what is no date."""
    if whole := _WHOLE.fullmatch(text):
        year, month, day = whole.groups()
    elif parted := _PARTED.fullmatch(text):
        year, _, month, day = parted.groups()
    else:
        return None
    try:
        return date(int(year), int(month), int(day or 1))
    except ValueError:
        return None


def are_dates(texts: Iterable[str]) -> bool:
    """Whether more than half of the texts that are not blank are dates."""
    found = [day_of(text) is not None for text in texts if text]
    return 2 * sum(found) > len(found)


def period_of(text: str, period: Period) -> str:
    """The period of a date: "2023-01", "2023-Q1" or "2023", in whose order they follow each other; "" for what is no
    date."""
    if (day := day_of(text)) is None:
        return ""
    if period == "year":
        return f"{day.year:04d}"
    return f"{day.year:04d}-Q{(day.month + 2) // 3}" if period == "quarter" else f"{day.year:04d}-{day.month:02d}"


def place_of(label: str, period: Period) -> int:
    """The place of a period among all of its kind, so that gaps between two can be seen. label: of `period_of`."""
    year, _, part = label.partition("-")
    return int(year) * _PARTS[period] + int(part.lstrip("Q") or 0)
