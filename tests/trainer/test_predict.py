"""New images are seen as the evaluation saw its own; what cannot be read is a row that says why."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import dicom_bytes
from PIL import Image
from tiny_runs import FINDINGS, SIDE, prepare_films, train_tiny, write_films
from tiny_weights import save_run, tensors_of

from data_pipelines.common.errors import InputError, RunError
from trainer import checkpoint, predict
from trainer.evaluation.calibration.operating import KEY, fit_operating_points
from trainer.evaluation.calibration.threshold_settings import ThresholdChoice
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.evaluation.statistics.predictions import load_predictions
from trainer.run_files import PREDICTIONS


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films") / "raw", 48)


@pytest.fixture(scope="module")
def data(films: Path) -> Path:
    return prepare_films(films, films.parent / "prepared")


@pytest.fixture(scope="module")
def run_dir(data: Path) -> Path:
    return train_tiny(data, data.parent / "run")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predicted(run: Path, source: Path, out: Path, **options: object) -> list[dict[str, str]]:
    predict_images(Predict(run, (source,), out, force=True, device="cpu", threads=1, **options))  # type: ignore[arg-type]
    return rows_of(out)


def logits_of(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(row[f"{name} logit"]) for name in FINDINGS] for row in rows])


@pytest.mark.parametrize("batch_size", [5, 64])
def test_logits_are_those_of_the_evaluation(
    run_dir: Path, films: Path, data: Path, tmp_path: Path, batch_size: int
) -> None:
    """From the DICOM files as they came, and from the shards that were made of them."""
    with np.load(run_dir / PREDICTIONS) as file:
        expected = dict(zip(file["test_keys"].tolist(), file["test_logits"], strict=True))
    rows = predicted(run_dir, films, tmp_path / "films.csv", eval_batch_size=batch_size)
    assert len(rows) == 48
    with data.with_name(f"{data.name}.keymap.csv").open(newline="") as file:
        key_of = {row["name"]: row["key"] for row in csv.DictReader(file)}
    found = {key_of[row["file"].replace(".", "_")]: row for row in rows}
    np.testing.assert_allclose(logits_of([found[key] for key in expected]), list(expected.values()), atol=1e-5, rtol=0)
    shards = predicted(run_dir, data / "test", tmp_path / "shards.csv", eval_batch_size=batch_size)
    assert [row["file"] for row in shards] == [f"000000.tar:{key}.png" for key in expected]
    np.testing.assert_allclose(logits_of(shards), list(expected.values()), atol=1e-5, rtol=0)


def test_a_checkpoint_alone_says_everything(run_dir: Path, films: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint.best_or_latest(run_dir), tmp_path / "model.safetensors"))
    alone = predicted(path, films / "004.dcm", tmp_path / "alone.csv")
    assert alone == predicted(run_dir, films / "004.dcm", tmp_path / "run.csv")
    points = fit_operating_points(load_predictions(run_dir, "val"))
    assert checkpoint.describe(path)[KEY] == points.to_dict()
    (row,) = alone
    for name in FINDINGS:
        logit = float(row[f"{name} logit"])
        assert float(row[f"{name} probability"]) == pytest.approx(1 / (1 + np.exp(-logit / points.temperature)))
        threshold = float(row[f"{name} threshold"])
        assert threshold == pytest.approx(1 / (1 + np.exp(-points.thresholds[name] / points.temperature)))
        assert row[f"{name} above threshold"] == str(int(float(row[f"{name} probability"]) >= threshold))
        assert row[f"{name} above threshold"] == str(int(logit >= points.thresholds[name]))
    assert row["predicted"] == "; ".join(name for name in FINDINGS if row[f"{name} above threshold"] == "1")


def test_what_cannot_be_read_is_a_row_with_a_reason(run_dir: Path, films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    whole = (films / "001.dcm").read_bytes()
    (folder / "a.dcm").write_bytes(whole)
    (folder / "b.dcm").write_bytes(whole[:-900])
    (folder / "c.png").write_bytes(b"no picture")
    (folder / "d.tar").write_bytes(b"no tar" * 200)
    (folder / "e0001").write_bytes(whole)  # as archives name DICOM files
    (folder / "notes.txt").write_text("passed over")
    colour = np.zeros((40, 36, 3), dtype=np.uint8) + np.arange(36, dtype=np.uint8)[:, None]
    Image.fromarray(colour).save(folder / "f.png")
    Image.fromarray(np.arange(1440, dtype=np.uint16).reshape(40, 36) * 40).save(folder / "g.png")
    rows = {row["file"]: row for row in predicted(run_dir, folder, tmp_path / "out.csv")}
    assert list(rows) == ["a.dcm", "b.dcm", "c.png", "d.tar", "e0001", "f.png", "g.png"]
    assert [name for name, row in rows.items() if row["error"]] == ["b.dcm", "c.png", "d.tar", "g.png"]
    assert rows["c.png"]["error"] == "text, no picture"
    assert "damaged tar" in rows["d.tar"]["error"]
    assert rows["b.dcm"]["Nodule logit"] == rows["b.dcm"]["predicted"] == ""
    assert rows["a.dcm"]["Nodule logit"] == rows["e0001"]["Nodule logit"]
    assert rows["f.png"]["remark"] == "colour, made grey"
    assert "does not say how many: say it with --bits" in rows["g.png"]["error"]
    (deep,) = predicted(run_dir, folder / "g.png", tmp_path / "out.csv", bits=16)
    assert (deep["error"], deep["remark"]) == ("", "")  # 16 bits are grey values like others


def test_dicom_without_a_picture_is_counted_unless_it_was_named(run_dir: Path, films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "a.dcm").write_bytes((films / "001.dcm").read_bytes())
    report = dicom_bytes(Modality="SR", Rows=None, Columns=None, PixelData=None)
    (folder / "report.dcm").write_bytes(report)
    (folder / "table.csv").write_text("path\na.dcm\nreport.dcm\n")
    counts, left_out = predict_images(Predict(run_dir, (folder,), tmp_path / "out.csv", device="cpu", threads=1))
    assert (counts, left_out) == ({"read": 1}, {"DICOM files without a picture (SR)": 1, ".csv": 1})
    assert [row["file"] for row in rows_of(tmp_path / "out.csv")] == ["a.dcm"]
    rows = predicted(run_dir, folder / "table.csv", tmp_path / "out.csv")
    assert [bool(row["error"]) for row in rows] == [False, True]
    with pytest.raises(RunError, match="the input could not be read"):
        predicted(run_dir, folder / "report.dcm", tmp_path / "out.csv")
    (folder / "a.dcm").unlink()
    with pytest.raises(InputError, match=r"has no image, but others: .*DICOM files without a picture \(SR\) \(1\)"):
        predicted(run_dir, folder, tmp_path / "out.csv")


def test_a_table_that_names_absent_files(run_dir: Path, films: Path, tmp_path: Path) -> None:
    table = films / "some.csv"
    table.write_text("file\n003.dcm\nabsent.dcm\n")
    with pytest.raises(InputError, match="has no column 'path'; known: file; name it with --path-column"):
        predicted(run_dir, table, tmp_path / "out.csv")
    rows = predicted(run_dir, table, tmp_path / "out.csv", path_column="file")
    assert [row["error"] for row in rows] == ["", "No such file or directory"]
    table = tmp_path / "elsewhere.csv"
    table.write_text("path\n003.dcm\nabsent.dcm\n")
    with pytest.raises(InputError, match=r"none of the 2 files .*003\.dcm; its paths count from its own folder"):
        predicted(run_dir, table, tmp_path / "nothing.csv")
    assert not (tmp_path / "nothing.csv").exists()


def test_nothing_readable_is_an_error_after_the_rows(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(RunError, match="the input could not be read"):
        predicted(run_dir, tmp_path / "bad.png", tmp_path / "out.csv")
    assert rows_of(tmp_path / "out.csv")[0]["error"]
    for source, code in ((tmp_path / "bad.png", 1), (tmp_path / "nowhere", 2), (tmp_path / "empty", 2)):
        (tmp_path / "empty").mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "argv", ["predict", str(run_dir), str(source), "--out", str(tmp_path / "out.csv")])
        with pytest.raises(SystemExit) as end:
            predict.main()
        assert end.value.code == code
    assert "has no image, DICOM file or shard" in capsys.readouterr().err
    (tmp_path / "empty" / "a.mov").write_bytes(b"a video")
    (tmp_path / "empty" / ".hidden.jpg").touch()
    with pytest.raises(
        InputError, match=r"has no image, DICOM file or shard, but others: \.mov \(1\), hidden files \(1\)"
    ):
        predicted(run_dir, tmp_path / "empty", tmp_path / "out.csv")


def test_files_that_are_left_out_are_counted(
    run_dir: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    shutil.copy(films / "000.dcm", tmp_path / "raw" / "000")
    for name in ("a.txt", "b.txt", "c.mov", "Thumbs.db"):
        (tmp_path / "raw" / name).write_bytes(b"no picture")
    out = tmp_path / "out.csv"
    monkeypatch.setattr(
        sys,
        "argv",
        ["predict", str(run_dir), str(tmp_path / "raw"), "--out", str(out), "--device", "cpu", "--threads", "1"],
    )
    predict.main()
    output = capsys.readouterr().out
    assert output.endswith(f"{out}: 1 image, 4 files left out: .txt (2), .mov (1), hidden files (1)\n")
    assert [row["file"] for row in rows_of(out)] == ["000"]


def test_photographs_of_other_kinds_than_trained_on(tmp_path: Path, films: Path) -> None:
    about = {"task": "single_label", "resize": SIDE, "eval_view": "squash", "channels": 3, "xray_size": None}
    run = save_run(tmp_path / "run", tensors_of(), **about)
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(films / "000.dcm", folder / "a.dcm")
    Image.fromarray(np.zeros((40, 36), dtype=np.uint16)).save(folder / "b.png")
    Image.fromarray(np.zeros((40, 36), dtype=np.uint8)).save(folder / "c.png")
    rows = predicted(run, folder, tmp_path / "out.csv")
    assert "not shrunk as X-rays" in rows[0]["error"]
    assert "more than 8 bits" in rows[1]["error"]
    assert (rows[2]["error"], rows[2]["remark"]) == ("", "grey; trained on colour")
    assert rows[2]["predicted"] in ("cat", "dog", "fish")
    assert sum(float(rows[2][f"{name} probability"]) for name in ("cat", "dog", "fish")) == pytest.approx(1)


def test_a_checkpoint_of_another_version(tmp_path: Path, films: Path) -> None:
    run = save_run(tmp_path / "run", tensors_of())
    with pytest.raises(InputError, match=r"of another version: it does not say task, resize, eval_view, channels"):
        predicted(run, films, tmp_path / "out.csv")
    with pytest.raises(InputError, match="neither a run folder nor a checkpoint"):
        predicted(tmp_path / "none", films, tmp_path / "out.csv")


def test_other_thresholds_change_what_is_above_in_every_row(run_dir: Path, films: Path, tmp_path: Path) -> None:
    """Also of a table that is there already, whose images stay the same."""
    out, given = tmp_path / "out.csv", tmp_path / "given.csv"
    before = predicted(run_dir, films, out)
    middle = float(np.median([float(row["Nodule probability"]) for row in before]))
    given.write_text(f"name,threshold\nNodule,{middle}\n")
    predict_images(Predict(run_dir, (films,), out, device="cpu", threads=1, choice=ThresholdChoice(thresholds=given)))
    after = rows_of(out)
    np.testing.assert_allclose([float(row["Nodule threshold"]) for row in after], middle)
    assert [row["Nodule above threshold"] for row in after] == [
        str(int(float(row["Nodule probability"]) >= middle)) for row in before
    ]
    for name in ("Nodule logit", "Nodule probability"):
        assert [row[name] for row in after] == [row[name] for row in before]
    thresholds = [float(row["Effusion threshold"]) for row in (before[0], after[0])]
    assert thresholds[0] == pytest.approx(thresholds[1])
    alone = Path(shutil.copy(checkpoint.best_or_latest(run_dir), tmp_path / "model.safetensors"))
    with pytest.raises(InputError, match="needs the run's predictions for val"):
        predicted(alone, films, tmp_path / "x.csv", choice=ThresholdChoice(at_sensitivity=0.9))


def test_images_that_were_trained_on_are_marked(
    run_dir: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of DICOM files, by what `prepare` makes of them; without the training set, a note says that none is."""
    with (films / "films.csv").open(newline="") as file:
        splits = {row["path"]: row["split"] for row in csv.DictReader(file)}
    rows = predicted(run_dir, films, tmp_path / "out.csv")
    assert {row["file"] for row in rows if row["remark"]} == {name for name in splits if splits[name] == "train"}
    assert {row["remark"] for row in rows} == {"", "trained on"}
    assert "are not marked" not in capsys.readouterr().err
    alone = Path(shutil.copy(checkpoint.best_or_latest(run_dir), tmp_path / "model.safetensors"))
    assert predicted(alone, films / "000.dcm", tmp_path / "out.csv")[0]["remark"] == ""
    assert "images that were trained on are not marked" in capsys.readouterr().err


