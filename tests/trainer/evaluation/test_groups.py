"""Groups of an evaluation: which images are in them, and what page, numbers and table say of them."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from tiny_runs import FINDINGS, SIDE, prepare_films, train_tiny, write_films

from benchmarks.shift_errors import Design
from data_pipelines.common.errors import InputError
from data_pipelines.datasets.user_images import csv_table
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from trainer.document.markdown import as_markdown
from trainer.evaluation.assessment.assess import assess
from trainer.evaluation.assessment.groups import MOST_GROUPS, Groups, assess_groups, group_by
from trainer.evaluation.assessment.output_names import NUMBERS
from trainer.evaluation.assessment.shifts import Comparison
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.evaluate_run import Evaluate, evaluate_run
from trainer.evaluation.pages.group_page import GROUPS, group_blocks, group_warnings
from trainer.evaluation.pages.group_table import write_groups
from trainer.evaluation.pages.tables import subgroups
from trainer.evaluation.statistics.predictions import Predictions
from trainer.run_files import PREDICTIONS

NOTHING, MOVED = (Design(6, 200, 2, -1.0, moved=moved, by=3.0) for moved in ("nothing", "calibration"))


def drawn(design: Design, seed: int = 0) -> tuple[Predictions, list[str]]:
    """Predictions, and the day of each image in the months of the groups, with a gap before the last."""
    predictions, group = design.draw(np.random.default_rng(seed))
    return predictions, [f"2023{month + 1 + 3 * (month == 5):02d}{1 + row % 28:02d}" for row, month in enumerate(group)]


def with_facts(**facts: list[str]) -> Predictions:
    count = len(next(iter(facts.values())))
    keys = tuple(map(str, range(count)))
    return Predictions(("x",), keys, np.zeros((count, 1)), np.zeros((count, 1)), np.full(count, -1), facts)


def test_months_quarters_and_years_of_the_one_fact_with_dates() -> None:
    made = with_facts(taken=["20230301", "2022-12-31", "", "1.2.2023", "20230302"], sex=["M", "F", "", "M", "M"])
    for by, names, labels in (
        ("month", ["2022-12", "2023-03"], [1, 0, -1, -1, 1]),
        ("quarter", ["2022-Q4", "2023-Q1"], [1, 0, -1, -1, 1]),
        ("year", ["2022", "2023"], [1, 0, -1, -1, 1]),
        ("taken", ["2022-12", "2023-03"], [1, 0, -1, -1, 1]),
        ("sex", ["F", "M"], [1, 0, -1, 1, 1]),
    ):
        found = group_by(made, by)
        assert (found.names, found.labels.tolist(), found.fact) == (names, labels, "sex" if by == "sex" else "taken")
    assert group_by(made, "month").remarks == [
        "1 image without taken: in no group.",
        "1 image whose taken is no date that begins with a year, such as '1.2.2023': in no group.",
    ]
    assert set(made.grouped()["taken"]) == {"2022-12", "2023-03", "unknown"}  # not a group for each day


def test_a_fact_called_month_is_taken_as_it_is() -> None:
    made = with_facts(month=["1", "2", "2"], date=["20230101", "20230201", "20230301"])
    assert group_by(made, "month").names == ["1", "2"]
    assert group_by(with_facts(age=["3", "50", "old", ""]), "age").remarks[1].startswith("1 image whose age is no age")


@pytest.mark.parametrize(
    ("facts", "by", "words"),
    [
        (
            {"sex": ["M", "F"]},
            "month",
            r"holds dates that begin with a year, such .*\(it keeps sex\).* --fact-columns names",
        ),
        ({"date": ["14.01.2023", "15.01.2023"]}, "year", "such as 2023-01-14 or 2023-01"),
        ({"sex": ["M", "F"]}, "sexe", r"keeps no such fact; did you mean 'sex'\?$"),
        ({"sex": ["M", "F"]}, "vendor", r"keeps no such fact; it keeps sex; .* --fact-columns .*, then .* --data$"),
        ({"a": ["20230101"], "b": ["20230102"]}, "year", "a and b hold dates; say which by its own name"),
        ({"sex": ["", ""]}, "sex", "sex is not known of any image; take another split with --split"),
        ({"sex": ["", ""], "site": ["A", ""]}, "sex", "sex is not known of any image; take --by site$"),
        (
            {"name": [f"n{number}" for number in range(MOST_GROUPS + 1)]},
            "name",
            "makes 121 groups, more than 120; .* --fact-columns",
        ),
        (
            {"day": [f"{year}{month:02d}01" for year in range(2000, 2011) for month in range(1, 13)]},
            "month",
            "makes 132 groups, more than 120; take --by year",
        ),
    ],
)
def test_what_cannot_be_grouped(facts: dict[str, list[str]], by: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        group_by(with_facts(**facts), by)


def test_a_set_without_facts_says_so() -> None:
    made = replace(with_facts(sex=["M"]), facts={})
    for by in ("month", "sex"):
        with pytest.raises(InputError, match=r"it keeps none.* --fact-columns .*, then name the new set .* --data$"):
            group_by(made, by)


def test_numbers_of_a_group_are_those_of_its_images() -> None:
    predictions, days = drawn(NOTHING)
    whole = assess(replace(predictions, facts={"day": days}), OperatingPoints(), 200)
    groups = assess_groups(whole, "month")
    assert [group.name for group in groups.groups] == [f"2023-0{month}" for month in (1, 2, 3, 4, 5, 9)]
    places = [group.place for group in groups.groups]
    assert np.diff(places).tolist() == [1, 1, 1, 1, 4]
    rows = np.flatnonzero([day.startswith("202304") for day in days])
    alone = assess(predictions.take(rows), OperatingPoints(), 200)
    found = groups.groups[3].findings[0]
    assert found.finding.auc == alone.findings[0].auc
    assert found.finding.shares == alone.findings[0].shares
    labels, odds = predictions.labels[rows, 0], predictions.logits[rows, 0].astype(np.float64)
    probability = 1 / (1 + np.exp(-odds))
    assert found.prevalence.value == pytest.approx(labels.mean())
    assert found.prevalence.low < labels.mean() < found.prevalence.high
    assert found.predicted == pytest.approx(probability.mean())
    assert found.excess.value == pytest.approx((labels - probability).mean())
    assert found.excess.low < found.excess.value < found.excess.high
    slopes = [each for each in groups.comparisons if (each.group, each.measure) == ("2023-04", "slope")]
    assert found.slope == pytest.approx(slopes[0].value)
    assert groups.moved == []
    assert group_warnings(groups) == []


def test_few_labelled_patients_have_no_interval() -> None:
    predictions, days = drawn(NOTHING)
    labels = predictions.labels.copy()
    of_may = np.flatnonzero([day.startswith("202305") for day in days])
    kept = np.isin(predictions.patients[of_may], np.unique(predictions.patients[of_may])[:9])
    labels[of_may[~kept], 0] = np.nan
    made = replace(predictions, labels=labels, facts={"day": days})
    found = assess_groups(assess(made, OperatingPoints(), 20), "month").groups[4].findings
    assert "9 patients, fewer than 10" in found[0].prevalence.reason
    assert found[0].excess.reason == "a mean over 9 patients, fewer than 10"
    assert not found[1].prevalence.reason
    assert not found[1].excess.reason


def test_the_surest_of_what_moved_comes_first() -> None:
    known = [("a", 2.0, 0.04), ("b", -9.0, 0.01), ("c", 1.0, 0.2), ("d", 3.0, 0.01)]
    found = [Comparison("prevalence", "x", name, 0.1, 0.2, z, p) for name, z, p in known]
    assert [each.group for each in Groups("month", "day", "month", [], found, []).moved] == ["b", "d", "a"]


def test_what_moved_is_warned_of_by_name() -> None:
    predictions, days = drawn(MOVED)
    days[:3] = ["", "", "x"]
    groups = assess_groups(assess(replace(predictions, facts={"day": days}), OperatingPoints(), 200), "month")
    calibration = next(line for line in group_warnings(groups) if "calibration moved" in line)
    assert "finding 0 in 2023-09 +0." in calibration
    assert "(p = 0.005)" in calibration
    assert group_warnings(groups)[-2:] == groups.remarks


@pytest.mark.parametrize(("fact", "title"), [("study_date", "date of study"), ("my_site", "my_site")])
def test_dates_of_studies_have_a_readable_title(fact: str, title: str) -> None:
    predictions, _ = drawn(MOVED)
    table = subgroups(assess(predictions, OperatingPoints(), 20), fact, [])
    assert table.caption.startswith(f"By {title}. ")
    assert table.stub == title


def test_slopes_far_from_one_are_told_by_direction() -> None:
    found = [
        Comparison("slope", "x", "a", -39.88, 80.14, -4.0, 0.01),
        Comparison("slope", "x", "b", 0.25, -10.0, -3.0, 0.01),
    ]
    (line,) = group_warnings(Groups("month", "day", "month", [], found, []))
    assert "x in a below -10, elsewhere above 10 (" in line
    assert "x in b 0.25, elsewhere -10.00 (" in line


def test_blocks_and_table_name_what_moved(tmp_path: Path) -> None:
    predictions, days = drawn(MOVED)
    whole = assess(replace(predictions, facts={"day": days}), OperatingPoints(), 200)
    groups = assess_groups(whole, "month")
    page = as_markdown(group_blocks(groups, whole, tmp_path))
    surest = groups.moved[0]
    assert f"{len(groups.moved)} comparisons of {len(groups.comparisons)} show a difference" in page
    assert f"| {surest.finding} | {surest.measure} | {surest.group} |" in page
    one = replace(groups, comparisons=[surest, *(each for each in groups.comparisons if each not in groups.moved)])
    assert "1 comparison of " in (alone := as_markdown(group_blocks(one, whole, tmp_path)))
    assert " shows a difference" in alone
    for finding in (each.name for each in whole.findings):
        assert f"{finding} by month" in page
    assert [path.stat().st_size > 1000 for path in tmp_path.glob("*.*")] == [True]
    write_groups(tmp_path / GROUPS, groups)
    with (tmp_path / GROUPS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(groups.groups) * len(whole.findings)
    row = next(row for row in rows if (row["month"], row["finding"]) == (surest.group, surest.finding))
    assert float(row[f"p, {surest.measure}"]) == pytest.approx(surest.p, abs=1e-4)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose test set is replaced by a larger one, of months of which the last moved."""
    films = write_films(tmp_path_factory.mktemp("films") / "raw")
    run = train_tiny(prepare_films(films, films.parent / "hospital"), films.parent / "run")
    made, days = drawn(MOVED)
    with np.load(run / PREDICTIONS) as file:
        kept = {name: file[name] for name in file.files if not name.startswith("test_")}
    test = {
        "test_keys": made.keys,
        "test_logits": made.logits,
        "test_labels": made.labels,
        "test_patients": made.patients,
        "test_fact_date": days,
        "test_fact_site": ["AB"[patient % 2] for patient in made.patients],
    }
    np.savez(run / PREDICTIONS, **kept, **{name: np.array(values) for name, values in test.items()})
    return run


