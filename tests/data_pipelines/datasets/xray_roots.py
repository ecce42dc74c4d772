"""Tables and files of the chest X-ray sets as their owners distribute them, and what their readers must give."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from empty_files import touch

from data_pipelines.common.raw_set import RawSet

FINDINGS = [
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]


PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def assert_patients_apart(raw: RawSet, least: int = 1) -> None:
    """No patient in two splits, and every split has some."""
    splits = defaultdict(set)
    for group, split in zip(raw.images.groups.tolist(), raw.images.splits, strict=True):
        splits[group].add(split)
    assert all(len(of_one) == 1 for of_one in splits.values())
    counts = Counter(split for of_one in splits.values() for split in of_one)
    assert min(counts[split] for split in ("train", "val", "test")) >= least
    assert raw.patients == "apart"


# CheXpert


def chexpert_root(root: Path, patients: int = 60, prefix: str = "CheXpert-v1.0") -> Path:
    """Tables and files as Stanford packs them: a frontal image of each patient, a lateral of every third."""
    for part, numbers in (("train", range(1, patients + 1)), ("valid", range(64541, 64544))):
        rows = []
        for number in numbers:
            labels = [[1.0, -1.0, 0.0, np.nan][(number + column) % 4] for column in range(len(FINDINGS))]
            study = f"{prefix}/{part}/patient{number:05d}/study1"
            none = 1.0 if number % 5 == 0 else np.nan
            rows.append([f"{study}/view1_frontal.jpg", "Female", 60, "Frontal", "AP", none, *labels])
            if number % 3 == 0:
                rows.append([f"{study}/view2_lateral.jpg", "Female", 60, "Lateral", np.nan, none, *labels])
        columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *FINDINGS]
        root.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=columns).to_csv(root / f"{part}.csv", index=False)
        touch(root, [row[0].split("/", 1)[1] for row in rows])
    return root


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Write a table again after a change, every entry as it stood."""
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


# MIMIC


def mimic_root(root: Path, studies: int = 120, packed: bool = True) -> Path:
    """Tables in the columns of MIMIC-CXR-JPG and the files they name: one to three images a study, two studies a
    patient."""
    rng = np.random.default_rng(0)
    views = ["PA", "AP", "LATERAL", "LL", np.nan, "PA LLD"]
    images, labels, splits = [], [], []
    for study in range(studies):
        subject, number = 10000032 + study // 2, 50414267 + study
        if study % 40 != 39:  # some studies have no labels
            values = rng.choice([1.0, 0.0, -1.0, np.nan], len(FINDINGS))
            labels.append([subject, number, *values, 1.0 if study % 4 == 0 else np.nan])
        for image in range(1 + study % 3):
            dicom = "-".join(
                hashlib.sha256(f"{study} {image}".encode()).hexdigest()[at : at + 8] for at in range(0, 40, 8)
            )
            view = views[(study + image) % len(views)]
            images.append([dicom, subject, number, "CHEST", view, 3056, 2544, 21800506, 213014.5, "x", "y", "z"])
            splits.append([dicom, number, subject, ("train", "train", "train", "validate", "test")[study // 2 % 5]])
    tables = {
        "metadata": [
            *(
                "dicom_id",
                "subject_id",
                "study_id",
                "PerformedProcedureStepDescription",
                "ViewPosition",
                "Rows",
                "Columns",
            ),
            *("StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning"),
            "PatientOrientationCodeSequence_CodeMeaning",
        ],
        "chexpert": ["subject_id", "study_id", *FINDINGS, "No Finding"],
        "split": ["dicom_id", "study_id", "subject_id", "split"],
    }
    root.mkdir(parents=True, exist_ok=True)
    for (name, columns), rows in zip(tables.items(), (images, labels, splits), strict=True):
        pd.DataFrame(rows, columns=columns).to_csv(root / f"mimic-cxr-2.0.0-{name}.csv{'.gz' * packed}", index=False)
    touch(root, [f"files/p{str(row[1])[:2]}/p{row[1]}/s{row[2]}/{row[0]}.jpg" for row in images])
    return root


# NIH


def nih_root(root: Path, patients: int = 80, lists: bool = True, table: str = "Data_Entry_2017_v2020.csv") -> Path:
    """Two images of each patient over two of the folders that NIH's archives unpack to."""
    names = [f"{patient:08d}_{image:03d}.png" for patient in range(1, patients + 1) for image in range(2)]
    findings = ["No Finding", "Cardiomegaly|Emphysema", "Pleural_Thickening", "Mass|Nodule|Pneumothorax"]
    rows = [
        [name, findings[row % 4], row % 2, row // 2 + 1, 57, "M", ("PA", "AP")[row % 2]]
        for row, name in enumerate(names)
    ]
    columns = [
        "Image Index",
        "Finding Labels",
        "Follow-up #",
        "Patient ID",
        "Patient Age",
        "Patient Sex",
        "View Position",
    ]
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(root / table, index=False)
    half = len(names) // 2
    touch(root / "images_001" / "images", names[:half])
    touch(root / "images_002" / "images", names[half:])
    if lists:
        (root / "train_val_list.txt").write_text("\n".join(names[:-20]))
        (root / "test_list.txt").write_text("\r\n".join(names[-20:]) + "\r\n")
    return root


# PadChest


def padchest_rows(count: int = 90) -> pd.DataFrame:
    rows = []
    for row in range(count):
        name = f"2168401113669640128190672070611200931407114{row:04d}_00-007-{row:03d}.png"
        text = ("['normal']", "['mass', 'pneumonia']", "['pleural thickening']")[row % 3]
        projection = ("PA", "L", "AP_horizontal", "COSTAL")[row % 4]
        rows.append([row, name, row % 3, 20140915, 84 * 10**37 + row // 2, 1930.0, "F", projection, text])
    demographics = ["StudyDate_DICOM", "PatientID", "PatientBirth", "PatientSex_DICOM"]
    return pd.DataFrame(rows, columns=["", "ImageID", "ImageDir", *demographics, "Projection", "Labels"])


def padchest_root(root: Path, rows: pd.DataFrame | None = None) -> Path:
    table = padchest_rows() if rows is None else rows
    root.mkdir(parents=True, exist_ok=True)
    table.to_csv(root / f"{PADCHEST}.gz", index=False)
    touch(root, [f"{folder}/{name}" for folder, name in zip(table["ImageDir"], table["ImageID"], strict=True)])
    return root
