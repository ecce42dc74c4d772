"""Classes and findings with too few images in test, or none in val, are told, with a remedy that helps."""

from dataclasses import replace

import numpy as np

from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.datasets.few_in_test import few_in_test, none_in_val


def set_of(images: list[RawImage], task: str) -> RawSet:
    return RawSet("mine", task, ("a", "b"), images, len(images), "drawn")  # type: ignore[arg-type]


def test_classes_with_few_test_images_are_named() -> None:
    labels = [0] * 10 + [1] * 4
    test = [RawImage(f"{i}", "test", b"", label) for i, label in enumerate(labels)]
    note = few_in_test(set_of([*test, RawImage("t", "train", b"", 1)], "single_label"))
    assert note is not None
    assert note.startswith("test has few images: b (4); an interval needs 10.")
    assert few_in_test(set_of([*test, *(RawImage(f"b{i}", "test", b"", 1) for i in range(6))], "single_label")) is None
    assert few_in_test(set_of([RawImage("t", "train", b"", 1)], "single_label")) is None


def test_positives_are_counted_by_patient() -> None:
    label = np.array([1, np.nan], dtype=np.float32)
    test = [RawImage(f"{i}", "test", b"", label, group=i % 9) for i in range(18)]
    note = few_in_test(set_of(test, "multi_label"))
    assert note is not None
    assert "few patients with a positive: a (9), b (0); few patients with a negative: a (0), b (0);" in note


def test_a_larger_test_is_advised_only_where_one_is_carved() -> None:
    images = [RawImage(f"{i}", "test" if i < 4 else "train", b"", i % 2) for i in range(40)]
    raw = set_of(images, "single_label")
    assert str(few_in_test(raw)).endswith("Add images, or prepare again with --test-fraction 0.3 --force")
    assert str(few_in_test(replace(raw, has_own_test=True))).endswith("Add images to test")
    assert str(few_in_test(replace(raw, images=images[:12]))).endswith("Add images to test")  # a third of all


def test_classes_without_val_images_are_named() -> None:
    images = [RawImage(f"{i}", "train", b"", i % 2) for i in range(20)]
    val = RawImage("v", "val", b"", 0)
    note = none_in_val(set_of([*images, val], "single_label"))
    assert note is not None
    assert note.startswith("val has no images of: b; no threshold can be chosen")
    assert note.endswith("prepare again with --val-fraction 0.2 --force")
    assert none_in_val(set_of(images, "single_label")) is None
    assert none_in_val(set_of([*images, val, RawImage("w", "val", b"", 1)], "single_label")) is None