def evaluated(run: Path, **options: Any) -> tuple[str, dict[str, Any], Path]:
    page = evaluate_run(Evaluate(run, force=True, images=False, resamples=200, device="cpu", threads=1, **options))
    return page.read_text(), json.loads((page.parent / NUMBERS).read_text()), page.parent / GROUPS


@pytest.mark.slow
def test_page_numbers_and_table_say_the_same(run_dir: Path, tmp_path: Path) -> None:
    page, numbers, path = evaluated(run_dir, by="month", out=tmp_path)
    with path.open(newline="") as file:
        rows = {(row["month"], row["finding"]): row for row in csv.DictReader(file)}
    found = numbers["by"]
    assert (found["by"], found["fact"], len(rows)) == ("month", "date", 12)
    moved = [each for each in found["comparisons"] if each["p"] <= found["significant"]]
    assert {"calibration"} <= {each["measure"] for each in moved if each["group"] == "2023-09"}
    for group in found["groups"]:
        for name in FINDINGS:
            row, has = rows[group["value"], name], group["findings"][name]
            assert float(row["prevalence"]) == has["prevalence"]["value"] == has["positives"] / has["images"]
            assert float(row["AUC low"] or "nan") == pytest.approx(has["auc"]["low"] or np.nan, nan_ok=True)
            assert float(row["label less probability"]) == has["label_less_probability"]["value"]
    for each in found["comparisons"]:
        if each["group"] is not None:
            title = "p, calibration slope" if each["measure"] == "slope" else f"p, {each['measure']}"
            assert float(rows[each["group"], each["finding"]][title]) == each["p"]
    assert "By month, calibration moved: " in page
    assert any(warning.startswith("By month, calibration moved: ") for warning in numbers["warnings"])
    assert page.index("By month, calibration") < page.index("<h2") < page.index("What moved by month")
    assert "By date." not in page  # which would be the same table again
    assert "By site." in page


