"""One walk of a folder for all that read people's own pictures: what is taken, and what is left out, counted."""

import errno
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from tqdm import tqdm

from data_pipelines.dicom import DICOM_SUFFIXES
from data_pipelines.errors import InputError
from data_pipelines.formats import HEAD_BYTES, Format, format_of
from data_pipelines.frames import why_not_one
from data_pipelines.shards import MANIFEST, read_manifest

# Taken without a look at their contents, which a large set has no time for.
SURE_SUFFIXES = {".jpg", ".jpeg", ".png"} | DICOM_SUFFIXES
# Taken also if they do not begin as any picture does: they are damaged then, and whoever decodes them says so.
PICTURE_SUFFIXES = SURE_SUFFIXES | {
    ".jpe", ".jif", ".jfif", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm",
    ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif",
}  # fmt: skip
# Of these a set can have one for each picture; and some texts begin as pictures do.
_TEXTS = {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".htm", ".py", ".ipynb",
    ".log", ".cls",
}  # fmt: skip
_COPIES = {".bak", ".old", ".orig", ".tmp", ".swp", ".part", ".partial", ".crdownload", ".download", ".filepart"}
# Many call themselves TIFF, and their first picture is a thumbnail.
_RAW = {
    ".3fr", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".eip", ".erf", ".fff", ".gpr", ".iiq",
    ".k25", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2",
    ".srf", ".srw", ".x3f",
}  # fmt: skip
_LEFTOVERS = {
    "__macosx", "__pycache__", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot",
    "lost+found", "system volume information", "$recycle.bin", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db",
    "desktop.ini", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder", "dicomdir",
}  # fmt: skip

HIDDEN_FILES, _HIDDEN_FOLDERS = "hidden files", "hidden folders"
_NO_SUFFIX = "files without a suffix that are no pictures"
_HEIC = "HEIC pictures (pip install 'bitscale[heic]' reads them)"
_SUFFIX = re.compile(r"\.(?=[0-9_~+-]*[a-z])[a-z0-9_~+-]{1,12}")  # what comes behind a dot may be a date or an UID
_DEAD = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_THREADS = 16  # looking at files mostly waits for the file system


def text_of(path: str | os.PathLike[str]) -> str:
    """A path or a word of the command line as text, the same under every locale: UTF-8, other bytes as surrogates."""
    return os.fsencode(path).decode(errors="surrogateescape")


def path_of(text: str) -> Path:
    """The path of which `text_of` makes this text."""
    return Path(os.fsdecode(text.encode(errors="surrogateescape")))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left there by a file manager, a notebook, a NAS or an editor;
    of a path in a tar, any part of it."""
    return any(_is_hidden(part) for part in name.split("/"))


def _is_hidden(name: str) -> bool:
    if name in ("", ".", ".."):
        return False
    is_backup = name.endswith("~") or name.startswith("~$") or (name[0] == name[-1] == "#" and len(name) > 2)
    return name.startswith(".") or is_backup or name.lower() in _LEFTOVERS


def suffix_of(name: str) -> str:
    """In lower case, with its dot; "" where what follows the last dot is no suffix."""
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    suffix = f".{suffix.lower()}"
    return suffix if stem and _SUFFIX.fullmatch(suffix) else ""


def counted(left_out: Mapping[str, int]) -> str:
    """Such as ".mov (12), hidden files (3)", the most first."""
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{words} ({count:,})" for words, count in ordered)


def is_taken_unseen(name: str) -> bool | None:
    """Whether a file is taken, by its name; None where its contents must tell."""
    suffix = suffix_of(name)
    if suffix in SURE_SUFFIXES:
        return True
    return False if suffix in _TEXTS | _COPIES | _RAW else None


def left_out_as(name: str) -> str:
    """By what a file that is left out is counted."""
    return suffix_of(name) or _NO_SUFFIX


def look(file: IO[bytes], name: str, whole: bool = True) -> tuple[Format | None, str]:
    """The format of a file that can seek, None where it is damaged, and as what it is left out, "" if it is taken.

    whole: read as much as it takes to count its frames, else its first bytes only.
    """
    found = format_of(file.read(HEAD_BYTES))
    if found is None:
        return None, "" if suffix_of(name) in PICTURE_SUFFIXES else left_out_as(name)
    if found == "heic" and find_spec("pillow_heif") is None:
        return found, _HEIC
    return found, (why_not_one(file, found) or "") if whole else ""


@dataclass(frozen=True)
class Found:
    """A file that is taken. name: below the folder, as text; format: None where that was not looked at, or it is
    damaged."""

    name: str
    path: Path
    format: Format | None = None


@dataclass(frozen=True)
class Scan:
    """What lies below a folder, in the order of names. folders: their names, also of empty ones. left_out: of each
    folder, "" for the one itself, what is in it and not in those below."""

    files: list[Found] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)

    def left_out_below(self, folder: str = "") -> Counter[str]:
        """What is left out in a folder and in those below it, by name."""
        total: Counter[str] = Counter()
        for name, counts in self.left_out.items():
            if not folder or name == folder or name.startswith(f"{folder}/"):
                total.update(counts)
        return total


def scan(root: Path, also: Iterable[str] = ()) -> Scan:
    """The pictures and DICOM files below a folder, and in folders that links lead to, unless they lead to one above.

    also: other suffixes to take; without .tar, prepared sets are passed over.
    Raises InputError for a folder that cannot be read.
    """
    found = Scan()
    also = frozenset(also)
    _walk(root, "", (root.stat(),), found, takes_sets=".tar" in also)
    fates = {file.name: True if suffix_of(file.name) in also else is_taken_unseen(file.name) for file in found.files}
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
        tqdm(total=len(files), desc="looking at files", unit="file", delay=1, disable=None if files else True) as bar,
    ):
        results = []
        for result in pool.map(look_at, files):
            results.append(result)
            bar.update()
    return results


def _walk(folder: Path, name: str, above: tuple[os.stat_result, ...], found: Scan, takes_sets: bool) -> None:
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: text_of(entry.name))
        for entry in ordered:
            text = text_of(entry.name)
            below = f"{name}/{text}" if name else text
            if _is_hidden(text):
                _count(found, name, _HIDDEN_FOLDERS if entry.is_dir(follow_symlinks=False) else HIDDEN_FILES)
            elif (kind := _kind(entry)) == "folder":
                _enter(entry, below, above, found, takes_sets)
            elif kind == "file":
                found.files.append(Found(below, Path(entry.path)))
            else:
                _count(found, name, kind)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be read ({error.strerror}); mend that, or move it out of the folder"
        ) from error


def _enter(
    entry: os.DirEntry[str], name: str, above: tuple[os.stat_result, ...], found: Scan, takes_sets: bool
) -> None:
    this = entry.stat()
    if not takes_sets and _is_prepared(Path(entry.path)):
        _count(found, name.rpartition("/")[0], "prepared sets")
        return
    if entry.is_symlink() and any(os.path.samestat(this, other) for other in above):
        _count(found, name.rpartition("/")[0], "links to a folder above them")
        return
    found.folders.append(name)
    _walk(Path(entry.path), name, (*above, this), found, takes_sets)


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
