"""Predictions say which labels are plausible, and whether an image is like those trained on."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import FINDINGS, prepare_films, train_tiny, write_films

import bitscale
from data_pipelines.common.errors import InputError
from trainer import checkpoint, predict
from trainer.config import RuntimeConfig
from trainer.evaluation.assessment.evaluated_set import test_elsewhere as on_other_set
from trainer.evaluation.assessment.output_names import NUMBERS
from trainer.evaluation.calibration.novelty import KEY as NOVELTY_KEY
from trainer.evaluation.calibration.operating import KEY
from trainer.evaluation.evaluate_run import Evaluate, evaluate_run
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import open_run
from trainer.evaluation.statistics.predictions import load_predictions


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    films = write_films(tmp_path_factory.mktemp("films") / "raw")
    return prepare_films(films, films.parent / "hospital")


@pytest.fixture(scope="module")
def run_dir(data: Path) -> Path:
    return train_tiny(data, data.parent / "run")


@pytest.fixture
def earlier(run_dir: Path, tmp_path: Path) -> Path:
    """The run as an earlier version would have left it."""
    folder = Path(shutil.copytree(run_dir, tmp_path / "earlier"))
    path = checkpoint.best_or_latest(folder)
    points = checkpoint.describe(path)[KEY]
    known = {name: value for name, value in points.items() if name not in ("sets", "no_sets")}
    checkpoint.add(path, **{KEY: known, NOVELTY_KEY: None})
    return folder


def predicted(run: Path, source: Path, out: Path, coverage: float | None = None) -> list[dict[str, str]]:
    predict_images(Predict(run, (source,), out, force=True, device="cpu", threads=1, coverage=coverage))
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def kinds_of(row: dict[str, str], name: str) -> list[str]:
    return [kind for kind in row[f"{name} set"].split("; ") if kind]


def test_sets_are_those_that_val_decides(run_dir: Path, data: Path, tmp_path: Path) -> None:
    """A finding is present in a set where its logit is at least that of the so many-th patient of val with it."""
    rows = predicted(run_dir, data / "test", tmp_path / "out.csv", coverage=0.8)
    val = load_predictions(run_dir, "val")
    for place, name in enumerate(FINDINGS):
        for sign, label, kind in ((1, 1, "present"), (-1, 0, "absent")):
            known = val.labels[:, place] == label
            scores, patients = sign * val.logits[known, place], val.patients[known]
            weights = 1 / np.bincount(patients)[patients] / (len(np.unique(patients)) + 1)
            ordered = np.argsort(-scores)
            least = scores[ordered][np.searchsorted(np.cumsum(weights[ordered]), 0.8 - 1e-9)]
            for row in rows:
                assert (kind in kinds_of(row, name)) == (sign * float(row[f"{name} logit"]) >= least - 1e-6)
        assert all(int(row[f"{name} set size"]) == len(kinds_of(row, name)) for row in rows)
    wider = predicted(run_dir, data / "test", tmp_path / "out.csv", coverage=0.9)
    for row, wide in zip(rows, wider, strict=True):
        assert all(set(kinds_of(row, name)) <= set(kinds_of(wide, name)) for name in FINDINGS)


def test_unlike_images_are_marked_and_kept(run_dir: Path, data: Path, tmp_path: Path) -> None:
    val = predicted(run_dir, data / "val", tmp_path / "val.csv")
    assert sum(row["unlike training"] == "1" for row in val) <= 2  # of 32, as 5% of 24 patients are at most one
    assert all((float(row["novelty"]) > 1) == (row["unlike training"] == "1") for row in val)
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(data.parent / "raw" / "000.dcm", folder)
    Image.fromarray(np.tile(np.array([[0, 255], [255, 0]], dtype=np.uint8), (40, 40))).save(folder / "board.png")
    Image.fromarray(np.full((64, 64), 3, dtype=np.uint8)).save(folder / "night.png")
    (folder / "text.png").write_text("no picture")
    rows = {row["file"]: row for row in predicted(run_dir, folder, tmp_path / "out.csv")}
    assert {name: row["unlike training"] for name, row in rows.items()} == {
        "000.dcm": "0", "board.png": "1", "night.png": "1", "text.png": ""
    }  # fmt: skip
    assert "grey levels" in rows["night.png"]["unlike in"]
    assert rows["000.dcm"]["unlike in"] == rows["text.png"]["unlike in"] == ""
    assert rows["night.png"]["Nodule logit"]
    assert len(rows) == 4


def test_the_last_line_counts_unlike_images(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((64, 64), 3, dtype=np.uint8)).save(tmp_path / "night.png")
    out = tmp_path / "out.csv"
    words = ["predict", str(run_dir), str(tmp_path / "night.png"), "--out", str(out), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    predict.main()
    assert "1 image, 1 unlike the training images (column unlike training)" in capsys.readouterr().out


def test_a_coverage_that_val_cannot_promise_is_refused(run_dir: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with pytest.raises(InputError, match=r"a coverage of 0\.99 needs 99; take --coverage 0\.9\d* or less"):
        predicted(run_dir, data / "test", out, coverage=0.99)
    assert not out.exists()
    with pytest.raises(InputError, match=r"a coverage of 0\.99 needs 99"):
        evaluate_run(Evaluate(run_dir, out=tmp_path / "page", coverage=0.99, resamples=100))
    assert not (tmp_path / "page").exists()
    with pytest.raises(InputError, match="--coverage is 90; it must be a multiple"):
        Predict(run_dir, (data,), out, coverage=90)


def test_an_earlier_run_takes_its_val_and_says_what_is_missing(
    run_dir: Path, earlier: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, old = (predicted(run, data / "test", tmp_path / "out.csv") for run in (run_dir, earlier))
    assert [row["Nodule set"] for row in old] == [row["Nodule set"] for row in new]
    assert {row["novelty"] for row in old} == {""}
    assert "images are not compared with the training images, because the version" in capsys.readouterr().err
    alone = Path(shutil.copy(checkpoint.best_or_latest(earlier), tmp_path / "alone.safetensors"))
    rows = predicted(alone, data / "test", tmp_path / "out.csv")
    assert {row["Nodule set"] + row["Nodule set size"] for row in rows} == {""}
    assert "there are no prediction sets, because the version" in capsys.readouterr().err
    with pytest.raises(InputError, match="no prediction sets: the version of the program that trained it"):
        predicted(alone, data / "test", tmp_path / "out.csv", coverage=0.9)


def test_a_table_of_an_earlier_version_is_written_anew(run_dir: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    rows = predicted(run_dir, data / "test", out)
    added = ("set", "set size", "novelty", "unlike training", "unlike in")
    names = [name for name in rows[0] if not name.endswith(added)]
    with out.open("w", newline="") as file:
        csv.writer(file).writerows([names, *([row[name] for name in names] for row in rows)])
    predict_images(Predict(run_dir, (data / "test",), out, device="cpu", threads=1))
    with out.open(newline="") as file:
        assert list(csv.DictReader(file)) == rows


def test_novelty_of_another_model_is_refused(run_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint.best_or_latest(run_dir), tmp_path / "model.safetensors"))
    saved = checkpoint.describe(path)[NOVELTY_KEY]
    parts = saved["parts"] | {"features": saved["parts"]["layout"]}
    checkpoint.add(path, **{NOVELTY_KEY: saved | {"parts": parts}})
    with pytest.raises(InputError, match="its novelty is of another model"):
        Predictor(open_run(path), RuntimeConfig(device="cpu", threads=1))
    checkpoint.add(path, **{NOVELTY_KEY: {"parts": {}}})
    with pytest.raises(InputError, match=r"its novelty is not whole .*take another checkpoint"):
        open_run(path).novelty()


def test_the_page_shows_coverage_by_true_label(run_dir: Path, data: Path, tmp_path: Path) -> None:
    page = evaluate_run(Evaluate(run_dir, force=True, resamples=200, images=False))
    numbers = json.loads((page.parent / NUMBERS).read_text())["prediction_sets"]
    assert numbers["promised_coverage"] == 0.9
    rows, labels = predicted(run_dir, data / "test", tmp_path / "out.csv"), load_predictions(run_dir, "test")
    for place, name in enumerate(FINDINGS):
        for label, kind in enumerate(("absent", "present")):
            hits: dict[int, list[bool]] = {}
            for row, value, patient in zip(rows, labels.labels[:, place], labels.patients, strict=True):
                if value == label:
                    hits.setdefault(int(patient), []).append(kind in kinds_of(row, name))
            found = numbers["by_true_label"][f"{name} {kind}"]
            assert found["patients"] == len(hits)
            assert found["coverage"]["value"] == pytest.approx(np.mean([np.mean(each) for each in hits.values()]))
    text = page.read_text()
    assert "Prediction sets" in text
    assert "Promised: in new patients like those of val" in text
    assert "prediction sets" in (run_dir / "MODEL_CARD.md").read_text().casefold()


def test_another_set_says_how_many_images_are_unlike(run_dir: Path, data: Path) -> None:
    run = open_run(run_dir)
    found = on_other_set(run, str(data), "val", Predictor(run, RuntimeConfig(device="cpu", threads=1)))
    assert found.unlike is not None
    assert found.unlike <= 2


def test_kept_outputs_give_the_same_sets_and_novelty(
    run_dir: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another coverage too, for which nothing is computed."""
    out = tmp_path / "out.csv"
    wide, narrow = predicted(run_dir, data / "test", out), predicted(run_dir, data / "test", out, coverage=0.8)
    assert [row["Nodule set"] for row in wide] != [row["Nodule set"] for row in narrow]
    monkeypatch.setattr(Predictor, "verified", None)  # which would fail if it were called
    for coverage, rows in ((None, wide), (0.8, narrow)):
        predict_images(Predict(run_dir, (data / "test",), out, device="cpu", threads=1, coverage=coverage))
        with out.open(newline="") as file:
            assert list(csv.DictReader(file)) == rows


