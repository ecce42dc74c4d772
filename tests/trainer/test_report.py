"""The report as a user gets it: its files, what they say together, and the paper's own numbers."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from made_results import (
    ENVIRONMENT,
    authors_row,
    pretrain_result,
    seeds,
    transfer_result,
    write_authors,
    write_results,
)
from PIL import Image

from trainer.reporting.collect import AUTHORS_TARGET, collect
from trainer.reporting.names import source_title, split_source, target_title
from trainer.reporting.paper import published
from trainer.reporting.report_runs import Report, write_report
from trainer.reporting.rows import COLUMNS

PLACE = ["row", "group", "column"]
PUBLISHED_FILES = Path(__file__).resolve().parents[3] / "shared" / "reference" / "paper_results"
SWEEP = [
    result
    for source, high in (("scratch", 0.2), ("mine", 0.5))
    for shots in ("5", "full")
    for result in seeds(source, (high, high + 0.02, high + 0.01), shots)
]


def test_report_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = write_results(
        tmp_path / "runs", [*SWEEP, *seeds("mine", (0.3,) * 2, target="digits"), pretrain_result("big")]
    )
    out = tmp_path / "out" / "report"
    path = write_report(Report((runs, runs), out))
    assert path == out / "report.md"
    text = path.read_text()
    assert "| target | r50x1, scratch | r50x1, mine |" in text
    assert "| Pets | 21.00 ± 1.00 | **51.00 ± 1.00** |" in text
    assert "| big | r50x1 | chexpert+mimic_cxr | the recipe's | 9000 | mean AUC | 81.25 | NaN | 120.0 |" in text
    assert "## Transfer to Pets" in text
    assert "| mine minus scratch, r50x1 | +30.00 [+30.00, +30.00] | +30.00 [+30.00, +30.00] |" in text
    assert "](few_shot_pets.png)" in text
    assert "](spread_pets.png)" in text
    assert "Departures" not in text
    assert "- commit c0ffee, 4 x some GPU (16 CPU threads), torch 2.11.0" in text
    assert "15 runs." in text
    assert "Transfer with 5 training images per class" in text
    rows = collect((out / "results.csv",)).runs
    pd.testing.assert_frame_equal(rows[COLUMNS], collect((runs,)).runs[COLUMNS])
    assert "warning: Not a number: the test metric of 1 of 15 runs is NaN: big." in capsys.readouterr().err
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (out / link).is_file(), link
    with Image.open(out / "few_shot_pets.png") as figure:
        figure.load()


def test_tables_csv_and_tex_hold_the_same_numbers(tmp_path: Path) -> None:
    write_report(Report((write_results(tmp_path / "runs", SWEEP),), tmp_path / "out"))
    cells = pd.read_csv(tmp_path / "out" / "tables.csv").set_index(["table", "row", "column"])
    assert cells.loc[("full_shot", "Pets", "mine"), "mean"] == pytest.approx(51.0)
    assert cells.loc[("few_shot_pets", "scratch, r50x1", "5-shot"), "std"] == pytest.approx(1.0)
    tex = (tmp_path / "out" / "tables.tex").read_text()
    assert r"Pets & 21.00 $\pm$ 1.00 & \textbf{51.00 $\pm$ 1.00} \\" in tex
    assert tex.count(r"\begin{table*}") == tex.count(r"\end{table*}") == 3


def test_the_page_stands_alone(tmp_path: Path) -> None:
    write_report(Report((write_results(tmp_path / "runs", SWEEP),), tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 2
    assert all(source.startswith("data:image/svg+xml;base64,") for source in re.findall(r'src="?([^" >]+)', page))
    assert not re.search(r"href=|<link|<script|url\(|@import", page)
    assert "<small>n = 3</small>" in page
    assert "<h2>Transfer to Pets</h2>" in page


def test_names_with_markup_stay_text_on_the_page(tmp_path: Path) -> None:
    results = [transfer_result("<img src=x>", "5", seed, math.nan, target="<b>t</b> | u") for seed in range(2)]
    text = write_report(Report((write_results(tmp_path / "runs", results),), tmp_path / "out")).read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x" not in page
    assert "<b>t</b>" not in page
    assert "&lt;img src=x&gt;" in page
    assert "| \\<img src=x>, r50x1 | NaN (2 of 2) |" in text


def test_warnings_are_in_the_report_and_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [*SWEEP, *seeds("new", (0.5, math.nan), environment=ENVIRONMENT | {"commit": "bad"})]
    runs = write_results(tmp_path / "runs", results)
    (runs / "run 0" / "result.json").write_text('{"kind": "tra')
    text = write_report(Report((runs,), tmp_path / "out")).read_text()
    error = capsys.readouterr().err
    page = (tmp_path / "out" / "report.html").read_text()
    for warning in ("Left out: 1 result.json", "Mixed code versions", "Not a number"):
        assert warning in text
        assert warning in page
        assert f"warning: {warning}" in error
    assert "50.00 (1 of 2 NaN)" in text


def test_report_without_test_split_or_second_seed(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", [transfer_result("mine", "5", 0, None, total_steps=50)])
    text = write_report(Report((runs,), tmp_path / "out")).read_text()
    assert "points gained" not in text
    assert "spread_" not in text
    assert "## Departures from the protocol\n\n- optimiser steps: 50 instead of 500\n" in text
    with Image.open(tmp_path / "out" / "few_shot_pets.png") as figure:
        figure.load()


def test_report_of_pre_trainings_alone(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", [pretrain_result("big")])
    text = write_report(Report((runs,), tmp_path / "out", paper=True)).read_text()
    assert "## Pre-training" in text
    assert "## Transfer" not in text


@pytest.mark.slow
def test_own_results_beside_the_authors_files_and_the_paper(tmp_path: Path) -> None:
    own = seeds("imagenet1k_r50x1", (0.7, 0.72), target="cifar100")
    write_results(tmp_path / "runs", own)
    rows = [authors_row("imagenet1k_bit50x1", "full", seed, top1) for seed, top1 in enumerate((0.758, 0.76))]
    write_authors(tmp_path / "runs" / "cifar100.csv", rows)
    text = write_report(Report((tmp_path / "runs",), tmp_path / "out", paper=True)).read_text()
    assert "Of 4 rows of cifar100.csv, 2 are exact duplicates and dropped; 2 are left." in text
    assert "| CIFAR-100 | 71.00 ± 1.41 |" in text
    assert "| CIFAR-100, authors' files | 75.90 ± 0.14 |" in text
    printed = ("75.90 ± 0.05 [0.05]", "82.47 ± 0.20 [0.21]", "83.90 ± 0.08 [0.09]", "**88.54 ± 0.13 [0.14]**")
    assert f"| CIFAR-100, paper | {' | '.join(printed)} |" in text
    assert "- 1 of 2 means are the printed ones to 0.011 points." in text
    assert "- Different: CIFAR-100: ImageNet-1k, r50x1 (71.00 ± 1.41 here, 75.90 ± 0.05 [0.05] in the paper)." in text


@pytest.fixture(scope="module")
def published_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the authors' files that are here: all seven, or some."""
    if not any(PUBLISHED_FILES.glob("*.csv")):
        pytest.skip("the files that the paper's authors published are not here")
    return write_report(Report((PUBLISHED_FILES,), tmp_path_factory.mktemp("published"), paper=True))


