"""Readers of the chest X-ray sets for transfer: PadChest-Cl, COVIDx, tuberculosis."""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.padchest_table import (
    PADCHEST_BITS,
    PADCHEST_FINDINGS,
    PADCHEST_HOME,
    UNREADABLE_IN_PAPER,
    find_padchest,
    padchest_labels,
    read_padchest,
    readable_adults,
)
from data_pipelines.datasets.xray_tables import (
    locate,
    of_views,
    paper_test_rows,
    require_options,
    split_patients,
    xray_set,
)
from data_pipelines.datasets.xray_views import VIEWS, ViewNames, views_named

SplitBy = Literal["patient", "image"]

COVIDX_HOME = "https://www.kaggle.com/datasets/andyczhao/covidx-cxr2"
TUBERCULOSIS_HOME = "https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html#tuberculosis-image-data-sets"

WHOLE_SIZE = 512  # pixels of the shorter side: what BiT-HyperRule resizes such pictures to
_COVIDX_CLASSES = (("negative", "positive"), ("normal", "pneumonia", "COVID-19"))
_COVIDX_LABELS = {label for classes in _COVIDX_CLASSES for label in classes}


def padchest_cl(
    root: Path,
    split_by: SplitBy = "patient",
    val_fraction: float = 0.05,
    test_fraction: float = 0.1,
    views: ViewNames = ("all",),
    size: int = 256,
) -> RawSet:
    """PadChest-Cl: the X-rays of PadChest that show exactly one of its 27 findings, as classes.

    Reported as mean AUC. ROOT as for padchest. --split-by patient draws val and test by patient. --split-by image is
    the paper's test set: the rows of the table in its order, with one of its five views and labels, without the 30
    files that its code leaves out, but with children; shuffled by NumPy's RandomState(42); the last 10% are test.
    Patients are then in both. val is drawn from the others by image. --views takes some of the images of each split,
    and the classes that these show. The research use agreement of BIMCV, accepted at the download: not to be shared.
    """
    require_options(root, size, val=val_fraction, test=test_fraction)
    path, table, notes = read_padchest(root, ("all",))  # whose splits do not depend on what is taken of them
    table, split_notes = _with_padchest_splits(table, split_by, val_fraction, test_fraction)
    notes += split_notes
    if views_named(views) != VIEWS:
        table, left_out = of_views(table, views)
        notes += left_out
    findings = padchest_labels(table)
    has_one = findings.sum(axis=1) == 1
    present = findings[has_one].any(axis=0)
    if not has_one.any():
        raise InputError(f"{path} has no image with exactly one finding; copy it again from where it came")
    absent = [name for name, is_present in zip(PADCHEST_FINDINGS, present, strict=True) if not is_present]
    if absent:
        notes.append(f"no image shows {' or '.join(absent)} alone: left out of the classes")
    table = table[has_one].reset_index(drop=True)
    return xray_set(
        root,
        table.assign(file=find_padchest(root, table, path)),
        findings[has_one][:, present].argmax(axis=1),
        "padchest",
        notes,
        name="padchest_cl",
        task="single_label",
        classes=tuple(name for name in PADCHEST_FINDINGS if name not in absent),
        metric="auc",
        source=f"PadChest (Bustos et al. 2020), {PADCHEST_HOME}; research use agreement of BIMCV",
        xray_size=size,
        bits=PADCHEST_BITS,
        split_by="image" if split_by == "image" else None,
        expected_images=(41_540 if split_by == "image" else 40_939) if views_named(views) == VIEWS else None,
    )


def _with_padchest_splits(
    table: pd.DataFrame, split_by: SplitBy, val_fraction: float, test_fraction: float
) -> tuple[pd.DataFrame, list[str]]:
    """The rows that are used, with their splits, and notes on them."""
    if split_by == "image":
        table = table[~table["name"].isin(UNREADABLE_IN_PAPER)].reset_index(drop=True)
        table["split"] = _paper_split(table["name"], 0.9, "padchest", val_fraction)
        return table, ["test is the paper's 10% of the images, drawn without regard to patients"]
    table, notes = readable_adults(table)
    table["split"] = split_patients(table["patient"], "padchest", val_fraction, test_fraction)
    return table, notes


def _paper_split(names: "pd.Series[Any]", train_share: float, of: str, val_fraction: float) -> list[str]:
    """test: what the paper tests on; val: drawn from the rest by name."""
    tested = paper_test_rows(len(names), train_share)
    rest = [hash_split(f"{of}:{name}", val_fraction, 0.0) for name in names]
    return ["test" if is_tested else split for is_tested, split in zip(tested, rest, strict=True)]


def covidx(root: Path, val_fraction: float = 0.05, size: int = WHOLE_SIZE) -> RawSet:
    """COVIDx: COVID-19 negative or positive; with the older lists normal, pneumonia or COVID-19 (Wang et al. 2020).

    ROOT holds the official lists train.txt and test.txt (or one train_*.txt and one test_*.txt) with lines of "patient
    file label source", and the images in train/ and test/; a val.txt with val/ is used where there is one, else val is
    drawn from train by patient. X-rays are kept whole, as in the paper; --size is their shorter side. A collection of
    public sets, each under its own licence; not for diagnosis.
    """
    require_options(root, size, val=val_fraction)
    parts, notes, lists = [], [], []
    for folder in ("train", "val", "test"):
        path = _covidx_list(root, folder)
        if path:
            lists.append(path)
            table, repeats = _read_covidx(path, folder)
            parts.append(table.assign(file=locate(root, table["image"], [folder], path, COVIDX_HOME)))
            notes += repeats
    table = pd.concat(parts, ignore_index=True)
    if len(lists) == 2:
        drawn = split_patients(table["patient"], "covidx", val_fraction, 0.0)
        table["split"] = table["split"].where(table["split"] == "test", drawn)
    found = set(table["label"])
    classes = next((classes for classes in _COVIDX_CLASSES if found <= set(classes)), None)
    if not classes:
        raise InputError(
            f"{', '.join(map(str, lists))} are of two kinds: {', '.join(sorted(found))}; take two that fit"
        )
    return xray_set(
        root,
        table,
        table["label"].map(classes.index).to_numpy(dtype=np.int64),
        "covidx",
        notes,
        name="covidx",
        task="single_label",
        classes=classes,
        source=f"COVIDx (Wang et al. 2020), {COVIDX_HOME}; each image under the licence of the set that it is from",
        xray_size=size,
        xray_cut="whole",
        has_own_test=True,
        has_own_val=len(lists) > 2,
    )


