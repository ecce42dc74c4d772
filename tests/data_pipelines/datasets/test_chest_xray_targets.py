"""PadChest-Cl and tuberculosis: classes and the paper's test sets."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from empty_files import splits_of, touch

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import group_of
from data_pipelines.common.raw_set import RawSet
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets import padchest_table
from data_pipelines.datasets.chest_xray import padchest
from data_pipelines.datasets.chest_xray_targets import covidx, padchest_cl, tuberculosis

PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"

CLASSES = {
    "Air Trapping": 2640,
    "Aortic Atheromatosis": 340,
    "Aortic Elongation": 3222,
    "Atelectasis": 2602,
    "Bronchiectasis": 781,
    "Cardiomegaly": 3823,
    "Costophrenic Angle Blunting": 1577,
    "Edema": 175,
    "Effusion": 2253,
    "Emphysema": 558,
    "Fibrosis": 227,
    "Flattened Diaphragm": 147,
    "Fracture": 1733,
    "Granuloma": 1421,
    "Hemidiaphragm Elevation": 890,
    "Hernia": 816,
    "Hilar Enlargement": 2140,
    "Infiltration": 4342,
    "Mass": 495,
    "Nodule": 2582,
    "Pleural_Thickening": 1420,
    "Pneumonia": 1214,
    "Pneumothorax": 212,
    "Scoliosis": 4185,
    "Support Devices": 918,
    "Tuberculosis": 226,
}


def parted_patients(raw: RawSet) -> int:
    splits = defaultdict(set)
    for image in raw.images:
        splits[image.group].add(image.split)
    return sum(len(of_one) > 1 for of_one in splits.values())


def assert_about_xrays(raw: RawSet) -> None:
    """What all these sets have in common."""
    assert raw.task == "single_label"
    assert (raw.xray_size, raw.xray_cut) == ((256, "square") if raw.name == "padchest_cl" else (512, "whole"))
    assert raw.horizontal_flip
    assert "http" in raw.source
    assert len(raw.images) == raw.num_images == len({image.key for image in raw.images})
    assert {type(image.label) for image in raw.images} == {int}
    assert {image.label for image in raw.images} == set(range(len(raw.classes)))
    assert all(image.image.is_file() for image in raw.images)
    assert set(splits_of(raw).values()) == {"train", "val", "test"}


# PadChest-Cl


@pytest.fixture
def images_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def locate(root: Path, names: Iterable[str], folders: Sequence[str], *_: Any, **__: Any) -> list[str]:
        return [f"{folders[0]}/{name}" for name in names]

    monkeypatch.setattr(padchest_table, "locate", locate)


@pytest.mark.slow
def test_padchest_cl_counts_each_class_in_the_whole_table(tmp_path: Path, images_are_there: None) -> None:
    """Against the labels of padchest, which are compared with torchxrayvision's on every row beside its reader."""
    raw, whole = padchest_cl(tmp_path), padchest(tmp_path)
    labels = whole.images.labels
    shown = {
        name: whole.classes[row.argmax()]
        for name, row in zip(whole.images.names, labels, strict=True)
        if row.sum() == 1
    }
    ours = np.array(raw.classes)[raw.images.labels]
    assert dict(zip(raw.images.names, ours, strict=True)) == shown
    assert len(shown) == 40_939 == raw.num_images == raw.expected_images
    assert raw.classes == tuple(name for name in whole.classes if name != "Consolidation")
    assert "no image shows Consolidation alone: left out of the classes" in raw.notes
    assert Counter(ours.tolist()) == CLASSES
    assert raw.metric == "auc"
    assert raw.patients == "apart"
    assert parted_patients(raw) == 0
    shares = {split: count / 40_939 for split, count in Counter(raw.images.splits).items()}
    assert shares == pytest.approx({"train": 0.85, "val": 0.05, "test": 0.1}, abs=0.005)


@pytest.mark.slow
def test_padchest_cl_by_image_tests_on_the_images_of_the_paper(tmp_path: Path, images_are_there: None) -> None:
    """The sum is of the names that the published code's procedure gives, written down once from the whole table."""
    raw = padchest_cl(tmp_path, split_by="image")
    tested = sorted(name for name, split in zip(raw.images.names, raw.images.splits, strict=True) if split == "test")
    assert len(tested) == 4153
    assert hashlib.sha256("\n".join(tested).encode()).hexdigest() == (
        "89246b6176310406ca00a032f525a693e3b0fc57559a73d69274e69182b1bf04"
    )
    assert raw.num_images == raw.expected_images == 41_540
    for name, split in zip(raw.images.names, raw.images.splits, strict=True):
        assert split in ("test", hash_split(f"padchest:{name}", 0.05, 0.0))
    assert Counter(raw.images.splits)["val"] == pytest.approx(0.05 * 37_387, rel=0.1)
    assert raw.patients == "may leak"
    assert f"patients with images in more than one split: {parted_patients(raw):,}" in raw.notes
    assert any("without regard to patients" in note for note in raw.notes)


