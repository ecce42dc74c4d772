"""Reader of Parquet files with encoded images and labels, as hubs of data sets hand them out."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.reading import require_fractions
from data_pipelines.datasets.split_files import (
    FileImages,
    class_names,
    fractions_to_carve,
    photographs,
    scan_root,
    split_files,
)

_ROWS_AT_ONCE = 64
_UNLABELLED = -1  # how hubs write the label of a test split that nobody may know
_LEFT_OUT = "images whose label is -1"


@dataclass(frozen=True)
class _Columns:
    image: str
    label: str


def parquet(
    root: Path,
    image_column: str = "image",
    label_column: str = "label",
    classes_file: Path | None = None,
    val_fraction: float = 0.01,
    test_fraction: float = 0.01,
) -> RawSet:
    """Parquet files of photographs, such as ImageNet-1k from a hub of data sets.

    Each row is an image with one label. The image column holds encoded files (JPEG, PNG ...), by themselves or as the
    field "bytes"; the label column class numbers, or names. Classes: the lines of --classes-file, which numbers count
    from 0, else the names that the hub stored in the file, else the names or numbers that are found. Rows of the label
    -1, as in test splits whose labels are secret, are left out and counted.

    ROOT holds *.parquet, in itself or in folders. Split: a word in the file's name or in that of a folder above it,
    such as train-00000-of-00294.parquet or validation/0000.parquet; a val or test split that is not there is carved out
    of train by a hash of each row's file and place, and a fraction of 0 leaves it out. Needs pyarrow, in the checkout
    of bitscale: pip install -e '.[parquet]'
    """
    require_fractions(val=val_fraction, test=test_fraction)
    files, left_out = split_files(root, scan_root(root, (".parquet",)), ".parquet", any_folder=True)
    columns = _Columns(image_column, label_column)
    labels = {file: _labels(file.path, columns) for file in files}
    found = Counter(label for of_file in labels.values() for label in of_file)
    if unlabelled := found.pop(_UNLABELLED, 0):
        left_out[_LEFT_OUT] += unlabelled
    splits = {file.split for file, of_file in labels.items() if set(of_file) - {_UNLABELLED}}
    carved = fractions_to_carve(splits, val_fraction, test_fraction)
    known = _stored_names(files[0].path, columns) if classes_file is None else class_names(classes_file)
    classes = known or _names(found, root)
    number_of = {name: number for number, name in enumerate(classes)}
    images = FileImages(files, carved, lambda file: _rows(file.path, columns, number_of))
    return photographs(root, images, classes, found.total(), "Parquet files", left_out)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A pyarrow ParquetFile. Whatever is wrong with the file while it is open is an InputError."""
    try:
        import pyarrow as pa  # here because few sets need it
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(
            "Parquet files need pyarrow; in the checkout of bitscale: pip install -e '.[parquet]'"
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:  # names and labels that are no UTF-8 are ValueErrors
        raise InputError(f"{path} is cut off, damaged, or no Parquet file ({error}); fetch it again") from error


def _require_columns(file: Any, path: Path, columns: _Columns) -> None:
    """Raise InputError unless both columns are there and can hold images and labels."""
    import pyarrow.types as kinds

    schema = file.schema_arrow
    having = ", ".join(f"{column.name} ({column.type})" for column in schema)
    for flag, name in (("--image-column", columns.image), ("--label-column", columns.label)):
        if schema.get_field_index(name) < 0:
            raise InputError(f"{path} has no column {name!r}; name one of these with {flag}: {having}")
    kind = schema.field(columns.image).type
    if kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (kinds.is_binary(kind) or kinds.is_large_binary(kind)):
        raise InputError(
            f"{path}: column {columns.image!r} holds {kind}, not encoded images"
            + ("; if these are addresses or paths, fetch the images and use csv" if kinds.is_string(kind) else "")
            + f"; another column can be named with --image-column: {having}"
        )
    kind = schema.field(columns.label).type
    if not (kinds.is_integer(kind) or kinds.is_string(kind) or kinds.is_large_string(kind)):
        raise InputError(
            f"{path}: column {columns.label!r} holds {kind}, and must hold one class number or name for each image; "
            f"another column can be named with --label-column: {having}"
        )


def _labels(path: Path, columns: _Columns) -> list[int | str]:
    with _opened(path) as file:
        _require_columns(file, path, columns)
        labels = file.read(columns=[columns.label]).column(0).to_pylist()
    if None in labels:
        raise InputError(f"{path}, row {labels.index(None)}: its label is missing; leave such rows out")
    return labels  # type: ignore[no-any-return]


def _names(found: Counter[int | str], root: Path) -> tuple[str, ...]:
    """Names of the classes, from the labels of all files."""
    if not found:
        raise InputError(f"{root} holds no image with a label")
    numbers = [label for label in found if isinstance(label, int)]
    if not numbers:
        return tuple(sorted(map(str, found)))
    if len(numbers) < len(found):
        raise InputError(f"{root}: labels are numbers in some files, names in others; they must be of one kind")
    if min(numbers) < 0:
        raise InputError(f"{root}: there is the label {min(numbers)}; class numbers count from 0")
    return tuple(map(str, range(max(numbers) + 1)))


def _stored_names(path: Path, columns: _Columns) -> tuple[str, ...]:
    """Names of the classes as the library `datasets` writes them into a file; () if there are none."""
    with _opened(path) as file:
        stored = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(stored)["info"]["features"][columns.label]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) and len(set(map(str, names))) == len(names) else ()


def _rows(path: Path, columns: _Columns, number_of: dict[str, int]) -> Iterator[tuple[str, bytes, int]]:
    """Place in the file, encoded image and class number of each row with a label."""
    with _opened(path) as file:
        row = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[columns.image, columns.label]):
            content = batch.to_pydict()
            for image, label in zip(content[columns.image], content[columns.label], strict=True):
                where = f"{path}, row {row}"
                if label != _UNLABELLED:
                    yield f"{row:07d}", _bytes_of(image, where), _class_number(label, number_of, where)
                row += 1


def _bytes_of(image: Any, where: str) -> bytes:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        named = image.get("path") if isinstance(image, dict) else None
        raise InputError(
            f"{where} holds no image"
            + (f", only the name {named!r}" if named else "")
            + "; the files must hold the images themselves"
        )
    return content


def _class_number(label: int | str, number_of: dict[str, int], where: str) -> int:
    number = number_of.get(label, -1) if isinstance(label, str) else label
    if not 0 <= number < len(number_of):
        raise InputError(f"{where}: its label {label!r} is none of the {len(number_of)} classes")
    return number
