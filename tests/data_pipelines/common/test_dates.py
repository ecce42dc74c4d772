"""Dates as files have them, and the periods that they lie in."""

import pytest

from data_pipelines.common.dates import PERIODS, are_dates, period_of, place_of


@pytest.mark.parametrize(
    ("text", "month"),
    [
        ("20230114", "2023-01"),
        ("20230114093000.12+0100", "2023-01"),
        ("202301", "2023-01"),
        ("2023-01-14", "2023-01"),
        ("2023-1-4", "2023-01"),
        ("2023/12/31", "2023-12"),
        ("2023.12.31", "2023-12"),
        ("2023-12", "2023-12"),
        ("2023-12-31T23:59:59", "2023-12"),
        ("2023-12-31 23:59", "2023-12"),
        ("21801231", "2180-12"),  # as MIMIC shifts them
        ("", ""),
        ("2023", ""),
        ("20231301", ""),
        ("2023-02-30", ""),
        ("2023-12/31", ""),
        ("14.01.2023", ""),
        ("01/02/2023", ""),
        ("00000000", ""),
        ("january", ""),
        ("٢٠٢٣٠١١٤", ""),
    ],
)
def test_months(text: str, month: str) -> None:
    assert period_of(text, "month") == month


def test_quarters_and_years() -> None:
    quarters = [period_of(f"2023{month:02d}01", "quarter") for month in range(1, 13)]
    assert quarters == [f"2023-Q{quarter}" for quarter in (1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4)]
    assert period_of("2023-04", "year") == "2023"


def test_periods_follow_each_other_and_gaps_count() -> None:
    days = [f"{year}{month:02d}01" for year in (2022, 2023) for month in range(1, 13)]
    for period, per_year in zip(PERIODS, (12, 4, 1), strict=True):
        labels = sorted({period_of(day, period) for day in days})
        places = [place_of(label, period) for label in labels]
        assert places == list(range(places[0], places[0] + 2 * per_year))
    assert place_of("2023-03", "month") - place_of("2022-12", "month") == 3


def test_a_fact_is_of_dates_if_most_values_are() -> None:
    assert are_dates(["20230114", "", "", "unknown", "20230115"])
    assert not are_dates(["20230114", "12345678"])
    assert not are_dates(["", ""])
    assert not are_dates([])
