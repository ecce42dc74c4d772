"""Maps of predictions and on the evaluation page: of which class, under which names, and when there are none."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import FINDINGS, prepare_films, train_tiny, write_films
from tiny_weights import save_run, tensors_of

from data_pipelines.common.errors import InputError
from trainer.evaluation.assessment.output_names import NUMBERS
from trainer.evaluation.evaluate_run import Evaluate, evaluate_run
from trainer.evaluation.predicting.explain_predictions import MOST_FINDINGS, MOST_IMAGES, NOTHING, PAGE, TABLE
from trainer.evaluation.predicting.predict_images import Predict, predict_images
from trainer.run_files import PREDICTIONS

pytest.importorskip("captum.attr")  # here, so that no test counts the seconds of its import
CROPPED = {"resize": 64, "image_size": 64, "eval_view": "center_crop"}
PHOTOS: dict[str, Any] = CROPPED | {"task": "single_label", "channels": 3}


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps and few maps, which cost most of the time and are tested by themselves."""
    monkeypatch.setattr("trainer.explanation.maps.IG_STEPS", 2)
    monkeypatch.setattr("trainer.explanation.checks.MOST_TESTED", 2)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films") / "raw", 48)


@pytest.fixture(scope="module")
def run_dir(films: Path) -> Path:
    return train_tiny(prepare_films(films, films.parent / "hospital"), films.parent / "run")


@pytest.fixture(scope="module")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("photos") / "run", tensors_of(), xray_size=None, **PHOTOS)


def photos(folder: Path, count: int = 3, size: tuple[int, int] = (90, 70)) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo {number}.png")
    return folder


