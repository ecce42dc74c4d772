"""A run is tested on the set that it is, whatever it is called: what is said of it, and where that goes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import train_tiny
from tiny_sets import tiny_set

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json, write_json
from data_pipelines.common.manifest import MANIFEST, content_digest, read_manifest
from data_pipelines.shards.index import Index
from trainer import checkpoint
from trainer.evaluation.assessment.output_names import NUMBERS
from trainer.evaluation.evaluate_run import CARD, PAGE, Evaluate, evaluate_run
from trainer.evaluation.leaks import leaks
from trainer.evaluation.runs import open_run, own_data
from trainer.run_files import RESULT

LABELS, CLASSES = [0, 1, 0, 1], ("cat", "dog")
EXTERNAL = "another set that is called films"
Made = Callable[..., Path]


def made(folder: Path, first: int, name: str = "films", **options: Any) -> Path:
    """A set whose pictures have numbers from `first` on; those of val and test are the same as those of train."""
    pictures = range(first, first + len(LABELS))
    return tiny_set(folder, LABELS, CLASSES, name=name, pictures=pictures, splits=("train", "val", "test"), **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mine`, a set called films, `theirs`, another one of that name, and `run`, trained on mine."""
    folder = tmp_path_factory.mktemp("trained")
    made(folder / "theirs", 100)
    train_tiny(made(folder / "mine", 0), folder / "run")
    return folder


@pytest.fixture
def work(trained: Path, tmp_path: Path) -> Path:
    """The same where a test may change it."""
    shutil.copytree(trained, tmp_path / "work")
    for path in (tmp_path / "work" / "run").glob("*.json"):
        path.write_text(path.read_text().replace(str(trained), str(tmp_path / "work")))
    return tmp_path / "work"


def numbers_of(work: Path, data: str | None = None, **options: Any) -> tuple[Path, dict[str, Any], str]:
    """The folder of an evaluation, its numbers, and its warnings in one text."""
    chosen = None if data is None else str(work / data)
    page = evaluate_run(
        Evaluate(work / "run", data=chosen, force=True, resamples=100, device="cpu", threads=1, **options)
    )
    found = json.loads((page.parent / NUMBERS).read_text())
    return page.parent, found, " ".join(found["warnings"])


def as_of_an_earlier_version(run: Path) -> None:
    """Forget what the sets held."""
    path = checkpoint.best_or_latest(run)
    loaded = checkpoint.load(path)
    forgotten = ("set_digests", "weights")
    checkpoint.save(
        path, loaded.state, {name: value for name, value in loaded.metadata.items() if name not in forgotten}
    )
    write_json(run / RESULT, {name: value for name, value in read_json(run / RESULT).items() if name != "set_digests"})


@pytest.mark.slow
@pytest.mark.parametrize("order", [(None, "theirs"), ("theirs", None)])
def test_another_set_of_the_name_replaces_nothing(order: tuple[str | None, ...], work: Path) -> None:
    found = {data: numbers_of(work, data) for data in order}
    own, theirs = found[None], found["theirs"]
    digest = content_digest(read_manifest(work / "theirs"))
    assert own[0].name == "evaluation-films-test"
    assert theirs[0].name == f"evaluation-films-{digest[:8]}-test"
    assert read_json(own[0] / NUMBERS) == own[1]
    assert (own[1]["set_digests"], theirs[1]["set_digests"]) == (
        open_run(work / "run").set_digests(),
        {"films": digest},
    )
    assert EXTERNAL in theirs[2]
    assert "not an external validation" not in theirs[2]
    assert f"films ({digest[:8]})" in (theirs[0] / PAGE).read_text()
    card = (work / "run" / CARD).read_text()
    titles = re.findall(r"(?m)^## Evaluation on (.*)$", card)
    assert sorted(titles) == [f"films ({digest[:8]}), test", "films, test"]
    for data in order:  # once more: each replaces its own
        assert numbers_of(work, data)[0] == found[data][0]
    assert len(re.findall(r"(?m)^## Evaluation on ", (work / "run" / CARD).read_text())) == 2


@pytest.mark.slow
def test_the_run_s_own_set_under_another_name(work: Path) -> None:
    shutil.copytree(work / "mine", work / "copy")
    write_json(work / "copy" / MANIFEST, read_json(work / "copy" / MANIFEST) | {"name": "clinic"})
    _, _, warnings = numbers_of(work, "copy")
    assert "The run was trained on this set, clinic: this is not an external validation" in warnings
    _, _, warnings = numbers_of(work, "copy", split="train")
    assert "The run was trained on this set, clinic: its training images are among these" in warnings


@pytest.mark.slow
def test_runs_of_earlier_versions_look_at_their_sets(work: Path) -> None:
    as_of_an_earlier_version(work / "run")
    assert EXTERNAL in numbers_of(work, "theirs")[2]
    assert "was trained on this set, films" in numbers_of(work, "mine")[2]
    shutil.rmtree(work / "mine")
    folder, _, warnings = numbers_of(work, "theirs")
    assert "a set called films, by which name alone it is known: this is not an external validation" in warnings
    own, numbers, _ = numbers_of(work)
    assert own != folder
    assert numbers["set_digests"] == {}
    assert "own" in own.name


