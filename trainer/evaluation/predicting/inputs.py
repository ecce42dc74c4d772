"""Images to predict, from files, folders, DICOM, tars, or tables of paths."""

import io
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from data_pipelines.common.path_text import path_of, text_of
from data_pipelines.common.printable import printable
from data_pipelines.common.raw_set import Member
from data_pipelines.datasets.table import read_table
from data_pipelines.datasets.table_paths import Listing
from data_pipelines.image_files.folder_scan import (
    HIDDEN_FILES,
    Found,
    is_hidden,
    is_taken_by_name,
    left_out_as,
    look,
    scan,
    suffix_of,
)
from trainer.evaluation.predicting.predict_settings import require_inputs

_TABLES, _TAR = {".csv", ".tsv"}, ".tar"
_LABELS = {".cls", ".json", ".txt"}  # in a tar they belong to an image
_MOST_BYTES = 1 << 30  # of one file: the header of a compressed tar can claim any amount
_FEWER_COLOURS = {"1", "L", "I", "F"}


@dataclass(frozen=True, eq=False)
class Input:
    """name: relative to the given path, as text. read: returns its bytes; raises OSError or ValueError. place: where
    these are, None if nowhere. was_named: named by the user, who expects a row for it whatever it is."""

    name: str
    read: Callable[[], bytes]
    place: Path | Member | None = None
    was_named: bool = True


@dataclass(frozen=True)
class Inputs:
    """The images to predict; iterated once. left_out: counts by reason, complete after the last; notes: remarks on a
    table."""

    each: Iterator[Input]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


def inputs_of(source: Path, path_column: str = "path") -> Inputs:
    """Every image of a file, of a folder and its subfolders, of a tar such as a shard, or of a CSV file with a column
    of paths, absolute or relative to it. Other files are left out as in `prepare`.

    Raises InputError for a source that does not exist, a folder that cannot be read, or a table without that column.
    """
    left_out: Counter[str] = Counter()
    require_inputs([source])
    if source.is_dir():
        tree = scan(source, also=(_TAR,), takes_sets=True)
        left_out.update(tree.left_out_below())
        return Inputs(_of_folder(tree.files, left_out), left_out)
    name = text_of(source.name)
    if suffix_of(name) in _TABLES:
        return _of_table(source, text_of(path_column))
    if suffix_of(name) == _TAR:
        return Inputs(_of_tar(source, name, left_out), left_out)
    return Inputs(iter([_of_file(name, source)]))


def inputs_of_all(sources: Sequence[Path], path_column: str = "path") -> Inputs:
    """The images of one source, or of several, one after the other: then their names begin with that of the source.

    Raises InputError as `inputs_of`; of several, one without an image is warned of.
    """
    if len(sources) == 1:
        return inputs_of(sources[0], path_column)
    opened = [(source, inputs_of(source, path_column)) for source in sources]
    left_out: Counter[str] = Counter()
    notes = tuple(note for _, inputs in opened for note in inputs.notes)
    return Inputs(_one_after_the_other(opened, left_out), left_out, notes)


def _one_after_the_other(opened: Sequence[tuple[Path, Inputs]], left_out: Counter[str]) -> Iterator[Input]:
    for source, inputs in opened:
        count = 0
        for count, item in enumerate(inputs.each, 1):  # noqa: B007 - how many there were
            yield replace(item, name=_below(source, item.name))
        left_out.update(inputs.left_out)
        if not count:
            logger.warning(f"{printable(str(source))} has no image, DICOM file or shard")


def _below(source: Path, name: str) -> str:
    """The name of an input beside those of other sources."""
    given = text_of(str(source))
    if source.is_dir():
        return f"{given}/{name}"
    if suffix_of(given) in _TABLES:
        return f"{given}:{name}"
    return f"{given}{name.removeprefix(text_of(source.name))}"  # of a tar, its member stands behind it


def _of_folder(files: list[Found], left_out: Counter[str]) -> Iterator[Input]:
    for file in files:
        if suffix_of(file.name) == _TAR:
            yield from _of_tar(file.path, file.name, left_out)
        else:
            yield _of_file(file.name, file.path, was_named=False)


def _of_table(table: Path, column: str) -> Inputs:
    """An input for each row of the table, even if there is no such file."""
    content = read_table(table, [column], remedy="; name it with --path-column")
    beside, anywhere = Listing(table.parent), Listing(Path("/"))

    def found_at(cell: str) -> tuple[str, Path | None]:
        name = beside.with_slashes(cell)
        return name, anywhere.path(name.lstrip("/")) if name.startswith("/") else beside.path(name)

    def file_of(row: int, cell: str) -> Input:
        if not cell:
            return Input(cell, _refusal(f"line {content.lines[row]} of the table names no file"))
        name, found = found_at(cell)
        return _of_file(cell, found or table.parent / path_of(name))

    cells = content.cells[column]
    named = [cell for cell in cells if cell]
    if named and not any(found_at(cell)[1] for cell in named):
        raise InputError(
            f"none of the {len(named):,} files that {table} names is there, the first is {named[0]}; its paths count "
            f"from its own folder, {table.resolve().parent}: put the table where they begin, or write absolute paths"
        )
    inputs = [file_of(row, cell) for row, cell in enumerate(cells)]
    return Inputs(iter(inputs), notes=(*beside.notes(table), *anywhere.notes(table)))


def _of_tar(path: Path, name: str, left_out: Counter[str]) -> Iterator[Input]:
    try:
        with tarfile.open(path, encoding="utf-8") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                content = tar.extractfile(member)
                assert content is not None
                is_small = member.size <= _MOST_BYTES
                words = _left_out_as(content, member.name, is_small)
                if words:
                    left_out.update([] if suffix_of(member.name) in _LABELS else [words])
                elif not is_small:
                    reason = f"{member.size:,} bytes, too many for an image"
                    yield Input(f"{name}:{member.name}", _refusal(reason))
                else:
                    content.seek(0)
                    place = Member(path, member.name, member.offset_data, member.size)
                    yield Input(f"{name}:{member.name}", _given(content.read()), place, was_named=False)
    except (tarfile.TarError, OSError) as error:
        yield Input(name, _refusal(f"damaged tar: {error}"))


def _left_out_as(content: IO[bytes], name: str, is_small: bool) -> str:
    """The reason why a member of a tar is left out; "" if it is taken."""
    if is_hidden(name):
        return HIDDEN_FILES
    is_taken = is_taken_by_name(name)
    if is_taken is None:
        return look(content, name, whole=is_small)[1]
    return "" if is_taken else left_out_as(name)


def _of_file(name: str, path: Path, was_named: bool = True) -> Input:
    return Input(name, path.read_bytes, path, was_named)


def _given(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def _refusal(reason: str) -> Callable[[], bytes]:
    def refuse() -> bytes:
        raise ValueError(reason)

    return refuse


def colours_remark(encoded: bytes, channels: int) -> str:
    """Remark on an image whose colours differ from the `channels`, 1 or 3, that the model was trained on; else ""."""
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            is_grey = picture.mode.split(";")[0] in _FEWER_COLOURS
    except Exception:  # DICOM, or damaged: whoever decodes it will say so
        return ""
    if is_grey and channels == 3:
        return "grey; trained on colour"
    return "colour, made grey" if not is_grey and channels == 1 else ""
