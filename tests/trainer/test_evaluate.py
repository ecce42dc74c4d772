"""The page, the numbers and the card of a run, on its own test split and on another site's set."""

import csv
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from tiny_runs import FINDINGS, prepare_films, train_tiny, write_films
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.shards.index import Index
from trainer import checkpoint
from trainer.evaluation.assessment.evaluated_set import align_labels
from trainer.evaluation.assessment.output_names import CASES, NUMBERS
from trainer.evaluation.calibration.threshold_settings import ThresholdChoice
from trainer.evaluation.evaluate_run import CARD, Evaluate, evaluate_run
from trainer.evaluation.predicting.predict_images import note_what_is_unfitted
from trainer.evaluation.runs import open_run
from trainer.evaluation.statistics.predictions import align, load_predictions
from trainer.run_files import PREDICTIONS, RESULT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    films = write_films(tmp_path_factory.mktemp("films") / "raw")
    return prepare_films(films, films.parent / "hospital")


@pytest.fixture(scope="module")
def run_dir(data: Path) -> Path:
    return train_tiny(data, data.parent / "runs" / "seed-0")


@pytest.fixture(scope="module")
def other(data: Path) -> Path:
    return train_tiny(data, data.parent / "runs" / "seed-1", seed=1)


def evaluated(run: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """The page and the numbers."""
    page = evaluate_run(Evaluate(run, force=True, resamples=200, device="cpu", threads=1, **options))
    return page.read_text(), json.loads((page.parent / NUMBERS).read_text())


def test_own_test_split(run_dir: Path, other: Path) -> None:
    page, numbers = evaluated(run_dir)
    result = json.loads((run_dir / RESULT).read_text())
    for name in FINDINGS:
        found = numbers["findings"][name]
        assert found["auc"]["value"] == pytest.approx(result["test"][f"auc/{name}"], abs=1e-9)
        assert found["average_precision"]["value"] == pytest.approx(result["test"][f"ap/{name}"], abs=1e-9)
        assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"]
        assert found["tp"] + found["fn"] == found["positives"]
        assert found["sensitivity"]["value"] == pytest.approx(found["tp"] / found["positives"])
        assert "threshold_not_chosen" not in found
    assert (numbers["images"], numbers["patients"], numbers["split"]) == (32, 24, "test")
    assert numbers["mean_auc"]["value"] == pytest.approx(result["test"]["auc"])
    assert {(part["fact"], part["value"]) for part in numbers["subgroups"]} == {
        ("site", "A"), ("site", "B"), ("sex", "F"), ("sex", "M"), ("age", "18-39"), ("age", "40-59"), ("age", "80+")
    }  # fmt: skip
    assert sum(part["images"] for part in numbers["subgroups"] if part["fact"] == "sex") == 32
    assert set(numbers["seeds"]) == {"0", "1"}
    assert "standard deviation" in page
    (warning,) = numbers["warnings"]
    assert warning.startswith("The temperature was fitted on 32 images of val; with fewer than 100 it may be half or")
    assert "Contains images of patients: as confidential as they are." in page
    card = (run_dir / CARD).read_text()
    assert card.index("neither images nor keys") < card.index("## Model")
    assert card.index("## Evaluation") < card.index("200 resamples of 24 patients with replacement")
    assert "MAY LEAK" not in page
    assert "data:image/svg+xml" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # it stands alone
    assert "manifest SHA-256" in page
    assert "The most confident errors, the most confident first" in page
    with (run_dir / "evaluation-hospital-test" / CASES).open(newline="") as file:
        cases = list(csv.DictReader(file))
    for name in FINDINGS:
        counts = Counter(case["outcome"] for case in cases if case["finding"] == name)
        assert {kind: counts[kind.upper()] for kind in ("tp", "fp", "fn", "tn")}.items() <= numbers["findings"][
            name
        ].items()
    errors = {case["key"] for case in cases if case["outcome"] in ("FP", "FN")}
    assert f"{len(errors)} of 32 images have an error; " in page
    missed = next(case for case in cases if case["outcome"] == "FN")
    assert float(missed["probability"]) < float(missed["threshold"])
    assert re.search(r"(missed|false alarm,) (Nodule|Effusion): probability 0\.\d+, threshold 0\.\d+", page)


def test_no_images(run_dir: Path, tmp_path: Path) -> None:
    page, _ = evaluated(run_dir, images=False, out=tmp_path)
    assert "Images are not shown: --no-images" in page
    assert "Contains keys of patients&#39; images" in page
    assert "the most confident first" not in page


def test_thresholds_come_from_val_and_patients_are_no_hashes(run_dir: Path, data: Path) -> None:
    val = load_predictions(run_dir, "val")
    assert val.patients.max() == len(np.unique(val.patients)) - 1 == 23
    assert set(val.facts) == {"view", "sex", "age", "site"}
    with np.load(run_dir / PREDICTIONS) as file:
        stored = {int(value) for name in file.files if file[name].dtype.kind == "i" for value in file[name].ravel()}
    assert not stored & set(Index.load(data, "test").group.tolist())
    _, numbers = evaluated(run_dir)
    points = checkpoint.describe(checkpoint.best_or_latest(run_dir))["operating_points"]
    logits = numbers["operating_points"].pop("threshold_logits")
    kept = {name: value for name, value in points.items() if name not in ("sets", "no_sets")}
    assert numbers["operating_points"] | {"thresholds": logits} == kept
    for name in FINDINGS:
        assert numbers["findings"][name]["threshold"] == pytest.approx(expit(logits[name] / points["temperature"]))
        assert numbers["findings"][name]["threshold_before_temperature"] == pytest.approx(expit(logits[name]))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"temperature": 1.0, "temperature_unfitted": "every prediction for val is right"}, "every prediction"),
        ({"temperature": 1.0, "temperature_unfitted": None}, "searched a narrower range"),  # of an earlier version
        ({"temperature": 1.5, "temperature_unfitted": None, "images": 99}, ""),
        ({"temperature": 1.5, "temperature_unfitted": None, "images": 100}, ""),
    ],
)
def test_a_temperature_that_was_not_fitted_is_said(
    changed: dict[str, Any],
    reason: str,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    about = checkpoint.describe(checkpoint.best_or_latest(run_dir))
    points = {name: value for name, value in (about["operating_points"] | changed).items() if value is not None}
    monkeypatch.setattr(
        "trainer.evaluation.runs.checkpoint.describe", lambda path: about | {"operating_points": points}
    )
    page, numbers = evaluated(run_dir, out=tmp_path, images=False)
    assert ("No temperature was fitted, because" in page) == bool(reason)
    assert reason in page
    assert reason in numbers["calibration_error"].get("temperature_not_fitted", "")
    assert ("temperature_not_fitted" in numbers["calibration_error"]) == bool(reason)
    doubted = "The temperature was fitted on 99 images of val; with fewer than 100 it may be half or twice"
    is_doubted = changed.get("images") == 99
    assert (doubted in page) == any(doubted in warning for warning in numbers["warnings"]) == is_doubted
    run = open_run(run_dir)
    note_what_is_unfitted(run, run.points(), ())
    assert ("note: the temperature was fitted on 99 images of val" in capsys.readouterr().err) == is_doubted


@pytest.mark.slow
def test_few_images_of_another_site_are_told(run_dir: Path, tmp_path: Path) -> None:
    """With the split that has more, and without a word of intervals where there are none."""
    films = write_films(tmp_path / "raw", 30, seed=1)
    elsewhere = prepare_films(films, tmp_path / "elsewhere")
    run = shutil.copytree(run_dir, tmp_path / "run")  # whose model card other tests look at
    page, numbers = evaluated(run, data=str(elsewhere))
    assert f"test of elsewhere has {numbers['images']} image" in page
    assert "none of its splits was trained on, so --split all may be taken" in page
    assert "no mean AUC" in page
    assert "In brackets" not in page


@pytest.mark.slow
def test_another_site_by_name(run_dir: Path, tmp_path: Path) -> None:
    """It has one of the findings, and one that the run does not know."""
    films = write_films(tmp_path / "raw", 60, findings=("Nodule", "Hernia"), seed=1)
    elsewhere = prepare_films(films, tmp_path / "elsewhere", findings=("Nodule", "Hernia"))
    page, numbers = evaluated(run_dir, data=str(elsewhere), split="all")
    assert numbers["images"] == 60
    assert numbers["findings"]["Effusion"]["auc"] == {
        "value": None, "low": None, "high": None, "not_available": "no positives"
    }  # fmt: skip
    assert numbers["findings"]["Nodule"]["auc"]["low"] is not None
    assert "nothing is said of them: Effusion" in page
    assert "The run does not know these, left out: Hernia" in page
    for _ in range(2):
        evaluated(run_dir)
    card = (run_dir / CARD).read_text()
    evaluated(run_dir, choice=ThresholdChoice(at_sensitivity=0.9), out=tmp_path / "own")
    assert (run_dir / CARD).read_text() == card  # it belongs to the page in the run folder
    headings = re.findall(r"(?m)^## Evaluation on (.*)$", card)
    assert len(headings) == 2
    assert {heading.rpartition(", ")[2] for heading in headings} == {"all", "test"}
    assert card.count("# Model card") == 1
    with pytest.raises(InputError, match=r"has no val split|has none of the run's labels"):
        evaluated(run_dir, data=str(tiny_set(tmp_path / "x", [[1.0], [0.0]], ("Fracture",))), split="train")


@pytest.mark.slow
def test_the_same_logits_by_predicting_again(run_dir: Path, data: Path, tmp_path: Path) -> None:
    own = load_predictions(run_dir, "test")
    _, again = evaluated(run_dir, data=str(data), out=tmp_path)
    _, kept = evaluated(run_dir)
    assert again["images"] == len(own)
    for name in FINDINGS:
        assert again["findings"][name]["auc"]["value"] == pytest.approx(kept["findings"][name]["auc"]["value"])
    assert any("not an external validation" in warning for warning in again["warnings"])


@pytest.mark.slow
def test_against_another_run(run_dir: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, numbers = evaluated(run_dir, against=other, out=tmp_path)
    assert [found["metric"] for found in numbers["differences"]] == ["AUC, Effusion", "AUC, Nodule", "mean AUC"]
    for found in numbers["differences"]:
        assert found["value"] == pytest.approx(found["one"] - found["other"])
        assert found["low"] < found["value"] < found["high"]
    assert "Against another run" in page
    said = capsys.readouterr().err
    assert f"mean AUC {numbers['mean_auc']['value']:.3f} [" in said
    assert f"mean AUC: {numbers['differences'][-1]['value']:+.3f} [" in said
    shorter = tmp_path / "shorter"
    train_tiny(tiny_set(tmp_path / "y", [[1.0, 0.0], [0.0, 1.0]], FINDINGS, splits=("train", "test")), shorter)
    with pytest.raises(InputError, match="not tested on the same images"):
        evaluated(run_dir, against=shorter)


@pytest.mark.slow
def test_classes_of_few_images_one_absent_and_no_val(tmp_path: Path) -> None:
    labels = [0] * 12 + [1] * 3
    data = tiny_set(tmp_path / "data", labels, ("cat", "dog"), splits=("train", "test"), patients="may leak")
    run = train_tiny(data, tmp_path / "run")
    page, numbers = evaluated(run)
    assert numbers["findings"]["dog"]["auc"]["not_available"] == "3 positives, fewer than 10"
    assert numbers["findings"]["cat"]["auc"]["not_available"] == "3 negatives, fewer than 10"
    assert "[not available]" in page
    assert "trained from random weights" in (run / CARD).read_text()
    assert numbers["mean_auc"]["value"] is None
    assert numbers["accuracy"]["low"] is not None
    assert any("MAY LEAK" in warning for warning in numbers["warnings"])
    assert any("no val split" in warning for warning in numbers["warnings"])
    assert numbers["findings"]["dog"]["threshold"] == 0.5
    assert numbers["calibration_error"]["temperature_not_fitted"] == "there is no val split to choose it on"

    cats = tiny_set(tmp_path / "cats", [0] * 12, ("cat",), splits=("test",), name="cats")
    page, numbers = evaluated(run, data=str(cats))
    assert numbers["findings"]["cat"]["auc"]["not_available"] == "no negatives"
    assert any("nothing is said of them: dog" in warning for warning in numbers["warnings"])
    assert "several pictures show one animal" in page
    assert "(--patient-column): bitscale prepare csv --help" in page
    assert "medical" not in page
    assert ">patients<" not in page


def test_labels_are_brought_into_the_order_of_the_run(tmp_path: Path) -> None:
    data = tiny_set(tmp_path / "data", [0, 1, 2, 1], ("eel", "cat", "Dog"), splits=("test",))
    aligned, remarks = align_labels(Index.load(data, "test"), ("cat", "dog", "eel"))
    assert aligned.classes == ("cat", "dog", "eel")
    assert aligned.labels.tolist() == [2, 0, 0]
    assert aligned.keys(range(3)) == ["test-000", "test-001", "test-003"]
    assert "dog (is it 'Dog'?)" in remarks[0]
    assert remarks[2] == "1 of 4 images are of such a class."
    with pytest.raises(InputError, match="none of the run's labels"):
        align_labels(Index.load(data, "test"), ("bird",))


def test_sets_that_changed_show_no_images(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Index.load
    monkeypatch.setattr(Index, "load", staticmethod(lambda *given: taken(*given).take(np.arange(5)[::-1])))
    page, _ = evaluated(run_dir, out=tmp_path)
    assert "prepared again since the run was tested" in page


def test_runs_are_compared_image_by_image(run_dir: Path) -> None:
    test = load_predictions(run_dir, "test")
    turned = align(test.take(np.arange(len(test))[::-1]), test.keys, "the other")
    assert turned.keys == test.keys
    np.testing.assert_array_equal(turned.logits, test.logits)
    assert turned.facts == {name: list(values) for name, values in test.facts.items()}


def test_facts_of_one_value_are_no_groups(run_dir: Path) -> None:
    test = load_predictions(run_dir, "test")
    assert set(test.grouped()) == {"sex", "age", "site"}  # every film is PA
    unknown = replace(test, facts={"sex": ["M", ""] * 16})
    assert list(unknown.grouped()["sex"]) == ["M", "unknown"]


def test_refusals(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keeps predictions for val and test, not for all"):
        evaluated(run_dir, split="all")
    with pytest.raises(InputError, match="below 100"):
        Evaluate(run_dir, resamples=5)
    photos = tiny_set(tmp_path / "photos", [0, 1], ("Effusion", "Nodule"), splits=("test",))
    with pytest.raises(InputError, match="single_label set and the run is multi_label"):
        evaluated(run_dir, data=str(photos))


def test_thresholds_at_a_sensitivity_are_those_of_the_page(run_dir: Path, tmp_path: Path) -> None:
    """They reach val's sensitivity, and page, numbers and cases have the same."""
    val = load_predictions(run_dir, "val")
    page, numbers = evaluated(run_dir, choice=ThresholdChoice(at_sensitivity=0.9), out=tmp_path)
    assert "At the threshold that was chosen on val (a sensitivity of at least 0.9), a probability after" in page
    with (tmp_path / CASES).open(newline="") as file:
        cases = list(csv.DictReader(file))
    for column, name in enumerate(FINDINGS):
        found = numbers["findings"][name]
        assert found["threshold_rule"] == "chosen on val (a sensitivity of at least 0.9)"
        scores = expit(val.logits[:, column].astype(np.float64) / numbers["operating_points"]["temperature"])
        assert (scores[val.labels[:, column] == 1] >= found["threshold"]).mean() >= 0.9
        assert {float(case["threshold"]) for case in cases if case["finding"] == name} == {found["threshold"]}
        assert sum(case["outcome"] == "TP" for case in cases if case["finding"] == name) == found["tp"]