def explained(run: Path, source: Path, out: Path, **options: Any) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows of the predictions and of the maps."""
    settings = Predict(
        run, (source,), out / "predictions.csv", device="cpu", threads=1, explain=out / "maps", **options
    )
    predict_images(settings)
    tables = []
    for path in (settings.out, out / "maps" / TABLE):
        with path.open(newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    return tables[0], tables[1]


def test_maps_are_of_the_predicted_class_under_its_image(photo_run: Path, tmp_path: Path) -> None:
    predictions, maps = explained(photo_run, photos(tmp_path / "in"), tmp_path)
    assert [row["file"] for row in maps[::2]] == [row["file"] for row in predictions]
    assert [row["class"] for row in maps[::2]] == [row["predicted"] for row in predictions]
    assert {row["method"] for row in maps} == {"Grad-CAM", "Integrated gradients"}
    for row in (row for row in maps if row["map"]):
        with Image.open(tmp_path / "maps" / row["map"]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (70, 90))
        assert 10 <= int(row["y"]) < 80  # the central square, which the network sees
    assert any(row["map"] for row in maps)
    page = (tmp_path / "maps" / PAGE).read_text(encoding="utf-8")
    assert "Not checked for this model: whether maps lie in the findings" in page
    assert page.index("correlation after shuffling") < page.index("The predicted class")
    assert "patients" not in page


@pytest.mark.slow
def test_maps_are_the_same_the_next_time(photo_run: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        explained(photo_run, photos(tmp_path / name / "in", 2), tmp_path / name)
        folder = tmp_path / name / "maps"
        contents.append({path.name: path.read_bytes() for path in folder.iterdir() if path.name != PAGE})
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_maps_of_the_findings_above_their_thresholds(run_dir: Path, films: Path, tmp_path: Path) -> None:
    """Of pictures that the last stage sees as one place."""
    predictions, maps = explained(run_dir, films, tmp_path, explain_images=8)
    for row in predictions[:8]:
        own = [other for other in maps if other["file"] == row["file"]]
        called = {name for name in FINDINGS if row[f"{name} above threshold"] == "1"}
        assert {other["class"] for other in own if other["class"]} == called
        assert called or [other["remark"] for other in own] == [NOTHING]
    assert {row["file"] for row in maps} == {row["file"] for row in predictions[:8]}
    of_cam = [row for row in maps if row["method"] == "Grad-CAM"]
    assert {(row["map"], row["remark"]) for row in of_cam} == {("", "the last stage sees one place")}
    drawn = next(row["map"] for row in maps if row["map"])
    with Image.open(tmp_path / "maps" / drawn) as picture:
        assert picture.size == (36, 36)  # the central square of the film, as large as it is there
    page = (tmp_path / "maps" / PAGE).read_text(encoding="utf-8")
    assert "There is no Grad-CAM" in page
    assert "Contains pictures of patients" in page


@pytest.mark.slow
def test_a_limit_is_asked_for(photo_run: Path, tmp_path: Path) -> None:
    source = photos(tmp_path / "in", 1)
    for number in range(MOST_IMAGES):
        shutil.copy(source / "photo 0.png", source / f"copy {number}.png")
    with pytest.raises(InputError, match=f"more than {MOST_IMAGES} images.* such as --explain-images {MOST_IMAGES}"):
        explained(photo_run, source, tmp_path)
    assert not (tmp_path / "predictions.csv").exists()
    predictions, maps = explained(photo_run, source, tmp_path, explain_images=1)
    assert (len(predictions), len(maps)) == (MOST_IMAGES + 1, 2)


@pytest.mark.slow
def test_folders_that_maps_may_not_go_to(photo_run: Path, tmp_path: Path) -> None:
    source = photos(tmp_path / "in", 1)

    def explain_in(folder: Path, **options: Any) -> None:
        settings = Predict(
            photo_run, (source,), tmp_path / "out.csv", explain=folder, device="cpu", threads=1, **options
        )
        predict_images(settings)

    with pytest.raises(InputError, match="its maps would be images next time; choose another --explain"):
        explain_in(source / "maps")
    with pytest.raises(InputError, match="is not a folder; choose another --explain"):
        explain_in(photo_run / "checkpoints" / "best.safetensors")
    explain_in(tmp_path / "maps")
    with pytest.raises(InputError, match="has maps; replace them with --force, or choose another --explain"):
        explain_in(tmp_path / "maps")
    explain_in(tmp_path / "maps", force=True)
    with pytest.raises(InputError, match=r"cannot be written .*; choose another --explain"):
        explain_in(Path("/proc/maps"), force=True)
    with pytest.raises(InputError, match="--explain-images is for maps"):
        Predict(photo_run, (source,), explain_images=3)


@pytest.mark.slow
def test_names_that_are_no_file_names(photo_run: Path, tmp_path: Path) -> None:
    about = PHOTOS | {"classes": ["a/b", "../c", "$x$ <b>"]}
    run = save_run(tmp_path / "run", tensors_of(), xray_size=None, **about)
    source = photos(tmp_path / "in", 1)
    (source / "sub").mkdir()
    shutil.copy(source / "photo 0.png", source / "sub" / "-.png")
    _, maps = explained(run, source, tmp_path)
    files = [row["map"] for row in maps if row["map"]]
    assert len(set(files)) == len(files) > 0
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {*files, PAGE, TABLE, "legend.png"}


@pytest.mark.slow
def test_one_class_and_pictures_smaller_than_a_place(tmp_path: Path) -> None:
    about = PHOTOS | {"classes": ["only"], "eval_view": "squash"}
    run = save_run(tmp_path / "run", tensors_of(num_classes=1), xray_size=None, **about)
    predictions, maps = explained(run, photos(tmp_path / "in", 2, (5, 9)), tmp_path)
    assert [row["predicted"] for row in predictions] == ["only", "only"]
    assert {row["class"] for row in maps} == {"only"}
    for row in (row for row in maps if row["map"]):
        with Image.open(tmp_path / "maps" / row["map"]) as picture:
            assert picture.size == (9, 5)


@pytest.mark.slow
def test_only_the_most_probable_findings_have_maps(tmp_path: Path) -> None:
    names = [f"finding {number}" for number in range(MOST_FINDINGS + 2)]
    tensors = tensors_of(num_classes=len(names))
    tensors["head.bias"] += 100  # all above their thresholds
    about = PHOTOS | {"classes": names, "task": "multi_label"}
    run = save_run(tmp_path / "run", tensors, xray_size=None, **about)
    _, maps = explained(run, photos(tmp_path / "in", 1), tmp_path)
    assert len({row["class"] for row in maps if row["map"] or row["method"]}) == MOST_FINDINGS
    assert sum(row["remark"].startswith("no map") for row in maps) == 2


@pytest.mark.slow
def test_a_run_of_phantoms_is_checked_on_phantoms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.explanation.phantoms.NUMBER", 4)
    from data_pipelines.datasets.phantom import FINDINGS as OF_PHANTOMS

    tensors = tensors_of(num_classes=len(OF_PHANTOMS))
    tensors["head.bias"] += 100
    about = {"classes": list(OF_PHANTOMS), "task": "multi_label", "sets": ["phantom"], "resize": 64, "image_size": 64}
    run = save_run(tmp_path / "run", tensors, eval_view="squash", channels=1, xray_size=64, **about)
    explained(run, photos(tmp_path / "in", 1), tmp_path)
    page = (tmp_path / "maps" / PAGE).read_text(encoding="utf-8")
    assert "Share of maps whose maximum lies in the finding" in page
    assert "Not checked" not in page
    assert "patients" not in page


def evaluated(run: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    settings = Evaluate(run, force=True, resamples=100, device="cpu", threads=1, explain=True, **options)
    page = evaluate_run(settings)
    return page.read_text(encoding="utf-8"), json.loads((page.parent / NUMBERS).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_maps_on_the_evaluation_page(run_dir: Path, tmp_path: Path) -> None:
    page, numbers = evaluated(run_dir, out=tmp_path)
    places = [page.index(text) for text in ("Where it looked", "Not checked for this model", "The most certain hits")]
    assert places == sorted(places)
    assert "maps of the wrong class" in page
    checks = numbers["explanation"]["checks"]
    assert checks["maps"] > checks["tested"] > 0
    assert checks["no_places"]
    assert numbers["explanation"]["not_shown"] is None
    with_no_maps = Evaluate(run_dir, force=True, resamples=100, device="cpu", threads=1, out=tmp_path)
    assert "Where it looked" not in evaluate_run(with_no_maps).read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_images_the_page_has_the_checks_alone(run_dir: Path, tmp_path: Path) -> None:
    page, numbers = evaluated(run_dir, out=tmp_path, images=False)
    assert "Maps are not shown: --no-images" in page
    assert "correlation after shuffling" in page
    assert "The most certain hits" not in page
    assert numbers["explanation"]["checks"]["tested"] > 0
    assert "as confidential as these are" in page


@pytest.mark.slow
def test_without_the_images_the_page_says_so(run_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    config = json.loads((run / "config.json").read_text())
    config["data"]["sets"] = [str(tmp_path / "gone")]
    (run / "config.json").write_text(json.dumps(config))
    assert (run / PREDICTIONS).is_file()
    page, numbers = evaluated(run, out=tmp_path / "out")
    assert "Maps are not shown: " in page
    assert numbers["explanation"]["checks"] is None