@pytest.mark.slow
def test_other_groups_replace_the_table_and_none_takes_it_away(run_dir: Path, tmp_path: Path) -> None:
    page, numbers, path = evaluated(run_dir, by="site", out=tmp_path)
    assert path.read_text().startswith("site,finding,")
    assert {each["group"] for each in numbers["by"]["comparisons"]} == {"A"}  # of two, one is compared with the other
    assert "and a trend over all" not in page
    _, numbers, path = evaluated(run_dir, out=tmp_path)
    assert numbers["by"] is None
    assert not path.exists()
    with pytest.raises(InputError, match="keeps no such fact; did you mean 'site'"):
        evaluated(run_dir, by="sites", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_months_of_dicom_headers_reach_the_page(tmp_path: Path) -> None:
    films = write_films(tmp_path / "raw")
    for number, path in enumerate(sorted(films.glob("*.dcm"))):
        film = pydicom.dcmread(path)
        film.StudyDate = f"2023{1 + number // 48:02d}{1 + number % 28:02d}"
        film.save_as(path)
    raw = csv_table(
        films, films / "films.csv", label_columns=FINDINGS, split_column="split", xray_size=SIDE, study_date="month"
    )
    prepare(raw, Output(tmp_path / "hospital"))
    run = train_tiny(tmp_path / "hospital", tmp_path / "run")
    page, numbers, _ = evaluated(run, by="month", out=tmp_path / "page")
    assert numbers["by"]["fact"] == "study_date"
    assert [group["value"] for group in numbers["by"]["groups"]] == ["2023-01", "2023-02"]
    assert "By month" in page
