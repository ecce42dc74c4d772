"""Readers of the chest X-ray sets for pre-training: CheXpert, MIMIC-CXR, NIH ChestX-ray14, PadChest.

Labels are those of torchxrayvision's classes, row by row. They are read here from the owners' tables because those
classes also seed NumPy's generator, derive the patient from the path of the CSV file, and lose MIMIC's support devices.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.chexpert_labels import CHEXPERT_COLUMNS, CHEXPERT_FINDINGS, chexpert_labels
from data_pipelines.datasets.padchest_table import (
    PADCHEST_BITS,
    PADCHEST_FINDINGS,
    PADCHEST_HOME,
    find_padchest,
    padchest_labels,
    read_padchest,
    readable_adults,
)
from data_pipelines.datasets.xray_tables import (
    Labels,
    find_table,
    label_rows,
    locate,
    of_views,
    read_xray_table,
    require_options,
    require_some,
    split_patients,
    xray_set,
)
from data_pipelines.datasets.xray_views import VIEWS, ViewNames, views_named

CHEXPERT_HOME = "https://stanfordmlgroup.github.io/competitions/chexpert/"
MIMIC_HOME = "https://physionet.org/content/mimic-cxr-jpg/"
NIH_HOME = "https://nihcc.app.box.com/v/ChestXray-NIHCC"

NIH_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)


def chexpert(root: Path, test_fraction: float = 0.02, views: ViewNames = ("all",), size: int = 256) -> RawSet:
    """CheXpert v1.0, full or small: 13 findings, 223,631 X-rays (Irvin et al. 2019).

    ROOT holds train.csv, valid.csv, train/ and valid/, or a folder CheXpert-v1.0* with them, or the four folders
    "CheXpert-v1.0 batch N (...)" as unpacked. Uncertain and blank labels are unlabelled, but "No Finding" makes every
    finding except Support Devices 0. val is valid.csv; test is --test-fraction of the patients of train.csv, since the
    official test set is not part of the download. Stanford's research use agreement: non-commercial, not to be shared.
    """
    require_options(root, size, test=test_fraction)
    tables, base = _chexpert_folders(root)
    parts, notes = [], []
    for part in ("train", "valid"):
        table, repeats = _chexpert_part(tables, base, part)
        parts.append(table)
        notes += repeats
    table, left_out = of_views(pd.concat(parts, ignore_index=True), views)
    labels = chexpert_labels(table, tables)
    table["split"] = split_patients(table["patient"], "chexpert", 0.0, test_fraction)
    table.loc[table["name"].str.startswith("valid/"), "split"] = "val"
    require_some(base, table["file"].tolist(), tables / "train.csv", CHEXPERT_HOME)
    return xray_set(
        base,
        table,
        labels,
        "chexpert",
        notes + left_out,
        name="chexpert",
        task="multi_label",
        classes=CHEXPERT_FINDINGS,
        source=f"CheXpert v1.0 (Irvin et al. 2019), {CHEXPERT_HOME}; Stanford's research use agreement",
        xray_size=size,
        expected_images=223_631 if views_named(views) == VIEWS else None,
    )


def _chexpert_folders(root: Path) -> tuple[Path, Path]:
    """The folder with the tables, and the one that image paths are relative to."""
    found = [folder for folder in (root, *sorted(root.glob("CheXpert-v1.0*"))) if (folder / "train.csv").is_file()]
    if len(found) > 1:
        raise InputError(f"{root} holds {len(found)} sets, {', '.join(map(str, found))}; pass one of them as --root")
    if not found:
        raise InputError(
            f"neither {root} nor a folder CheXpert-v1.0* in it has train.csv; get the set at {CHEXPERT_HOME}"
        )
    return found[0], found[0].parent if " batch " in found[0].name else found[0]


def _chexpert_part(tables: Path, base: Path, part: str) -> tuple[pd.DataFrame, list[str]]:
    """train.csv or valid.csv, with where its images lie."""
    path, _ = find_table(tables, [f"{part}.csv"], CHEXPERT_HOME)
    texts = {"Path": "path", "Frontal/Lateral": "side", "AP/PA": "view"}
    table, notes = read_xray_table(path, texts, ("No Finding", *CHEXPERT_COLUMNS))
    places = table["path"].str.extract(rf"^[^/]+/({part}/(patient\d+)/(.+))$")
    if places[0].isna().any():
        strange = table["path"][places[0].isna()].iloc[0]
        raise InputError(
            f"{path}: the path {strange!r} is not CheXpert-v1.0/{part}/patientNNNNN/studyN/...; copy it again"
        )
    batches = sorted(folder.name for folder in base.glob("CheXpert-v1.0 batch*"))
    inside = "" if part == "train" else "/valid"  # the batches with training images hold the patients themselves
    patients = places[1].unique()
    folders = [part, *(f"{batch}{inside}" for batch in batches)]
    located = locate(base, patients, folders, path, CHEXPERT_HOME, what="patients")
    folder_of = dict(zip(patients, located, strict=True))
    is_lateral = table["side"] == "Lateral"
    table["view"] = table["view"].mask(is_lateral, "L")
    return table.assign(name=places[0], patient=places[1], file=places[1].map(folder_of) + "/" + places[2]), notes


def mimic_cxr(root: Path, views: ViewNames = ("all",), size: int = 256) -> RawSet:
    """MIMIC-CXR-JPG 2.0.0 or 2.1.0: 13 findings, 377,110 X-rays of all views (Johnson et al. 2019).

    ROOT holds mimic-cxr-2.*-metadata.csv.gz, -chexpert.csv.gz, -split.csv.gz and files/p10/p10000032/s50414267/*.jpg.
    Labels are CheXpert's, by study, as the chexpert command reads them. Splits are the official ones. MIMIC's views
    LATERAL and LL count as L; torchxrayvision does not know them by that name and takes what --views frontal takes.
    PhysioNet's credentialed health data licence and data use agreement: named users only, not to be shared.
    """
    require_options(root, size)
    paths = {kind: _mimic_table(root, kind) for kind in ("metadata", "chexpert", "split")}
    texts = {"dicom_id": "dicom", "subject_id": "patient", "study_id": "study", "ViewPosition": "view"}
    images, notes = read_xray_table(paths["metadata"], texts)
    studies, repeats = read_xray_table(
        paths["chexpert"], {"study_id": "study", "subject_id": "patient"}, ("No Finding", *CHEXPERT_COLUMNS)
    )
    splits, more_repeats = read_xray_table(paths["split"], {"dicom_id": "dicom", "split": "split"})
    table = images.merge(studies, on=["patient", "study"]).merge(splits, on="dicom", how="left")
    if len(table) < len(images):
        notes.append(f"{len(images) - len(table):,} images of studies that {paths['chexpert'].name} lacks left out")
    table["view"] = table["view"].replace({"LATERAL": "L", "LL": "L"})
    table, left_out = of_views(table, views)
    table["split"] = _named_splits(table, paths["split"])
    place = "p" + table["patient"].str[:2] + "/p" + table["patient"] + "/s" + table["study"] + "/" + table["dicom"]
    table["name"] = table["file"] = "files/" + place + ".jpg"
    require_some(root, table["file"].tolist(), paths["metadata"], MIMIC_HOME)
    return xray_set(
        root,
        table,
        chexpert_labels(table, paths["chexpert"]),
        "mimic_cxr",
        [*notes, *repeats, *more_repeats, *left_out],
        name="mimic_cxr",
        task="multi_label",
        classes=CHEXPERT_FINDINGS,
        source=f"MIMIC-CXR-JPG (Johnson et al. 2019), {MIMIC_HOME}; PhysioNet credentialed health data licence",
        xray_size=size,
    )


def _mimic_table(root: Path, kind: str) -> Path:
    found = sorted(root.glob(f"mimic-cxr-2.*-{kind}.csv*"))
    if not found:
        raise InputError(f"{root} has no mimic-cxr-2.0.0-{kind}.csv.gz; the set is to be had at {MIMIC_HOME}")
    return found[-1]


def _named_splits(table: pd.DataFrame, path: Path) -> "pd.Series[Any]":
    splits = table["split"].map({"train": "train", "validate": "val", "test": "test"})
    if splits.isna().any():
        row = table[splits.isna()].iloc[0]
        raise InputError(
            f"{path} puts image {row['dicom']} into split {row['split']!r}; expected train, validate or test"
        )
    return splits


def nih_cxr14(
    root: Path,
    val_fraction: float = 0.02,
    test_fraction: float = 0.02,
    views: ViewNames = ("all",),
    size: int = 256,
) -> RawSet:
    """NIH ChestX-ray14: 14 findings, 112,120 frontal X-rays of 30,805 patients (Wang et al. 2017).

    ROOT holds Data_Entry_2017_v2020.csv (or Data_Entry_2017.csv; without either, torchxrayvision's copy is read),
    train_val_list.txt, test_list.txt and the images in images_001/images ... images_012/images, in images/, or in ROOT
    itself. test is the official list; val is --val-fraction of the patients of the other; without the lists both are
    drawn by patient. Free to use; NIH asks to be named and linked, and the paper to be cited.
    """
    require_options(root, size, val=val_fraction, test=test_fraction)
    names = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    path, notes = find_table(root, names, NIH_HOME, shipped="Data_Entry_2017_v2020.csv.gz")
    texts = {"Image Index": "name", "Finding Labels": "findings", "Patient ID": "patient", "View Position": "view"}
    table, repeats = read_xray_table(path, texts)
    table, left_out = of_views(table, views)
    table, about_lists = _nih_splits(root, table, val_fraction, test_fraction)
    folders = ["images", ".", *(str(folder.relative_to(root)) for folder in sorted(root.glob("images_*/images")))]
    folders += [folder.name for folder in sorted(root.glob("images_*"))]
    return xray_set(
        root,
        table.assign(file=locate(root, table["name"], folders, path, NIH_HOME)),
        _nih_labels(table, path),
        "nih_cxr14",
        [*notes, *repeats, *left_out, *about_lists],
        name="nih_cxr14",
        task="multi_label",
        classes=NIH_FINDINGS,
        source=f"NIH ChestX-ray14 (Wang et al. 2017), {NIH_HOME}; provided by the NIH Clinical Center, free to use",
        xray_size=size,
        expected_images=112_120 if {"PA", "AP"} <= set(views_named(views)) else None,
        has_own_test=(root / "test_list.txt").is_file(),
    )


