"""Reader of VinDr-CXR: chest X-rays from Vietnam that radiologists read."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import number
from data_pipelines.common.raw_set import RawSet
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.xray_tables import (
    Labels,
    find_table,
    locate,
    of_views,
    read_xray_table,
    require_options,
    xray_set,
)
from data_pipelines.datasets.xray_views import ViewNames

VINDR_HOME = "https://physionet.org/content/vindr-cxr/"

_READERS = 3  # radiologists of each image in train
_NORMAL = "No finding"
_KAGGLE_FINDINGS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration",
    "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis",
)  # fmt: skip
_FINDINGS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases",
)  # fmt: skip
# Other sets say so, and findings are joined by name.
_CALLED = {"Pleural effusion": "Effusion", "Pleural thickening": "Pleural_Thickening"}
_OF_TEST = {"Other diseases": "Other disease"}  # a column that the owner calls otherwise there


class _Read(NamedTuple):
    """What a table says of train or test. labels: as `_majority`."""

    table: Path
    labels: pd.DataFrame
    notes: list[str]


def vindr_cxr(
    root: Path,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    views: ViewNames = ("all",),
    size: int = 256,
) -> RawSet:
    """VinDr-CXR: 27 findings, 18,000 X-rays that radiologists read, all PA (Nguyen et al. 2022).

    ROOT holds annotations/image_labels_train.csv, annotations/image_labels_test.csv, train/*.dicom and test/*.dicom, as
    PhysioNet has them; or Kaggle's train.csv and train/*.dicom, which are the 15,000 images of train with 14 findings.
    Three radiologists read each image of train: a finding is there if most of them saw it. test is the official one,
    on which five agreed; that of Kaggle has no labels, and --test-fraction of train takes its place. val is
    --val-fraction of train. No patient is named: splits are drawn by image. PhysioNet's credentialed health data
    licence and data use agreement (Kaggle's: the rules of the competition): not to be shared.
    """
    require_options(root, size, val=val_fraction, test=test_fraction)
    findings, parts = _tables(root)
    table = pd.concat([_placed(root, part, read) for part, read in parts.items()], ignore_index=True)
    fractions = val_fraction, 0.0 if "test" in parts else test_fraction
    drawn = [hash_split(f"vindr_cxr:{name}", *fractions) for name in table["name"]]
    table["split"] = table["part"].where(table["part"] == "test", drawn)
    table, left_out = of_views(table.assign(view="PA"), views)
    labels = table[list(findings)].to_numpy(dtype=np.float32)
    return xray_set(
        root,
        table,
        labels,
        None,
        [note for read in parts.values() for note in read.notes] + left_out + _about_readers(table, labels),
        name="vindr_cxr",
        task="multi_label",
        classes=tuple(_CALLED.get(finding, finding) for finding in findings),
        source=f"VinDr-CXR (Nguyen et al. 2022), {VINDR_HOME}; PhysioNet credentialed health data licence",
        xray_size=size,
        expected_images=18_000 if "test" in parts else 15_000,
        has_own_test="test" in parts,
    )


def _tables(root: Path) -> tuple[Sequence[str], dict[str, _Read]]:
    """The findings, and what is said of train and, but for Kaggle's, of test."""
    if (root / "train.csv").is_file() and not (root / "annotations").is_dir():
        return _KAGGLE_FINDINGS, {"train": _read_kaggle(root / "train.csv")}
    return _FINDINGS, {part: _read_part(root, part) for part in ("train", "test")}


def _read_part(root: Path, part: str) -> _Read:
    """PhysioNet's table of train, with a row for each image and radiologist, or of test, with one for each image."""
    path, _ = find_table(root / "annotations", [f"image_labels_{part}.csv"], VINDR_HOME)
    columns = {finding: _OF_TEST.get(finding, finding) if part == "test" else finding for finding in _FINDINGS}
    texts = {"image_id": "name"} | ({"rad_id": "reader"} if part == "train" else {})
    readings, notes = read_xray_table(path, texts, list(columns.values()), key=list(texts))
    readings = readings.rename(columns={column: finding for finding, column in columns.items()})
    found = readings[list(_FINDINGS)].to_numpy()
    if (strange := ~(np.isnan(found) | np.isin(found, (0, 1)))).any():
        raise InputError(f"{path}: {found[strange][0]:g} is not a label; expected 1, 0 or blank")
    return _Read(path, _majority(readings, _FINDINGS), notes)


def _read_kaggle(path: Path) -> _Read:
    """Kaggle's table, with a row for each box that a radiologist drew, or for each who saw nothing."""
    texts = {"image_id": "name", "rad_id": "reader", "class_name": "finding"}
    boxes, _ = read_xray_table(path, texts, key=list(texts))  # a finding may have several boxes
    if unknown := set(boxes["finding"]) - {*_KAGGLE_FINDINGS, _NORMAL}:
        raise InputError(f"{path}: {min(unknown)!r} is not a finding of VinDr-CXR at Kaggle; copy the table again")
    readings = pd.crosstab([boxes["name"], boxes["reader"]], boxes["finding"]).reindex(
        columns=list(_KAGGLE_FINDINGS), fill_value=0
    )
    return _Read(path, _majority(readings.reset_index(), _KAGGLE_FINDINGS), [])


def _majority(readings: pd.DataFrame, findings: Sequence[str]) -> pd.DataFrame:
    """A row for each image, by name: 1 where more than half of its radiologists saw a finding, NaN where just half did
    or none said; and how many read it, in the column readers."""
    images = readings.groupby("name", sort=True)
    share = images[list(findings)].mean()
    seen = (share > 0.5).astype(np.float32).mask(share.isna() | (share == 0.5))
    return seen.assign(readers=images.size()).reset_index()


def _placed(root: Path, part: str, read: _Read) -> pd.DataFrame:
    files = locate(root, read.labels["name"] + ".dicom", [part], read.table, VINDR_HOME)
    return read.labels.assign(file=files, part=part)


def _about_readers(table: pd.DataFrame, labels: Labels) -> list[str]:
    """Notes on how train was labelled, and on what is not as its owner says."""
    notes = [f"train: a finding is there if most of its {_READERS} radiologists saw it"]
    if others := int((table["readers"] != _READERS)[table["part"] == "train"].sum()):
        notes.append(f"{number(others, 'image')} of train read by another number of radiologists than {_READERS}")
    if open_ := int(np.isnan(labels).sum()):
        notes.append(f"{number(open_, 'label')} on which radiologists are divided, or that are blank: unlabelled")
    return notes
