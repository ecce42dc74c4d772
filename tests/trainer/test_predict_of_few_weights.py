"""Predictions by runs that were written, not trained: shrunk photographs, an unfinished run, damaged files."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_predict import predicted
from tiny_runs import SIDE
from tiny_weights import save_run, tensors_of

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import write_json
from data_pipelines.image_files.image_verification import verify_image
from trainer.evaluation.assessment import evaluated_set
from trainer.evaluation.runs import open_run
from trainer.evaluation.statistics.predictions import load_predictions, saved_splits
from trainer.run_files import HEARTBEAT, PREDICTIONS
from trainer.run_folder import write_status


@pytest.mark.slow
def test_photographs_are_shrunk_and_decoded_as_those_of_the_run(tmp_path: Path) -> None:
    """A run on images of a shorter side of 96 pixels that were decoded at a scale, and one on images as they came."""
    about = {"task": "single_label", "resize": SIDE, "eval_view": "squash", "channels": 3, "xray_size": None}
    plain = save_run(tmp_path / "plain", tensors_of(), **about)
    alike = save_run(tmp_path / "alike", tensors_of(), **about, shorter_side=96, scaled_decode=True)
    pixels = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95)
    shrunk = verify_image((tmp_path / "large.jpg").read_bytes(), 96)
    assert (shrunk.height, shrunk.width) == (96, 120)
    (tmp_path / "small.jpg").write_bytes(shrunk.encoded)

    def probability(run: Path, name: str) -> str:
        return predicted(run, tmp_path / name, tmp_path / "out.csv")[0]["cat probability"]

    assert probability(alike, "large.jpg") == probability(alike, "small.jpg")
    assert probability(plain, "large.jpg") != probability(plain, "small.jpg")
    assert probability(alike, "small.jpg") != probability(plain, "small.jpg")  # 1/2 or more of what 32 pixels need
    with pytest.raises(InputError, match=r"cannot be had with DALI.*take --loader torch"):
        predicted(alike, tmp_path / "large.jpg", tmp_path / "out.csv", loader="dali")


def test_an_unfinished_run_says_its_step_and_what_resumes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"task": "single_label", "resize": SIDE, "eval_view": "squash", "channels": 3, "xray_size": None}
    run = save_run(tmp_path / "run", tensors_of(), **about)
    write_status(run, 0, "resumable", 19, 345)
    write_json(run / HEARTBEAT, {"command": "bitscale pretrain mine", "folder": "/job"})
    Image.fromarray(np.zeros((40, 36, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    predicted(run, tmp_path / "a.png", tmp_path / "out.csv")
    said = capsys.readouterr().err
    resumes = "the run is not finished (step 19 of 345); resume it with: cd /job && bitscale pretrain mine"
    assert said.count(f"the temperature is 1, because {resumes}") == 1
    assert "no val split" not in said
    assert "images are not compared with the training images, because the run is not finished (step 19 of 345)" in said
    with pytest.raises(InputError, match=re.escape(resumes)):
        evaluated_set.test_own(open_run(run), "test")


@pytest.mark.parametrize("kept", ["an array alone", "nothing"])
def test_predictions_that_lost_their_beginning_are_refused(kept: str, tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    (tmp_path / PREDICTIONS).write_bytes(array.getvalue() if kept == "an array alone" else b"")
    for read in (saved_splits, lambda folder: load_predictions(folder, "test")):
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path)