def _nih_splits(root: Path, table: pd.DataFrame, val: float, test: float) -> tuple[pd.DataFrame, list[str]]:
    """The table with its column split: of the official lists where they are, else drawn by patient."""
    lists = {name: root / name for name in ("train_val_list.txt", "test_list.txt")}
    absent = [name for name, path in lists.items() if not path.is_file()]
    if len(absent) == 1:
        raise InputError(f"{root} has no {absent[0]} beside the other list; get it at {NIH_HOME}, or remove both")
    if absent:
        note = f"{root.name} has no {' and no '.join(absent)}: test is not an official split, but drawn by patient"
        return table.assign(split=split_patients(table["patient"], "nih_cxr14", val, test)), [note]
    splits = split_patients(table["patient"], "nih_cxr14", val, 0.0)
    listed = {
        name: table["name"].isin(path.read_text(encoding="utf-8", errors="replace").split())
        for name, path in lists.items()
    }
    splits = splits.mask(listed["test_list.txt"], "test")
    known = listed["train_val_list.txt"] | listed["test_list.txt"]
    if not known.any():
        raise InputError(f"{' and '.join(map(str, lists.values()))} name no image of the table; get them at {NIH_HOME}")
    notes = [] if known.all() else [f"{int((~known).sum()):,} images that are in neither official list left out"]
    return table.assign(split=splits)[known].reset_index(drop=True), notes


