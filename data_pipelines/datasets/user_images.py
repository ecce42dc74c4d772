"""Readers of the user's own images, photographs or X-rays: a CSV table, or class folders."""

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError
from data_pipelines.common.path_text import path_of, text_of
from data_pipelines.common.raw_set import RawSet
from data_pipelines.common.splits import Split
from data_pipelines.datasets.class_folders import class_folders, scan_for_classes
from data_pipelines.datasets.patient_splits import Choices, Laterals, Sample, SplitBy, user_set
from data_pipelines.datasets.reading import SPLIT_NAMES, require_present, split_of
from data_pipelines.datasets.similar_names import class_name_notes, near_one
from data_pipelines.datasets.stored_columns import fact_notes, require_columns_apart
from data_pipelines.datasets.study_dates import StudyDate
from data_pipelines.datasets.table import Table, read_table
from data_pipelines.datasets.table_paths import Listing

Label = int | npt.NDArray[np.float32]

_FINDINGS = {0.0: 0.0, 1.0: 1.0, -1.0: float("nan")}
_SOURCE = "{}; licence as of the original"
_ON_WINDOWS = re.compile(r"[A-Za-z]:/")


class _Columns(NamedTuple):
    """Names of the columns of a table that are asked for."""

    path: str
    label: str | None
    findings: Sequence[str]
    patient: str | None
    split: str | None
    facts: Sequence[str]

    def asked(self) -> list[str]:
        names = (self.path, self.label, *self.findings, self.patient, self.split, *self.facts)
        return [name for name in names if name is not None]

    def require_apart(self) -> None:
        """Raise InputError if paths or patients would be stored as a class, a finding or a fact."""
        stored = {"--label-column": [self.label or ""], "--label-columns": self.findings, "--fact-columns": self.facts}
        require_columns_apart({"--path-column": self.path, "--patient-column": self.patient}, stored)


def csv_table(
    root: Path,
    table: Path,
    path_column: str = "path",
    label_column: str | None = None,
    label_columns: tuple[str, ...] = (),
    patient_column: str | None = None,
    split_column: str | None = None,
    fact_columns: tuple[str, ...] = (),
    split_by: SplitBy = "patient",
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    xray_size: int | None = None,
    laterals: Laterals = "keep",
    shorter_side: int | None = None,
    horizontal_flip: bool = True,
    study_date: StudyDate | None = None,
    literal_nan: bool = False,
) -> RawSet:
    """Your own images, named by a CSV file, with classes or findings.

    The file has a row for each image, with its path below ROOT, and either one class (--label-column) or several
    findings (--label-columns). Images are photographs, X-rays as JPEG or PNG (--xray-size), or DICOM.

    A val or test split that the table does not have is carved out of train by a hash of each patient, else of each
    path, so that it is the same everywhere and stays when images are added. X-rays and DICOM need to name their
    patients, so that none is in two splits.

    Args:
        root: Folder that the paths are relative to.
        table: The CSV file: UTF-8, or UTF-16 as Excel writes it; commas, semicolons, tabs or bars; names of the columns
            in the first row.
        path_column: Paths, relative to --root, or absolute below it.
        label_column: Class of each image, as text.
        label_columns: Findings: 1, 0, or blank or -1 for unlabelled.
        patient_column: Patient of each image; without it, PatientID of DICOM files.
        split_column: train, val or test for each image, or what these are also called, such as training, validation,
            dev; without it, splits are carved.
        fact_columns: By what results are to be told apart, such as sex, age, view, site: kept with each image.
        split_by: image: even if images of one patient may come into train and into test.
        val_fraction: Of the patients or images in train, where the table has no val; 0 for none.
        test_fraction: Likewise.
        xray_size: The images are X-rays: store the central square as grey of this many pixels a side, e.g. 256. None
            stores photographs as they are; DICOM files cannot be, and are stored at 256.
        laterals: drop: leave out lateral views, which only DICOM files tell.
        shorter_side: Photographs whose shorter side is above this many pixels, e.g. 512, are shrunk to it by an area
            filter: JPEG files to JPEG of quality 95, others to PNG. Smaller ones stay as they are without it: byte for
            byte, but for those that are turned to lie as viewers show them.
        horizontal_flip: Whether a mirrored image still shows the same.
        study_date: Keep this much of the StudyDate of DICOM headers, for results over time; without it, none leaves
            the files. The month, 2023-01, tells less of a patient than the day.
        literal_nan: Take words such as nan, None, NULL, NA or - as they stand, for a class, a patient or a fact of that
            name, instead of refusing them as values that are missing; likewise ANONYMOUS and the like for a patient.
    """
    choices = Choices(val_fraction, test_fraction, split_by, xray_size, laterals, shorter_side, study_date)
    _require_root(root)
    if (label_column is None) == (not label_columns):
        raise InputError("pass either --label-column NAME (one class) or --label-columns NAME NAME ... (findings)")
    label, patient, split = (name and text_of(name) for name in (label_column, patient_column, split_column))
    findings, facts = ([text_of(name) for name in names] for names in (label_columns, fact_columns))
    columns = _Columns(text_of(path_column), label, findings, patient, split, facts)
    columns.require_apart()
    content = read_table(table, columns.asked(), option="--table", listed=[*findings, *facts])
    _require_names(content, label, patient, facts, literal_nan)
    files = Listing(root)
    samples, classes = _samples(content, columns, files)
    return user_set(
        samples,
        choices,
        has_patients=patient is not None,
        notes=[*files.notes(table), *class_name_notes(classes), *fact_notes(content, facts)],
        name=text_of(table.stem),
        task="multi_label" if findings else "single_label",
        classes=tuple(classes),
        source=_SOURCE.format(f"images that {text_of(table.name)} names"),
        horizontal_flip=horizontal_flip,
    )


