"""New photographs are turned as a viewer shows them if those that the run was trained on were, and only then."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import SIDE, train_tiny
from tiny_sets import tiny_set
from tiny_weights import save_run, tensors_of

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.manifest import read_manifest, write_manifest
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from trainer import checkpoint
from trainer.config import RuntimeConfig
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import open_run

RUNTIME = RuntimeConfig(device="cpu", threads=1, loader="torch")
ABOUT = {"task": "single_label", "resize": SIDE, "eval_view": "squash"}


def lying() -> bytes:
    """A photograph whose top is its left side."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(("about", "is_turned"), [({}, False), ({"upright": False}, False), ({"upright": True}, True)])
@pytest.mark.parametrize("xray_size", [None, 32])
def test_new_photographs_are_turned_as_the_runs_own(
    about: dict[str, Any], is_turned: bool, xray_size: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(
        tmp_path / "run", tensors_of(), **ABOUT, channels=1 if xray_size else 3, xray_size=xray_size, **about
    )
    image = Predictor(open_run(run), RUNTIME).verified(lying())
    assert isinstance(image, EncodedImage)
    assert image.is_turned == is_turned
    expected = verify_xray(lying(), 32, upright=is_turned) if xray_size else verify_image(lying(), upright=is_turned)
    assert image == expected
    assert "turned" not in capsys.readouterr().err


def test_of_sets_that_differ_new_ones_are_turned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_run(tmp_path / "run", tensors_of(), **ABOUT, channels=3)
    checkpoint.add(checkpoint.best_path(run), upright=None)
    image = Predictor(open_run(run), RUNTIME).verified(lying())
    assert isinstance(image, EncodedImage)
    assert image.is_turned
    assert "new ones are turned" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_knows_whether_its_set_was_turned(tmp_path: Path) -> None:
    folder = tiny_set(tmp_path / "set", [i % 2 for i in range(8)], ["a", "b"], splits=("train", "test"), side=SIDE)
    write_manifest(folder, read_manifest(folder) | {"upright": True})
    run = train_tiny(folder, tmp_path / "run")
    assert checkpoint.describe(checkpoint.best_or_latest(run))["upright"] is True
