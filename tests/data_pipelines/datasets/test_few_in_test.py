"""Classes and findings with too few images in test, or none in val, are told, with a remedy that helps."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from set_layouts import picture

from data_pipelines import prepare as prepare_module
from data_pipelines.common.patients import NO_GROUP
from data_pipelines.datasets.few_in_test import Carving, StoredLabels, empty_split, few_in_test, none_in_val

OWN = Carving({"val": 0.1, "test": 0.1}, is_user_set=True)
AB = ("a", "b")


def stored(labels: Any, groups: Any = None) -> StoredLabels:
    labels = np.asarray(labels)
    return StoredLabels(labels, np.full(len(labels), NO_GROUP) if groups is None else np.asarray(groups))


def test_classes_with_few_test_images_are_named() -> None:
    train = stored([1])
    note = few_in_test(AB, {"train": train, "test": stored([0] * 10 + [1] * 4)}, OWN)
    assert note is not None
    assert note.startswith("test has few images: b (4); an interval needs 10.")
    assert few_in_test(AB, {"train": train, "test": stored([0, 1] * 10)}, OWN) is None
    assert few_in_test(AB, {"train": train}, OWN) is None


def test_a_class_absent_from_test_is_named() -> None:
    note = few_in_test(("a", "b", "c"), {"test": stored([0] * 10 + [1] * 10)}, OWN)
    assert "test has few images: c (0);" in str(note)


def test_classes_are_counted_by_patient() -> None:
    note = few_in_test(AB, {"test": stored([0, 1] * 10, groups=[*range(10), *range(10)])}, OWN)
    assert "few patients with an image: a (5), b (5);" in str(note)


def test_positives_are_counted_by_patient() -> None:
    labels = np.tile(np.array([1, np.nan], dtype=np.float32), (18, 1))
    note = few_in_test(AB, {"test": stored(labels, groups=np.arange(18) % 9)}, OWN)
    assert note is not None
    assert "few patients with a positive: a (9), b (0); few patients with a negative: a (0), b (0);" in note


def test_a_larger_test_is_advised_only_where_one_is_carved() -> None:
    splits = {"train": stored([0] * 36), "test": stored([0, 1, 0, 1])}
    assert str(few_in_test(AB, splits, OWN)).endswith("Add images, or prepare again with --test-fraction 0.3 --force")
    assert str(few_in_test(AB, splits, Carving({"val": 0.1}, True))).endswith("Add images to test")
    a_third = {"train": stored([0] * 8), "test": splits["test"]}
    assert str(few_in_test(AB, a_third, OWN)).endswith("Add images to test")


def test_a_larger_share_is_advised_only_if_it_gives_enough() -> None:
    test = stored([0, 1, 0, 1])
    too_few = {"train": stored([0, 1] * 14), "test": test}  # 16 of each: 0.3 of them are 5
    assert str(few_in_test(AB, too_few, OWN)).endswith("an interval needs 10. Add images")
    of_18_patients = {"train": stored([0] * 54, groups=np.arange(54) % 16), "test": stored([0, 0], groups=[16, 17])}
    assert str(few_in_test(AB[:1], of_18_patients, OWN)).endswith("an interval needs 10. Add images")
    nowhere = {"train": stored(np.zeros((36, 2), dtype=np.float32)), "val": stored(np.zeros((4, 2), dtype=np.float32))}
    assert str(none_in_val(AB, nowhere, OWN)).endswith("no threshold can be chosen for them. Add images")
    published = Carving({"val": 0.02}, is_user_set=False)
    assert str(none_in_val(AB, nowhere, published)).endswith("no threshold can be chosen for them")


def test_nobody_adds_images_to_a_published_set() -> None:
    splits = {"train": stored([0] * 36 + [1] * 5), "val": stored([0]), "test": stored([0])}
    carved = Carving({"val": 0.02, "test": 0.02}, is_user_set=False)
    assert str(few_in_test(AB, splits, carved)).endswith("10. A larger --test-fraction, with --force, gives more")
    assert str(none_in_val(AB, splits, carved)).endswith("A larger --val-fraction, with --force, gives more")
    assert str(few_in_test(AB, splits, Carving({}, is_user_set=False))).endswith("an interval needs 10")


def test_classes_without_val_images_are_named() -> None:
    train = stored([0, 1] * 10)
    note = none_in_val(AB, {"train": train, "val": stored([0])}, OWN)
    assert note is not None
    assert note.startswith("val has no images of: b; no threshold can be chosen")
    assert note.endswith("prepare again with --val-fraction 0.2 --force")
    asked_more = none_in_val(AB, {"train": train, "val": stored([0])}, Carving({"val": 0.3}, is_user_set=True))
    assert str(asked_more).endswith("Add images to val")
    assert none_in_val(AB, {"train": train}, OWN) is None
    assert none_in_val(AB, {"train": train, "val": stored([0, 1])}, OWN) is None


def test_splits_that_got_no_image_are_named() -> None:
    train = stored([0, 1] * 10)
    note = empty_split({"train": train}, OWN)
    assert note == (
        "no image came into val or test, as the set is small; prepare it again with --val-fraction 0.2 "
        "--test-fraction 0.3 --force"
    )
    assert str(empty_split({"train": train}, Carving({"val": 0.4}, True))).endswith("as the set is small; add images")
    assert empty_split({"train": train}, Carving({"val": 0, "test": 0}, True)) is None
    assert empty_split({"train": train, "val": train, "test": train}, OWN) is None


def rows_of_two_classes(count: int) -> list[tuple[bytes, int]]:
    """Of the second class only the last."""
    return [(picture(number), int(number == count - 1)) for number in range(count)]


def write_parquet(root: Path, split: str, count: int) -> None:
    images, labels = zip(*rows_of_two_classes(count), strict=True)
    pq.write_table(pa.table({"image": images, "label": labels}), root / f"{split}.parquet")


def write_tar(root: Path, split: str, count: int) -> None:
    with wds.TarWriter(str(root / f"{split}.tar")) as writer:
        for number, (image, label) in enumerate(rows_of_two_classes(count)):
            writer.write({"__key__": f"{split}{number}", "jpg": image, "cls": label})


def prepared(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str
) -> str:
    """What `prepare` says of a set."""
    monkeypatch.setattr(sys, "argv", ["prepare", name, "--root", str(folder), "--out", str(folder / "out"), *flags])
    prepare_module.main()
    return capsys.readouterr().err


@pytest.mark.parametrize(("name", "write"), [("parquet", write_parquet), ("webdataset", write_tar)])
def test_formats_read_row_by_row_are_told_of_few_images(
    name: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("train", 24), ("test", 3)):
        write(tmp_path, split, count)
    said = prepared(name, tmp_path, monkeypatch, capsys, "--val-fraction", "0.0001")
    assert "warning: test has few images: 0 (2), 1 (1); an interval needs 10. Add images to test\n" in said
    assert (
        "warning: no image came into val, as the set is small; prepare it again with --val-fraction 0.2 --force" in said
    )
    said = prepared(name, tmp_path, monkeypatch, capsys, "--val-fraction", "0.3", "--force")
    assert "no image came into" not in said


def test_a_published_set_is_told_of_absent_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from set_layouts import TREES

    arguments = TREES["vindr_cxr"](tmp_path, lambda *_: tmp_path)
    said = prepared("vindr_cxr", arguments["root"], monkeypatch, capsys, "--val-fraction", "0.02", "--size", "32")
    assert "warning: test has few positives: Aortic enlargement (3)" in said
    assert "A larger --test-fraction" not in said  # the owner's is taken
