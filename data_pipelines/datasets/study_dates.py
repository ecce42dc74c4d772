"""Dates of studies as a fact: kept only where the user asks for them, and no finer than asked for."""

from collections.abc import Sequence
from typing import Literal

from data_pipelines.common.dates import day_of, period_of
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import number

StudyDate = Literal["month", "day"]
FACT = "study_date"
_WHOLE = 8  # digits of YYYYMMDD


def study_dates(texts: Sequence[str], kept: StudyDate | None) -> tuple[list[str], list[str]]:
    """Of each StudyDate of a DICOM header its month, "2023-01", or day, "2023-01-14": "" for what is none, or where
    none is to be kept; and notes. Raises InputError where dates are asked for and there is none."""
    if kept is None:
        return [""] * len(texts), []
    dates = [_date_of(text, kept) for text in texts]
    without = dates.count("")
    if without == len(dates):
        raise InputError("--study-date is for DICOM files with a StudyDate, and none here has one; leave it out")
    notes = [f"the {kept} of each study is kept with its images, as --study-date asks"]
    return dates, notes + [f"{number(without, 'image')} without a StudyDate"] * bool(without)


def _date_of(text: str, kept: StudyDate) -> str:
    """Of YYYYMMDD, or YYYY.MM.DD as before 1993 (DICOM PS3.5, 6.2)."""
    day = day_of(text) if len(text.replace(".", "")) == _WHOLE else None
    if day is None:
        return ""
    return period_of(text, "month") if kept == "month" else day.isoformat()
