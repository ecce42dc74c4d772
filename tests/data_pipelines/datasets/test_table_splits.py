"""Splits that a table gives are used; what it lacks is carved out of train."""

from collections.abc import Callable, Sequence
from pathlib import Path

from user_films import Rows, has_note

from data_pipelines.datasets.user_images import csv_table


def split_rows(values: Sequence[str], patients: Sequence[str]) -> Rows:
    rows = [[f"{number}.jpg", "cat", one, patients[number]] for number, one in enumerate(values)]
    return [["path", "label", "part", "patient"], *rows]


def test_given_splits_are_used(listed: Callable[..., tuple[Path, Path]]) -> None:
    values = ["train", "val", "valid", "validation", "test", "Train"]
    root, table = listed(split_rows(values, "aabbcd"))
    raw = csv_table(root, table, label_column="label", split_column="part")
    assert [image.split for image in raw.images] == ["train", "val", "val", "val", "test", "train"]
    assert raw.patients == "none"
    leaking = csv_table(root, table, label_column="label", split_column="part", patient_column="patient")
    assert [image.split for image in leaking.images] == [image.split for image in raw.images]
    assert leaking.patients == "may leak"
    assert "1 of 4 patients have images in more than one split" in leaking.notes
    root, table = listed(split_rows(values, "abbccd"))
    leaking = csv_table(root, table, label_column="label", split_column="part", patient_column="patient")
    assert "1 of 4 patients have images in more than one split" in leaking.notes
    root, table = listed(split_rows(values, "abbbca"))
    apart = csv_table(root, table, label_column="label", split_column="part", patient_column="patient")
    assert apart.patients == "apart"
    assert not has_note(apart, "more than one split")


def test_split_that_the_table_lacks_is_carved_out_of_train(listed: Callable[..., tuple[Path, Path]]) -> None:
    values = ["train"] * 100 + ["test"] * 20
    root, table = listed(split_rows(values, [f"p{number}" for number in range(120)]))
    raw = csv_table(root, table, label_column="label", split_column="part", val_fraction=0.3, test_fraction=0.3)
    assert {image.split for image in raw.images[:100]} == {"train", "val"}
    assert {image.split for image in raw.images[100:]} == {"test"}
    raw = csv_table(root, table, label_column="label", split_column="part", val_fraction=0)
    assert {image.split for image in raw.images[:100]} == {"train"}
