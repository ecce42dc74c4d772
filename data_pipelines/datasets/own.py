"""Readers of one's own images, photographs or X-rays: a table that names them, or class folders."""

import csv
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipelines.datasets.patients import IMAGE_SUFFIXES, Choices, Laterals, Sample, SplitBy, own_set
from data_pipelines.datasets.raw import RawSet
from data_pipelines.datasets.reading import SPLIT_NAMES, require_files
from data_pipelines.dicom import DICOM_SUFFIXES
from data_pipelines.errors import InputError
from data_pipelines.index import Split, Task, nearest

Label = int | npt.NDArray[np.float32]

_FINDINGS = {0.0: 0.0, 1.0: 1.0, -1.0: float("nan")}
_SOURCE = "{}; licence as of the original"


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
) -> RawSet:
    """Your own images, named by a CSV file: a row for each image, with its path below ROOT, and either one class
    (--label-column) or several findings (--label-columns). Photographs, X-rays as JPEG or PNG (--xray-size), DICOM.

    A val or test split that the table does not have is carved out of train by a hash of each patient, else of each
    path, so that it is the same everywhere and stays when images are added. X-rays and DICOM need to name their
    patients, so that none is in two splits.

    Args:
        root: Folder that the paths are relative to.
        table: The CSV file: UTF-8, commas, names of the columns in the first row.
        path_column: Paths, relative to --root.
        label_column: Class of each image, as text.
        label_columns: Findings: 1, 0, or blank or -1 for unlabelled.
        patient_column: Patient of each image; without it, PatientID of DICOM files.
        split_column: train, val or test for each image; without it, splits are carved.
        fact_columns: By what results are to be told apart, such as sex, age, view, site: kept with each image.
        split_by: image: even if images of one patient may come into train and into test.
        val_fraction: Of the patients or images in train, where the table has no val; 0 for none.
        test_fraction: Likewise.
        xray_size: The images are X-rays: store the central square as grey of this many pixels a side, e.g. 256. None
            stores photographs as they are; DICOM files cannot be, and are stored at 256.
        laterals: drop: leave out lateral views, which only DICOM files tell.
        shorter_side: Photographs whose shorter side is above this many pixels, e.g. 512, are shrunk to it by an area
            filter: JPEG files to JPEG of quality 95, others to PNG. Smaller ones stay byte for byte.
        horizontal_flip: Whether a mirrored image still shows the same.
    """
    choices = Choices(val_fraction, test_fraction, split_by, xray_size, laterals, shorter_side)
    _require_root(root)
    if (label_column is None) == (not label_columns):
        raise InputError("pass either --label-column NAME (one class) or --label-columns NAME NAME ... (findings)")
    optional = [
        name for name in (label_column, *label_columns, patient_column, split_column, *fact_columns) if name is not None
    ]
    content = _read_table(table, [path_column, *optional])
    names = _names(content, path_column)
    task: Task = "multi_label" if label_columns else "single_label"
    splits = _given_splits(content, split_column)
    labels, classes = (
        _findings(content, label_columns) if label_columns else _classes(content, str(label_column), splits)
    )
    patients = [cell or None for cell in content.cells[patient_column]] if patient_column else [None] * len(names)
    require_files(
        [root / name for name in names], f"{table} names paths relative to --root {root}: is it the right one?"
    )
    return own_set(
        root,
        [Sample(*row) for row in zip(names, labels, splits, patients, _facts(content, fact_columns), strict=True)],
        choices,
        has_patients=patient_column is not None,
        name=table.stem,
        task=task,
        classes=tuple(classes),
        source=_SOURCE.format(f"images that {table.name} names"),
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
) -> RawSet:
    """Class folders, either ROOT/<class>/... or ROOT/{train,val,test}/<class>/... of photographs, X-rays or DICOM.

    A val or test split that the folder does not have is carved out of train by a hash of each file's path, or of its
    patient, which only DICOM files (.dcm, .dicom) name: the split is the same everywhere and stays when files are
    added. X-rays without patients need --split-by image; to name their patients, use the reader csv.
    Raises InputError for a missing root, a class folder without images, or a test class that train does not have.

    Args:
        root: Folder of the class folders, or of train, val and test.
        val_fraction: Of the patients or images in train, where there is no folder val; 0 for none.
        test_fraction: Likewise.
        split_by: image: even if images of one patient may come into train and into test.
        xray_size: The images are X-rays: store the central square as grey of this many pixels a side, e.g. 256. None
            stores photographs as they are; DICOM files cannot be, and are stored at 256.
        laterals: drop: leave out lateral views, which only DICOM files tell.
        shorter_side: Photographs whose shorter side is above this many pixels, e.g. 512, are shrunk to it by an area
            filter: JPEG files to JPEG of quality 95, others to PNG. Smaller ones stay byte for byte.
        horizontal_flip: Whether a mirrored image still shows the same.
    """
    choices = Choices(val_fraction, test_fraction, split_by, xray_size, laterals, shorter_side)
    _require_root(root)
    folders = _split_folders(root)
    classes = _class_folders(folders["train"])
    samples = [
        Sample(path.relative_to(root).as_posix(), label, split)
        for split, folder in folders.items()
        for path, label in _labelled_files(folder, classes)
    ]
    return own_set(
        root,
        samples,
        choices,
        has_patients=False,
        name=root.resolve().name,
        task="single_label",
        classes=tuple(classes),
        source=_SOURCE.format(f"class folders under {root.resolve().name}"),
        horizontal_flip=horizontal_flip,
    )


