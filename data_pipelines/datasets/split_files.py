"""Files of many images each, whose folders or names say their split; and a file of class names."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial as bind
from itertools import islice
from pathlib import Path
from typing import Literal

from data_pipelines.common.errors import InputError
from data_pipelines.common.path_text import text_of
from data_pipelines.common.raw_set import Member, RawImage, RawSet, Repeatable, key_of
from data_pipelines.common.splits import Split, hash_split
from data_pipelines.datasets.reading import split_of, splits_in
from data_pipelines.datasets.similar_names import class_name_notes
from data_pipelines.image_files.folder_scan import Found, Scan, left_out_as, scan


@dataclass(frozen=True)
class SplitFile:
    """name: below the root, without its suffix; split: None where nothing says it."""

    path: Path
    name: str
    split: Split | None


@dataclass(frozen=True)
class FileImages:
    """The images of files that hold many, in order. carved: the fractions of train that become val and test; read: name
    within its file, image and class number of each image of a file."""

    files: Sequence[SplitFile]
    carved: tuple[float, float]
    read: Callable[[SplitFile], Iterator[tuple[str, Member | bytes, int]]]

    def has_own(self, split: Literal["val", "test"]) -> bool:
        """Whether that split is what files say, not carved."""
        return not self.carved[split == "test"] and any(file.split == split for file in self.files)

    def all(self) -> Iterator[RawImage]:
        """Every image."""
        return self._of(self.files)

    def part(self, number: int, parts: int) -> Iterator[RawImage]:
        """One of so many parts: whole files, unless there are fewer files."""
        if parts <= len(self.files):
            return self._of(self.files[number::parts])
        return islice(self.all(), number, None, parts)

    def _of(self, files: Sequence[SplitFile]) -> Iterator[RawImage]:
        for file in files:
            for name, image, number in self.read(file):
                key = key_of(f"{file.name}/{name}")
                split = hash_split(key, *self.carved) if file.split in (None, "train") else file.split
                yield RawImage(key, split, image, number)


def photographs(
    root: Path,
    images: FileImages,
    classes: tuple[str, ...],
    num_images: int | None,
    kind: str,
    left_out: Counter[str],
    notes: Sequence[str] = (),
) -> RawSet:
    """The set of a user's files of photographs with one label each. kind: what the files are called."""
    name = text_of(root.resolve().name)
    return RawSet(
        name=name,
        task="single_label",
        classes=classes,
        images=Repeatable(images.all),
        num_images=num_images,
        source=f"{kind} under {name}; licence as of the original",
        num_bytes=sum(file.path.stat().st_size for file in images.files),
        part=lambda number, parts: Repeatable(bind(images.part, number, parts)),
        notes=(*notes, *class_name_notes(classes)),
        is_user_set=True,
        upright=True,
        left_out=left_out,
        has_own_test=images.has_own("test"),
        has_own_val=images.has_own("val"),
    )


def fractions_to_carve(splits: Collection[Split | None], val: float, test: float) -> tuple[float, float]:
    """The fractions of train that become val and test, 0 for a split that files are given for."""
    return (0.0 if "val" in splits else val, 0.0 if "test" in splits else test)


def scan_root(root: Path, suffixes: Sequence[str]) -> Scan:
    """The folder with files of these suffixes in it. Raises InputError if there is no such folder."""
    if not root.is_dir():
        raise InputError(f"--root {root} is not a folder")
    return scan(root, also=suffixes)


def split_files(root: Path, tree: Scan, suffix: str, any_folder: bool = False) -> tuple[list[SplitFile], Counter[str]]:
    """The files of this suffix, in the order in which they are read, and what lies beside them. any_folder: a split may
    be said by any folder above a file, in a word of its name, instead of by the first folder alone.

    Raises InputError if there is none, if only some say their split, or if none is of train.
    """
    files = [file for file in tree.files if file.name.lower().endswith(suffix)]
    if not files:
        raise InputError(f"{root} holds no *{suffix}, in itself or in folders")
    left_out = tree.left_out_below()
    left_out.update(left_out_as(file.name) for file in tree.files if not file.name.lower().endswith(suffix))
    found = sorted((_split_file(file, suffix, any_folder) for file in files), key=_place)
    unmarked = [file.path for file in found if file.split is None]
    if unmarked and len(unmarked) < len(found):
        raise InputError(
            f"{unmarked[0]} names no split, others do; put train, val or test into the name of each {suffix[1:]}"
        )
    if not unmarked and all(file.split != "train" for file in found):
        raise InputError(f"{root} has {suffix[1:]}s of val or test, but none of train beside them")
    return found, left_out


def class_names(path: Path) -> tuple[str, ...]:
    """The lines of `--classes-file`. Raises InputError unless each names another class."""
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes-file {path} cannot be read: {error}; it must be UTF-8 text") from error
    names = tuple(name.strip() for name in (names[:-1] if names[-1] == "" else names))
    if "" in names or len(set(names)) < len(names) or not names:
        raise InputError(f"--classes-file {path} must name one class on each line, each once, without empty lines")
    return names


def _split_file(file: Found, suffix: str, any_folder: bool) -> SplitFile:
    *folders, name = file.name.split("/")
    split = split_of(folders[0]) if folders else None
    for words in (name[: -len(suffix)], *(reversed(folders) if any_folder else ())):
        named = splits_in(words)
        if split is None and len(named) > 1:
            raise InputError(f"{file.path} names several splits; put it into a folder train, val or test")
        split = split or next(iter(named), None)
    return SplitFile(file.path, file.name[: -len(suffix)], split)


def _place(file: SplitFile) -> tuple[bool, int, list[str]]:
    """Files of the folder itself come first, then those in others: train, val, test."""
    parts = file.name.split("/")
    order = ("train", "val", "test", None).index(file.split) if len(parts) > 1 else 0
    return len(parts) > 1, order, parts
