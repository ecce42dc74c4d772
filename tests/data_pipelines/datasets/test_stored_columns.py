"""Columns of a table that are stored as they are: paths and patients are refused, facts of no use are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from user_films import has_note, write_dicom

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.stored_columns import require_facts_apart
from data_pipelines.datasets.user_images import csv_table

Listed = Callable[..., tuple[Path, Path]]

ROWS = [["path", "who", "Nodule", "site"], *([f"{n}.png", f"p{n // 2}", n % 2, "AB"[n % 2]] for n in range(8))]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"fact_columns": ("site", "who")}, "--fact-columns names 'who', which is --patient-column"),
        ({"fact_columns": ("path",)}, "--fact-columns names 'path', which is --path-column"),
        ({"label_columns": (), "label_column": "who"}, "--label-column names 'who', which is --patient-column"),
        ({"label_columns": (), "label_column": "path"}, "--label-column names 'path', which is --path-column"),
        ({"label_columns": ("Nodule", "who")}, "--label-columns names 'who', which is --patient-column"),
    ],
)
def test_a_column_of_paths_or_patients_is_not_stored(flags: dict[str, Any], said: str, listed: Listed) -> None:
    root, table = listed(ROWS)
    with pytest.raises(InputError, match=said):
        csv_table(root, table, **{"label_columns": ("Nodule",), "patient_column": "who", "xray_size": 32} | flags)


def test_a_fact_that_is_the_patient_of_dicom_is_refused(tmp_path: Path, listed: Listed) -> None:
    rows = [["path", "label", "number"], *([f"{n}.dcm", "ab"[n % 2], f"p{n}" if n else ""] for n in range(6))]
    root, table = listed(rows)
    for number in range(6):
        write_dicom(root / f"{number}.dcm", PatientID=f"p{number}")
    with pytest.raises(InputError, match="--fact-columns names 'number', which numbers the patients") as refused:
        csv_table(root, table, label_column="label", fact_columns=("number",))
    assert "p1" not in str(refused.value)


def test_a_fact_that_is_a_patient_by_chance_is_kept() -> None:
    require_facts_apart(["34", "35", None], [{"age": "34"}, {"age": "71"}, {"age": "9"}])
    require_facts_apart(["A", "A"], [{"site": "A"}, {"site": "A"}])
    require_facts_apart(["34", "35"], [{"age": ""}, {}])
    with pytest.raises(InputError, match="'age'"):
        require_facts_apart(["34", "35"], [{"age": "34"}, {"age": "35"}])


@pytest.mark.parametrize(
    ("dates", "is_told"),
    [
        (["14.01.2023", "3.2.23", ""], True),
        (["01/14/2023 09:30:00", "1-2-2023"], True),
        (["2023-01-14", "14.01.2023"], False),
        (["2023-01-14 00:00:00", "20230114"], False),
        (["10.5", "1.2.3.4"], False),
        (["", ""], False),
    ],
)
def test_dates_that_end_with_the_year_are_told(dates: list[str], is_told: bool, listed: Listed) -> None:
    root, table = listed([["path", "label", "day"], *([f"{n}.jpg", "ab"[n % 2], day] for n, day in enumerate(dates))])
    raw = csv_table(root, table, label_column="label", fact_columns=("day",), val_fraction=0, test_fraction=0)
    assert has_note(raw, "'day' are dates that do not begin with a year", "write them as 2023-01-14") == is_told
    assert not any(dates[0] in note for note in raw.notes if dates[0])


@pytest.mark.parametrize(
    ("fact", "values", "is_told"),
    [
        ("accession", [f"A{n}" for n in range(24)], True),
        ("accession", [f"4820{n // 2:02d}" for n in range(48)], False),  # half as many as images
        ("site", ["A", "B"] * 12, False),
        ("age", [f"{n}" for n in range(20, 44)], False),
        ("day", [f"2023-{n % 12 + 1:02d}-{n + 1:02d}" for n in range(24)], False),
        ("day", [f"202301{n + 1:02d}" for n in range(24)], False),
        ("scanner", [f"S{n}" for n in range(20)], False),  # too few to say
    ],
)
def test_a_fact_with_a_value_for_each_image_is_told(
    fact: str, values: list[str], is_told: bool, listed: Listed
) -> None:
    rows = [["path", "label", fact], *([f"{n}.jpg", "ab"[n % 2], value] for n, value in enumerate(values))]
    root, table = listed(rows)
    raw = csv_table(root, table, label_column="label", fact_columns=(fact,), val_fraction=0, test_fraction=0)
    assert has_note(raw, f"the column {fact!r} has {len(values)} values", "prepare again without it") == is_told
    assert not any(values[0] in note for note in raw.notes if is_told)
