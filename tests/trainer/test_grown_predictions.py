"""The same command again computes only what is new or changed. Counted are images that are decoded, never time."""

import csv
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_pictures import ABOUT, picture
from tiny_weights import save_run, tensors_of

from data_pipelines.common.errors import InputError
from trainer import predict
from trainer.config import RuntimeConfig
from trainer.evaluation.predicting.inputs import Input
from trainer.evaluation.predicting.judged_inputs import read_again
from trainer.evaluation.predicting.kept_outputs import SUFFIX
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import open_run

Run = Callable[..., tuple[int, str, str]]
Decoded = list[bytes]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three."""
    for seed in (0, 2, 4):
        picture(tmp_path / "photos" / f"{seed}.png", seed)
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """The bytes of every image that is decoded, in any order."""
    found: Decoded = []
    verified = Predictor.verified

    def noting(self: Predictor, encoded: bytes, at_own_size: bool = False) -> object:
        found.append(encoded)
        return verified(self, encoded, at_own_size)

    monkeypatch.setattr(Predictor, "verified", noting)
    return found


@pytest.fixture
def predicting(tmp_path: Path, photos: Path, decoded: Decoded, run_main: Run) -> Run:
    """A function that predicts the folder with a run, after which `decoded` has what this decoded."""
    save_run(tmp_path / "run", tensors_of(), **ABOUT)

    def run(*options: object, source: Path = photos) -> tuple[int, str, str]:
        decoded.clear()
        words = [tmp_path / "run", source, "--out", tmp_path / "out.csv", "--device", "cpu", "--threads", "1"]
        return run_main(predict.main, "predict", *words, *options)

    return run


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def assert_alike(rows: dict[str, dict[str, str]], others: dict[str, dict[str, str]]) -> None:
    """The same images, with logits that differ by no more than those of other batches."""
    assert list(rows) == list(others)
    for name in ("cat logit", "dog logit", "fish logit"):
        found, expected = ([float(row[name]) for row in each.values()] for each in (rows, others))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_the_new_image_of_a_grown_folder_is_decoded(
    predicting: Run, photos: Path, decoded: Decoded, tmp_path: Path
) -> None:
    assert predicting()[0] == 0
    before = rows_of(tmp_path / "out.csv")
    assert len(decoded) == 3
    picture(photos / "1.png", 1)
    code, output, error = predicting()
    assert (code, decoded) == (0, [(photos / "1.png").read_bytes()]), error
    after = rows_of(tmp_path / "out.csv")
    assert list(after) == ["0.png", "1.png", "2.png", "4.png"]  # in the order of the folder
    assert {name: after[name] for name in before} == before
    assert "4 images, 3 of them as before" in output
    assert predicting("--force")[0] == 0
    assert len(decoded) == 4
    assert_alike(rows_of(tmp_path / "out.csv"), after)


def test_a_changed_image_is_computed_anew(predicting: Run, photos: Path, decoded: Decoded, tmp_path: Path) -> None:
    assert predicting()[0] == 0
    before = rows_of(tmp_path / "out.csv")
    state = (photos / "2.png").stat()
    picture(photos / "2.png", 7)
    os.utime(photos / "2.png", ns=(state.st_atime_ns, state.st_mtime_ns))  # as archives restore it
    code, _, error = predicting()
    assert (code, decoded) == (0, [(photos / "2.png").read_bytes()]), error
    after = rows_of(tmp_path / "out.csv")
    assert after["2.png"]["cat logit"] != before["2.png"]["cat logit"]
    assert after["0.png"] == before["0.png"]
    shutil.copy(photos / "0.png", photos / "copy.png")
    (photos / "0.png").touch()  # another time, and the same bytes
    assert predicting()[0] == 0
    assert decoded == []
    assert rows_of(tmp_path / "out.csv")["copy.png"]["cat logit"] == before["0.png"]["cat logit"]


def test_images_that_are_gone_keep_their_rows(predicting: Run, photos: Path, decoded: Decoded, tmp_path: Path) -> None:
    assert predicting()[0] == 0
    before = rows_of(tmp_path / "out.csv")
    (photos / "0.png").unlink()
    code, output, _ = predicting()
    assert (code, decoded) == (0, [])
    assert "2 images, 2 of them as before, 1 row of images that are gone (column remark)" in output
    after = rows_of(tmp_path / "out.csv")
    assert list(after) == ["2.png", "4.png", "0.png"]
    assert after["0.png"] == before["0.png"] | {"remark": "gone"}
    assert predicting()[0] == 0
    assert rows_of(tmp_path / "out.csv") == after
    shutil.copytree(photos, tmp_path / "other")
    code, _, error = predicting(source=tmp_path / "other")
    assert (code, "has predictions of images that are not in" in error, "--force" in error) == (2, True, True)
    assert predicting("--force")[0] == 0
    assert list(rows_of(tmp_path / "out.csv")) == ["2.png", "4.png"]


def test_other_options_compute_all_anew_and_say_so(
    predicting: Run, photos: Path, decoded: Decoded, tmp_path: Path
) -> None:
    assert predicting()[0] == 0
    code, _, error = predicting("--precision", "bf16")
    assert (code, len(decoded)) == (0, 3), error
    assert "all images are predicted anew" in error
    assert "out.csv: precision" in error
    assert predicting("--precision", "bf16")[0] == 0
    assert decoded == []
    (photos / "0.png").unlink()  # cannot be computed anew
    code, _, error = predicting()
    assert (code, "are predicted anew" in error) == (2, False)
    assert "(1), and so cannot be predicted anew with other values of precision; replace it with --force" in error


def test_other_thresholds_change_rows_and_compute_nothing(predicting: Run, decoded: Decoded, tmp_path: Path) -> None:
    assert predicting()[0] == 0
    before = rows_of(tmp_path / "out.csv")
    given = tmp_path / "given.csv"
    given.write_text("name,threshold\ncat,0.125\ndog,0.5\nfish,0.5\n")
    code, _, error = predicting("--thresholds", given)
    assert (code, decoded) == (0, []), error
    after = rows_of(tmp_path / "out.csv")
    np.testing.assert_allclose([float(row["cat threshold"]) for row in after.values()], 0.125)
    assert [row["cat logit"] for row in after.values()] == [row["cat logit"] for row in before.values()]


def test_other_weights_are_refused_before_anything(predicting: Run, decoded: Decoded, tmp_path: Path) -> None:
    assert predicting()[0] == 0
    before = (tmp_path / "out.csv").read_bytes()
    shutil.rmtree(tmp_path / "run")
    near = {name: tensor + 1e-4 for name, tensor in tensors_of().items()}  # whose logits differ by little
    save_run(tmp_path / "run", near, **ABOUT)
    code, _, error = predicting()
    assert (code, decoded, "made with other weights" in error) == (2, [], True)
    assert (tmp_path / "out.csv").read_bytes() == before
    assert predicting("--force")[0] == 0
    assert len(decoded) == 3


@pytest.mark.parametrize("cut", ["table", "record"])
def test_what_was_cut_off_is_made_whole(predicting: Run, decoded: Decoded, tmp_path: Path, cut: str) -> None:
    one_by_one = ("--eval-batch-size", 1)  # so that logits are the same to the last bit
    assert predicting(*one_by_one)[0] == 0
    table = tmp_path / "out.csv"
    whole = table.read_bytes()
    path = table if cut == "table" else table.with_name(table.name + SUFFIX)
    path.write_bytes(path.read_bytes()[:-100])
    for expected in (int(cut == "record"), 0):
        code, _, error = predicting(*one_by_one)
        assert (code, len(decoded)) == (0, expected), error
        assert table.read_bytes() == whole


def test_a_record_that_cannot_be_written_is_an_error(predicting: Run, tmp_path: Path) -> None:
    (tmp_path / f"out.csv{SUFFIX}").mkdir()
    code, _, error = predicting()
    assert (code, "cannot be written" in error, "choose another --out" in error) == (2, True, True)
    assert not (tmp_path / "out.csv").exists()


def test_a_killed_prediction_goes_on(
    predicting: Run, photos: Path, decoded: Decoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (5, 6, 7):
        picture(photos / f"{seed}.png", seed)
    judge_images = Predictor.judge_images

    def killed_at_the_fifth(self: Predictor, images: list[Any]) -> Any:
        if len(decoded) > 4:  # batches of one come four at a time
            raise KeyboardInterrupt
        return judge_images(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "judge_images", killed_at_the_fifth)
        assert predicting("--eval-batch-size", 1)[0] != 0
    assert not (tmp_path / "out.csv").exists()
    assert predicting("--eval-batch-size", 1)[0] == 0
    assert len(decoded) == 2
    resumed = (tmp_path / "out.csv").read_bytes()
    assert predicting("--force", "--eval-batch-size", 1)[0] == 0
    assert (tmp_path / "out.csv").read_bytes() == resumed


def test_what_cannot_be_read_is_tried_again(predicting: Run, photos: Path, decoded: Decoded, tmp_path: Path) -> None:
    """A file that is missing may come, and a decoder may be installed."""
    (photos / "text.png").write_text("no picture")
    table = tmp_path / "table.csv"
    table.write_text("path\nphotos/0.png\nphotos/9.png\nphotos/text.png\n")
    assert predicting(source=table)[0] == 0
    assert [bool(row["error"]) for row in rows_of(tmp_path / "out.csv").values()] == [False, True, True]
    picture(photos / "9.png", 9)
    assert predicting(source=table)[0] == 0
    assert sorted(decoded) == sorted([b"no picture", (photos / "9.png").read_bytes()])
    assert [bool(row["error"]) for row in rows_of(tmp_path / "out.csv").values()] == [False, False, True]


def test_only_what_is_new_in_a_tar_is_decoded(predicting: Run, photos: Path, decoded: Decoded, tmp_path: Path) -> None:
    tar = tmp_path / "some.tar"
    with tarfile.open(tar, "w") as file:
        file.add(photos / "0.png", "0.png")
        file.add(photos / "2.png", "2.png")
    for expected in (2, 0):
        code, _, error = predicting(source=tar)
        assert (code, len(decoded)) == (0, expected), error
    with tarfile.open(tar, "a") as file:
        file.add(photos / "4.png", "4.png")
    assert predicting(source=tar)[0] == 0
    assert decoded == [(photos / "4.png").read_bytes()]


@pytest.mark.parametrize(("content", "why"), [(None, "No such file or directory"), (b"no image", "text, no picture")])
def test_an_image_that_changes_before_its_map_is_named(
    decoded: Decoded, tmp_path: Path, content: bytes | None, why: str
) -> None:
    """Not the table or the maps, which could be written."""
    save_run(tmp_path / "run", tensors_of(), **ABOUT)
    predictor = Predictor(open_run(tmp_path / "run"), RuntimeConfig(device="cpu", threads=1))
    path = tmp_path / "0.png"
    picture(path, 0)
    item = Input("0.png", path.read_bytes)
    assert read_again(predictor, item).encoded == path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"0.png was read, but cannot be read again .*{why}.*the same command goes on"):
        read_again(predictor, item)


@pytest.mark.slow
def test_maps_of_kept_images_are_drawn(predicting: Run, photos: Path, decoded: Decoded, tmp_path: Path) -> None:
    assert predicting()[0] == 0
    table = (tmp_path / "out.csv").read_bytes()
    code, _, error = predicting("--explain", tmp_path / "maps", "--explain-images", 2)
    assert code == 0, error
    assert set(decoded) == {(photos / f"{name}.png").read_bytes() for name in (0, 2)}
    assert (tmp_path / "out.csv").read_bytes() == table
    with (tmp_path / "maps" / "maps.csv").open(newline="", encoding="utf-8") as file:
        assert {row["file"] for row in csv.DictReader(file)} == {"0.png", "2.png"}
