"""One's own images, by a table or in class folders: which class, which split, and that no patient is parted."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from dicom_files import dicom_bytes, make_dicom, saved

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import group_of
from data_pipelines.common.raw_set import RawSet, key_of
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.user_images import csv_table, image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """A function that creates empty files (readers do not open them) and returns the root."""

    def create(folder: str, names: Sequence[str] = ("0.jpg",)) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (tmp_path / folder / name).touch()
        return tmp_path

    return create


def splits(root: Path, **fractions: float) -> dict[str, str]:
    return {image.key: image.split for image in image_folder(root, **fractions).images}


def test_hashed_split_has_its_size_and_stays_as_files_are_added(touch: Callable[..., Path]) -> None:
    root = touch("cat", [f"{number}.jpg" for number in range(1500)])
    touch("dog", [f"{number}.png" for number in range(1500)])
    before = splits(root, val_fraction=0.1, test_fraction=0.2)
    for name in ("cat", "dog"):
        counts = Counter(split for key, split in before.items() if key.startswith(name))
        assert abs(counts["val"] - 150) < 45
        assert abs(counts["test"] - 300) < 60
        assert counts.total() == 1500
    touch("cat", [f"new-{number}.jpg" for number in range(100)])
    touch("ape")
    after = splits(root, val_fraction=0.1, test_fraction=0.2)
    assert len(after) == 3101
    assert {key: after[key] for key in before} == before


@pytest.mark.parametrize("left_out", ["val", "test"])
def test_fraction_of_nothing_leaves_a_split_out(touch: Callable[..., Path], left_out: str) -> None:
    root = touch("cat", [f"{number}.jpg" for number in range(200)])
    other = {"val": "test", "test": "val"}[left_out]
    counts = Counter(splits(root, **{f"{left_out}_fraction": 0, f"{other}_fraction": 0.3}).values())
    assert counts[left_out] == 0
    assert 30 < counts[other] < 90
    assert set(splits(root, val_fraction=0, test_fraction=0).values()) == {"train"}


def test_split_folders_are_kept_and_only_the_missing_is_carved(touch: Callable[..., Path]) -> None:
    root = touch("train/cat", [f"{number}.jpg" for number in range(200)])
    touch("valid/cat", [f"{number}.jpg" for number in range(20)])
    counts = Counter((key.split("/")[0], split) for key, split in splits(root).items())
    assert counts[("valid", "val")] == 20
    assert counts[("train", "val")] == 0
    assert 5 < counts[("train", "test")] < 40
    assert set(counts) == {("valid", "val"), ("train", "train"), ("train", "test")}


def test_classes_are_folders_and_files_are_found_below_them(touch: Callable[..., Path]) -> None:
    root = touch("dog/young", ["A.JPG", "notes.txt", "b.webp"])
    touch("cat", ["c.tiff"])
    touch(".cache", ["d.jpg"])
    raw = image_folder(root, 0, 0)
    assert raw.classes == ("cat", "dog")
    assert [(image.key, image.label) for image in raw.images] == [
        ("cat/c_tiff", 0),
        ("dog/young/A_JPG", 1),
        ("dog/young/b_webp", 1),
    ]
    assert raw.num_images == 3
    assert raw.task == "single_label"


def test_keys_fit_a_tar_header_and_have_no_dot(touch: Callable[..., Path]) -> None:
    names = ["a.b.jpg", "é" * 60 + ".jpg", "x" * 120 + ".jpg", "x" * 120 + "1.jpg"]
    keys = [image.key for image in image_folder(touch("cat", names), 0, 0).images]
    assert len(set(keys)) == 4
    assert all(len(key.encode()) <= 90 and "." not in key for key in keys)


def test_names_that_are_no_text_get_a_key_of_their_own(touch: Callable[..., Path]) -> None:
    names = [os.fsdecode(b"\xff.jpg"), os.fsdecode(b"\xfe.jpg"), "two\nlines.jpg", "plain.jpg"]
    try:
        root = touch("cat", names)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    images = image_folder(root, val_fraction=0.2, test_fraction=0.2).images
    keys = {image.key for image in images}
    assert {image.image.name for image in images} == set(names)
    assert len(keys) == 4
    assert "cat/plain_jpg" in keys
    assert all(key.isprintable() and len(key.encode()) <= 90 and "." not in key for key in keys)


@pytest.mark.parametrize("names", [("val", "valid"), ("valid", "validation"), ("val", "validation")])
def test_a_split_comes_from_one_folder(touch: Callable[..., Path], names: tuple[str, str]) -> None:
    for folder in ("train", *names):
        root = touch(f"{folder}/cat")
    with pytest.raises(InputError, match=rf"/{names[0]} and .*/{names[1]} are both the val split; keep one"):
        image_folder(root)


@pytest.mark.parametrize("names", [("val",), ("test",), ("valid", "test")])
def test_a_split_needs_train_beside_it(touch: Callable[..., Path], names: tuple[str, ...]) -> None:
    for folder in names:
        root = touch(f"{folder}/cat")
    with pytest.raises(InputError, match=rf"has {', '.join(names)}, but no folder train beside it"):
        image_folder(root)


def test_mistakes_are_named(touch: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no class folders: expected .*/<class>/"):
        image_folder(tmp_path)
    root = touch("train/cat")
    touch("test/cat")
    touch("test/dog")
    with pytest.raises(InputError, match=r"test/dog: the train split has no class 'dog'"):
        image_folder(root)
    touch("train/dog", ["readme.txt"])
    with pytest.raises(InputError, match=r"train/dog holds no image, but others: \.txt \(1\); remove or fill it"):
        image_folder(root)
    for name in ("val", "test"):
        with pytest.raises(InputError, match=f"--{name}-fraction is 0.5; it must lie in"):
            image_folder(root, **{f"{name}_fraction": 0.5})


def test_photographs_are_carved_by_key_and_have_no_patients(touch: Callable[..., Path]) -> None:
    root = touch("cat", [f"{number}.jpg" for number in range(300)])
    raw = image_folder(root, 0.1, 0.2)
    assert [image.split for image in raw.images] == [hash_split(image.key, 0.1, 0.2) for image in raw.images]
    assert {image.group for image in raw.images} == {-1}
    assert (raw.patients, raw.xray_size, raw.horizontal_flip, raw.source) == (
        "none",
        None,
        True,
        f"class folders under {root.name}; licence as of the original",
    )
    # Pinned: another split of the same files would make results of before and after incomparable.
    splits_of = {image.key: image.split for image in raw.images}
    first = [[key for key in sorted(splits_of) if splits_of[key] == split][:3] for split in ("val", "test")]
    assert first == [["cat/0_jpg", "cat/112_jpg", "cat/120_jpg"], ["cat/101_jpg", "cat/102_jpg", "cat/107_jpg"]]
    assert not image_folder(root, horizontal_flip=False).horizontal_flip


@dataclass(frozen=True)
class Films:
    """DICOM files below `root`, class folder by class folder, and the patient of each."""

    root: Path
    patients: Mapping[str, str]


VIEWS = ("PA", "AP", "LATERAL", "LL", None)


def write_dicom(path: Path, **elements: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_bytes(**elements))


@pytest.fixture
def films(tmp_path: Path) -> Films:
    """90 films of 40 patients, of two classes; of each five films two are lateral, and one does not say."""
    patients = {}
    for number in range(90):
        name = f"{('sick', 'well')[number % 2]}/{number:03d}.{('dcm', 'DICOM')[number % 3 == 0]}"
        patients[name] = f"patient {number * 7 % 40}"
        write_dicom(tmp_path / "films" / name, PatientID=patients[name], ViewPosition=VIEWS[number % 5])
    return Films(tmp_path / "films", patients)


def parted(raw: RawSet) -> int:
    """How many patients have images in more than one split."""
    splits_of: dict[int, set[str]] = {}
    for image in raw.images:
        splits_of.setdefault(image.group, set()).add(image.split)
    return sum(len(found) > 1 for found in splits_of.values())


def has_note(raw: RawSet, *words: str) -> bool:
    return any(all(word in note for word in words) for note in raw.notes)


def test_dicom_in_class_folders_brings_its_patients(films: Films) -> None:
    raw = image_folder(films.root, 0.2, 0.2)
    assert raw.num_images == len(raw.images) == 90
    assert raw.patients == "apart"
    assert raw.xray_size == 256
    assert set(Counter(image.split for image in raw.images)) == {"train", "val", "test"}
    for image in raw.images:
        name = image.image.relative_to(films.root).as_posix()
        assert image.key == key_of(name)
        assert image.group == group_of(films.patients[name])
        assert image.split == hash_split(films.patients[name], 0.2, 0.2)
        assert raw.classes[image.label] == name.split("/")[0]
    assert parted(raw) == 0
    assert image_folder(films.root, xray_size=64).xray_size == 64


def test_split_by_image_parts_patients_and_says_so(films: Films) -> None:
    raw = image_folder(films.root, 0.2, 0.2, split_by="image")
    assert [image.split for image in raw.images] == [hash_split(image.key, 0.2, 0.2) for image in raw.images]
    assert raw.patients == "may leak"
    assert parted(raw) > 5
    assert f"{parted(raw)} of 40 patients have images in more than one split" in raw.notes
    assert {image.group for image in raw.images} == {group_of(patient) for patient in films.patients.values()}


def test_laterals_are_counted_and_kept_or_dropped(films: Films) -> None:
    kept, dropped = image_folder(films.root), image_folder(films.root, laterals="drop")
    assert kept.num_images == 90
    found, unknown = "36 of 90 DICOM images are lateral views", "18 do not say their view and are kept"
    assert f"{found}, kept (--laterals drop leaves them out); {unknown}" in kept.notes
    assert dropped.num_images == 54
    assert f"{found}, left out; {unknown}" in dropped.notes
    numbers = {int(image.image.stem) for image in dropped.images}
    assert numbers == {number for number in range(90) if VIEWS[number % 5] in ("PA", "AP", None)}


def test_laterals_cannot_be_dropped_without_dicom(touch: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="--laterals drop needs DICOM files, which alone say their view"):
        image_folder(touch("cat"), laterals="drop")


def test_xrays_without_patients_are_split_only_if_accepted(touch: Callable[..., Path]) -> None:
    root = touch("cat", [f"{number}.png" for number in range(50)])
    with pytest.raises(InputError, match=r"50 of 50 images name no patient, the first is cat/0\.png.*--split-by image"):
        image_folder(root, xray_size=128)
    raw = image_folder(root, 0.2, 0.2, split_by="image", xray_size=128)
    assert (raw.xray_size, raw.patients) == (128, "may leak")
    assert has_note(raw, "patients of 50 of 50 images are not known", "may be in train and in test")
    assert [image.split for image in raw.images] == [hash_split(image.key, 0.2, 0.2) for image in raw.images]


@pytest.mark.parametrize("patient", ["", None])
def test_dicom_without_patient_is_refused_or_may_leak(films: Films, patient: str | None) -> None:
    write_dicom(films.root / "sick" / "zzz.dcm", PatientID=patient)
    with pytest.raises(InputError, match=r"1 of 91 images name no patient, the first is sick/zzz\.dcm"):
        image_folder(films.root)
    raw = image_folder(films.root, split_by="image")
    assert raw.patients == "may leak"
    assert has_note(raw, "patients of 1 of 91 images are not known")


def test_dicom_that_all_name_one_patient_are_refused(tmp_path: Path) -> None:
    for number in range(4):
        write_dicom(tmp_path / "sick" / f"{number}.dcm", PatientID="ANONYMOUS")
    with pytest.raises(InputError, match="all 4 images name the same patient"):
        image_folder(tmp_path)
    assert image_folder(tmp_path, 0, 0).patients == "apart"
    assert image_folder(tmp_path, split_by="image").num_images == 4


def test_damaged_dicom_is_left_to_the_quarantine(films: Films, tmp_path: Path) -> None:
    (films.root / "sick" / "bad.dcm").write_bytes(b"404 not found")
    raw = image_folder(films.root, 0.2, 0.2)
    assert raw.num_images == 91
    assert raw.patients == "apart"
    assert has_note(raw, "of 90 DICOM images are lateral")
    manifest = prepare(raw, Output(tmp_path / "out", max_bad=0.02))
    assert manifest["quarantined"] == 1
    assert sum(split["images"] for split in manifest["splits"].values()) == 90


def test_dicom_that_the_file_system_does_not_give_stops_the_work(
    films: Films, listed: Callable[..., tuple[Path, Path]]
) -> None:
    _, table = listed([["path", "label"], ["sick/000.DICOM", "a"], ["sick/zzz.dcm", "a"]])
    (films.root / "sick" / "zzz.dcm").mkdir()
    with pytest.raises(InputError, match=r"sick/zzz\.dcm cannot be read \(Is a directory\)"):
        csv_table(films.root, table, label_column="label")


NO_PICTURE = {"Rows": None, "Columns": None, "PixelData": None, "PatientID": None}


def test_dicom_of_kinds_without_a_picture_is_left_out(films: Films, tmp_path: Path) -> None:
    before = image_folder(films.root)
    for number, kind in enumerate(("SR", "SR", "pr", "KO")):
        write_dicom(films.root / "sick" / f"report {number}.dcm", Modality=kind, **NO_PICTURE)
    directory = make_dicom(Modality=None, **NO_PICTURE)
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    del directory.SOPClassUID, directory.SOPInstanceUID
    (films.root / "sick" / "index").write_bytes(saved(directory))
    raw = image_folder(films.root)
    assert (raw.patients, raw.notes) == (before.patients, before.notes)
    assert [(image.key, image.split) for image in raw.images] == [(image.key, image.split) for image in before.images]
    kinds = {"SR": 2, "PR": 1, "KO": 1, "DICOMDIR": 1}
    assert raw.left_out == {f"DICOM files without a picture ({kind})": count for kind, count in kinds.items()}


def test_an_xray_cut_before_its_size_is_left_to_the_quarantine(films: Films) -> None:
    whole = (films.root / "sick" / "000.DICOM").read_bytes()
    (films.root / "sick" / "000.DICOM").write_bytes(whole[: whole.index(b"\x28\x00\x10\x00")])
    write_dicom(films.root / "sick" / "report.dcm", Modality="SR", PixelData=None)  # says a size: who decodes it tells
    raw = image_folder(films.root)
    assert (raw.num_images, raw.left_out) == (91, {})


def test_given_splits_of_dicom_are_kept_and_patients_compared(tmp_path: Path) -> None:
    for number in range(40):
        write_dicom(tmp_path / "train" / "sick" / f"{number}.dcm", PatientID=f"p{number // 2}")
        write_dicom(tmp_path / "test" / "sick" / f"{number}.dcm", PatientID=f"q{number // 2}")
    apart = image_folder(tmp_path, val_fraction=0.3)
    assert apart.patients == "apart"
    assert {image.split for image in apart.images if "/test/" in str(image.image)} == {"test"}
    assert {image.split for image in apart.images if "/train/" in str(image.image)} == {"train", "val"}
    assert parted(apart) == 0
    write_dicom(tmp_path / "test" / "sick" / "0.dcm", PatientID="p3")
    leaking = image_folder(tmp_path, val_fraction=0.3)
    assert leaking.patients == "may leak"
    assert "1 of 40 patients have images in more than one split" in leaking.notes


def test_other_modalities_and_empty_classes_are_noted(films: Films) -> None:
    assert not has_note(image_folder(films.root), "modalities")
    write_dicom(films.root / "sick" / "ct.dcm", Modality="CT")
    write_dicom(films.root / "rare" / "0.dcm", ViewPosition="LL", PatientID="only")
    raw = image_folder(films.root, laterals="drop")
    assert has_note(raw, "no X-rays", "CT (1)")
    assert has_note(raw, "train has no image of: rare")
    assert not has_note(image_folder(films.root, 0, 0), "train has no image")


def test_one_class_is_noted(touch: Callable[..., Path]) -> None:
    assert has_note(image_folder(touch("cat"), 0, 0), "one class only, cat")
    assert not has_note(image_folder(touch("dog"), 0, 0), "one class only")


@pytest.mark.parametrize("size", [0, -1])
def test_xray_size_must_be_positive(touch: Callable[..., Path], size: int) -> None:
    with pytest.raises(InputError, match=f"--xray-size is {size}"):
        image_folder(touch("cat"), xray_size=size)


Rows = Sequence[Sequence[Any]]


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A function that writes a table and an empty file for each path in its first column; returns root and table."""

    def write(rows: Rows, missing: Sequence[str] = ()) -> tuple[Path, Path]:
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        for name, *_ in rows[1:]:
            if name and name not in missing and not name.startswith(("/", "..")):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        with (tmp_path / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return root, tmp_path / "labels.csv"

    return write


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
    assert raw.notes == ("train has no image of: Nodule",)
    root, table = listed([["path", "Nodule", "part"], ["a.png", "0", "train"], ["b.png", "1", "val"]])
    raw = csv_table(root, table, label_columns=("Nodule",), split_column="part")
    assert raw.notes == ("train has no image of: Nodule",)


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
    assert has_note(raw, "0 of 2 DICOM images are lateral views; 0 do not say")
    assert [image.group for image in raw.images] == [group_of("p1"), group_of("p2"), -1, -1]


BAD_TABLES: dict[str, tuple[Rows, dict[str, Any], str]] = {
    "no_column": ([["file", "label"], ["a.jpg", "x"]], {}, "has no column 'path'; known: file, label"),
    "near_column": (
        [["path", "lable"], ["a.jpg", "x"]],  # codespell:ignore lable
        {},
        "has no column 'label'; did you mean 'lable'",  # codespell:ignore lable
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
