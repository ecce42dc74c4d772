"""DICOM files and X-rays of a user: patients, views, and what is left to the quarantine."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_files import make_dicom, saved
from user_films import VIEWS, Films, has_note, parted, write_dicom

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import group_of
from data_pipelines.common.raw_set import key_of
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.study_dates import StudyDate
from data_pipelines.datasets.user_images import csv_table, image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare


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


@pytest.mark.parametrize(("kept", "dates"), [(None, {""}), ("month", {"2023-01", ""}), ("day", {"2023-01-14", ""})])
def test_dates_are_kept_only_as_asked_for(kept: StudyDate | None, dates: set[str], tmp_path: Path) -> None:
    """Of the headers; also as written before 1993, and not where there is none or it is none."""
    for number, date in enumerate(["20230114", "2023.01.14", None, "", "around 1990"]):
        write_dicom(tmp_path / "films" / "ab"[number % 2] / f"{number}.dcm", StudyDate=date, PatientID=f"p{number}")
    raw = image_folder(tmp_path / "films", 0, 0, study_date=kept)
    assert {image.facts.get("study_date", "") for image in raw.images} == dates
    assert has_note(raw, "3 images without a StudyDate") == has_note(raw, "--study-date") == (kept is not None)
    prepare(raw, Output(tmp_path / "out"))
    stored = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert (b"2023" in stored) == (kept is not None)
    assert (b"2023-01-14" in stored) == (kept == "day")


def test_dates_of_a_table_come_before_those_of_headers(tmp_path: Path) -> None:
    for number in range(2):
        write_dicom(tmp_path / f"{number}.dcm", StudyDate="20230114", PatientID=f"p{number}")
    table = tmp_path / "films.csv"
    table.write_text("path,label,study_date\n0.dcm,a,2021-05\n1.dcm,b,\n")
    raw = csv_table(
        tmp_path, table, label_column="label", fact_columns=("study_date",), study_date="month", val_fraction=0,
        test_fraction=0,
    )  # fmt: skip
    assert [image.facts["study_date"] for image in raw.images] == ["2021-05", "2023-01"]


def test_dates_cannot_be_kept_where_there_are_none(touch: Callable[..., Path]) -> None:
    root = touch("cat")
    for _ in range(2):  # photographs, and then DICOM too
        with pytest.raises(InputError, match=r"--study-date is for DICOM files with a StudyDate.*leave it out"):
            image_folder(root, split_by="image", study_date="month")
        write_dicom(root / "dog" / "0.dcm", PatientID="p0")


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
