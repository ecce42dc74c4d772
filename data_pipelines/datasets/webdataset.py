"""Reader of existing webdataset tars: photographs with one label each."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.path_text import text_of
from data_pipelines.common.raw_set import Member, RawSet
from data_pipelines.datasets.reading import require_fractions
from data_pipelines.datasets.split_files import (
    FileImages,
    SplitFile,
    class_names,
    fractions_to_carve,
    photographs,
    scan_root,
    split_files,
)
from data_pipelines.datasets.table import LITERAL, is_missing
from data_pipelines.datasets.tars import OpenTar
from data_pipelines.image_files.folder_scan import HIDDEN_FILES, is_hidden, is_taken_by_name, left_out_as, look

Label = int | str

_USUAL = {"jpg", "jpeg", "png"}  # extensions of images, taken without a look at their contents
_LABELS = {"cls", "json"}
_COMPRESSED = {".gz": "gunzip", ".tgz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd"}
_MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<extension>[^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:$|/)")  # not a sample, by webdataset's convention
_NUMBER = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")  # some programs write 1 as 1.0
_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class _Sample:
    key: str
    image: Member
    label: Label


@dataclass(frozen=True)
class _Reader:
    """How labels are read. classes: names that are known; left_out: what is passed over, of the tars in `counted`."""

    label_field: str | None
    literal_nan: bool
    classes: frozenset[str]
    left_out: Counter[str]
    counted: set[Path] = field(default_factory=set)


def webdataset(
    root: Path,
    label_field: str | None = None,
    classes_file: Path | None = None,
    val_fraction: float = 0.01,
    test_fraction: float = 0.01,
    literal_nan: bool = False,
) -> RawSet:
    """Your own webdataset tars of photographs.

    Members that follow each other and share a name up to its first dot are a sample, with one image (a photograph: jpg,
    png, webp, or what is one by its contents) and a label.

    The label is the number or name in the sample's .cls, else in the field "label" of its .json; --label-field NAME
    takes it from that field of .json. Classes: the lines of --classes-file, which numbers count from 0, else the names
    or numbers that are found, for which all tars are looked through first. Samples without an image are left out and
    counted, by what else they have.

    ROOT holds *.tar, in itself or in folders. Split: the folder, if it is called train, val or test, else such a word
    in the name of the tar; a val or test split that is not there is carved out of the rest by a hash of each sample's
    tar and key, and a fraction of 0 leaves it out. Names such as nan, None or NA are refused, unless --classes-file has
    them, or --literal-nan takes them as they stand.
    """
    require_fractions(val=val_fraction, test=test_fraction)
    shards, left_out = _shards(root)
    splits = {shard.split for shard in shards}
    carved = fractions_to_carve(splits, val_fraction, test_fraction)
    known = () if classes_file is None else class_names(classes_file)
    reader = _Reader(label_field and text_of(label_field), literal_nan, frozenset(known), left_out)
    classes, num_images, notes = (known, None, ()) if known else _survey(shards, reader)
    number_of = {name: number for number, name in enumerate(classes)}
    images = FileImages(shards, carved, lambda shard: _numbered(shard.path, reader, number_of))
    return photographs(root, images, classes, num_images, "webdataset tars", left_out, notes)


def _shards(root: Path) -> tuple[list[SplitFile], Counter[str]]:
    """The tars, and what else lies beside them."""
    tree = scan_root(root, (".tar", *_COMPRESSED))
    compressed = [file for file in tree.files if re.search(r"\.tgz$|\.tar\.[a-z0-9]+$", file.name.lower())]
    if compressed:
        program = _COMPRESSED["." + compressed[0].name.lower().rpartition(".")[2]]
        raise InputError(
            f"{compressed[0].path} is compressed, so its members cannot be found; unpack it with {program}"
        )
    return split_files(root, tree, ".tar")


def _survey(shards: Sequence[SplitFile], reader: _Reader) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """The classes, the number of images, and what is to be said of them."""
    numbers: set[int] = set()
    names: set[str] = set()
    num_images = 0
    for sample in chain.from_iterable(_samples(shard.path, reader) for shard in shards):
        num_images += 1
        if isinstance(sample.label, int):
            numbers.add(sample.label)
        else:
            names.add(sample.label)
        if numbers and names:
            raise InputError(f"{sample.image} has the label {sample.label!r}: labels must be all numbers or all names")
    if not num_images:
        raise InputError(f"{shards[0].path} and the tars beside it hold no sample with an image and a label")
    if names:
        return tuple(sorted(names)), num_images, ()
    num_classes = max(numbers) + 1
    if min(numbers) < 0 or num_classes > _MOST_CLASSES:
        raise InputError(f"labels run from {min(numbers)} to {num_classes - 1}: class numbers count from 0")
    empty = num_classes - len(numbers)
    notes = (f"{empty} of the {num_classes} class numbers have no image",) if empty else ()
    return tuple(map(str, range(num_classes))), num_images, notes


def _samples(path: Path, reader: _Reader) -> Iterator[_Sample]:
    left_out: Counter[str] = Counter()
    with OpenTar(path) as tar:
        for key, group in groupby(_named(tar.members(), left_out), key=lambda found: found[0]):
            files: dict[str, Member] = {}
            for _, extension, member in group:
                if extension in files:
                    raise InputError(
                        f"{member}: the sample has two files .{extension}; names must differ from sample to sample, "
                        "up to their first dot"
                    )
                files[extension] = member
            image = _image(tar, files, left_out)
            if image:
                yield _Sample(key, image, _label(tar, files, image, reader))
    if path not in reader.counted:  # a tar may be read several times
        reader.counted.add(path)
        reader.left_out.update(left_out)


def _named(members: Iterator[Member], left_out: Counter[str]) -> Iterator[tuple[str, str, Member]]:
    """Key and extension, in lower case, of each member that has them."""
    for member in members:
        match = _MEMBER.fullmatch(member.name)
        if is_hidden(member.name):
            left_out[HIDDEN_FILES] += 1
        elif not match:
            left_out["files without a suffix"] += 1
        elif not _META.match(member.name):
            yield match["key"], match["extension"].lower(), member


def _image(tar: OpenTar, files: dict[str, Member], left_out: Counter[str]) -> Member | None:
    """The image of a sample; where none has a usual extension, what is one by its contents. None if there is none, and
    then what the sample has is counted."""
    images = [member for extension, member in files.items() if extension.rpartition(".")[2] in _USUAL]
    others: Counter[str] = Counter()
    for extension, member in [] if images else files.items():
        unseen = is_taken_by_name(member.name) is not None  # labels, texts, and DICOM, which is no photograph
        found, words = (None, left_out_as(member.name)) if unseen else look(tar.file(member), member.name)
        words = "DICOM files" if found == "dicom" else words
        if not words:
            images.append(member)
        elif extension not in _LABELS:
            others[words] += 1
    if len(images) > 1:
        raise InputError(
            f"{images[1]} is the second image of its sample; a sample must have one, and its name ends at its first dot"
        )
    if not images:
        left_out.update(others or Counter(left_out_as(member.name) for member in files.values()))
    return images[0] if images else None


def _label(tar: OpenTar, files: dict[str, Member], image: Member, reader: _Reader) -> Label:
    if reader.label_field is None and "cls" in files:
        label: Any = tar.read(files["cls"]).decode(errors="surrogateescape").strip()
        number = _NUMBER.fullmatch(label)
        label = int(number[1]) if number else label
    else:
        label = _json_field(tar, files, image, reader.label_field)
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if not isinstance(label, (int, str)) or isinstance(label, bool) or label == "":
        raise InputError(f"{image}: its label {label!r} is neither a whole number nor a name; see --label-field")
    if isinstance(label, str) and is_missing(label) and not reader.literal_nan and label not in reader.classes:
        raise InputError(
            f"{image}: its label is {label!r}, which most programs write for a value that is missing; leave the sample "
            f"out, or take such words as they stand with {LITERAL}"
        )
    return label


def _json_field(tar: OpenTar, files: dict[str, Member], image: Member, label_field: str | None) -> Any:
    field = label_field or "label"
    if "json" not in files:
        lacks = "neither .cls nor .json" if label_field is None else "no .json, which --label-field reads"
        raise InputError(
            f"{image} has no label: its sample has {lacks}, only .{', .'.join(files)}; the files of a sample must "
            "follow each other in the tar (tar --sort=name)"
        )
    try:
        content = json.loads(tar.read(files["json"]))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{files['json']} is not JSON: {error}") from error
    if not isinstance(content, dict) or field not in content:
        fields = ", ".join(content) if isinstance(content, dict) else "none"
        raise InputError(f"{files['json']} has no field {field!r} (it has: {fields}); choose one with --label-field")
    return content[field]


def _numbered(path: Path, reader: _Reader, number_of: dict[str, int]) -> Iterator[tuple[str, Member, int]]:
    for sample in _samples(path, reader):
        yield sample.key, sample.image, _class_number(sample, number_of)


def _class_number(sample: _Sample, number_of: dict[str, int]) -> int:
    number = number_of.get(sample.label, -1) if isinstance(sample.label, str) else sample.label
    if not 0 <= number < len(number_of):
        raise InputError(
            f"{sample.image} has the label {sample.label!r}, which is none of the {len(number_of)} classes"
        )
    return number
