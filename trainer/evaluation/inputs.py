"""Images to predict, wherever they lie: files, folders, DICOM, tars, and tables that name files."""

import csv
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data_pipelines.datasets.patients import IMAGE_SUFFIXES
from data_pipelines.dicom import DICOM_SUFFIXES, is_dicom
from data_pipelines.errors import InputError

_TABLE, _TAR = ".csv", ".tar"
_DICOM_HEAD = 132  # bytes that tell
_MOST_BYTES = 1 << 30  # of one file: the header of a compressed tar can claim any amount
_FEWER_COLOURS = {"1", "L", "I", "F"}


@dataclass(frozen=True, eq=False)
class Input:
    """name: relative to what was given. read: its bytes; raises OSError or ValueError."""

    name: str
    read: Callable[[], bytes]


def inputs_of(source: Path, path_column: str = "path") -> Iterator[Input]:
    """Every image of a file, a folder and the folders in it, a tar such as a shard, or a CSV file with a column of
    paths relative to it. Files that are neither images nor DICOM are passed over in folders.

    Raises InputError for a source that is not there, or a table without that column.
    """
    if source.is_dir():
        yield from _of_folder(source)
    elif not source.is_file():
        raise InputError(f"{source} is neither a file nor a folder")
    elif source.suffix.lower() == _TABLE:
        yield from _of_table(source, path_column)
    elif source.suffix.lower() == _TAR:
        yield from _of_tar(source, source.name)
    else:
        yield Input(source.name, source.read_bytes)


def _of_folder(folder: Path) -> Iterator[Input]:
    for path in sorted(folder.rglob("*")):
        name, suffix = path.relative_to(folder).as_posix(), path.suffix.lower()
        if path.name.startswith(".") or not path.is_file():
            continue
        if suffix == _TAR:
            yield from _of_tar(path, name)
        elif suffix in IMAGE_SUFFIXES | DICOM_SUFFIXES or (not suffix.strip(".0123456789") and _looks_like_dicom(path)):
            yield Input(name, path.read_bytes)


def _looks_like_dicom(path: Path) -> bool:
    """Scanners and archives name DICOM files by number, without a suffix."""
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(_DICOM_HEAD))
    except OSError:
        return False


def _of_table(table: Path, column: str) -> Iterator[Input]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if column not in (rows.fieldnames or ()):
            raise InputError(f"{table} has no column {column!r}; name it with --path-column")
        for row in rows:
            yield Input(row[column] or "", (table.parent / (row[column] or "")).read_bytes)


def _of_tar(path: Path, name: str) -> Iterator[Input]:
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                suffix = Path(member.name).suffix.lower()
                if member.isfile() and suffix in IMAGE_SUFFIXES | DICOM_SUFFIXES:
                    if member.size > _MOST_BYTES:
                        yield Input(f"{name}:{member.name}", _refusal(f"{member.size:,} bytes, too many for an image"))
                        continue
                    content = tar.extractfile(member)
                    assert content is not None
                    yield Input(f"{name}:{member.name}", _given(content.read()))
    except (tarfile.TarError, OSError) as error:
        yield Input(name, _refusal(f"damaged tar: {error}"))


def _given(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def _refusal(reason: str) -> Callable[[], bytes]:
    def refuse() -> bytes:
        raise ValueError(reason)

    return refuse


def colours_remark(encoded: bytes, channels: int) -> str:
    """What to say of a picture of other colours than the `channels`, 1 or 3, that the model was trained on; else ""."""
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            is_grey = picture.mode.split(";")[0] in _FEWER_COLOURS
    except Exception:  # DICOM, or damaged: whoever decodes it will say so
        return ""
    if is_grey and channels == 3:
        return "grey; trained on colour"
    return "colour, made grey" if not is_grey and channels == 1 else ""
