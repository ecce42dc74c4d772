"""Claims in a report: its section, figure and files; results of several protocols; the paper's claims on its files."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from made_results import pretrain_result, seeds, write_results
from PIL import Image

from data_pipelines.common.errors import InputError
from trainer.reporting.analysis.claim_file import read_claims
from trainer.reporting.claims_section import claims_section
from trainer.reporting.report_runs import Report, write_report
from trainer.reporting.rows import frame_of, row_of

PUBLISHED_FILES = Path(__file__).resolve().parents[4] / "shared" / "reference" / "paper_results"
CLAIMS = """
title = "mine"
[[claim]]
id = "gain_of_$mine"
text = "Pre-training gains."
place = "section 4"
group = "Gains"
cells = { model = "r50x1", target = "pets", shots = ["5", "full"] }
first = { source = "mine" }
second = { source = "scratch" }
direction = "higher"
margin = 2

[[claim]]
id = "absent"
text = "So does another."
cells = { model = "r50x1", target = "pets", shots = "full" }
first = { source = "other" }
second = { source = "scratch" }
direction = "higher"

[[summary]]
title = "all"
source = ["scratch", "mine"]
model = "r50x1"
target = "pets"
shots = ["5", "full"]
"""
SWEEP = [
    result
    for source, high in (("scratch", 0.2), ("mine", 0.5))
    for shots in ("5", "full")
    for result in seeds(source, (high, high + 0.021, high + 0.01), shots)
]


def file_of(tmp_path: Path, claims: str) -> Path:
    path = tmp_path / "claims.toml"
    path.write_text(claims)
    return path


def section(tmp_path: Path, results: list[dict[str, Any]], claims: str = CLAIMS) -> str:
    """The section by itself, of some results."""
    file = read_claims(file_of(tmp_path, claims))
    claims_section(frame_of([row_of(result) for result in results]), [file], tmp_path)
    return (tmp_path / "claims.md").read_text()


@pytest.mark.slow
def test_claims_are_a_section_of_every_format(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", SWEEP)
    page = write_report(Report((runs,), tmp_path / "out", claims=(file_of(tmp_path, CLAIMS),)))
    text, folder = page.read_text(), page.parent
    assert "## Claims\n\nClaims of mine, tested on the results of this report." in text
    assert "**1 of 2 claims hold**, 0 do not, 1 open: 1 supported, 1 not tested." in text
    assert "- **supported.** `gain_of_$mine`, section 4: Pre-training gains. Margin: 2 points." in text
    assert "**not tested: no results for other, r50x1 on Pets, full.** `absent`" in text
    assert r"| gain_of\_\$mine | higher | +30.00 [" in text
    assert "| larger source | +30.00 (p < 0.001) [" in text
    html = (folder / "report.html").read_text()
    assert "<h2>Claims</h2>" in html
    assert "gain_of_$mine" in html
    assert r"gain\_of\_\$mine & higher & +30.00" in (folder / "tables.tex").read_text()
    assert (folder / "claims.svg").is_file()
    with Image.open(folder / "claims.png") as figure:
        figure.load()
    alone = (folder / "claims.md").read_text()
    assert alone.startswith("## Claims")
    assert alone in text
    for link in re.findall(r"\]\(([^)]+)\)", alone):
        assert (folder / link).is_file(), link


def test_claims_json_has_each_claim(tmp_path: Path) -> None:
    section(tmp_path, SWEEP)
    found = json.loads((tmp_path / "claims.json").read_text())
    (kind,) = found["results"]
    first, second = kind["claims"]
    assert (first["claim"], first["verdict"], first["holds"]) == ("gain_of_$mine", "supported", True)
    assert first["effect"] == pytest.approx(30)
    assert first["low"] < 30 < first["high"]
    assert (second["verdict"], second["effect"], second["holds"]) == ("not tested", None, None)


def test_a_name_near_another_ends_with_one_question_mark(tmp_path: Path) -> None:
    text = section(tmp_path, SWEEP, CLAIMS.replace('source = "other"', 'source = "mime"'))
    assert "did you mean 'mine'?** `absent`" in text


def test_names_that_no_result_has_are_told_with_those_there_are(tmp_path: Path) -> None:
    text = section(tmp_path, SWEEP)
    assert "\n\nThe results have no source 'other'; they have source 'scratch', 'mine'.\n\n" in text


def test_claims_of_which_no_name_is_known_are_refused(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", SWEEP)
    unknown = CLAIMS.replace('"mine" }', '"qqq" }').replace('"pets"', '"zebras"')
    report = Report((runs,), tmp_path / "out", claims=(file_of(tmp_path, unknown),))
    reason = (
        r"no claim of mine can be tested: the results have no source 'qqq', 'other', no target 'zebras'; they have "
        r"source 'scratch', 'mine', target 'Pets'; name what was run"
    )
    with pytest.raises(InputError, match=reason):
        write_report(report)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("changes", [{"claims": "absent.toml"}, {"proximity": "absent.json"}, {"runs": "absent"}])
def test_files_are_read_before_the_work_is_announced(
    changes: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = {name: tmp_path / file for name, file in changes.items()}
    runs = paths.pop("runs", None) or write_results(tmp_path / "runs", SWEEP)
    claims = (paths.pop("claims"),) if "claims" in paths else None
    with pytest.raises(InputError, match=r"absent"):
        write_report(Report((runs,), tmp_path / "out", claims=claims, **paths))
    assert "tables and figures" not in "".join(capfd.readouterr())


def test_without_claims_the_report_has_none(tmp_path: Path) -> None:
    runs = write_results(tmp_path / "runs", SWEEP)
    text = write_report(Report((runs,), tmp_path / "out")).read_text()
    assert "Claims" not in text
    assert not list((tmp_path / "out").glob("claims*"))


def test_runs_of_several_protocols_are_judged_apart(tmp_path: Path) -> None:
    theirs = [
        result
        for source, high in (("scratch", 0.4), ("mine", 0.1))
        for shots in ("5", "full")
        for result in seeds(source, (high, high + 0.021, high + 0.01), shots, protocol="authors")
    ]
    text = section(tmp_path, [*SWEEP, *theirs])
    assert "**Different protocols** among the results." in text
    ours, others = text[text.index("### Claims by fine-tuning by the default") :].split(
        "### Claims by authors' protocol"
    )
    assert "**supported.** `gain_of_$mine`" in ours
    assert "**contradicted.** `gain_of_$mine`" in others
    assert (tmp_path / "claims.png").is_file()
    assert (tmp_path / "claims_b.png").is_file()
    only = CLAIMS.replace('model = "r50x1", target', 'protocol = "authors", model = "r50x1", target', 2)
    alone = section(tmp_path, [*SWEEP, *theirs], only)
    assert "Different protocols** among" not in alone
    assert "**contradicted.** `gain_of_$mine`" in alone


def test_sources_are_called_as_the_results_or_the_report(tmp_path: Path) -> None:
    results = [
        result
        for source, high in (("chexpert_r50x1", 0.5), ("chexpert_mimic_r50x1", 0.8))
        for shots in ("5", "full")
        for result in seeds(source, (high, high + 0.021, high + 0.01), shots)
    ]
    for name in ("chexpert+mimic", "chexpert_mimic_bit50x1", "CheXpert+MIMIC", "chexpert+mimic_cxr"):
        claims = CLAIMS.replace('"mine"', f'"{name}"').replace('"scratch"', '"chexpert"')
        assert "**supported.** `gain_of_$mine`" in section(tmp_path, results, claims), name


def test_without_statsmodels_the_verdicts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.regression.mixed_linear_model", None)
    text = section(tmp_path, SWEEP)
    assert "**supported.** `gain_of_$mine`" in text
    assert "left out: a mixed model needs statsmodels" in text
    assert "pip install -e '.[analysis]'." in text


def test_without_fine_tunings_claims_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="claims are tested on fine-tunings, and there is none"):
        section(tmp_path, [pretrain_result("big")])


def test_folders_behind_the_flag_are_told_to_come_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name folders of runs before the flag"):
        write_report(Report((), tmp_path / "out", claims=(tmp_path,)))
    with pytest.raises(InputError, match="name the folders of runs, or CSV files, before the flags"):
        write_report(Report((), tmp_path / "out", claims=()))


def test_claims_on_a_protocol_that_no_run_has_are_refused(tmp_path: Path) -> None:
    only = CLAIMS.replace('model = "r50x1", target', 'mode = "knn", model = "r50x1", target', 2)
    with pytest.raises(InputError, match="no run is of the protocol and mode that the claims of mine name"):
        section(tmp_path, SWEEP, only)


@pytest.mark.shared_data
@pytest.mark.slow
def test_the_papers_claims_on_the_authors_files(tmp_path: Path) -> None:
    if len(list(PUBLISHED_FILES.glob("*.csv"))) < 7:
        pytest.skip("the files that the paper's authors published are not here")
    text = write_report(Report((PUBLISHED_FILES,), tmp_path / "out", claims=())).read_text()
    assert "**11 of 18 claims hold**, 0 do not, 7 open: 11 supported, 7 undecided." in text
    assert "| natural-ahead | higher | +0.88 [+0.59, +1.17] | 0.014 | supported |" in text