def _covidx_list(root: Path, part: str) -> Path | None:
    """The list of a split; None where there is no val.txt."""
    path = root / f"{part}.txt"
    if path.is_file():
        return path
    found = sorted(root.glob(f"{part}_*.txt"))
    if len(found) == 1:
        return found[0]
    if not found and part == "val":
        return None
    trouble = f"{len(found)} lists {part}_*.txt; rename the right one to" if found else "no list"
    raise InputError(f"{root} has {trouble} {part}.txt; the set is to be had at {COVIDX_HOME}")


def _read_covidx(path: Path, part: str) -> tuple[pd.DataFrame, list[str]]:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy it again from where it came") from error
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        at = -1 if fields[-1] in _COVIDX_LABELS else -2  # the oldest lists have no source
        if len(fields) < 2 - at or fields[at] not in _COVIDX_LABELS:
            raise InputError(
                f"{path}, line {number}: {line!r} is not 'patient file label source' with a label of "
                f"{', '.join(sorted(_COVIDX_LABELS))}"
            )
        rows.append((fields[0], " ".join(fields[1:at]), fields[at]))
    if not rows:
        raise InputError(f"{path} lists no images; copy it again from {COVIDX_HOME}")
    table = pd.DataFrame(rows, columns=["patient", "image", "label"])
    once = table.drop_duplicates(ignore_index=True)
    if (twice := once["image"].duplicated()).any():
        raise InputError(f"{path} lists {once.loc[twice, 'image'].iloc[0]} twice, differently; remove the wrong line")
    repeated = len(table) - len(once)
    notes = [f"{path.name}: {repeated:,} lines that repeat another left out"] if repeated else []
    return once.assign(name=f"{part}/" + once["image"], split=part), notes


def tuberculosis(
    root: Path,
    split_by: SplitBy = "patient",
    val_fraction: float = 0.1,
    test_fraction: float = 0.15,
    size: int = WHOLE_SIZE,
) -> RawSet:
    """Tuberculosis: the X-rays of Shenzhen (662) and Montgomery (138), normal or tuberculosis (Jaeger et al. 2014).

    ROOT holds ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png ... and MontgomerySet/CXR_png/MCUCXR_0001_0.png ..., each
    possibly one folder deeper; the last digit is the label. Each image counts as a patient of its own, as in the paper.
    --split-by patient draws val and test by a hash of the file; --split-by image is the paper's test set: the files of
    each of the two, sorted by name, shuffled by NumPy's RandomState(42), the last 15% of each; val is drawn from the
    rest. X-rays are kept whole, as in the paper; --size is their shorter side. Free for research; the National Library
    of Medicine asks to be named and the paper to be cited.
    """
    require_options(root, size, val=val_fraction, test=test_fraction)
    parts = []
    for folder, prefix in (("ChinaSet_AllFiles", "CHNCXR"), ("MontgomerySet", "MCUCXR")):
        table = _tuberculosis_part(root, folder, prefix)
        if split_by == "image":
            table["split"] = _paper_split(table["patient"], 0.85, "tuberculosis", val_fraction)
        else:
            table["split"] = split_patients(table["patient"], "tuberculosis", val_fraction, test_fraction)
        parts.append(table)
    table = pd.concat(parts, ignore_index=True)
    return xray_set(
        root,
        table,
        table["label"].to_numpy(dtype=np.int64),
        "tuberculosis",
        ["the files name no patients: each image counts as one of its own, as in the paper (800 patients)"],
        name="tuberculosis",
        task="single_label",
        classes=("normal", "tuberculosis"),
        source=f"Shenzhen and Montgomery X-ray sets (Jaeger et al. 2014), {TUBERCULOSIS_HOME}; free for research",
        xray_size=size,
        xray_cut="whole",
        split_by="image" if split_by == "image" else None,
        expected_images=800,
    )


def _tuberculosis_part(root: Path, folder: str, prefix: str) -> pd.DataFrame:
    """One of the two sets, sorted by file name."""
    places = [place for place in (root / folder, *sorted(root.glob(f"*/{folder}"))) if (place / "CXR_png").is_dir()]
    if not places:
        raise InputError(f"{root} has no {folder}/CXR_png; the set is to be had at {TUBERCULOSIS_HOME}")
    images = places[0] / "CXR_png"
    rows = []
    for path in sorted(images.glob("[!.]*.png")):
        match = re.fullmatch(rf"({prefix}_\d+)_([01])", path.stem)
        if not match:
            raise InputError(f"{path} is not named {prefix}_NNNN_0.png or {prefix}_NNNN_1.png; remove it")
        rows.append((path.name, str(path.relative_to(root)), match[1], int(match[2])))
    if not rows:
        raise InputError(f"{images} holds no {prefix}_*.png; unpack the set again, or get it at {TUBERCULOSIS_HOME}")
    return pd.DataFrame(rows, columns=["name", "file", "patient", "label"])