@pytest.mark.slow
def test_a_set_that_was_replaced_is_not_the_run_s_own(work: Path) -> None:
    """Under the same path, and with the same keys."""
    shutil.rmtree(work / "mine")
    (work / "theirs").rename(work / "mine")
    with pytest.raises(InputError, match="prepared again since the run was trained"):
        own_data(open_run(work / "run"), "test")
    page = (numbers_of(work)[0] / PAGE).read_text()
    assert "Images are not shown" in page
    assert "content" in page
    _, _, warnings = numbers_of(work, "mine")
    assert EXTERNAL in warnings
    assert "The training set is not at hand" in warnings
    as_of_an_earlier_version(work / "run")
    assert "by which name alone" in numbers_of(work, "mine")[2]


@pytest.mark.slow
def test_images_that_were_trained_on_are_counted(work: Path) -> None:
    made(work / "partly", 2, name="elsewhere")
    assert "IMAGES LEAK: 2 of 4 images are byte for byte among those trained on" in numbers_of(work, "partly")[2]
    made(work / "renamed", 0, side=16)
    _, _, warnings = numbers_of(work, "renamed", split="train")
    assert "IMAGES LEAK" not in warnings
    assert "4 of these 4 images have the names of images that were trained on" in warnings
    assert "LEAK" not in numbers_of(work, "theirs")[2]


@pytest.mark.slow
def test_images_that_the_run_chose_by_are_counted(work: Path) -> None:
    made(work / "partly", 2, name="elsewhere")
    _, numbers, warnings = numbers_of(work, "partly")
    assert "2 of 4 images are byte for byte among those of its val, on which" in warnings
    assert numbers["provenance"][0] == "Split: test of partly."
    _, numbers, warnings = numbers_of(work, "mine", split="all")
    assert "Its val is among these images" in warnings
    assert numbers["provenance"][0] == "Split: all of mine."
    _, numbers, warnings = numbers_of(work, "theirs")
    assert "its val" not in warnings
    assert numbers["provenance"][0] == "Split: test of theirs, which the run did not choose anything on."


@pytest.mark.slow
def test_patients_that_are_not_known_are_not_said_to_be_hashed(work: Path) -> None:
    made(work / "clinic", 300, name="clinic", patients="may leak")
    warnings = numbers_of(work, "clinic")[2]
    assert "The patients of the training set are not known: whether the two sets share some" in warnings
    assert "salts" not in warnings


def test_splits_without_a_class_of_the_run_are_passed_over(work: Path) -> None:
    own = own_data(open_run(work / "run"), "train")[0]
    empty = own.take(np.array([], dtype=np.int64))
    manifest = read_manifest(work / "theirs")
    assert leaks(open_run(work / "run"), manifest | {"name": "other"}, ["test"], [empty]) == []
    found = leaks(open_run(work / "run"), manifest | {"name": "other"}, ["test"], [empty, own])
    assert found == ["IMAGES LEAK: 4 of 4 images are byte for byte among those trained on."]


@pytest.mark.slow
def test_large_sets_are_compared_by_some_of_their_images(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = made(work / "partly", 2, name="elsewhere")
    own = own_data(open_run(work / "run"), "train")[0]
    every = int(own.length.sum() + Index.load(other, "test").length.sum())
    monkeypatch.setattr("trainer.evaluation.leaks.SAMPLED", 2)
    monkeypatch.setattr("trainer.evaluation.leaks.MOST_READ_BYTES", every - 1)
    assert "IMAGES LEAK: 1 of 2 images are byte for byte" in numbers_of(work, "partly")[2]
    monkeypatch.setattr("trainer.evaluation.leaks.MOST_READ_BYTES", 0)
    assert "not looked at: too many would have to be read" in numbers_of(work, "partly")[2]


@pytest.mark.slow
def test_evaluations_of_earlier_versions_are_not_replaced(work: Path) -> None:
    """They say the sum of the manifest, and no digest."""
    own, _, _ = numbers_of(work)
    for path in (own / NUMBERS, work / "run" / CARD):
        path.write_text(re.sub(r"; content \w{16}", "", path.read_text()))
    text = (own / NUMBERS).read_text()
    made(work / "other", 200, name="films")
    as_of_an_earlier_version(work / "run")
    shutil.move(work / "mine", work / "gone")
    folder, _, _ = numbers_of(work, "other")
    assert folder != own
    assert (own / NUMBERS).read_text() == text
    assert len(re.findall(r"(?m)^## Evaluation on ", (work / "run" / CARD).read_text())) == 2
    shutil.move(work / "gone", work / "mine")
    assert numbers_of(work)[0] == own


@pytest.mark.slow
def test_names_that_become_one_in_a_file_name(work: Path) -> None:
    one, two = made(work / "one", 300, name="胸部"), made(work / "two", 400, name="../胸")
    found = [numbers_of(work, data.name)[0] for data in (one, two)]
    assert found[0] != found[1]
    assert all(folder.parent == work / "run" for folder in found)
    made(work / "three", 500, name="n" * 200)
    assert len(numbers_of(work, "three")[0].name) < 120


@pytest.mark.slow
def test_a_folder_that_was_named_keeps_another_set_s_evaluation(work: Path) -> None:
    numbers_of(work, "mine", out=work / "out")
    numbers_of(work, out=work / "out")
    kept = (work / "out" / NUMBERS).read_text()
    with pytest.raises(InputError, match="holds the evaluation of another set; choose another --out"):
        numbers_of(work, "theirs", out=work / "out")
    assert (work / "out" / NUMBERS).read_text() == kept
