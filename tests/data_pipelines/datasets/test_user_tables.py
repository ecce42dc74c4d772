"""Images of a user that a table lists, with classes or findings, patients, splits and facts."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from dicom_files import dicom_bytes
from user_films import Films, Rows, has_note, parted, write_dicom

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import group_of
from data_pipelines.common.raw_set import RawSet, key_of
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.user_images import csv_table, image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index


def photographs(count: int = 200) -> list[list[Any]]:
    rows = [
        [f"{number % 7}/{number:03d}.jpg", ("cat", "dog")[number % 2], f"p{number // 4}"] for number in range(count)
    ]
    return [["path", "label", "patient"], *rows]


def test_table_of_classes(listed: Callable[..., tuple[Path, Path]]) -> None:
    root, table = listed(photographs())
    raw = csv_table(root, table, label_column="label", val_fraction=0.1, test_fraction=0.2)
    assert (raw.name, raw.task, raw.classes) == ("labels", "single_label", ("cat", "dog"))
    assert (raw.patients, raw.xray_size, raw.horizontal_flip, raw.notes) == ("none", None, True, ())
    assert raw.num_images == 200
    for image, (name, label, _) in zip(raw.images, photographs()[1:], strict=True):
        assert image.image == root / name
        assert image.key == key_of(name)
        assert raw.classes[image.label] == label
        assert image.group == -1
        assert image.split == hash_split(image.key, 0.1, 0.2)
    assert not csv_table(root, table, label_column="label", horizontal_flip=False).horizontal_flip


def test_classes_are_text_and_sorted_by_name(listed: Callable[..., tuple[Path, Path]]) -> None:
    root, table = listed([["path", "label"], ["a.jpg", "10"], ["b.jpg", " NA "], ["c.jpg", "2"], ["d.jpg", "01"]])
    raw = csv_table(root, table, label_column="label", val_fraction=0, test_fraction=0, literal_nan=True)
    assert raw.classes == ("01", "10", "2", "NA")
    assert [image.label for image in raw.images] == [1, 3, 2, 0]


def test_table_of_findings(listed: Callable[..., tuple[Path, Path]]) -> None:
    cells = [["1", "0"], ["", "1.0"], ["-1", " "], ["0.0", "-1.0"]]
    root, table = listed([["file", "Nodule", "Effusion"], *([f"{n}.png", *row] for n, row in enumerate(cells))])
    carve = {"val_fraction": 0, "test_fraction": 0}
    raw = csv_table(root, table, path_column="file", label_columns=("Nodule", "Effusion"), **carve)
    assert (raw.task, raw.classes, raw.notes) == ("multi_label", ("Effusion", "Nodule"), ())
    labels = np.stack([image.label for image in raw.images])
    assert labels.dtype == np.float32
    nan = np.nan
    np.testing.assert_array_equal(labels, np.float32([[0, 1], [1, nan], [nan, nan], [nan, 0]]))
    one = csv_table(root, table, path_column="file", label_columns=("Nodule",), **carve)
    assert (one.classes, one.notes) == (("Nodule",), ())
    np.testing.assert_array_equal(np.stack([image.label for image in one.images]), np.float32([[1], [nan], [nan], [0]]))


def test_finding_without_a_positive_image_in_train_is_noted(listed: Callable[..., tuple[Path, Path]]) -> None:
    root, table = listed([["path", "Nodule", "Mass"], ["a.png", "0", "1"], ["b.png", "", "0"]])
    raw = csv_table(root, table, label_columns=("Nodule", "Mass"), val_fraction=0, test_fraction=0)
    assert raw.notes == ("train has no positive of: Nodule",)
    root, table = listed([["path", "Nodule", "part"], ["a.png", "0", "train"], ["b.png", "1", "val"]])
    raw = csv_table(root, table, label_columns=("Nodule",), split_column="part")
    assert raw.notes == ("train has no positive of: Nodule",)


def test_patients_of_a_table_are_never_parted(listed: Callable[..., tuple[Path, Path]]) -> None:
    root, table = listed(photographs())
    raw = csv_table(root, table, label_column="label", patient_column="patient", val_fraction=0.2, test_fraction=0.2)
    assert raw.patients == "apart"
    for image, (_, _, patient) in zip(raw.images, photographs()[1:], strict=True):
        assert image.split == hash_split(patient, 0.2, 0.2)
        assert image.group == group_of(patient)
    assert set(Counter(image.split for image in raw.images)) == {"train", "val", "test"}
    by_image = csv_table(
        root,
        table,
        label_column="label",
        patient_column="patient",
        split_by="image",
        val_fraction=0.2,
        test_fraction=0.2,
    )
    assert by_image.patients == "may leak"
    assert f"{parted(by_image)} of 50 patients have images in more than one split" in by_image.notes
    xrays = csv_table(root, table, label_column="label", patient_column="patient", xray_size=64)
    assert (xrays.patients, xrays.xray_size) == ("apart", 64)


def test_patients_that_the_table_leaves_blank(listed: Callable[..., tuple[Path, Path]]) -> None:
    rows = photographs()
    rows[3][2] = " "
    root, table = listed(rows)
    with pytest.raises(InputError, match=r"1 of 200 images name no patient, the first is 2/002\.jpg"):
        csv_table(root, table, label_column="label", patient_column="patient")
    raw = csv_table(root, table, label_column="label", patient_column="patient", split_by="image")
    assert raw.patients == "may leak"
    assert has_note(raw, "patients of 1 of 200 images are not known")


def test_xrays_of_a_table_without_patients(listed: Callable[..., tuple[Path, Path]]) -> None:
    root, table = listed(photographs())
    with pytest.raises(InputError, match=r"200 of 200 images name no patient.*--patient-column"):
        csv_table(root, table, label_column="label", xray_size=128)
    raw = csv_table(root, table, label_column="label", xray_size=128, split_by="image")
    assert (raw.patients, raw.xray_size) == ("may leak", 128)


def test_dicom_in_a_table(films: Films, listed: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    rows = [[name, name.split("/")[0], f"other {number % 9}"] for number, name in enumerate(films.patients)]
    _, table = listed([["path", "label", "patient"], *rows])
    raw = csv_table(films.root, table, label_column="label", val_fraction=0.2, test_fraction=0.2)
    assert (raw.patients, raw.xray_size, raw.num_images) == ("apart", 256, 90)
    for image, (name, *_) in zip(raw.images, rows, strict=True):
        assert image.group == group_of(films.patients[name])
        assert image.split == hash_split(films.patients[name], 0.2, 0.2)
    assert has_note(raw, "36 of 90 DICOM images are lateral views, kept")
    named = csv_table(films.root, table, label_column="label", patient_column="patient", laterals="drop", xray_size=32)
    assert named.num_images == 54
    assert named.xray_size == 32
    assert {image.group for image in named.images} <= {group_of(f"other {number}") for number in range(9)}
    manifest = prepare(named, Output(tmp_path / "out"))
    assert (manifest["quarantined"], manifest["channels"], manifest["patients"]) == (0, 1, "apart")


def test_dicom_in_a_table_is_known_by_its_content_too(tmp_path: Path, listed: Callable[..., tuple[Path, Path]]) -> None:
    root, table = listed([["path", "label"], ["IM0001", "a"], ["IM0002", "b"], ["note", "a"], ["x.gif", "a"]])
    for number in (1, 2):
        write_dicom(root / f"IM000{number}", PatientID=f"p{number}", ViewPosition="PA")
    with pytest.raises(InputError, match="2 of 4 images name no patient, the first is note"):
        csv_table(root, table, label_column="label")
    raw = csv_table(root, table, label_column="label", split_by="image")
    assert raw.xray_size == 256
    assert not has_note(raw, "lateral views")
    dropped = csv_table(root, table, label_column="label", split_by="image", laterals="drop")
    assert has_note(dropped, "0 of 2 DICOM images are lateral views; 0 do not say")
    assert [image.group for image in raw.images] == [group_of("p1"), group_of("p2"), -1, -1]


BAD_TABLES: dict[str, tuple[Rows, dict[str, Any], str]] = {
    "no_column": ([["file", "label"], ["a.jpg", "x"]], {}, "has no column 'path'; known: file, label"),
    "near_column": (
        [["path", "lable"], ["a.jpg", "x"]],  # codespell:ignore lable
        {},
        "has no column 'label'; did you mean 'lable'",  # codespell:ignore lable
    ),
    "joined_names": (
        [["path", "A", "B"], ["a.jpg", "1", "0"]],
        {"label_column": None, "label_columns": ("A,B",)},
        "has no column 'A,B'; separate names by spaces: A B$",
    ),
    "joined_facts": (
        [["path", "label", "my site"], ["a.jpg", "x", "0"]],
        {"fact_columns": ("label;my site",)},
        "has no column 'label;my site'; separate names by spaces: label 'my site'$",
    ),
    "joined_in_one": (
        [["path", "label", "pid"], ["a.jpg", "x", "0"]],
        {"patient_column": "pid,label"},
        "has no column 'pid,label'(?!; separate)",
    ),
    "no_patient": ([["path", "label"], ["a.jpg", "x"]], {"patient_column": "pid"}, "has no column 'pid'"),
    "no_split": ([["path", "label"], ["a.jpg", "x"]], {"split_column": "split"}, "has no column 'split'"),
    "two_columns": ([["path", "label", "label"], ["a.jpg", "x", "y"]], {}, "has two columns 'label'; rename one"),
    "no_rows": ([["path", "label"]], {}, "has no rows"),
    "empty": ([], {}, "is empty; its first row must name the columns"),
    "ragged": ([["path", "label"], ["a.jpg", "x"], ["b.jpg"]], {}, r"labels\.csv line 3 has 1 cells, the first has 2"),
    "blank_label": ([["path", "label"], ["a.jpg", "x"], ["b.jpg", " "]], {}, r"labels\.csv line 3 has no 'label'"),
    "blank_path": ([["path", "label"], ["", "x"]], {}, "line 2: '' is not a path below --root"),
    "absolute": ([["path", "label"], ["/a.jpg", "x"]], {}, r"line 2: '/a\.jpg' is not a path below --root"),
    "above": ([["path", "label"], ["../a.jpg", "x"]], {}, r"'\.\./a\.jpg' is not a path below --root"),
    "hidden_above": ([["path", "label"], ["../b/../../a.jpg", "x"]], {}, "is not a path below --root"),
    "twice": ([["path", "label"], ["a.jpg", "x"], ["b/../a.jpg", "y"]], {}, r"line 3 names a\.jpg again, after line 2"),
    "bad_split": (
        [["path", "label", "split"], ["a.jpg", "x", "train"], ["b.jpg", "x", "eval"], ["c.jpg", "x", ""]],
        {"split_column": "split"},
        "line 4: 'split' is ''.*also: 'eval'.*must be one of train, training, val, valid, validation, dev, test",
    ),
    "no_train": (
        [["path", "label", "split"], ["a.jpg", "x", "val"]],
        {"split_column": "split"},
        "no row has 'split' = train",
    ),
    "new_class": (
        [["path", "label", "split"], ["a.jpg", "x", "train"], ["b.jpg", "y", "test"]],
        {"split_column": "split"},
        "line 3: the train split has no 'label' 'y'",
    ),
    "finding": (
        [["path", "A", "B"], ["a.jpg", "1", "0"], ["b.jpg", "1", "2"]],
        {"label_column": None, "label_columns": ("A", "B")},
        r"labels\.csv line 3: 'B' is '2'; it must be 1, 0, or blank or -1",
    ),
    "finding_text": (
        [["path", "A"], ["a.jpg", "nan"]],
        {"label_column": None, "label_columns": ("A",)},
        "line 2: 'A' is 'nan'",
    ),
    "finding_twice": (
        [["path", "A"], ["a.jpg", "1"]],
        {"label_column": None, "label_columns": ("A", "A")},
        "names a column twice: A A",
    ),
    "no_label": ([["path", "label"], ["a.jpg", "x"]], {"label_column": None}, "pass either --label-column NAME .* or"),
    "both_labels": ([["path", "label"], ["a.jpg", "x"]], {"label_columns": ("label",)}, "pass either --label-column"),
    "fraction": ([["path", "label"], ["a.jpg", "x"]], {"val_fraction": 0.5}, "--val-fraction is 0.5; it must lie in"),
    "size": ([["path", "label"], ["a.jpg", "x"]], {"xray_size": 0}, "--xray-size is 0"),
    "laterals": ([["path", "label"], ["a.jpg", "x"]], {"laterals": "drop"}, "--laterals drop needs DICOM"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_mistakes_in_a_table_are_named(name: str, listed: Callable[..., tuple[Path, Path]]) -> None:
    rows, options, message = BAD_TABLES[name]
    root, table = listed(rows)
    with pytest.raises(InputError, match=message):
        csv_table(root, table, **({"label_column": "label"} | options))


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv is not a file"):
        csv_table(tmp_path, tmp_path / "none.csv", label_column="label")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        csv_table(tmp_path / "nowhere", tmp_path / "none.csv", label_column="label")
    table = tmp_path / "table.csv"
    for content in (b'path,label\n"a.jpg,x\n', b'path,label\n"a"b,x\n'):
        table.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as CSV .*UTF-8 text with commas"):
            csv_table(tmp_path, table, label_column="label")


def test_tables_as_spreadsheets_write_them(tmp_path: Path) -> None:
    (tmp_path / "ä b.jpg").touch()
    table = tmp_path / "table.csv"
    table.write_bytes('\ufeffpath , label\r\n"ä b.jpg","big, brown"\r\n\r\n'.encode())
    raw = csv_table(tmp_path, table, label_column="label", val_fraction=0, test_fraction=0)
    assert raw.classes == ("big, brown",)
    assert [image.image.name for image in raw.images] == ["ä b.jpg"]


def test_missing_files(listed: Callable[..., tuple[Path, Path]]) -> None:
    rows = photographs(100)
    names = [name for name, *_ in rows[1:]]
    root, table = listed(rows, missing=names[40:46])
    with pytest.raises(InputError, match=r"6 of 100 images are missing, the first is .*/5/040\.jpg; .*--root"):
        csv_table(root, table, label_column="label")
    (root / names[40]).touch()
    raw = csv_table(root, table, label_column="label")
    assert raw.num_images == 100
    assert raw.images[41].image == root / names[41]


def test_few_missing_dicom_files_are_left_to_the_quarantine(
    films: Films, listed: Callable[..., tuple[Path, Path]]
) -> None:
    _, table = listed([["path", "label"], *([name, name.split("/")[0]] for name in films.patients)])
    (films.root / "sick" / "002.dcm").unlink()
    raw = csv_table(films.root, table, label_column="label")
    assert (raw.num_images, raw.patients) == (90, "apart")
    assert has_note(raw, "of 89 DICOM images are lateral")


@pytest.mark.parametrize("reader", [csv_table, image_folder])
def test_command_line(reader: Callable[..., RawSet], films: Films, listed: Callable[..., tuple[Path, Path]]) -> None:
    _, table = listed([["path", "A", "B"], *([name, "1", "0"] for name in films.patients)])
    arguments = ["--root", str(films.root), "--split-by", "image", "--xray-size", "48", "--laterals", "drop"]
    if reader is csv_table:
        arguments += ["--table", str(table), "--label-columns", "A", "B"]
    raw = tyro.cli(reader, args=[*arguments, "--no-horizontal-flip"])
    assert (raw.xray_size, raw.num_images, raw.horizontal_flip) == (48, 54, False)
    assert raw.classes == (("A", "B") if reader is csv_table else ("sick", "well"))


def test_facts_stand_beside_the_labels(tmp_path: Path) -> None:
    """Those of the header, and those of the table, which come first."""
    for number in range(2):
        film = dicom_bytes(PatientSex="M", PatientAge="061Y", ViewPosition="AP")
        (tmp_path / f"{number}.dcm").write_bytes(film)
    table = tmp_path / "films.csv"
    table.write_text("path,label,sex,site\n0.dcm,a,F,north\n1.dcm,b,,\n")
    raw = csv_table(
        tmp_path, table, label_column="label", fact_columns=("sex", "site"), split_by="image", val_fraction=0,
        test_fraction=0,
    )  # fmt: skip
    prepare(raw, Output(tmp_path / "out"))
    assert Index.load(tmp_path / "out", "train").facts() == [
        {"view": "AP", "sex": "F", "age": "61", "site": "north"},
        {"view": "AP", "sex": "M", "age": "61"},
    ]
    assert Index.load(tmp_path / "out", "train").take(np.array([1])).facts()[0]["sex"] == "M"
    with pytest.raises(InputError, match="no column 'sit'; did you mean 'site'"):
        csv_table(tmp_path, table, label_column="label", fact_columns=("sit",))