def _require_root(root: Path) -> None:
    if not root.is_dir():
        raise InputError(f"--root {root} is no folder")


@dataclass(frozen=True)
class _Table:
    """Some columns of a CSV file: the cells of each, stripped, and the lines of the file that they stand in."""

    path: Path
    cells: dict[str, list[str]]
    lines: list[int]

    def at(self, row: int) -> str:
        return f"{self.path} line {self.lines[row]}"


def _read_table(path: Path, columns: Sequence[str]) -> _Table:
    cells: dict[str, list[str]] = {name: [] for name in columns}
    lines = []
    if not path.is_file():
        raise InputError(f"--table {path} is no file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            place = {name: _place(path, name, header) for name in cells}
            for row in filter(None, rows):
                if len(row) != len(header):
                    raise InputError(f"{path} line {rows.line_num} has {len(row)} cells, the first has {len(header)}")
                lines.append(rows.line_num)
                for name, column in place.items():
                    cells[name].append(row[column].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"--table {path} cannot be read as CSV ({error}); it must be UTF-8 text with commas"
        ) from error
    if not lines:
        raise InputError(f"--table {path} has no rows; it needs one for each image")
    return _Table(path, cells, lines)


def _place(path: Path, name: str, header: list[str]) -> int:
    if header.count(name) == 1:
        return header.index(name)
    if not header:
        raise InputError(f"--table {path} is empty; its first row must name the columns")
    fault = f"two columns {name!r}; rename one" if name in header else f"no column {name!r}{nearest(name, header)}"
    raise InputError(f"--table {path} has {fault}")


def _names(table: _Table, column: str) -> list[str]:
    """The paths, normalised."""
    rows: dict[str, int] = {}
    for row, cell in enumerate(table.cells[column]):
        name = posixpath.normpath(cell)
        if not cell or name == "." or name.startswith("/") or name.split("/")[0] == "..":
            raise InputError(f"{table.at(row)}: {cell!r} is no path below --root; make it relative to that folder")
        if name in rows:
            raise InputError(
                f"{table.at(row)} names {name} again, after line {table.lines[rows[name]]}; keep one of them"
            )
        rows[name] = row
    return list(rows)


def _classes(table: _Table, column: str, splits: Sequence[Split]) -> tuple[Sequence[Label], list[str]]:
    cells = table.cells[column]
    if "" in cells:
        raise InputError(f"{table.at(cells.index(''))} has no {column!r}; fill it, or leave the image out")
    classes = sorted({cell for cell, split in zip(cells, splits, strict=True) if split == "train"})
    numbers = {name: number for number, name in enumerate(classes)}
    for row, cell in enumerate(cells):
        if cell not in numbers:
            raise InputError(f"{table.at(row)}: the train split has no {column!r} {cell!r}")
    return [numbers[cell] for cell in cells], classes


def _findings(table: _Table, columns: Sequence[str]) -> tuple[Sequence[Label], list[str]]:
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


def _facts(table: _Table, columns: Sequence[str]) -> list[dict[str, str]]:
    return [{name: table.cells[name][row] for name in columns} for row in range(len(table.lines))]


def _given_splits(table: _Table, column: str | None) -> list[Split]:
    if column is None:
        return ["train"] * len(table.lines)
    cells = [cell.lower() for cell in table.cells[column]]
    unknown = sorted(set(cells) - SPLIT_NAMES.keys())
    if unknown:
        found = f"{column!r} is {unknown[0]!r}"
        others = f" (also: {', '.join(map(repr, unknown[1:6]))})" if unknown[1:] else ""
        raise InputError(
            f"{table.at(cells.index(unknown[0]))}: {found}{others}; it must be one of {', '.join(SPLIT_NAMES)}"
        )
    if "train" not in cells:
        raise InputError(f"{table.path}: no row has {column!r} = train")
    return [SPLIT_NAMES[cell] for cell in cells]


def _split_folders(root: Path) -> dict[Split, Path]:
    folders: dict[Split, Path] = {}
    for name, split in SPLIT_NAMES.items():
        if (root / name).is_dir():
            if split in folders:
                raise InputError(f"{folders[split]} and {root / name} are both the {split} split; keep one")
            folders[split] = root / name
    if folders and "train" not in folders:
        raise InputError(f"{root} has {', '.join(f.name for f in folders.values())}, but no folder train beside it")
    return folders or {"train": root}


def _class_folders(folder: Path) -> list[str]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise InputError(f"{folder} has no class folders: expected {folder}/<class>/<image>.jpg|png|dcm")
    return classes


def _labelled_files(folder: Path, classes: list[str]) -> Iterator[tuple[Path, int]]:
    suffixes = IMAGE_SUFFIXES | DICOM_SUFFIXES
    for name in _class_folders(folder):
        if name not in classes:
            raise InputError(f"{folder / name}: the train split has no class {name!r}")
        paths = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in suffixes)
        if not paths:
            raise InputError(f"{folder / name} holds no image ({', '.join(sorted(suffixes))}); remove or fill it")
        yield from ((path, classes.index(name)) for path in paths)