def test_python_has_the_sets_of_each_finding(run_dir: Path, earlier: Path, data: Path, tmp_path: Path) -> None:
    folder = data.parent / "raw"
    names = ["000.dcm", "001.dcm"]
    rows = {row["file"]: row for row in predicted(run_dir, folder, tmp_path / "out.csv")}
    classifier = bitscale.open_classifier(run_dir, device="cpu", threads=1)
    found = classifier.predict([folder / name for name in names])
    assert found.sets is not None
    for name, sets in zip(names, found.sets, strict=True):
        assert {finding: list(kinds) for finding, kinds in sets.items()} == {
            finding: kinds_of(rows[name], finding) for finding in FINDINGS
        }
    frame = found.to_frame()
    for title in ("Nodule set", "Nodule set size", "Effusion set", "unlike training"):
        assert frame[title].astype(str).tolist() == [rows[name][title] for name in names]
    alone = Path(shutil.copy(checkpoint.best_or_latest(earlier), tmp_path / "alone.safetensors"))
    without = bitscale.open_classifier(alone, device="cpu", threads=1)
    found = without.predict([folder / "000.dcm"])
    assert (found.sets, found.novelty, found.unlike) == (None, None, None)
    assert list(found.to_frame()) == [*FINDINGS, "predicted"]
    assert "the version" in without.no_novelty
    assert all("the version" in without.no_sets[name] for name in FINDINGS)
    with pytest.raises(InputError, match=r"a coverage of 0\.99 needs 99"):
        bitscale.open_classifier(run_dir, device="cpu", threads=1, coverage=0.99)