def test_several_inputs_are_predicted_in_one_table(
    run_dir: Path, films: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names that two of them have are told apart by where they lie."""
    for name in ("a", "b", "none"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        shutil.copy(films / "000.dcm", tmp_path / name)
    table, shard = films / "two.csv", data / "test" / "000000.tar"
    table.write_text("path\n001.dcm\n002.dcm\n")
    sources = (tmp_path / "a", tmp_path / "b", films / "003.dcm", table, shard, tmp_path / "none")
    out = tmp_path / "out.csv"
    for _ in range(2):  # the second goes on with the table of the first
        counts, _ = predict_images(Predict(run_dir, sources, out, device="cpu", threads=1))
    rows = rows_of(out)
    names = [row["file"] for row in rows]
    assert len(set(names)) == len(names) == counts["read"]
    assert names[:5] == [
        f"{tmp_path}/a/000.dcm", f"{tmp_path}/b/000.dcm", f"{films}/003.dcm", f"{table}:001.dcm", f"{table}:002.dcm"
    ]  # fmt: skip
    assert all(name.startswith(f"{shard}:") for name in names[5:])
    np.testing.assert_array_equal(*logits_of(rows[:2]))
    assert f"{tmp_path}/none has no image" in capsys.readouterr().err
    table.unlink()
    with pytest.raises(InputError, match=r"has predictions of images that are not in .*/a, .*/b \(\d+\)"):
        predict_images(Predict(run_dir, sources[:2], out, device="cpu", threads=1))
    with pytest.raises(InputError, match="neither a file nor a folder"):
        predict_images(Predict(run_dir, (*sources[:2], tmp_path / "absent"), out, device="cpu", threads=1))


def test_inputs_that_are_refused(run_dir: Path, films: Path) -> None:
    with pytest.raises(InputError, match="INPUT must be given"):
        Predict(run_dir, ())
    with pytest.raises(InputError, match="raw twice; name each once"):
        Predict(run_dir, (films, films))
