"""X-ray sets have the labels of torchxrayvision on every row, or those of the tables that it ships."""

import gzip
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from xray_roots import (
    assert_patients_apart,
    chexpert_root,
    mimic_root,
)

from data_pipelines.common.patients import group_of
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets import chest_xray, padchest_table, rsna_pneumonia, vindr_cxr
from data_pipelines.datasets.chest_xray import chexpert, mimic_cxr, nih_cxr14, padchest
from data_pipelines.datasets.xray_views import ViewNames

VIEWS = ["PA", "AP", "AP Supine", "L", "COSTAL"]


@pytest.fixture(scope="module")
def xrv() -> Any:
    import torchxrayvision.datasets

    return torchxrayvision.datasets


@pytest.fixture
def images_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every image lay in the first folder where it may: nobody has 500,000 files for a test."""

    def locate(root: Path, names: Iterable[str], folders: Sequence[str], *_: Any, **__: Any) -> list[str]:
        return [f"{folders[0]}/{name}" for name in names]

    for module in (chest_xray, padchest_table, rsna_pneumonia, vindr_cxr):
        monkeypatch.setattr(module, "locate", locate)
    monkeypatch.setattr(chest_xray, "require_some", lambda *_: None)


def labels_of(raw: RawSet) -> np.ndarray:
    return np.stack([image.label for image in raw.images])


@pytest.mark.slow
def test_chexpert_has_the_labels_of_torchxrayvision_on_every_row(
    xrv: Any, tmp_path: Path, images_are_there: None
) -> None:
    valid = chexpert_root(tmp_path / "small") / "valid.csv"
    root = tmp_path / "CheXpert-v1.0-small"
    root.mkdir()
    shutil.copy(valid, root)
    with gzip.open(Path(xrv.datapath) / "chexpert_train.csv.gz") as packed:
        (root / "train.csv").write_bytes(packed.read())
    raw = chexpert(root)
    theirs = xrv.CheX_Dataset("", csvpath=str(root / "train.csv"), views=VIEWS, unique_patients=False)
    assert raw.images.names[: len(theirs)] == [path.split("/", 1)[1] for path in theirs.csv["Path"]]
    assert list(raw.classes) == list(theirs.pathologies)
    assert len(theirs) == 223_397
    np.testing.assert_array_equal(raw.images.labels[: len(theirs)], theirs.labels)
    atelectasis = raw.images.labels[: len(theirs), raw.classes.index("Atelectasis")]
    assert ((atelectasis == 0).sum(), (atelectasis == 1).sum()) == (23_222, 33_374)
    patients = ["patient" + patient for patient in theirs.csv["patientid"]]
    groups = {patient: group_of(f"chexpert:{patient}") for patient in set(patients)}
    assert raw.images.groups[: len(theirs)].tolist() == [groups[patient] for patient in patients]
    assert raw.expected_images == 223_397 + 234
    assert Counter(raw.images.splits)["test"] == pytest.approx(0.02 * 223_397, rel=0.1)
    assert "17 images of other views than PA, AP, AP Supine, L, COSTAL left out" in raw.notes


def test_chexpert_valid_has_the_labels_of_torchxrayvision(xrv: Any, tmp_path: Path) -> None:
    root = chexpert_root(tmp_path / "set")
    theirs = xrv.CheX_Dataset("", csvpath=str(root / "valid.csv"), views=VIEWS, unique_patients=False)
    images = [image for image in chexpert(root).images if image.split == "val"]
    np.testing.assert_array_equal(np.stack([image.label for image in images]), theirs.labels)


@pytest.mark.parametrize(
    ("views", "spelled"), [(("PA", "AP"), ["PA", "AP"]), (("all",), ["PA", "AP", "LATERAL", "LL"])]
)
def test_mimic_has_torchxrayvisions_labels_and_support_devices(
    xrv: Any, tmp_path: Path, views: ViewNames, spelled: list[str]
) -> None:
    root = mimic_root(tmp_path)
    tables = [str(root / f"mimic-cxr-2.0.0-{name}.csv.gz") for name in ("chexpert", "metadata")]
    theirs = xrv.MIMIC_Dataset(str(root / "files"), *tables, views=spelled, unique_patients=False)
    raw = mimic_cxr(root, views=views)
    row_of = {image.image.stem: row for row, image in enumerate(raw.images)}
    assert sorted(row_of) == sorted(theirs.csv["dicom_id"])
    ours = labels_of(raw)[[row_of[dicom] for dicom in theirs.csv["dicom_id"]]]
    assert list(raw.classes) == list(theirs.pathologies)
    np.testing.assert_array_equal(ours[:, :-1], theirs.labels[:, :-1])
    written = pd.read_csv(tables[0]).set_index("study_id")["Support Devices"].replace(-1, np.nan)
    np.testing.assert_array_equal(ours[:, -1], written[theirs.csv["study_id"]].to_numpy(dtype=np.float32))
    sick = theirs.csv["No Finding"].isna().to_numpy()
    np.testing.assert_array_equal(ours[sick, -1], theirs.labels[sick, -1])
    assert not np.array_equal(ours[~sick, -1], theirs.labels[~sick, -1], equal_nan=True)


def test_nih_has_the_labels_of_torchxrayvision_on_every_row(xrv: Any, tmp_path: Path, images_are_there: None) -> None:
    """Without a table in the folder, so from the copy that torchxrayvision has."""
    raw = nih_cxr14(tmp_path)
    theirs = xrv.NIH_Dataset(str(tmp_path), views=VIEWS, unique_patients=False)
    assert raw.images.names == theirs.csv["Image Index"].tolist()
    assert list(raw.classes) == theirs.pathologies
    assert len(theirs) == 112_120 == raw.num_images == raw.expected_images
    np.testing.assert_array_equal(raw.images.labels, theirs.labels)
    assert len(set(raw.images.groups.tolist())) == 30_805
    assert raw.patients == "apart"
    shares = {split: count / 112_120 for split, count in Counter(raw.images.splits).items()}
    assert shares == pytest.approx({"train": 0.96, "val": 0.02, "test": 0.02}, abs=0.003)
    assert any("copy in torchxrayvision" in note for note in raw.notes)
    assert any("not an official split" in note for note in raw.notes)


@pytest.mark.slow
def test_padchest_has_the_labels_of_torchxrayvision_on_every_row(
    xrv: Any, tmp_path: Path, images_are_there: None
) -> None:
    raw = padchest(tmp_path)
    theirs = xrv.PC_Dataset(str(tmp_path), views=VIEWS, unique_patients=False)
    order = np.argsort(raw.images.names)
    assert [raw.images.names[row] for row in order] == theirs.csv["ImageID"].tolist()
    assert set(theirs.pathologies) - set(raw.classes) == {"Tube"}
    columns = [theirs.pathologies.index(name) for name in raw.classes]
    np.testing.assert_array_equal(raw.images.labels[order], theirs.labels[:, columns])
    assert len(theirs) == 158_597 == raw.num_images == raw.expected_images
    assert_patients_apart(raw, 500)
    assert raw.notes[-3:] == (
        "103 images without labels left out",
        "2,121 images of children or without year of birth left out",
        "21 images that cannot be read left out",
    )


@pytest.mark.slow
def test_rsna_has_the_labels_of_torchxrayvision_on_every_row(xrv: Any, tmp_path: Path, images_are_there: None) -> None:
    theirs = xrv.RSNA_Pneumonia_Dataset(str(tmp_path), views=["PA", "AP"])
    theirs.raw_csv.to_csv(tmp_path / "stage_2_train_labels.csv", index=False)
    raw = rsna_pneumonia.rsna_pneumonia(tmp_path, split_by="image")
    order = np.argsort(raw.images.names)
    assert [raw.images.names[row] for row in order] == theirs.csv["patientId"].tolist()
    np.testing.assert_array_equal(raw.images.labels[order], theirs.labels[:, 0])
    assert Counter(raw.images.labels.tolist()) == {0: 20_672, 1: 6_012}
    assert raw.num_images == raw.expected_images == 26_684


@pytest.mark.slow
def test_vindr_at_kaggle_takes_what_two_of_three_saw(xrv: Any, tmp_path: Path, images_are_there: None) -> None:
    """torchxrayvision takes what any radiologist saw, and its table has one row for each box."""
    theirs = xrv.VinDr_Dataset(str(tmp_path))
    theirs.rawcsv.to_csv(tmp_path / "train.csv", index=False)
    raw = vindr_cxr.vindr_cxr(tmp_path)
    assert raw.images.names == theirs.csv["image_id"].tolist()
    assert raw.num_images == raw.expected_images == 15_000
    assert not np.isnan(raw.images.labels).any()
    for number, name in enumerate(raw.classes):
        called = {"Effusion": "Pleural effusion", "Pleural_Thickening": "Pleural thickening"}.get(name, name)
        boxes = theirs.rawcsv[theirs.rawcsv["class_name"] == called]
        readers = boxes.groupby("image_id")["rad_id"].nunique().reindex(raw.images.names, fill_value=0)
        np.testing.assert_array_equal(raw.images.labels[:, number], readers >= 2, err_msg=name)
        place = next(place for place, other in enumerate(theirs.pathologies) if other.lower() == name.lower())
        assert (theirs.labels[:, place] >= raw.images.labels[:, number]).all(), name