def image_folder(
    root: Path,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_by: SplitBy = "patient",
    xray_size: int | None = None,
    laterals: Laterals = "keep",
    shorter_side: int | None = None,
    horizontal_flip: bool = True,
    study_date: StudyDate | None = None,
    split_folders: bool = True,
) -> RawSet:
    """Class folders of your own photographs, X-rays or DICOM.

    They are ROOT/<class>/... or ROOT/{train,val,test}/<class>/... Contents tell which files are pictures; hidden files
    are left out, links are followed, and what is left out is counted. Splits may also be called training, valid,
    validation, dev or testing, in small or capital letters.

    A val or test split that the folder does not have is carved out of train by a hash of each file's path, or of its
    patient, which only DICOM files name: the split is the same everywhere and stays when files are added. X-rays
    without patients need --split-by image; to name their patients, use the reader csv.
    Raises InputError for a missing root, a class folder without images, a test class that train does not have, or
    folders beside those of splits.

    Args:
        root: Folder of the class folders, or of train, val and test.
        val_fraction: Of the patients or images in train, where there is not a folder val; 0 for none.
        test_fraction: Likewise.
        split_by: image: even if images of one patient may come into train and into test.
        xray_size: The images are X-rays: store the central square as grey of this many pixels a side, e.g. 256. None
            stores photographs as they are; DICOM files cannot be, and are stored at 256.
        laterals: drop: leave out lateral views, which only DICOM files tell.
        shorter_side: Photographs whose shorter side is above this many pixels, e.g. 512, are shrunk to it by an area
            filter: JPEG files to JPEG of quality 95, others to PNG. Smaller ones stay as they are without it: byte for
            byte, but for those that are turned to lie as viewers show them.
        horizontal_flip: Whether a mirrored image still shows the same.
        study_date: Keep this much of the StudyDate of DICOM headers, for results over time; without it, none leaves
            the files. The month, 2023-01, tells less of a patient than the day.
        split_folders: Whether folders that are called train, val or test are splits; without, they are classes.
    """
    choices = Choices(val_fraction, test_fraction, split_by, xray_size, laterals, shorter_side, study_date)
    _require_root(root)
    tree = scan_for_classes(root, split_folders)
    found = class_folders(root, tree, split_folders, are_xrays=xray_size is not None)
    name = text_of(root.resolve().name)
    return user_set(
        [Sample(file.name, file.path, label, split, format=file.format) for file, label, split in found.files],
        choices,
        has_patients=False,
        notes=found.notes,
        name=name,
        task="single_label",
        classes=found.classes,
        source=_SOURCE.format(f"class folders under {name}"),
        horizontal_flip=horizontal_flip,
        left_out=found.left_out,
    )


def _samples(table: Table, columns: _Columns, files: Listing) -> tuple[list[Sample], list[str]]:
    """A sample for each row, and the classes or findings."""
    names = _names(table, columns.path, files)
    paths = _paths(table, columns.path, names, files)
    splits = _given_splits(table, columns.split)
    if columns.findings:
        labels, classes = _findings(table, columns.findings)
    else:
        labels, classes = _classes(table, str(columns.label), splits)
    patients = [cell or None for cell in table.cells[columns.patient]] if columns.patient else [None] * len(names)
    rows = zip(names, paths, labels, splits, patients, _facts(table, columns.facts), strict=True)
    return [Sample(*row) for row in rows], classes


def _require_root(root: Path) -> None:
    if not root.is_dir():
        raise InputError(f"--root {root} is not a folder")


