"""Names that a person takes for one: classes are noted, patients may leak, and nobody is no patient."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from dicom_files import dicom_bytes

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.similar_names import class_name_notes, difference, near
from data_pipelines.datasets.user_images import csv_table, image_folder

PARTED = unicodedata.normalize("NFD", "Café")
Read = Callable[..., RawSet]


@pytest.fixture
def of_patients(tmp_path: Path) -> Read:
    """A function that reads a table of two images of each patient."""

    def read(patients: Sequence[str], **options: object) -> RawSet:
        rows = [f"{number}.jpg,{number % 2},{patient}" for number, patient in enumerate(2 * list(patients))]
        for number in range(len(rows)):
            (tmp_path / f"{number}.jpg").touch()
        table = tmp_path / "table.csv"
        table.write_text("\n".join(["path,label,patient", *rows]))
        return csv_table(tmp_path, table, label_column="label", patient_column="patient", **options)  # type: ignore[arg-type]

    return read


@pytest.mark.parametrize(
    ("names", "ways"),
    [
        (("Dog", "dog"), "capital and small letters"),
        (("dog", "dog ", "d og"), None),
        (("two  words", "two words "), "spaces"),
        (("Café", PARTED), "Unicode form"),
        (("1", "01", "001"), "zeros"),
        (("7", "7.0"), "zeros"),
        (("P007", "p7"), "capital and small letters, zeros"),
    ],
)
def test_names_that_are_taken_for_one(names: Sequence[str], ways: str | None) -> None:
    groups = near(names)
    assert groups == ([list(names)] if ways else [["dog", "dog "]])
    assert difference(groups[0]) == (ways or "spaces")


@pytest.mark.parametrize("names", [("1", "10", "100"), ("1.5", "1.05"), ("0", "00.5"), ("a", "b"), ("p1", "p2")])
def test_names_that_are_not(names: Sequence[str]) -> None:
    assert near(names) == []


def test_many_classes_are_counted() -> None:
    notes = class_name_notes([f"{case}{number}" for number in range(8) for case in "aA"])
    assert len(notes) == 6
    assert notes[-1] == "the same is true of 3 others"


def test_a_class_that_train_has_in_another_form(tmp_path: Path) -> None:
    for name in ("train/Café", f"val/{PARTED}"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.jpg").touch()
    with pytest.raises(InputError, match="differs from it only in Unicode form: give both one name"):
        image_folder(tmp_path)


def test_near_patients_are_not_apart(of_patients: Read) -> None:
    others = [f"q{number}" for number in range(20)]
    near_one = next(f"P{n}" for n in range(99) if hash_split(f"P{n}", 0.1, 0.1) != hash_split(f"p{n}", 0.1, 0.1))
    raw = of_patients([near_one, near_one.lower(), *others])
    assert raw.patients == "may leak"
    assert "patients in more than one split, if those of near names are one: 1" in raw.notes
    note = "2 patients have names that differ from others only in capital and small letters; are they one? If so, "
    note += "give each patient one name in the table, and prepare the set again with --force"
    assert note in raw.notes
    assert not any(near_one in each for each in raw.notes)
    assert of_patients(others).patients == "apart"
    together = of_patients([near_one, near_one.lower(), *others], val_fraction=0, test_fraction=0)
    assert together.patients == "apart"
    assert note in together.notes


def test_near_patients_of_dicom_need_a_table(tmp_path: Path) -> None:
    (tmp_path / "sick").mkdir()
    for number, patient in enumerate(["7", "00007", "8"]):
        (tmp_path / "sick" / f"{number}.dcm").write_bytes(dicom_bytes(PatientID=patient))
    notes = "; ".join(image_folder(tmp_path).notes)
    assert "2 patients have names that differ from others only in zeros" in notes
    assert "one name in a table (--patient-column of the csv reader), and prepare the set again with --force" in notes


@pytest.mark.parametrize("word", ["ANONYMOUS", "Anon", "unknown", "De-identified"])
def test_nobody_is_no_patient_of_a_table(of_patients: Read, word: str) -> None:
    patients = ["p1", "p2", "p3", word]
    with pytest.raises(InputError, match=f"line 5: 'patient' is '{word}', as in 2 rows.*--literal-nan"):
        of_patients(patients)
    assert len({image.group for image in of_patients(patients, literal_nan=True).images}) == 4


def test_nobody_is_no_patient_of_dicom(tmp_path: Path) -> None:
    (tmp_path / "sick").mkdir()
    for number, patient in enumerate(["p1", "p2", "ANONYMOUS", "ANONYMOUS"]):
        (tmp_path / "sick" / f"{number}.dcm").write_bytes(dicom_bytes(PatientID=patient))
    with pytest.raises(InputError, match=r"2 of 4 images name no patient, the first is sick/2\.dcm"):
        image_folder(tmp_path)
    raw = image_folder(tmp_path, split_by="image")
    assert (raw.patients, [image.group for image in raw.images][2:]) == ("may leak", [-1, -1])
    (tmp_path / "sick" / "3.dcm").unlink()
    assert image_folder(tmp_path).patients == "apart"  # one image of nobody is in one split
