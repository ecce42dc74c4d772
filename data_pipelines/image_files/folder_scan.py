"""Scan of a user's image folder: which files are taken, and counts of those left out."""

import errno
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import MANIFEST, read_manifest
from data_pipelines.common.path_text import text_of
from data_pipelines.common.progress import Progress
from data_pipelines.image_files.dicom import DICOM_SUFFIXES
from data_pipelines.image_files.file_formats import HEAD_BYTES, Format, format_of
from data_pipelines.image_files.frames import why_not_one
from data_pipelines.image_files.suffixes import (
    COPIES,
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    RAW_FILES,
    SURE_SUFFIXES,
    TEXTS,
)

_COMMON_SUFFIXES = IMAGE_SUFFIXES | TEXTS | COPIES | RAW_FILES | OTHER_SUFFIXES
_LEFTOVERS = {
    "__macosx", "__pycache__", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot",
    "lost+found", "system volume information", "$recycle.bin", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db",
    "desktop.ini", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder", "dicomdir",
}  # fmt: skip

HIDDEN_FILES, _HIDDEN_FOLDERS = "hidden files", "hidden folders"
_NO_SUFFIX = "files without a suffix that are not pictures"
_OTHERS = "other files"
_HEIC = "HEIC pictures (pip install pillow-heif, and they are read)"
_SUFFIX = re.compile(r"\.(?=[0-9_~+-]*[a-z])[a-z0-9_~+-]{1,12}")  # what comes behind a dot may be a date or an UID
_Id = tuple[int, int]  # device and inode
_DEAD = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_SETS = "prepared sets"
_UNFINISHED = re.compile(r"\..+\.(partial|replaced)", re.DOTALL)  # beside a set that is made or replaced
BLOCK = 4096  # files asked for at once: bounds the memory
_THREADS = 16  # looking at files mostly waits for the file system


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or was left by a file manager, a notebook, a NAS or an editor;
    for a path in a tar, any part of it."""
    return any(_is_hidden(part) for part in name.split("/"))


def _is_hidden(name: str) -> bool:
    if name in ("", ".", ".."):
        return False
    is_backup = name.endswith("~") or name.startswith("~$") or (name[0] == name[-1] == "#" and len(name) > 2)
    return name.startswith(".") or is_backup or name.lower() in _LEFTOVERS


def suffix_of(name: str) -> str:
    """The suffix in lower case, with its dot; "" if what follows the last dot is not a suffix."""
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    suffix = f".{suffix.lower()}"
    return suffix if stem and _SUFFIX.fullmatch(suffix) else ""


def is_taken_by_name(name: str) -> bool | None:
    """Whether a file is taken, by its name; None if its contents must decide."""
    suffix = suffix_of(name)
    if suffix in SURE_SUFFIXES:
        return True
    return False if suffix in TEXTS | COPIES | RAW_FILES else None


def left_out_as(name: str) -> str:
    """The reason under which a file that is left out is counted: never text from its name, which may name a patient."""
    suffix = suffix_of(name)
    return suffix if suffix in _COMMON_SUFFIXES else _OTHERS if suffix else _NO_SUFFIX


def look(file: IO[bytes], name: str, whole: bool = True) -> tuple[Format | None, str]:
    """The format of a seekable file, None if it is damaged, and the reason why it is left out, "" if it is taken.

    whole: read as much as it takes to count its frames, else its first bytes only.
    """
    found = format_of(file.read(HEAD_BYTES))
    if found is None:
        return None, "" if suffix_of(name) in IMAGE_SUFFIXES else left_out_as(name)
    if found == "heic" and find_spec("pillow_heif") is None:
        return found, _HEIC
    return found, (why_not_one(file, found) or "") if whole else ""


@dataclass(frozen=True)
class Found:
    """A file that is taken. name: below the folder, as text; format: None if not examined, or if the file is
    damaged."""

    name: str
    path: Path
    format: Format | None = None

    @property
    def is_dicom(self) -> bool:
        """By its contents or by its suffix."""
        return self.format == "dicom" or suffix_of(self.name) in DICOM_SUFFIXES


@dataclass(frozen=True)
class Scan:
    """Contents of a folder, in the order of names. folders: all subfolders, including empty ones. left_out: counts by
    folder, "" for the root, without those of its subfolders."""

    files: list[Found] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)

    def left_out_below(self, folder: str = "") -> Counter[str]:
        """What is left out in a folder and its subfolders, by reason."""
        total: Counter[str] = Counter()
        for name, counts in self.left_out.items():
            if not folder or name == folder or name.startswith(f"{folder}/"):
                total.update(counts)
        return total


def scan(
    root: Path,
    also: Iterable[str] = (),
    takes_sets: bool = False,
    once_in: Callable[[str], str] = lambda name: "",
) -> Scan:
    """The pictures and DICOM files below a folder, and in folders that links lead to, unless they lead to one above.

    also: other suffixes to take; takes_sets: go into prepared sets, too. once_in: of the name of a folder, the one
    below which no folder is taken twice, however many links lead to it.
    Raises InputError for a folder that cannot be read.
    """
    also = frozenset(also)
    found = _Walk(takes_sets, once_in).below(root)
    found.files.sort(key=lambda file: file.name.split("/"))
    found.folders.sort(key=lambda name: name.split("/"))
    fates = {file.name: True if suffix_of(file.name) in also else is_taken_by_name(file.name) for file in found.files}
    open_ones = [file for file in found.files if fates[file.name] is None]
    seen = dict(zip((file.name for file in open_ones), _looked_at(open_ones), strict=True))
    taken = []
    for file in found.files:
        name, words = seen.get(file.name, (None, "" if fates[file.name] else left_out_as(file.name)))
        if words:
            _count(found, file.name.rpartition("/")[0], words)
        else:
            taken.append(Found(file.name, file.path, name))
    return Scan(taken, found.folders, found.left_out)


def _looked_at(files: list[Found]) -> list[tuple[Format | None, str]]:
    def look_at(file: Found) -> tuple[Format | None, str]:
        try:
            with file.path.open("rb") as content:
                return look(content, file.name)
        except OSError:  # nobody knows what it is: whoever reads it will say why
            return None, ""

    with (
        ThreadPoolExecutor(_THREADS, thread_name_prefix="scan") as pool,
        Progress("looking at files", len(files), "file") as bar,
    ):
        results = []
        for start in range(0, len(files), BLOCK):
            for result in pool.map(look_at, files[start : start + BLOCK]):
                results.append(result)
                bar.update()
    return results


@dataclass(frozen=True)
class _Folder:
    """A folder to walk. name: as in `Scan`, "" for the root; above: the folders that it lies in."""

    name: str
    path: Path
    above: frozenset[_Id] = frozenset()


class _Walk:
    """Finds what lies below a folder. Links to folders are followed last, so that a folder that links lead to as well
    is found where it lies."""

    def __init__(self, takes_sets: bool, once_in: Callable[[str], str]) -> None:
        self._takes_sets, self._once_in = takes_sets, once_in
        self._found = Scan()
        self._met: set[tuple[str, _Id]] = set()
        self._folders: deque[_Folder] = deque()
        self._links: deque[_Folder] = deque()

    def below(self, root: Path) -> Scan:
        """All that is not hidden, in no order."""
        self._folders.append(_Folder("", root, _ids_above(root)))
        while self._folders or self._links:
            folder = (self._folders or self._links).popleft()
            try:
                self._walk(folder)
            except OSError as error:
                raise InputError(
                    f"{error.filename or folder.path} cannot be read ({error.strerror}); fix that, or move it out of "
                    "the folder"
                ) from error
        return self._found

    def _walk(self, folder: _Folder) -> None:
        this = _id_of(folder.path)
        if words := self._why_not(folder, this):
            _count(self._found, folder.name.rpartition("/")[0], words)
            return
        self._met.add((self._once_in(folder.name), this))
        if folder.name:
            self._found.folders.append(folder.name)
        with os.scandir(folder.path) as entries:
            for entry in sorted(entries, key=lambda entry: text_of(entry.name)):
                self._add(entry, folder, this)

    def _why_not(self, folder: _Folder, this: _Id) -> str:
        """As what a folder is left out; "" if it is walked."""
        if not folder.name:
            return ""
        if not self._takes_sets and _is_prepared(folder.path):
            return _SETS
        if this in folder.above:
            return "links to a folder above them"
        return "folders that were met before" if (self._once_in(folder.name), this) in self._met else ""

    def _add(self, entry: os.DirEntry[str], folder: _Folder, this: _Id) -> None:
        text = text_of(entry.name)
        name = f"{folder.name}/{text}" if folder.name else text
        if _is_hidden(text):
            is_folder = entry.is_dir(follow_symlinks=False)
            words = (
                _SETS if is_folder and _UNFINISHED.fullmatch(text) else _HIDDEN_FOLDERS if is_folder else HIDDEN_FILES
            )
            _count(self._found, folder.name, words)
        elif (kind := _kind(entry)) == "file":
            self._found.files.append(Found(name, Path(entry.path)))
        elif kind != "folder":
            _count(self._found, folder.name, kind)
        elif entry.is_symlink():
            path = Path(entry.path)
            self._links.append(_Folder(name, path, folder.above | {this} | _ids_above(path)))
        else:
            self._folders.append(_Folder(name, Path(entry.path), folder.above | {this}))


def _id_of(folder: Path) -> _Id:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _ids_above(folder: Path) -> frozenset[_Id]:
    """Of the folders that a folder lies in, also where links on the way to it are."""
    return frozenset(map(_id_of, {*Path(os.path.abspath(folder)).parents, *folder.resolve().parents}))


def _is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared set, whose pictures are in tars."""
    try:
        return (folder / MANIFEST).is_file() and bool(read_manifest(folder, check_shards=False))
    except InputError:  # the file is of another program
        return False


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()
    except OSError as error:
        if entry.is_symlink() and error.errno in _DEAD:
            return "dead links"
        raise
    return "pipes, sockets and devices"


def _count(found: Scan, folder: str, words: str) -> None:
    found.left_out.setdefault(folder, Counter())[words] += 1
