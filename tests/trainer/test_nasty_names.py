"""A whole run, from training to prediction, whose classes, set and folder have names of no UTF-8 or with a meaning."""

import base64
import csv
import html
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tyro
from made_results import seeds, write_results
from nasty_names import NAMES
from PIL import Image
from safetensors import safe_open
from tiny_runs import train_tiny
from tiny_sets import tiny_set

from data_pipelines.common.figure_text import drawable
from data_pipelines.common.printable import printable
from data_pipelines.inspect import Inspect, make_page, summary
from data_pipelines.inspect_page import draw
from data_pipelines.shards.index import Index
from trainer import checkpoint
from trainer.config import DataConfig
from trainer.evaluation.assessment.output_names import NUMBERS
from trainer.evaluation.evaluate_run import CARD, Evaluate, evaluate_run
from trainer.evaluation.exporting.export_graph import export_graph
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.evaluation.results import recompute
from trainer.evaluation.statistics.predictions import load_predictions, saved_splits
from trainer.models.export_weights import Export, export
from trainer.models.weight_files import OWN_KEY
from trainer.models.weights import load_weights
from trainer.reporting.report_runs import Report, write_report
from trainer.run_files import RESULT
from trainer.run_folder.run_status import run_folders, run_status
from trainer.status import table

SIDE = 16
NOT_UTF8 = "Katze \udcfc"
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films \udcff of $x_$y")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    labels = [number % len(NAMES) for number in range(2 * len(NAMES))]
    return tiny_set(folder / "data", labels, NAMES, f"{NOT_UTF8} | <b>", splits=("train", "val", "test"), side=SIDE)


@pytest.fixture(scope="module")
def run_dir(folder: Path, data: Path) -> Path:
    run = train_tiny(data, folder / "runs" / "a \udcfc `b` $c_$d")
    result = json.loads((run / RESULT).read_text(encoding="utf-8"))
    result |= {"target": NOT_UTF8, "shots": "full", "departures": {}}
    (run / RESULT).write_text(json.dumps(result), encoding="utf-8")
    return run


class Words(HTMLParser):
    """The text of a page, and the tags on it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags = "", set[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_run_keeps_the_names(run_dir: Path, data: Path) -> None:
    assert checkpoint.damaged(run_dir) == []
    assert checkpoint.describe(checkpoint.best_or_latest(run_dir))["classes"] == list(NAMES)
    assert load_predictions(run_dir, "test").classes == NAMES
    assert saved_splits(run_dir) == list(recompute(run_dir)) == ["val", "test"]
    assert any((run_dir / "tensorboard").iterdir())
    taken = Index.load(data, "train").take_classes(tyro.cli(DataConfig, args=["--classes", NOT_UTF8, "nan"]).classes)
    assert taken.classes == (os.fsdecode(b"Katze \xfc"), "nan")


@pytest.mark.slow
def test_it_is_evaluated(run_dir: Path) -> None:
    for images in (False, True):
        page = evaluate_run(Evaluate(run_dir, force=True, resamples=100, images=images, device="cpu", threads=1))
    words = Words(page.read_text(encoding="utf-8"))
    assert all(words.text.count(printable(name)) >= 3 for name in NAMES)
    assert "script" not in words.tags
    pictures = [base64.b64decode(found).decode("utf-8") for found in re.findall('base64,([^"]+)', page.read_text())]
    curves = {html.unescape(text) for text in re.findall("<!-- (.+), [0-9.]+ -->", "".join(pictures))}
    assert {drawable(name) for name in NAMES if len(name) <= 24} <= curves
    assert list(json.loads((page.parent / NUMBERS).read_text(encoding="utf-8"))["findings"]) == list(NAMES)
    card = (run_dir / CARD).read_text(encoding="utf-8")
    assert card.count("\n## Evaluation on ") == 1
    assert "\n| \\$5_bill\\_\\$10_bill |" in card


@pytest.mark.slow
def test_it_is_in_a_report_beside_broken_and_sound_ones(
    run_dir: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_results(here / "made", [r for name in NAMES[1:3] for r in seeds(name, (0.5, 0.6, 0.7), target=name)])
    (made / "run 0" / RESULT).write_bytes(b'{"kind": "transfer", \xff')
    report = write_report(Report((run_dir, made), here / "report"))
    text, page = (path.read_text(encoding="utf-8") for path in (report, report.with_suffix(".html")))
    assert "Left out: 1 result.json" in Words(page).text
    assert "warning: Left out: 1 result.json" in capsys.readouterr().err
    for name in NAMES[1:3]:
        assert f"Transfer to {printable(name)}" in Words(page).text
    pictures = re.findall(r"\]\((.+\.png)\)", text)
    assert len(pictures) == len(set(pictures)) == 5
    assert all((here / "report" / picture).is_file() for picture in pictures)
    with (here / "report" / "results.csv").open(newline="", encoding="utf-8") as file:
        assert {row["target"] for row in csv.DictReader(file)} == set(map(printable, NAMES[:3]))
    (here / "report" / "tables.tex").read_text(encoding="utf-8")


def test_its_set_is_looked_at(data: Path, here: Path) -> None:
    page = make_page(Inspect(str(data), images=16, size=SIDE, resize=SIDE, view="squash"))
    draw(page).savefig(here / "page.png", dpi=20)
    summary(page).encode("utf-8")
    assert "  Katze \\udcfc               2 images" in summary(page).splitlines()


def test_it_is_exported(run_dir: Path, folder: Path) -> None:
    out = folder / "export"
    export(Export(str(run_dir), out))
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["label_names"] == config[OWN_KEY]["classes"] == list(NAMES)
    assert load_weights(str(out / "model.safetensors")).classes == NAMES
    descriptor = os.open(out, os.O_RDONLY)
    with safe_open(f"/proc/self/fd/{descriptor}/model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()[OWN_KEY])["classes"] == list(NAMES)
    os.close(descriptor)


@pytest.mark.slow
def test_it_leaves_as_a_graph(run_dir: Path, folder: Path) -> None:
    for format_ in ("onnx", "torch"):
        export_graph(Export(str(run_dir), folder / format_, format_))  # type: ignore[arg-type]
    config = json.loads((folder / "onnx" / "config.json").read_text(encoding="utf-8"))
    assert config[OWN_KEY]["classes"] == list(NAMES)
    assert "\n| \\$5_bill\\_\\$10_bill |" in (folder / "torch" / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_it_predicts(run_dir: Path, folder: Path, here: Path) -> None:
    images = folder / "images"
    images.mkdir()
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(images / "a \udcfc.png")
    predict_images(Predict(run_dir, (images,), here / "predictions.csv", device="cpu", threads=1))
    with (here / "predictions.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["file"] == "a \\udcfc.png"
    shown = [name.encode("utf-8", "backslashreplace").decode() for name in NAMES]
    assert row["predicted"] in shown
    assert all(0 <= float(row[f"{name} probability"]) <= 1 for name in shown)
    assert len(row) == 4 + 3 + 2 + 4 * len(NAMES)


def test_its_status_is_told(run_dir: Path) -> None:
    (found,) = run_folders(run_dir)
    assert "a \\udcfc `b` $c_$d" in table([run_status(found, 900.0, 0.0)])
