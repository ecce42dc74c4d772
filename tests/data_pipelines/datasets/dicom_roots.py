"""Tables and files of BRAX, the RSNA challenge and VinDr-CXR as their owners distribute them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
from empty_files import touch
from xray_roots import FINDINGS

MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
VINDR_LOCAL = [
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion"),
]
VINDR_GLOBAL = ["COPD", "Lung tumor", "Pneumonia", "Tuberculosis"]


def name_of(number: int) -> str:
    """32 hexadecimal digits, as images of VinDr-CXR are called."""
    return hashlib.md5(str(number).encode()).hexdigest()


# BRAX


def brax_root(root: Path, patients: int = 60, png: bool = True, table: str = "master_spreadsheet_update.csv") -> Path:
    """A frontal and another image of each patient, as PNG or as DICOM."""
    rows = []
    for number in range(patients):
        for image, view in enumerate(
            (("PA", "AP")[number % 2], ("L", "RL", "LL", "AP LLD", "RLO", np.nan)[number % 6])
        ):
            labels = [[1.0, -1.0, 0.0, np.nan][(number + column) % 4] for column in range(len(FINDINGS))]
            place = f"id_{number:08x}/Study_{number}.{number}/Series_{image}/image-{number}-{image}"
            paths = [f"Anonymized_DICOMs/{place}.dcm", f"images/{place}.png"]
            about = [f"id_{number:08x}", "FM"[number % 2], ("45", "85 or more")[number % 2], number, 20080101]
            none = 1.0 if number % 5 == 0 else np.nan
            rows.append([*paths, *about, none, *labels, view, 2048, 1536, 1])
    columns = ["DicomPath", "PngPath", "PatientID", "PatientSex", "PatientAge", "AccessionNumber", "StudyDate"]
    columns += ["No Finding", *FINDINGS, "ViewPosition", "Rows", "Columns", "Manufacturer"]
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(root / table)
    touch(root, [row[1 if png else 0] for row in rows])
    return root


# RSNA Pneumonia Detection Challenge


def rsna_root(root: Path, images: int = 60, mapping: bool = True) -> Path:
    """Two images of each patient; of each third image pneumonia, in two boxes."""
    names = [f"{number:08x}-26dd-4a3a-8c2a-{number:012x}" for number in range(images)]
    boxes, classes = [], []
    for number, name in enumerate(names):
        found = [(264.0, 152.0, 213.0, 379.0), (562.0, 152.0, 256.0, 453.0)] if number % 3 == 2 else [(np.nan,) * 4]
        boxes += [[name, *box, int(number % 3 == 2)] for box in found]
        classes += [[name, ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")[number % 3]]] * len(found)
    root.mkdir(parents=True, exist_ok=True)
    columns = ["patientId", "x", "y", "width", "height", "Target"]
    pd.DataFrame(boxes, columns=columns).to_csv(root / "stage_2_train_labels.csv", index=False)
    pd.DataFrame(classes, columns=["patientId", "class"]).to_csv(root / "stage_2_detailed_class_info.csv", index=False)
    touch(root / "stage_2_train_images", [f"{name}.dcm" for name in names])
    touch(root / "stage_2_test_images", ["0000a175-0e68-4ca4-b1af-167204a7e0bc.dcm"])
    if mapping:
        rows = [
            {"img_id": f"{number // 2 + 1:08d}_{number % 2:03d}.png", "subset_img_id": name, "orig_labels": ["Mass"]}
            for number, name in enumerate(names)
        ]
        (root / MAPPING).write_text(json.dumps(rows))
    return root


# VinDr-CXR


def vindr_root(root: Path, train: int = 60, test: int = 12) -> Path:
    """PhysioNet's layout. R1, R2 and R3 read each image; Rn sees finding f of image i where (i + f) % 4 is below n, so
    that most see those where it is 0 or 1. Each third image is normal to all."""
    labels = len(VINDR_LOCAL) + len(VINDR_GLOBAL) + 1
    rows = []
    for number in range(train):
        for reader in range(3):
            seen = [int((number + column) % 4 <= reader) for column in range(labels)] if number % 3 else [0] * labels
            rows.append([name_of(number), f"R{reader + 1}", *seen, int(not any(seen))])
    of_test = [
        [name_of(train + number), *[int((number + column) % 4 == 0) for column in range(labels)], 0]
        for number in range(test)
    ]
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["image_id", "rad_id", *VINDR_LOCAL, *VINDR_GLOBAL, "Other diseases", "No finding"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "image_labels_train.csv", index=False)
    columns = ["image_id", *VINDR_LOCAL, *VINDR_GLOBAL, "Other disease", "No finding"]
    pd.DataFrame(of_test, columns=columns).to_csv(folder / "image_labels_test.csv", index=False)
    touch(root / "train", [f"{name_of(number)}.dicom" for number in range(train)])
    touch(root / "test", [f"{name_of(train + number)}.dicom" for number in range(test)])
    return root


def vindr_kaggle_root(root: Path, rows: pd.DataFrame) -> Path:
    """Kaggle's layout, from rows of its table."""
    root.mkdir(parents=True, exist_ok=True)
    rows.to_csv(root / "train.csv", index=False)
    touch(root / "train", [f"{name}.dicom" for name in rows["image_id"].unique()])
    return root