def _nih_labels(table: pd.DataFrame, path: Path) -> Labels:
    """float32 [N, 14] of 0 and 1."""

    def row(text: str) -> list[bool]:
        found = text.split("|")
        if unknown := set(found) - {*NIH_FINDINGS, "No Finding"}:
            raise InputError(f"{path}: {unknown.pop()!r} is not a finding of ChestX-ray14; copy the table again")
        return [finding in found for finding in NIH_FINDINGS]

    return label_rows(table["findings"].fillna(""), row)


def padchest(
    root: Path,
    val_fraction: float = 0.02,
    test_fraction: float = 0.02,
    views: ViewNames = ("all",),
    size: int = 256,
) -> RawSet:
    """PadChest: 27 findings, 158,597 X-rays of adults (Bustos et al. 2020).

    ROOT holds PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv[.gz] (without it, torchxrayvision's copy is read)
    and the images in 0/ ... 54/, in images/, or in ROOT itself: 16-bit PNG. As in torchxrayvision, images without
    labels, of children under ten, and 21 that cannot be read are left out. val and test are drawn by patient.
    The research use agreement of BIMCV, accepted at the download: not to be shared.
    """
    require_options(root, size, val=val_fraction, test=test_fraction)
    path, table, notes = read_padchest(root, views)
    table, left_out = readable_adults(table)
    table["split"] = split_patients(table["patient"], "padchest", val_fraction, test_fraction)
    return xray_set(
        root,
        table.assign(file=find_padchest(root, table, path)),
        padchest_labels(table),
        "padchest",
        [*notes, *left_out],
        name="padchest",
        task="multi_label",
        classes=PADCHEST_FINDINGS,
        source=f"PadChest (Bustos et al. 2020), {PADCHEST_HOME}; research use agreement of BIMCV",
        xray_size=size,
        bits=PADCHEST_BITS,
        expected_images=158_597 if views_named(views) == VIEWS else None,
    )
