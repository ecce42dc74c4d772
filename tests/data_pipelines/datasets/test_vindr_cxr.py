"""VinDr-CXR: what most radiologists saw, PhysioNet's and Kaggle's layouts, and patients that nobody names."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicom_roots import VINDR_GLOBAL, VINDR_LOCAL, name_of, vindr_kaggle_root, vindr_root
from empty_files import splits_of
from xray_roots import edit

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import NO_GROUP
from data_pipelines.common.raw_set import RawSet
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.vindr_cxr import vindr_cxr

TRAIN, TEST = "annotations/image_labels_train.csv", "annotations/image_labels_test.csv"


def labels_of(raw: RawSet, number: int) -> np.ndarray:
    """The labels of an image, by its number in `vindr_root`."""
    (found,) = [image for image in raw.images if image.image.stem == name_of(number)]
    return found.label


def test_a_finding_is_what_most_radiologists_saw(tmp_path: Path) -> None:
    raw = vindr_cxr(vindr_root(tmp_path))
    columns = np.arange(27)
    for number in (1, 2, 4, 59):
        np.testing.assert_array_equal(labels_of(raw, number), (number + columns) % 4 <= 1)
    assert not labels_of(raw, 3).any()
    for number in range(12):  # of test, where one row holds the consensus
        np.testing.assert_array_equal(labels_of(raw, 60 + number), (number + columns) % 4 == 0)
    assert raw.classes[:6] == tuple(VINDR_LOCAL[:6])
    assert raw.classes[16:18] == ("Effusion", "Pleural_Thickening")
    assert raw.classes[22:] == (*VINDR_GLOBAL, "Other diseases")
    assert "train: a finding is there if most of its 3 radiologists saw it" in raw.notes


def test_divided_radiologists_leave_a_finding_unlabelled(tmp_path: Path) -> None:
    root = vindr_root(tmp_path)
    edit(root / TRAIN, lambda table: table[~((table["image_id"] == name_of(1)) & (table["rad_id"] == "R3"))])
    edit(root / TRAIN, lambda table: table.assign(Edema=table["Edema"].mask(table["image_id"] == name_of(2), "")))
    raw = vindr_cxr(root)
    place = (1 + np.arange(27)) % 4  # R1 sees 0, R2 also 1
    np.testing.assert_array_equal(labels_of(raw, 1), np.where(place == 0, 1, np.where(place == 1, np.nan, 0)))
    assert np.flatnonzero(np.isnan(labels_of(raw, 2))).tolist() == [VINDR_LOCAL.index("Edema")]
    assert "1 image of train read by another number of radiologists than 3" in raw.notes
    assert (
        f"{(place == 1).sum() + 1} labels on which radiologists are divided, or that are blank: unlabelled" in raw.notes
    )


def test_test_is_official_and_val_is_carved_by_image(tmp_path: Path) -> None:
    raw = vindr_cxr(vindr_root(tmp_path, train=100), val_fraction=0.2, test_fraction=0.4)
    counts = Counter(image.split for image in raw.images)
    assert counts["test"] == 12
    assert 10 < counts["val"] < 30
    assert {image.image.parent.name for image in raw.images if image.split == "test"} == {"test"}
    assert all(image.image.is_file() for image in raw.images)
    assert (raw.has_own_test, raw.expected_images) == (True, 18_000)
    drawn = [image for image in raw.images if image.split != "test"]
    assert [image.split for image in drawn] == [hash_split(f"vindr_cxr:{image.image.stem}", 0.2, 0) for image in drawn]
    fewer = splits_of(vindr_cxr(vindr_root(tmp_path / "fewer", train=50), val_fraction=0.2))
    whole = splits_of(raw)
    assert {key: whole[key] for key in fewer if fewer[key] != "test"} == {
        key: split for key, split in fewer.items() if split != "test"
    }


def test_nobody_names_a_patient(tmp_path: Path) -> None:
    raw = vindr_cxr(vindr_root(tmp_path))
    assert {image.group for image in raw.images} == {NO_GROUP}
    assert raw.patients == "may leak"
    assert any("no patient is named" in note and "intervals" in note for note in raw.notes)


def test_all_images_are_pa(tmp_path: Path) -> None:
    root = vindr_root(tmp_path)
    assert vindr_cxr(root).views == vindr_cxr(root, views=("frontal",)).views == ("PA",)
    with pytest.raises(InputError, match="no image has one of the --views L; the set has PA"):
        vindr_cxr(root, views=("L",))


def kaggle_rows(count: int = 60) -> pd.DataFrame:
    """R1 and R2 see Atelectasis in each second image, R1 in two boxes; R3 sees Cardiomegaly, and else nothing."""
    rows = []
    for number in range(count):
        if number % 2:
            rows += [[name_of(number), "No finding", 14, reader] for reader in ("R1", "R2", "R3")]
        else:
            seen = [("R1", "Atelectasis"), ("R1", "Atelectasis"), ("R2", "Atelectasis"), ("R3", "Cardiomegaly")]
            rows += [[name_of(number), finding, 1, reader] for reader, finding in seen]
    table = pd.DataFrame(rows, columns=["image_id", "class_name", "class_id", "rad_id"])
    return table.assign(x_min=np.arange(len(table)), y_min=1.0, x_max=9.0, y_max=9.0)


def test_kaggles_boxes_give_fourteen_findings(tmp_path: Path) -> None:
    raw = vindr_cxr(vindr_kaggle_root(tmp_path, kaggle_rows()), val_fraction=0.2, test_fraction=0.2)
    assert len(raw.classes) == 14
    seen = [raw.classes[place] for place in np.flatnonzero(labels_of(raw, 0))]
    assert seen == ["Atelectasis"]
    assert not labels_of(raw, 1).any()
    assert {image.split for image in raw.images} == {"train", "val", "test"}
    assert (raw.has_own_test, raw.expected_images) == (False, 15_000)
    edit(tmp_path / "train.csv", lambda table: table.replace({"class_name": {"Cardiomegaly": "Cardiomegali"}}))
    with pytest.raises(InputError, match=r"train.csv: 'Cardiomegali' is not a finding of VinDr-CXR at Kaggle"):
        vindr_cxr(tmp_path)


WRONG: list[Any] = [
    (TRAIN, lambda table: table.drop(columns="Edema"), "image_labels_train.csv has no column 'Edema'"),
    (TRAIN, lambda table: table.assign(rad_id=""), "image_labels_train.csv has blanks in its column 'rad_id'"),
    (
        TRAIN,
        lambda table: table.assign(Edema="-1"),
        "image_labels_train.csv: -1 is not a label; expected 1, 0 or blank",
    ),
    (TRAIN, lambda table: pd.concat([table, table[:1].assign(Edema="1", COPD="1")]), "twice, with different entries"),
    (TEST, lambda table: pd.concat([table, table[:1].assign(Edema="1", COPD="1")]), "twice, with different entries"),
    (TEST, lambda table: table.rename(columns={"Other disease": "Others"}), "has no column 'Other disease'"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_wrong_tables_are_refused(name: str, change: Any, message: str, tmp_path: Path) -> None:
    root = vindr_root(tmp_path)
    edit(root / name, change)
    with pytest.raises(InputError) as refused:
        vindr_cxr(root)
    assert message in str(refused.value)


def test_missing_tables_and_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"annotations has no image_labels_train.csv; .*physionet.org/content/vindr"):
        vindr_cxr(tmp_path)
    root = vindr_root(tmp_path)
    for image in sorted((root / "test").iterdir())[:6]:
        image.unlink()
    with pytest.raises(InputError, match=r"6 of the 12 images that .*image_labels_test.csv names are not below"):
        vindr_cxr(root)


def test_repeated_readings_count_once(tmp_path: Path) -> None:
    root = vindr_root(tmp_path)
    whole = vindr_cxr(root)
    edit(root / TRAIN, lambda table: pd.concat([table, table[:2]]))
    raw = vindr_cxr(root)
    np.testing.assert_array_equal(raw.images.labels, whole.images.labels)
    assert "image_labels_train.csv: 2 rows that repeat another left out" in raw.notes
