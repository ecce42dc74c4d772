"""New X-rays of more than 8 bits are as bright as those that the run was trained on."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom_bytes
from PIL import Image
from tiny_runs import SIDE, train_tiny
from tiny_weights import save_run, tensors_of

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.image_files.image_verification import FLAT
from data_pipelines.image_files.png import encode_png
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from trainer import checkpoint
from trainer.config import RuntimeConfig
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import open_run

RUNTIME = RuntimeConfig(device="cpu", threads=1, loader="torch")
XRAYS = {"task": "single_label", "resize": SIDE, "eval_view": "squash", "channels": 1, "xray_size": SIDE}


def film(value: int, brightest: int) -> bytes:
    pixels = np.full((SIDE, SIDE), value, dtype=np.uint16)
    pixels[0] = brightest
    return encode_png(pixels)


def shade(predictor: Predictor, encoded: bytes) -> int | str:
    """What most pixels become, or why there is no picture."""
    image = predictor.verified(encoded)
    if isinstance(image, str):
        return image
    with Image.open(io.BytesIO(image.encoded)) as picture:
        return int(np.asarray(picture)[-1, -1])


def predictor_of(folder: Path, given: int | None = None, **about: Any) -> Predictor:
    run = save_run(folder, tensors_of(), **XRAYS | about)
    return Predictor(open_run(run), RUNTIME, bits=given)


def test_new_films_are_as_deep_as_those_of_the_run(tmp_path: Path) -> None:
    for known in ({"bits": 12, "bits_found": False}, {"bits": 12, "bits_found": True}):
        predictor = predictor_of(tmp_path / f"{known['bits_found']}", **known)
        assert shade(predictor, film(1000, 1001)) == shade(predictor, film(1000, 4095)) == round(1000 / 4095 * 255)
        assert "a pixel of 4,096, more than 12 bits hold; --bits 13" in str(shade(predictor, film(1000, 4096)))
    deeper = predictor_of(tmp_path / "deeper", 16, **known)
    assert shade(deeper, film(1000, 4096)) == round(1000 / 65_535 * 255)


def test_depth_that_nobody_says_is_not_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_run(tmp_path / "run", tensors_of(), **XRAYS | {"bits_found": False})
    checkpoint.add(checkpoint.best_path(run), bits=None)
    predictor = Predictor(open_run(run), RUNTIME)
    assert "does not say how many: say it with --bits" in str(shade(predictor, film(1000, 4095)))
    assert capsys.readouterr().err == ""
    assert shade(Predictor(open_run(run), RUNTIME, bits=12), film(1000, 4000)) == round(1000 / 4095 * 255)


def test_runs_of_earlier_versions_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor_of(tmp_path / "run")
    assert "scaled pictures of more than 8 bits" in capsys.readouterr().err


def test_a_run_knows_the_depth_of_its_set(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("sick", "well"):
            folder = tmp_path / "films" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                (folder / f"{number}.png").write_bytes(film(1000 + 100 * number, 3000 + number))
    raw = image_folder(tmp_path / "films", 0, 0, split_by="image", xray_size=SIDE)
    prepare(raw, Output(tmp_path / "set"))
    run = train_tiny(tmp_path / "set", tmp_path / "run")
    about = checkpoint.describe(checkpoint.best_or_latest(run))
    assert (about["bits"], about["bits_given"]) == (12, False)


@pytest.mark.parametrize(
    ("known", "given", "bits"),
    [
        ({"bits": 16, "bits_given": False}, None, 12),
        ({"bits": 16, "bits_found": False}, None, 12),  # a run of an earlier version on PadChest
        ({"bits": 16, "bits_given": True}, None, 16),
        ({"bits": 16, "bits_given": False}, 14, 14),
    ],
)
def test_new_dicom_goes_by_its_own_bits_unless_told_otherwise(
    known: dict[str, Any], given: int | None, bits: int, tmp_path: Path
) -> None:
    pixels = np.full((SIDE, SIDE), 1000, dtype=np.uint16)
    pixels[0] = 4095
    encoded = dicom_bytes(pixels, BitsStored=12)
    assert shade(predictor_of(tmp_path / "run", given, **known), encoded) == round(1000 / (2**bits - 1) * 255)


def test_films_that_come_out_nearly_black_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(tmp_path / "run", tensors_of(), **XRAYS | {"bits": 16, "bits_given": False})
    (tmp_path / "new").mkdir()
    for number, brightest in enumerate((4095, 4000, 65535)):
        (tmp_path / "new" / f"{number}.png").write_bytes(film(7 * number, brightest))
    given = {"device": "cpu", "loader": "torch", "threads": 1}
    table = tmp_path / "out.csv"
    for bits, why in ((16, "--bits 16 holds for every file"), (None, "count as of 16: take those of fewer bits")):
        for _ in range(2):  # the second takes what the first has kept
            counts, _ = predict_images(Predict(run, (tmp_path / "new",), out=table, bits=bits, **given))
            assert (counts["read"], counts["flat"]) == (3, 2)
            error = capsys.readouterr().err + caplog.text
            assert f"2 of 3 images came out nearly black or white: {FLAT} (column remark). " in error
            assert why in error
            caplog.clear()
        with table.open(newline="") as file:
            assert [row["remark"] for row in csv.DictReader(file)] == [FLAT, FLAT, ""]


def test_bits_are_refused_for_a_run_on_photographs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--bits is for X-rays, .* was not trained on such; leave it out$"):
        predictor_of(tmp_path / "photographs", 12, xray_size=None)
    unsaid = save_run(tmp_path / "earlier", tensors_of(), **{k: v for k, v in XRAYS.items() if k != "xray_size"})
    with pytest.raises(InputError, match="leave it out, or say their side with --xray-size"):
        Predictor(open_run(unsaid), RUNTIME, bits=12)
    Predictor(open_run(unsaid), RUNTIME, xray_size=SIDE, bits=12)


@pytest.mark.parametrize("bits", [7, 32])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match=f"--bits is {bits}; it must lie in 8 to 31"):
        Predict(Path("run"), (Path("film.png"),), bits=bits)
