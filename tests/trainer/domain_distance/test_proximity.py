"""`bitscale proximity` as typed: its files, notes, and what it refuses."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_sets import tiny_set
from tiny_weights import CLASSES, save_run, save_timm, tensors_of

from data_pipelines.common.errors import InputError
from data_pipelines.shards.index import Index
from trainer import proximity
from trainer.domain_distance.compared_sets import apart, open_sources
from trainer.domain_distance.proximity_file import read_distances
from trainer.domain_distance.settings import Proximity

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared sets: shapes of three classes, others like it, findings, and one with an image of each class."""
    root = tmp_path_factory.mktemp("sets")
    tiny_set(root / "shapes", [i % 3 for i in range(24)], CLASSES, "shapes")
    tiny_set(root / "others", [i % 2 for i in range(22)], ("a", "b"), "others", pictures=range(100, 122))
    tiny_set(root / "findings", [[i % 2, np.nan] for i in range(24)], ("one", "none"), "findings", range(200, 224))
    tiny_set(root / "singles", list(range(22)), [f"c{i}" for i in range(22)], "singles", pictures=range(300, 322))
    tiny_set(root / "few", [0, 1, 0, 1, 0], ("a", "b"), "few")
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of weights whose images are those of "shapes"."""
    return save_run(
        tmp_path_factory.mktemp("runs") / "bird", tensors_of(), sets=["shapes"], image_size=16, task="single_label"
    )


@pytest.fixture
def command(run_main: Run, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("BITSCALE_DATA", str(sets))
    monkeypatch.setattr("trainer.domain_distance.feature_cache.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        return run_main(proximity.main, "bitscale proximity", *arguments, "--device", "cpu", "--threads", 1)

    return run


def measured(pairs: list[dict[str, Any]], **of: str) -> set[str]:
    return {pair["measure"] for pair in pairs if all(pair[key] == value for key, value in of.items())}


@pytest.mark.slow
def test_every_measure_is_in_the_file(command: Run, source: Path, tmp_path: Path) -> None:
    code, printed, error = command(
        *("--sources", source, "others", "--targets", "others", "singles", "findings"),
        *("--network", source, "--out", "out"),
    )
    assert (code, printed) == (0, "out/proximity.html\n"), error
    content = json.loads(Path("out/proximity.json").read_text())
    assert content["format"] == 1
    assert [(each["name"], each["kind"]) for each in content["networks"]] == [
        *(("bird", "common"), ("random r14x0.5", "random"), ("bird", "own")),
    ]
    assert content["networks"][0]["fingerprint"] == content["networks"][2]["fingerprint"]
    assert {name: each["images"] for name, each in content["sources"].items()} == {"bird": 24, "others": 22}
    assert set(content["targets"]) == {"others", "singles", "findings"}
    pairs = content["pairs"]
    distances = {"frechet", "kernel", "classifier"}
    fits = {"logme", "h-score", "linear-probe", "knn"}
    assert measured(pairs, source="others", target="singles", features="common") == distances
    assert measured(pairs, source="bird", target="others", features="own") == distances | fits | {"leep"}
    assert measured(pairs, source="bird", target="findings", features="own") == distances | fits | {"leep"}
    assert measured(pairs, source="scratch", target="others", features="random") == fits
    assert measured(pairs, source="bird", target="singles", features="own") == distances
    assert measured(pairs, source="bird", target="others", features="pixels") == {"spectrum", "grey-levels"}
    assert all((pair["low"] is not None) == (pair["measure"] == "kernel") for pair in pairs)
    for kind in ("common", "random", "pixels"):
        assert {path.suffix for path in Path("out").glob(f"proximity_{kind}.*")} == {".png", ".svg"}
    tables = Path("out/tables.tex").read_text()
    assert r"\label{tab:proximity-labels}" in tables
    assert "others and others share 22 images: each counts as of one of them only" in error
    assert "singles has no two classes with two images each: no measure with labels" in error
    assert "1 class or finding of findings with fewer than two images left out" in error
    assert error.count("fewer images than the 1,024 features: bird (24), others (22), singles (22), findings (24)") == 1
    assert "others is a set of images without weights: it has no features of its own" in error
    assert "others, nearest first by kernel distance: " in error


@pytest.mark.slow
def test_a_second_time_features_are_read(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--sources", "shapes", "--targets", "others", "--network", "random", "--model", "r14x0.5")
    flags = (*flags, "--image-size", "16")
    assert command(*flags, "--out", "one")[0] == 0
    code, _, error = command(*flags, "--out", "one")
    assert code == 2
    assert "one/proximity.json exists; replace it with --force, or choose another --out" in error

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("trainer.domain_distance.networks.outputs_of", refuse)
    monkeypatch.setattr("trainer.domain_distance.networks.pixel_statistics", refuse)
    assert command(*flags, "--out", "two")[0] == 0
    assert Path("one/proximity.json").read_bytes() == Path("two/proximity.json").read_bytes()


@pytest.mark.slow
def test_measures_with_labels_are_not_silent(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> dict[str, float]:
        time.sleep(0.3)
        return {"knn": 0.5}

    monkeypatch.setattr("data_pipelines.common.progress.LINE_EVERY_S", 0.1)
    monkeypatch.setattr("trainer.domain_distance.measure.fits", slow)
    flags = ("--sources", "shapes", "--targets", "others", "--network", "random", "--model", "r14x0.5")
    code, _, error = command(*flags, "--image-size", "16", "--out", "out")
    assert code == 0, error
    assert "measures with labels, random  target 0/1" in error


@pytest.mark.slow
def test_only_random_weights_are_one_network(command: Run) -> None:
    flags = ("--sources", "shapes", "scratch", "--targets", "others", "--network", "random", "--image-size", "16")
    code, _, error = command(*flags, "--out", "out")
    assert code == 2
    assert "no source says what model the random weights are of; name one with --model, such as r50x1" in error
    some = ("--classes", "a", "b", "--images", "20")
    code, _, error = command(*flags, *some, "--model", "r14x0.5", "--out", "out")
    assert code == 0, error
    found = read_distances(Path("out"))
    assert {pair.features for pair in found.pairs} == {"random", "pixels"}
    assert set(found.sources) == {"shapes"}
    assert found.targets["others"]["images"] == found.sources["shapes"]["images"] == 20
    assert "20 of the 24 training images of shapes were drawn" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sources", "shapes", "shapes"), "--sources names shapes twice; name each once"),
        (("--sources", "shapes", "./again/shapes"), "two of --sources are called shapes"),
        (("--sources", "shapes", "copy"), "shapes and copy of --sources are the same; leave one out"),
        (("--sources", "shape"), "shape is neither weights nor a prepared set."),
        (("--sources", "scratch"), "--sources names no set and no weights: random weights have seen no images"),
        (("--sources", "few"), "few has 5 training images; fewer than 20 tell nothing of a set"),
        (("--sources", "shapes", "--classes", "x"), "unknown class 'x'; known: a, b"),
        (("--sources", "shapes", "--images", "5"), "--images is 5; fewer than 20 tell nothing of a set"),
        (("--sources", "shapes", "--model", "r14"), "unknown model 'r14'; did you mean 'r152x4'?"),
        (("--sources", "lonely"), "the images that lonely was trained on are not all here: "),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_compared_is_refused(
    command: Run, sets: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    for link in (tmp_path / "again" / "shapes", tmp_path / "copy"):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(sets / "shapes")
    save_run(tmp_path / "lonely", tensors_of(), sets=["gone"])
    flags = ("--targets", "others", "--network", "random", "--out", "out")
    flags = flags if "--model" in arguments else (*flags, "--model", "r14x0.5")
    code, _, error = command(*arguments, *flags)
    assert code == 2
    assert message in error
    assert not Path("out").exists()


def test_images_of_a_run_are_those_that_it_was_trained_on(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSCALE_DATA", str(sets))
    run = save_run(tmp_path / "cats", tensors_of(), sets=["shapes"])
    settings = Proximity((str(run),), ("others",), "random")
    assert len(open_sources(settings)[0].index) == 24
    (run / "config.json").write_text(json.dumps({"data": {"sets": ["others"]}}))
    (source,) = open_sources(settings)
    assert (source.name, len(source.index), source.index.classes) == ("cats", 22, ("a", "b"))


def test_weights_that_name_no_images_are_refused(tmp_path: Path) -> None:
    path = save_timm(tmp_path / "somebody.safetensors", tensors_of())
    with pytest.raises(InputError, match=r"does not say what images it was trained on; name the prepared set of these"):
        open_sources(Proximity((str(path),), ("others",), "random"))


def test_sets_that_share_images_are_parted(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Index.load(sets / "shapes", "train")
    some = whole.take(np.array([3, 7, 5, 9]))
    rows, columns = apart(whole, some)
    assert list(np.setdiff1d(np.arange(24), rows)) == [5, 9]
    assert list(columns) == [2, 3]
    assert [len(part) for part in apart(whole, whole)] == [12, 12]
    others = Index.load(sets / "others", "train")
    assert [len(part) for part in apart(whole, others)] == [24, 22]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "pairs": [{"source": 1}]}'])
def test_other_files_are_no_result(text: str, tmp_path: Path) -> None:
    (tmp_path / "proximity.json").write_text(text)
    with pytest.raises(InputError, match=r"proximity\.json"):
        read_distances(tmp_path)