def beside_the_paper(report: Path) -> pd.DataFrame:
    """The full-shot cells of the authors' files that the paper prints, a row each: here, and `_paper`."""
    cells = pd.read_csv(report.with_name("tables.csv"))
    cells = cells[cells["table"].str.startswith("full_shot")]
    theirs = cells[cells["row"].str.endswith(", paper")].assign(row=lambda c: c["row"].str.removesuffix(", paper"))
    return cells.merge(theirs, on=PLACE, suffixes=("", "_paper"))


def published_rows() -> pd.DataFrame:
    """The full-shot rows of the authors' files as they stand, in percent, by the names of our tables."""
    rows = pd.concat([pd.read_csv(path) for path in sorted(PUBLISHED_FILES.glob("*.csv"))], ignore_index=True)
    rows = rows[rows["shot"] == "full_shot"]
    named = rows["pretrained_model"].map(split_source)
    return rows.assign(
        row=[target_title(AUTHORS_TARGET.get(name, name)) for name in rows["dataset"]],
        group=[model for _, model in named],
        column=[source_title(stem, "") for stem, _ in named],
        value=rows["metric_value"] * 100,
    )


@pytest.mark.shared_data
@pytest.mark.slow
def test_the_published_files_give_the_papers_tables(published_report: Path) -> None:
    text, beside = published_report.read_text(), beside_the_paper(published_report)
    targets = set(published_rows()["row"])
    assert len(beside) == sum(
        len(cells) for target, cells in published().cells.items() if target_title(target) in targets
    )
    far = beside[(beside["mean"] - beside["mean_paper"]).abs() > 0.011]
    unlike = {("PadChest-Cl", "r152x4", "ImageNet-1k"), ("PadChest-Cl", "r152x4", "ImageNet-21k")}
    assert set(map(tuple, far[PLACE].to_numpy())) == {cell for cell in unlike if cell[0] in targets}
    assert f"{len(beside) - len(far)} of {len(beside)} means are the printed ones" in text
    if len(targets) == 7:
        assert (len(beside), len(far)) == (50, 2)
    for figure in (path for path in re.findall(r"\]\((\w+\.png)\)", text)):
        assert published_report.with_name(figure).is_file()


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_published_cell_is_that_of_its_different_rows(published_report: Path) -> None:
    """The rows of the files mostly stand twice, and what the paper prints is the mean and the standard deviation of
    the rows as they stand: of n values twice, sqrt(2 SS / (2n - 1)) in place of sqrt(SS / (n - 1)), which is
    sqrt(9/8) larger for five."""
    rows, beside = published_rows(), beside_the_paper(published_report).set_index(PLACE)
    standing = rows.groupby(PLACE)["value"].agg(["mean", "std", "count"]).loc[beside.index]
    different = rows.drop_duplicates([*PLACE, "seed", "value"]).groupby(PLACE)["value"].agg(["mean", "std", "count"])
    different = different.loc[beside.index]
    assert (beside["mean"] - different["mean"]).abs().max() < 1e-6
    assert (beside["std"] - different["std"]).abs().max() < 1e-6
    assert (beside["n"] == different["count"]).all()
    same = (beside["mean"] - beside["mean_paper"]).abs() <= 0.011
    assert (standing["mean"] - beside["mean_paper"])[same].abs().max() < 0.0051
    assert (standing["std"] - beside["printed_std_paper"])[same].abs().max() < 0.0051
    assert (different["std"] - beside["std_paper"])[same].abs().max() < 0.000051  # as the table corrects it
    assert (different["count"] == beside["n_paper"])[same].all()
    assert beside["printed_std_paper"][~same].isna().all()
    n, doubled = different["count"], standing["count"] == 2 * different["count"]
    too_small = (standing["std"] / different["std"])[doubled]
    assert (too_small - (2 * (n - 1) / (2 * n - 1)).pow(0.5)[doubled]).abs().max() < 1e-6
    if "Pets" in rows["row"].to_numpy():
        assert beside.loc[("Pets", "r50x1", "ImageNet-1k"), "n"] == 4


def test_unfinished_runs_are_named(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", SWEEP)
    (runs / "mine" / "begun").mkdir(parents=True)
    (runs / "mine" / "begun" / "status.json").write_text("{}")
    assert collect((runs,)).warnings == (f"Left out: 1 unfinished run: {runs / 'mine' / 'begun'}",)
