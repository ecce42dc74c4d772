"""Reader of the RSNA Pneumonia Detection Challenge: X-rays of NIH ChestX-ray14 that radiologists read again."""

import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.chest_xray_targets import WHOLE_SIZE, SplitBy
from data_pipelines.datasets.xray_tables import (
    find_table,
    locate,
    read_xray_table,
    require_options,
    split_patients,
    xray_set,
)

RSNA_HOME = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"

_MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
_MAPPING_HOME = (
    "https://www.rsna.org/artificial-intelligence/ai-image-challenge/rsna-pneumonia-detection-challenge-2018"
)
_IMAGES = "stage_2_train_images"
_CLASSES = ("no pneumonia", "pneumonia")
_DETAILED = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
_NIH_IMAGE = re.compile(r"0*(\d+)_\d{3}\.png")


def rsna_pneumonia(
    root: Path,
    detailed: bool = False,
    split_by: SplitBy = "patient",
    val_fraction: float = 0.05,
    test_fraction: float = 0.1,
    size: int = WHOLE_SIZE,
) -> RawSet:
    """RSNA Pneumonia Detection Challenge: 26,684 frontal X-rays, pneumonia or not (Shih et al. 2019).

    Reported as AUC. ROOT holds stage_2_train_labels.csv and stage_2_train_images/*.dcm, as Kaggle has them; the 3,000
    images of its test have no labels and are not read. --detailed takes the three classes of
    stage_2_detailed_class_info.csv: what is not pneumonia is normal, or is not. The images are NIH ChestX-ray14's, and
    a patientId is of one of them. Whose they are says pneumonia-challenge-dataset-mappings_2018.json, which RSNA's page
    of the challenge has: with that file in ROOT, val and test are drawn by patient. --split-by image draws them by
    image, also without it, and patients may then be in two splits. X-rays are kept whole; --size is their shorter side.
    Free to use, also commercially; RSNA asks to be named.
    """
    require_options(root, size, val=val_fraction, test=test_fraction)
    path, _ = find_table(root, ["stage_2_train_labels.csv"], RSNA_HOME)
    table, _ = read_xray_table(path, {"patientId": "name", "Target": "target"})  # a row for each box
    classes, labels = _detailed(root, table) if detailed else (_CLASSES, _targets(table, path))
    patients = _nih_patients(root, table, split_by)
    drawn_by = table["name"] if split_by == "image" or patients is None else patients
    table = table.assign(
        file=locate(root, table["name"] + ".dcm", [_IMAGES], path, RSNA_HOME),
        split=split_patients(drawn_by, "rsna_pneumonia", val_fraction, test_fraction),
    )
    return xray_set(
        root,
        table if patients is None else table.assign(patient=patients),
        labels,
        None if patients is None else "nih_cxr14",
        [],
        name="rsna_pneumonia",
        task="single_label",
        classes=classes,
        metric="auc",
        source=f"RSNA Pneumonia Detection Challenge (Shih et al. 2019), {RSNA_HOME}; RSNA's terms of use, free to use",
        xray_size=size,
        xray_cut="whole",
        split_by="image" if split_by == "image" else None,
        expected_images=26_684,
    )


def _targets(table: pd.DataFrame, path: Path) -> npt.NDArray[np.int64]:
    targets = table["target"].map({"0": 0, "1": 1})
    if (strange := targets.isna()).any():
        raise InputError(f"{path}: the Target {table['target'][strange].iloc[0]!r} is neither 0 nor 1; copy it again")
    labels: npt.NDArray[np.int64] = targets.to_numpy(dtype=np.int64)
    return labels


def _detailed(root: Path, table: pd.DataFrame) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """The three classes, and that of each image."""
    path, _ = find_table(root, ["stage_2_detailed_class_info.csv"], RSNA_HOME)
    rows, _ = read_xray_table(path, {"patientId": "name", "class": "class"})
    named = table["name"].map(rows.set_index("name")["class"])
    labels = named.map(_DETAILED.index, na_action="ignore") if set(named.dropna()) <= set(_DETAILED) else None
    if labels is None:
        raise InputError(f"{path}: a class is none of {', '.join(map(repr, _DETAILED))}; copy the table again")
    if (missing := labels.isna()).any():
        raise InputError(f"{path} has no row of {table['name'][missing].iloc[0]}; copy the table again")
    return _DETAILED, labels.to_numpy(dtype=np.int64)


def _nih_patients(root: Path, table: pd.DataFrame, split_by: SplitBy) -> "pd.Series[str] | None":
    """The patient of each image by NIH's number; None without RSNA's file, where --split-by image accepts that."""
    path = root / _MAPPING
    if not path.is_file():
        if split_by == "image":
            return None
        raise InputError(
            f"{root} has no {_MAPPING}, without which one patient could be in train and in test; get it at "
            f"{_MAPPING_HOME}, or accept it with --split-by image"
        )
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        images = {row["subset_img_id"]: _NIH_IMAGE.fullmatch(row["img_id"]) for row in rows}
        patients = {name: match[1] for name, match in images.items() if match}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is not RSNA's list of images ({error!r}); get it again at {_MAPPING_HOME}") from error
    found = table["name"].map(patients)
    if (missing := found.isna()).any():
        raise InputError(
            f"{path} does not say whose image {table['name'][missing].iloc[0]} is; get it again at {_MAPPING_HOME}"
        )
    return found
