"""Class folders: class and split of each image by folder name."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import counted, some_of
from data_pipelines.common.path_text import path_of
from data_pipelines.common.splits import Split
from data_pipelines.datasets.reading import split_of, splits_in
from data_pipelines.datasets.similar_names import class_name_notes, near_one
from data_pipelines.datasets.table import is_missing
from data_pipelines.image_files.folder_scan import Found, Scan, scan

_AS_CLASSES = "--no-split-folders"
_BESIDE = "pictures beside the class folders"
_NAMED = 5  # files or folders in a message


@dataclass(frozen=True)
class ClassFolders:
    """files: sorted by split, class and name, each with its class number; left_out: number of files by reason."""

    classes: tuple[str, ...]
    files: list[tuple[Found, int, Split]]
    notes: list[str]
    left_out: Counter[str]


def scan_for_classes(root: Path, split_folders: bool) -> Scan:
    """What lies below `root`. A folder that links lead to as well is taken once in each class."""
    return scan(root, once_in=lambda folder: class_of(folder, split_folders))


def class_folders(root: Path, tree: Scan, has_splits: bool, are_xrays: bool) -> ClassFolders:
    """The class folders in `tree`, the scan of `root`: ROOT/<class>/... or, if has_splits and folders have such names,
    ROOT/<split>/<class>/... Notes do not name X-ray files, which may be named after patients.

    Raises InputError for ambiguous folders, classes without images, and classes that train does not have.
    """
    splits = _split_folders(root, tree) if has_splits else {}
    splits = splits or {"train": ""}
    classes = {split: _below(tree, folder) for split, folder in splits.items()}
    pictures: dict[str, list[Found]] = {}  # by the folder of the class
    beside: list[Found] = []
    folders = {_joined(splits[split], name) for split, names in classes.items() for name in names}
    depth = 2 if splits["train"] else 1
    for file in tree.files:
        folder = "/".join(file.name.split("/")[:depth])
        if folder in folders:
            pictures.setdefault(folder, []).append(file)
        else:
            beside.append(file)
    numbers = {name: number for number, name in enumerate(classes["train"])}
    files = []
    for split, folder in splits.items():
        if not classes[split]:
            raise InputError(_no_classes(root, folder, split, _directly_in(beside, folder)))
        for name in classes[split]:
            if name not in numbers:
                raise InputError(_new_class(root / path_of(_joined(folder, name)), name, split, numbers))
            found = pictures.get(_joined(folder, name), [])
            if not found:
                raise InputError(_no_pictures(root, tree, _joined(folder, name)))
            files += [(file, numbers[name], split) for file in found]
    left_out = tree.left_out_below()
    left_out.update({_BESIDE: len(beside)} if beside else {})
    are_xrays = are_xrays or any(file.is_dicom for file in tree.files)
    notes = [
        *_beside_notes([] if are_xrays else beside, len(beside)),
        *class_name_notes(list(numbers)),
        *_missing_notes(list(numbers)),
        *_wrapper_notes(tree, list(numbers)),
    ]
    return ClassFolders(tuple(numbers), files, notes, left_out)


def class_of(folder: str, has_splits: bool) -> str:
    """The class folder, with its split folder, that contains the folder of this name or is it."""
    parts = folder.split("/")
    return "/".join(parts[: 2 if has_splits and split_of(parts[0]) else 1])


def _split_folders(root: Path, tree: Scan) -> dict[Split, str]:
    """The folder of each split, train first; none if the folders are classes."""
    tops = _below(tree, "")
    splits: dict[Split, str] = {}
    for name in tops:
        split = split_of(name)
        if split and split in splits:
            raise InputError(
                f"{root / path_of(splits[split])} and {root / path_of(name)} are both the {split} split; keep one"
            )
        if split:
            splits[split] = name
    others = [name for name in tops if split_of(name) is None]
    if not splits:
        _require_classes(root, tree, tops)
        return {}
    ordered = {split: splits[split] for split in ("train", "val", "test") if split in splits}
    if others:
        raise InputError(
            f"{root} has folders named like splits ({', '.join(ordered.values())}) beside others ({_listed(others)}); "
            f"if all are classes, give {_AS_CLASSES}; if the former are splits, move the others out of {root}"
        )
    if "train" not in ordered:
        found = ", ".join(ordered.values())
        raise InputError(f"{root} has {found}, but no folder train beside it; if all are classes, give {_AS_CLASSES}")
    return ordered


def _require_classes(root: Path, tree: Scan, tops: Sequence[str]) -> None:
    """Raise InputError for folders that look like splits, and if the root should be one level further down."""
    if len(tops) == 1 and "train" in map(split_of, _below(tree, tops[0])):
        inner = root / path_of(tops[0])
        raise InputError(
            f"{root} has the one folder {tops[0]}, and this has folders of splits; give "
            f"--root {shlex.quote(str(inner))}, or {_AS_CLASSES} if there is one class"
        )
    named = {name: splits_in(name) for name in tops}
    holding = {file.name.split("/")[0] for file in tree.files if file.name.count("/") == 1}
    suspects = [name for name, splits in named.items() if splits and name not in holding and _below(tree, name)]
    if len(set().union(*(named[name] for name in suspects))) > 1:
        raise InputError(
            f"{root} has {_listed(suspects)}, which hold folders and may be splits; if they are, name them train, val "
            f"and test; if they are classes, give {_AS_CLASSES}"
        )
    _refuse_splits_of_classes(root, tree, tops)


def _refuse_splits_of_classes(root: Path, tree: Scan, tops: Sequence[str]) -> None:
    """Raise InputError if several classes contain splits, as ROOT/<class>/{train,test}."""
    inner = {name: [below for below in _below(tree, name) if split_of(below)] for name in tops}
    parted = [(name, below) for name, found in inner.items() for below in found]
    if sum(map(bool, inner.values())) < 2 or len({split_of(below) for _, below in parted}) < 2:
        return
    name, below = parted[0]
    raise InputError(
        f"{root} has classes with folders named like splits ({_listed(list(map('/'.join, parted)))}); if they are, put "
        f"the classes into them, as in {root / path_of(f'{below}/{name}')}; to mix them, give {_AS_CLASSES}"
    )


def _below(tree: Scan, folder: str) -> list[str]:
    """The names of the subfolders of a folder."""
    start = f"{folder}/" if folder else ""
    inner = [name[len(start) :] for name in tree.folders if name.startswith(start)]
    return sorted(name for name in inner if "/" not in name)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _directly_in(files: Sequence[Found], folder: str) -> int:
    return sum(file.name.rpartition("/")[0] == folder for file in files)


def _listed(names: Sequence[str]) -> str:
    return some_of(names, _NAMED)


def _no_classes(root: Path, name: str, split: Split, num_pictures: int) -> str:
    folder = root / path_of(name)
    holds = f"no class folders, but {num_pictures:,} pictures" if num_pictures else "no class folders"
    carves = f"; else move it out of {root}, and a {split} split is carved out of train"
    carves += "; pictures without a class are for predict" if num_pictures else ""
    remedy = "" if split == "train" else carves
    return f"{folder} has {holds}: expected {folder}/<class>/<image>.jpg|png|dcm{remedy}"


def _new_class(folder: Path, name: str, split: Split, classes: Iterable[str]) -> str:
    remedy = near_one(name, classes) or f"; add pictures of it there, or move it out of {split}"
    return f"{folder}: the train split has no class {name!r}{remedy}"


def _no_pictures(root: Path, tree: Scan, folder: str) -> str:
    others = tree.left_out_below(folder)
    holds = f"no image, but others: {counted(others)}" if others else "no image"
    return f"{root / path_of(folder)} holds {holds}; remove or fill it"


def _beside_notes(named: Sequence[Found], count: int) -> list[str]:
    names = f": {_listed([file.name for file in named])}" if named else ""
    note = f"{count:,} pictures lie beside the class folders, belong to no class and are left out{names}"
    return [note] if count else []


def _missing_notes(classes: Sequence[str]) -> list[str]:
    return [f"the folder {name!r} is taken for a class of that name" for name in classes if is_missing(name)]


def _wrapper_notes(tree: Scan, classes: Sequence[str]) -> list[str]:
    """Note on a single folder around what may be the class folders, as archives often have it."""
    inner = _below(tree, classes[0]) if len(classes) == 1 else []
    if len(inner) < 2 or any(file.name.rpartition("/")[0] == classes[0] for file in tree.files):
        return []
    return [f"the one folder {classes[0]} holds {_listed(inner)}; if those are the classes, give it as --root"]
