"""COVIDx: the splits of its lists, val by patient, and what is wrong with a list."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from empty_files import splits_of, touch
from test_chest_xray_targets import assert_about_xrays, parted_patients

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import group_of
from data_pipelines.datasets.chest_xray_targets import covidx


def covidx_root(root: Path, train: Sequence[str], test: Sequence[str], **others: Sequence[str]) -> Path:
    root.mkdir(exist_ok=True)
    for part, lines in {"train": train, "test": test, **others}.items():
        (root / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
        files = [line.split(" ", 1)[1].rsplit(".", 1) for line in lines if "." in line]
        touch(root / part, [f"{stem}.{rest.split()[0]}" for stem, rest in files])
    return root


TRAIN = [
    f"p{number // 2} img-{number}.{number}.png {('negative', 'positive')[number % 3 == 0]} rsna"
    for number in range(200)
]
TEST = [f"t{number} scan{number}.JPG {('negative', 'positive')[number % 2]} ricord" for number in range(20)]


def test_covidx_has_the_splits_of_the_lists_and_val_by_patient(tmp_path: Path) -> None:
    raw = covidx(covidx_root(tmp_path, TRAIN, TEST), val_fraction=0.2)
    assert_about_xrays(raw)
    assert raw.classes == ("negative", "positive")
    assert raw.patients == "apart"
    assert parted_patients(raw) == 0
    for image, line in zip(raw.images, TRAIN + TEST, strict=True):
        patient, file, label, _ = line.split()
        assert (image.image.name, raw.classes[image.label]) == (file, label)
        assert image.group == group_of(f"covidx:{patient}")
        assert image.key == f"{image.image.parent.name}/{file.replace('.', '_')}"
        assert (image.split == "test") == (image.image.parent.name == "test")
    assert 20 < Counter(splits_of(raw).values())["val"] < 60
    assert set(splits_of(covidx(tmp_path, val_fraction=0)).values()) == {"train", "test"}


def test_covidx_lists_of_three_classes(tmp_path: Path) -> None:
    """The older lists: other labels, names of their own, sometimes no source, blanks in file names."""
    labels = ["normal", "pneumonia", "COVID-19"]
    train = [f"{number} image ({number}).png {labels[number % 3]}" for number in range(100)]
    train[0] = "0 image (0).png normal cohen"
    root = covidx_root(tmp_path, train, [f"t{number} x{number}.png {labels[number]} fig1" for number in range(3)])
    for part in ("train", "test"):
        (root / f"{part}.txt").rename(root / f"{part}_COVIDx5.txt")
    raw = covidx(root, val_fraction=0.2)
    assert_about_xrays(raw)
    assert raw.classes == ("normal", "pneumonia", "COVID-19")
    assert [image.label for image in raw.images] == [*(number % 3 for number in range(100)), 0, 1, 2]
    (root / "train_COVIDx8A.txt").touch()
    with pytest.raises(InputError, match=r"has 2 lists train_\*.txt; rename the right one to train.txt"):
        covidx(root)


def test_covidx_takes_the_val_list_where_there_is_one(tmp_path: Path) -> None:
    val = ["v1 a.png positive bimcv", "v2 b.png negative bimcv"]
    splits = splits_of(covidx(covidx_root(tmp_path, TRAIN, TEST, val=val)))
    assert {key for key, split in splits.items() if split == "val"} == {"val/a_png", "val/b_png"}


def test_covidx_tells_of_patients_in_both_lists(tmp_path: Path) -> None:
    test = ["p0 other.png negative rsna", "p1 another.png positive rsna", *TEST]
    raw = covidx(covidx_root(tmp_path, TRAIN, test), val_fraction=0.0)
    assert raw.patients == "may leak"
    assert raw.notes == ("patients with images in more than one split: 2",)


def test_covidx_lines_that_repeat_or_contradict(tmp_path: Path) -> None:
    root = covidx_root(tmp_path, [*TRAIN, *TRAIN[:3]], TEST)
    raw = covidx(root)
    assert len(raw.images) == 220
    assert "train.txt: 3 lines that repeat another left out" in raw.notes
    covidx_root(tmp_path, [*TRAIN, TRAIN[0].replace("positive", "negative")], TEST)
    with pytest.raises(InputError, match=r"train.txt lists img-0.0.png twice, differently; remove the wrong line"):
        covidx(root)


@pytest.mark.parametrize("line", ["p1 a.png", "p1 a.png Positive rsna", "a.png positive", "p1 positive rsna", "?"])
def test_covidx_lines_that_make_no_sense(tmp_path: Path, line: str) -> None:
    covidx_root(tmp_path, TRAIN, TEST)
    (tmp_path / "test.txt").write_text(f"{TEST[0]}\n\n{line}\n")
    with pytest.raises(InputError, match=r"test.txt, line 3: '.*' is not 'patient file label source' with a label of"):
        covidx(tmp_path)


def test_covidx_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no list train.txt; the set is to be had at https://www.kaggle"):
        covidx(tmp_path)
    root = covidx_root(tmp_path / "gone", TRAIN, TEST)
    for line in TRAIN[50:65]:
        (root / "train" / line.split()[1]).unlink()
    with pytest.raises(InputError, match=r"15 of the 200 images that .*train.txt names .*the first is img-50.50.png"):
        covidx(root)
    root = covidx_root(tmp_path / "mixed", TRAIN, ["t1 a.png COVID-19 ricord"])
    with pytest.raises(InputError, match=r"are of two kinds: COVID-19, negative, positive; take two that fit"):
        covidx(root)
    (root / "test.txt").write_text("\n")
    with pytest.raises(InputError, match=r"test.txt lists no images; copy it again from https"):
        covidx(root)
    (root / "test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"test.txt cannot be read"):
        covidx(root)
    (root / "test.txt").unlink()
    with pytest.raises(InputError, match=r"has no list test.txt"):
        covidx(root)
