"""CheXpert, MIMIC-CXR, NIH ChestX-ray14 and PadChest: their owners' splits and layouts."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from empty_files import splits_of, touch
from xray_roots import (
    PADCHEST,
    assert_patients_apart,
    chexpert_root,
    edit,
    mimic_root,
    nih_root,
    padchest_root,
    padchest_rows,
)

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import group_of
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.chest_xray import chexpert, mimic_cxr, nih_cxr14, padchest


def assert_about_xrays(raw: RawSet) -> None:
    """What all these sets have in common."""
    assert raw.task == "multi_label"
    assert raw.xray_size == 256
    assert raw.horizontal_flip
    assert "http" in raw.source
    assert len(raw.images) == raw.num_images
    assert all(image.label.dtype == np.float32 and len(image.label) == len(raw.classes) for image in raw.images[:5])
    assert len({image.key for image in raw.images}) == raw.num_images
    assert raw.images[0].image.is_file()


def test_no_finding_makes_all_zero_but_support_devices(tmp_path: Path) -> None:
    root = chexpert_root(tmp_path)
    edit(root / "train.csv", lambda table: table.assign(**{"Support Devices": ["1.0", "-1.0"] * (len(table) // 2)}))
    raw = chexpert(root)
    healthy = (pd.read_csv(root / "train.csv")["No Finding"] == 1).to_numpy()
    devices = raw.classes.index("Support Devices")
    labels = raw.images.labels[: len(healthy)][healthy]
    assert len(labels) == 16
    assert not np.delete(labels, devices, axis=1).any()
    np.testing.assert_array_equal(
        raw.images.labels[: len(healthy), devices], np.array([1, np.nan] * (len(healthy) // 2), dtype=np.float32)
    )


@pytest.mark.slow
def test_chexpert_splits(tmp_path: Path) -> None:
    raw = chexpert(chexpert_root(tmp_path / "set", 200), test_fraction=0.2)
    assert_patients_apart(raw, 3)
    splits = splits_of(raw)
    assert {key.split("/")[0] for key, split in splits.items() if split == "val"} == {"valid"}
    assert 20 < len({key.split("/")[1] for key, split in splits.items() if split == "test"}) < 60
    fewer = splits_of(chexpert(chexpert_root(tmp_path / "fewer", 100), test_fraction=0.2))
    assert {key: splits[key] for key in fewer} == fewer
    assert set(splits_of(chexpert(tmp_path / "set", test_fraction=0)).values()) == {"train", "val"}
    assert_about_xrays(raw)


@pytest.mark.slow
def test_chexpert_lies_in_root_below_it_or_in_batches(tmp_path: Path) -> None:
    plain = chexpert_root(tmp_path / "plain")
    keys = splits_of(chexpert(plain))
    small = chexpert_root(tmp_path / "parent" / "CheXpert-v1.0-small", prefix="CheXpert-v1.0-small")
    assert splits_of(chexpert(small)) == splits_of(chexpert(small.parent)) == keys
    batches = [f"CheXpert-v1.0 batch {name}" for name in ("1 (validate & csv)", "2 (train 1)", "3 (train 2)")]
    root = tmp_path / "batches"
    shutil.copytree(plain, root / batches[0], ignore=shutil.ignore_patterns("train"))
    for patient in sorted((plain / "train").iterdir()):
        batch = batches[1] if patient.name < "patient00031" else batches[2]
        shutil.copytree(patient, root / batch / patient.name)
    raw = chexpert(root)
    assert splits_of(raw) == keys
    assert all(image.image.is_file() for image in raw.images)
    shutil.copytree(small, root / "CheXpert-v1.0")
    with pytest.raises(InputError, match=r"holds 2 sets, .*pass one of them"):
        chexpert(root)


def test_views_are_chosen(tmp_path: Path) -> None:
    root = chexpert_root(tmp_path / "set")
    assert len(chexpert(root).images) == 60 + 20 + 3 + 1
    assert len(chexpert(root, views=("AP",)).images) == 63
    assert chexpert(root, views=("AP",)).expected_images is None
    edit(root / "train.csv", lambda table: table.replace({"AP/PA": {"AP": "LL"}}))
    assert "60 images of other views than PA, AP, AP Supine, L, COSTAL left out" in chexpert(root).notes
    with pytest.raises(InputError, match="no image has one of the --views COSTAL; the set has LL, L, AP"):
        chexpert(root, views=("COSTAL",))


def test_a_patient_in_both_tables_is_told(tmp_path: Path) -> None:
    root = chexpert_root(tmp_path / "set")
    edit(root / "valid.csv", lambda table: table.replace({"Path": {"patient64541": "patient00007"}}, regex=True))
    touch(root, ["valid/patient00007/study1/view1_frontal.jpg"])
    raw = chexpert(root)
    assert raw.patients == "may leak"
    assert "patients with images in more than one split: 1" in raw.notes


@pytest.mark.slow
def test_mimic_keeps_the_official_splits_and_patients(tmp_path: Path) -> None:
    raw = mimic_cxr(mimic_root(tmp_path))
    assert_about_xrays(raw)
    assert_patients_apart(raw, 10)
    official = pd.read_csv(tmp_path / "mimic-cxr-2.0.0-split.csv.gz").set_index("dicom_id")["split"]
    for image in raw.images:
        assert image.split == {"train": "train", "validate": "val", "test": "test"}[official[image.image.stem]]
        assert image.group == group_of(f"mimic_cxr:{image.image.parts[-3][1:]}")
        assert image.image.is_file()
        assert image.key.startswith("files/p10/p100000")
    assert "6 images of studies that mimic-cxr-2.0.0-chexpert.csv.gz lacks left out" in raw.notes
    assert splits_of(mimic_cxr(mimic_root(tmp_path / "unpacked", packed=False))) == splits_of(raw)


def test_nih_tests_on_the_official_list_and_splits_by_patient(tmp_path: Path) -> None:
    raw = nih_cxr14(nih_root(tmp_path), val_fraction=0.2)
    assert_about_xrays(raw)
    assert_patients_apart(raw, 5)
    test = {key for key, split in splits_of(raw).items() if split == "test"}
    assert test == {name.replace(".", "_") for name in (tmp_path / "test_list.txt").read_text().split()}
    assert raw.images[0].group == group_of("nih_cxr14:1")
    assert raw.notes == ("views: PA, AP",)
    assert raw.patients == "apart"
    assert set(splits_of(nih_cxr14(tmp_path, val_fraction=0)).values()) == {"train", "test"}
    listed = [line for line in (tmp_path / "train_val_list.txt").read_text().split() if not line.startswith("00000001")]
    (tmp_path / "train_val_list.txt").write_text("\n".join(listed))
    assert "2 images that are in neither official list left out" in nih_cxr14(tmp_path).notes
    assert len(nih_cxr14(tmp_path).images) == 158


def test_nih_without_lists_draws_by_patient(tmp_path: Path) -> None:
    raw = nih_cxr14(nih_root(tmp_path, lists=False), val_fraction=0.2, test_fraction=0.2)
    assert_patients_apart(raw, 5)
    assert any("drawn by patient" in note for note in raw.notes)


@pytest.mark.parametrize("folder", ["images_001/images", "images_007", "images", "."])
def test_nih_images_lie_in_any_of_the_layouts(tmp_path: Path, folder: str) -> None:
    nih_root(tmp_path, table="Data_Entry_2017.csv")
    names = nih_cxr14(tmp_path).images.names
    for old in ("images_001", "images_002"):
        shutil.rmtree(tmp_path / old)
    touch(tmp_path / folder, names)
    raw = nih_cxr14(tmp_path)
    assert all(image.image.is_file() for image in raw.images)
    assert [image.key for image in raw.images] == [name.replace(".", "_") for name in names]
    touch(tmp_path, ["images/" + names[0], "images_009/" + names[0]])
    assert nih_cxr14(tmp_path).images[0].image == tmp_path / "images" / names[0]


def test_padchest_splits_and_layouts(tmp_path: Path) -> None:
    raw = padchest(padchest_root(tmp_path / "dirs"), val_fraction=0.2, test_fraction=0.2)
    assert_about_xrays(raw)
    assert_patients_apart(raw, 3)
    assert raw.images[0].group == group_of(f"padchest:{84 * 10**37}")
    for number, folder in enumerate((".", "images")):
        root = tmp_path / str(number)
        root.mkdir()
        padchest_rows().to_csv(root / PADCHEST, index=False)
        touch(root / folder, padchest_rows()["ImageID"])
        other = padchest(root, val_fraction=0.2, test_fraction=0.2)
        assert splits_of(other) == splits_of(raw)
        assert all(image.image.is_file() for image in other.images)


# All of them


def test_the_four_sets_share_seven_findings(tmp_path: Path) -> None:
    sets = [
        chexpert(chexpert_root(tmp_path / "chexpert")),
        mimic_cxr(mimic_root(tmp_path / "mimic")),
        nih_cxr14(nih_root(tmp_path / "nih")),
        padchest(padchest_root(tmp_path / "padchest")),
    ]
    assert [len(raw.classes) for raw in sets] == [13, 13, 14, 27]
    shared = set.intersection(*(set(raw.classes) for raw in sets))
    also = {"Consolidation", "Edema", "Effusion", "Pneumonia", "Pneumothorax"}
    assert shared == {"Atelectasis", "Cardiomegaly", *also}