def padchest_root(root: Path, texts: Sequence[str]) -> Path:
    rows = [
        [f"2168401{row:04d}.png", row % 3, 84 * 10**37 + row // 2, 1930.0, "PA", text] for row, text in enumerate(texts)
    ]
    columns = ["ImageID", "ImageDir", "PatientID", "PatientBirth", "Projection", "Labels"]
    root.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(root / f"{PADCHEST}.gz", index=False)
    touch(root, [f"{row[1]}/{row[0]}" for row in rows])
    return root


@pytest.mark.parametrize("split_by", ["patient", "image"])
def test_padchest_cl_reads_a_folder(tmp_path: Path, split_by: Any) -> None:
    texts = ["['mass']", "['normal']", "['nodule', 'mass']", "['pseudonodule', 'nodule']", "['infiltrates']"] * 40
    raw = padchest_cl(padchest_root(tmp_path, texts), split_by, val_fraction=0.2, test_fraction=0.2)
    assert_about_xrays(raw)
    assert raw.classes == ("Infiltration", "Mass", "Nodule")
    assert [(image.key, image.label) for image in raw.images[:3]] == [
        ("21684010000_png", 1),
        ("21684010003_png", 2),
        ("21684010004_png", 0),
    ]
    assert raw.images[0].group == group_of(f"padchest:{84 * 10**37}")
    assert splits_of(raw) == splits_of(padchest_cl(tmp_path, split_by, val_fraction=0.2, test_fraction=0.2))
    assert (parted_patients(raw) == 0) == (split_by == "patient") == (raw.patients == "apart")
    assert raw.split_by == (None if split_by == "patient" else "image")  # as manifests had it that did not say it


def test_padchest_cl_without_a_single_finding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{PADCHEST}.gz has no image with exactly one finding"):
        padchest_cl(padchest_root(tmp_path, ["['normal']", "['mass', 'nodule']"]))


# Tuberculosis


def tuberculosis_root(root: Path, china: str = "ChinaSet_AllFiles", montgomery: str = "MontgomerySet") -> Path:
    """662 and 138 files, half of each with tuberculosis, and what else the archives hold."""
    touch(root / china / "CXR_png", [f"CHNCXR_{number:04d}_{int(number > 326)}.png" for number in range(1, 663)])
    touch(root / montgomery / "CXR_png", [f"MCUCXR_{number:04d}_{int(number > 80)}.png" for number in range(1, 139)])
    touch(root / china / "CXR_png", ["Thumbs.db", "._CHNCXR_0001_0.png"])
    touch(root / montgomery / "ManualMask" / "leftMask", ["MCUCXR_0001_0.png"])
    return root


def test_tuberculosis_reads_both_sets(tmp_path: Path) -> None:
    raw = tuberculosis(tuberculosis_root(tmp_path / "a"))
    assert_about_xrays(raw)
    assert raw.num_images == raw.expected_images == 800
    assert raw.split_by is None
    assert raw.classes == ("normal", "tuberculosis")
    assert Counter(image.label for image in raw.images) == {0: 326 + 80, 1: 336 + 58}
    assert all(str(image.label) == image.key[-5] for image in raw.images)
    assert len({image.group for image in raw.images}) == 800
    assert raw.images[0].group == group_of("tuberculosis:CHNCXR_0001")
    assert raw.patients == "apart"
    assert any("each image counts as one of its own" in note for note in raw.notes)
    shares = {split: count / 800 for split, count in Counter(splits_of(raw).values()).items()}
    assert shares == pytest.approx({"train": 0.75, "val": 0.1, "test": 0.15}, abs=0.03)
    deeper = tuberculosis_root(tmp_path / "b", "ChinaSet_AllFiles/ChinaSet_AllFiles", "Montgomery/MontgomerySet")
    assert splits_of(tuberculosis(deeper)) == splits_of(raw)


def test_tuberculosis_by_image_tests_on_the_images_of_the_paper(tmp_path: Path) -> None:
    """Each of the two: its sorted list of files, shuffled by RandomState(42), from 85% on."""
    root = tuberculosis_root(tmp_path)
    raw = tuberculosis(root, split_by="image")
    assert raw.split_by == "image"
    expected = set()
    for folder in ("ChinaSet_AllFiles", "MontgomerySet"):
        files = sorted(str(path) for path in (root / folder / "CXR_png").glob("[!.]*.png"))
        np.random.RandomState(42).shuffle(files)
        expected |= set(files[int(len(files) * 0.85) :])
    assert {str(image.image) for image in raw.images if image.split == "test"} == expected
    assert len(expected) == 100 + 21
    assert Counter(splits_of(raw).values())["val"] == pytest.approx(0.1 * 679, rel=0.35)
    assert raw.patients == "apart"


def test_tuberculosis_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no ChinaSet_AllFiles/CXR_png; the set is to be had at https"):
        tuberculosis(tmp_path)
    (tmp_path / "ChinaSet_AllFiles" / "CXR_png").mkdir(parents=True)
    with pytest.raises(InputError, match=r"CXR_png holds no CHNCXR_\*.png; unpack the set again"):
        tuberculosis(tmp_path)
    touch(tmp_path, ["ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png"])
    with pytest.raises(InputError, match=r"has no MontgomerySet/CXR_png"):
        tuberculosis(tmp_path)
    touch(tmp_path, ["MontgomerySet/CXR_png/MCUCXR_0001_2.png"])
    with pytest.raises(InputError, match=r"MCUCXR_0001_2.png is not named MCUCXR_NNNN_0.png or MCUCXR_NNNN_1.png"):
        tuberculosis(tmp_path)


@pytest.mark.parametrize("read", [padchest_cl, covidx, tuberculosis])
def test_options_are_checked(read: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="--size is 31"):
        read(tmp_path, size=31)
    with pytest.raises(InputError, match=r"--val-fraction is 0.5; it must lie in"):
        read(tmp_path, val_fraction=0.5)