def _require_names(
    table: Table, label: str | None, patient: str | None, facts: Sequence[str], literal_nan: bool
) -> None:
    """Raise InputError for invalid names of classes, patients or facts, and for names that differ between rows."""
    blank = "leave it blank where that is not known"
    remedies = [(label, "fill it, or leave the image out"), (patient, blank), *((fact, blank) for fact in facts)]
    for column, remedy in remedies:
        if column is None:
            continue
        table.require_text(column)
        if not literal_nan:
            table.require_stated(column, remedy)
            if column == patient:
                table.require_named_patients(column, remedy)
        if column in (label, patient):
            table.require_one_spelling(column)


def _names(table: Table, column: str, files: Listing) -> list[str]:
    """The paths, normalised and relative to the root."""
    roots = {f"{text_of(path)}/" for path in (files.root.absolute(), files.root.resolve())}
    names = []
    for row, cell in enumerate(table.cells[column]):
        name = posixpath.normpath(files.with_slashes(cell))
        name = next((name[len(start) :] for start in roots if name.startswith(start)), name)
        if not cell or name == "." or name.startswith("/") or name.split("/")[0] == ".." or _ON_WINDOWS.match(name):
            raise InputError(f"{table.at(row)}: {cell!r} is not a path below --root; make it relative to that folder")
        names.append(name)
    return names


def _paths(table: Table, column: str, names: Sequence[str], files: Listing) -> list[Path]:
    """The file of each name; a few may be missing, which the quarantine lists later."""
    found = [files.path(name) for name in names]
    missing = [row for row, path in enumerate(found) if path is None]
    table.require_text(column, missing)
    literal = [files.root / path_of(name) for name in names]
    remedy = f"{table.path} names paths relative to --root {files.root}: is it the right one?"
    if missing and (whole := files.with_suffix(names[missing[0]])):
        remedy = f"a path in {table.path} must end as its file does: is {whole!r} meant?"
    require_present([literal[row] for row in missing], len(names), remedy)
    lines: dict[Path, int] = {}
    paths = [path or other for path, other in zip(found, literal, strict=True)]
    for row, path in enumerate(paths):
        if path in lines:
            raise InputError(f"{table.at(row)} names {names[row]} again, after line {lines[path]}; keep one of them")
        lines[path] = table.lines[row]
    return paths


def _classes(table: Table, column: str, splits: Sequence[Split]) -> tuple[Sequence[Label], list[str]]:
    cells = table.cells[column]
    if "" in cells:
        raise InputError(f"{table.at(cells.index(''))} has no {column!r}; fill it, or leave the image out")
    classes = sorted({cell for cell, split in zip(cells, splits, strict=True) if split == "train"})
    numbers = {name: number for number, name in enumerate(classes)}
    for row, cell in enumerate(cells):
        if cell not in numbers:
            remedy = near_one(cell, classes) or "; add images of it there"
            raise InputError(f"{table.at(row)}: the train split has no {column!r} {cell!r}{remedy}")
    return [numbers[cell] for cell in cells], classes


def _findings(table: Table, columns: Sequence[str]) -> tuple[Sequence[Label], list[str]]:
    if len(set(columns)) < len(columns):
        raise InputError(f"--label-columns names a column twice: {' '.join(columns)}")
    classes = sorted(columns)
    labels = np.empty((len(table.lines), len(classes)), dtype=np.float32)
    for number, name in enumerate(classes):
        for row, cell in enumerate(table.cells[name]):
            try:
                labels[row, number] = _FINDINGS[float(cell or -1)]
            except (ValueError, KeyError):
                raise InputError(
                    f"{table.at(row)}: {name!r} is {cell!r}; it must be 1, 0, or blank or -1 for unlabelled"
                ) from None
    return list(labels), classes


def _facts(table: Table, columns: Sequence[str]) -> list[dict[str, str]]:
    return [{name: table.cells[name][row] for name in columns} for row in range(len(table.lines))]


def _given_splits(table: Table, column: str | None) -> list[Split]:
    if column is None:
        return ["train"] * len(table.lines)
    cells = table.cells[column]
    splits = [split for split in map(split_of, cells) if split]
    unknown = sorted({cell for cell in cells if split_of(cell) is None})
    if unknown:
        others = f" (also: {', '.join(map(repr, unknown[1:6]))})" if unknown[1:] else ""
        raise InputError(
            f"{table.at(cells.index(unknown[0]))}: {column!r} is {unknown[0]!r}{others}; it must be one of "
            f"{', '.join(SPLIT_NAMES)}"
        )
    if "train" not in splits:
        raise InputError(f"{table.path}: no row has {column!r} = train")
    return splits
