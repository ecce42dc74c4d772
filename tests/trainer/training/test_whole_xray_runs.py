"""New X-rays are cut as those were that a run was trained on."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import FINDINGS, SIDE, train_tiny, write_films

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.xray_storage import XrayCut
from data_pipelines.datasets.user_images import csv_table
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from trainer.config import RuntimeConfig
from trainer.evaluation.evaluate_run import Evaluate, evaluate_run
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.runs import open_run
from trainer.run_files import PREDICTIONS

ON_CPU = RuntimeConfig(device="cpu", threads=1)
CUTS: tuple[XrayCut, ...] = ("whole", "square")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of 40 x 36 pixels, sets of them cut either way, and a run on each."""
    folder = tmp_path_factory.mktemp("films")
    films = write_films(folder / "raw", 48)
    for cut in CUTS:
        raw = csv_table(films, films / "films.csv", label_columns=FINDINGS, split_column="split", xray_size=SIDE)
        prepare(replace(raw, xray_cut=cut), Output(folder / cut))
        train_tiny(folder / cut, folder / f"run-{cut}")
    return folder


def stored(predictor: Predictor, film: Path) -> tuple[int, int]:
    image = predictor.verified(film.read_bytes())
    assert isinstance(image, EncodedImage)
    return image.height, image.width


@pytest.mark.parametrize("cut", CUTS)
def test_logits_are_those_of_the_evaluation(cut: XrayCut, place: Path, tmp_path: Path) -> None:
    with np.load(place / f"run-{cut}" / PREDICTIONS) as file:
        expected = dict(zip(file["test_keys"].tolist(), file["test_logits"], strict=True))
    predict_images(Predict(place / f"run-{cut}", (place / "raw",), tmp_path / "out.csv", device="cpu", threads=1))
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {row["file"].replace(".", "_"): row for row in csv.DictReader(file)}
    with (place / f"{cut}.keymap.csv").open(newline="") as file:
        found = {row["key"]: rows[row["name"]] for row in csv.DictReader(file) if row["key"] in expected}
    logits = np.array([[float(found[key][f"{name} logit"]) for name in FINDINGS] for key in expected])
    np.testing.assert_allclose(logits, list(expected.values()), atol=1e-5, rtol=0)


def test_runs_that_do_not_say_were_trained_on_squares(place: Path) -> None:
    run, film = open_run(place / "run-whole"), place / "raw" / "000.dcm"
    assert stored(Predictor(run, ON_CPU), film) == (36, 32)
    older = replace(run, metadata={name: value for name, value in run.metadata.items() if name != "xray_cut"})
    assert stored(Predictor(older, ON_CPU), film) == (32, 32)
    unsaid: dict[str, Any] = {name: value for name, value in older.metadata.items() if name != "xray_size"}
    assert stored(Predictor(replace(run, metadata=unsaid), ON_CPU, xray_size=16), film) == (16, 16)


@pytest.mark.slow
@pytest.mark.parametrize(("trained", "tested"), [("whole", "square"), ("square", "whole")])
def test_sets_that_are_cut_otherwise_are_warned_of(trained: str, tested: str, place: Path, tmp_path: Path) -> None:
    settings = Evaluate(place / f"run-{trained}", device="cpu", threads=1, resamples=100, images=False)
    for data, is_other in ((tested, True), (trained, False)):
        page = evaluate_run(replace(settings, data=str(place / data), out=tmp_path / data)).read_text()
        kept = {"whole": "whole X-rays", "square": "central squares of X-rays"}[trained]
        assert (f"The set does not store {kept}, which the run was trained on" in page) == is_other
        warnings = json.loads((tmp_path / data / "evaluation.json").read_text())["warnings"]
        assert not any("prepare it with --xray-size" in warning for warning in warnings)  # the side is the same
    words = {"whole": "brought to a shorter side of 32 pixels", "square": "the central square brought to 32 pixels"}
    assert f"Preparation: {words[trained]}, grey" in page
