"""Reader of existing webdataset tars of photographs with one label each."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial as bind
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from data_pipelines.datasets.raw import Member, RawImage, RawSet, carved, key_of
from data_pipelines.datasets.reading import SPLIT_NAMES, Repeatable, require_fractions
from data_pipelines.datasets.tars import OpenTar
from data_pipelines.errors import InputError
from data_pipelines.index import Split

Label = int | str

_IMAGE_EXTENSIONS = {"jpg", "jpeg", "png", "webp"}
_SPLIT_IN_NAME = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_NAMES)})(?![a-z])")
_MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<extension>[^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:$|/)")  # not a sample, by webdataset's convention
_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class _Shard:
    path: Path
    name: str  # below the root, without its suffix
    split: Split | None


@dataclass(frozen=True)
class _Sample:
    key: str
    image: Member
    label: Label


def webdataset(
    root: Path,
    label_field: str | None = None,
    classes_file: Path | None = None,
    val_fraction: float = 0.01,
    test_fraction: float = 0.01,
) -> RawSet:
    """Existing webdataset tars: members that follow each other and share a name up to its first dot are a sample, with
    one image (jpg, jpeg, png or webp) and a label.

    The label is the number or name in the sample's .cls, else in the field "label" of its .json; --label-field NAME
    takes it from that field of .json. Classes: the lines of --classes-file, which numbers count from 0, else the names
    or numbers that are found, for which all tars are looked through first. Samples without an image are passed over.

    ROOT holds *.tar, in itself or in folders train, val and test. Split: the folder, else the word train, val or test
    in the name of the tar; a val or test split that is not there is carved out of the rest by a hash of each sample's
    tar and key, and a fraction of 0 leaves it out.
    """
    require_fractions(val=val_fraction, test=test_fraction)
    shards = _shards(root)
    splits = {shard.split for shard in shards}
    carve = (0.0 if "val" in splits else val_fraction, 0.0 if "test" in splits else test_fraction)
    if classes_file is None:
        classes, num_images, notes = _survey(shards, label_field)
    else:
        classes, num_images, notes = _lines(classes_file), None, ()
    number_of = {name: number for number, name in enumerate(classes)}

    def images(chosen: Sequence[_Shard]) -> Iterator[RawImage]:
        for shard in chosen:
            for sample in _samples(shard.path, label_field):
                key = key_of(f"{shard.name}/{sample.key}")
                split = carved(key, *carve) if shard.split in (None, "train") else shard.split
                yield RawImage(key, split, sample.image, _class_number(sample, number_of))

    def part(number: int, parts: int) -> Iterator[RawImage]:
        return images(shards[number::parts]) if parts <= len(shards) else islice(images(shards), number, None, parts)

    return RawSet(
        name=root.resolve().name,
        task="single_label",
        classes=classes,
        images=Repeatable(bind(images, shards)),
        num_images=num_images,
        source=f"webdataset tars under {root.resolve().name}; licence as of the original",
        num_bytes=sum(shard.path.stat().st_size for shard in shards),
        part=lambda number, parts: Repeatable(bind(part, number, parts)),
        notes=notes,
    )


def _shards(root: Path) -> list[_Shard]:
    shards = [_Shard(path, path.stem, _split_in_name(path)) for path in sorted(root.glob("*.tar"))]
    for word, split in SPLIT_NAMES.items():
        shards += [_Shard(path, f"{word}/{path.stem}", split) for path in sorted((root / word).glob("*.tar"))]
    if not shards:
        raise InputError(
            f"{root} holds no *.tar, in itself or in folders train, val and test; unpack .tar.gz with gunzip"
        )
    unmarked = [shard.path for shard in shards if shard.split is None]
    if unmarked and len(unmarked) < len(shards):
        raise InputError(f"{unmarked[0]} names no split, others do; put train, val or test into the name of each tar")
    if not unmarked and all(shard.split != "train" for shard in shards):
        raise InputError(f"{root} has tars of val or test, but none of train beside them")
    return shards


def _split_in_name(path: Path) -> Split | None:
    splits = {SPLIT_NAMES[word] for word in _SPLIT_IN_NAME.findall(path.stem.lower())}
    if len(splits) > 1:
        raise InputError(f"{path} names several splits; put it into a folder train, val or test")
    return splits.pop() if splits else None


def _lines(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text(encoding="utf-8").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes-file {path} cannot be read: {error}") from error
    names = tuple(name.strip() for name in (names[:-1] if names[-1] == "" else names))
    if "" in names or len(set(names)) < len(names) or not names:
        raise InputError(f"--classes-file {path} must name one class on each line, each once, without empty lines")
    return names


def _survey(shards: Sequence[_Shard], label_field: str | None) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """The classes, the number of images, and what is to be said of them."""
    numbers: set[int] = set()
    names: set[str] = set()
    num_images = 0
    for sample in chain.from_iterable(_samples(shard.path, label_field) for shard in shards):
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


def _samples(path: Path, label_field: str | None) -> Iterator[_Sample]:
    with OpenTar(path) as tar:
        for key, group in groupby(_named(tar.members()), key=lambda found: found[0]):
            files: dict[str, Member] = {}
            for _, extension, member in group:
                if extension in files:
                    raise InputError(
                        f"{member}: the sample has two files .{extension}; names must differ from sample to sample"
                    )
                files[extension] = member
            images = [
                member for extension, member in files.items() if extension.rpartition(".")[2] in _IMAGE_EXTENSIONS
            ]
            if len(images) > 1:
                raise InputError(f"{images[1]} is the second image of its sample; a sample must have one")
            if images:
                yield _Sample(key, images[0], _label(tar, files, images[0], label_field))


def _named(members: Iterator[Member]) -> Iterator[tuple[str, str, Member]]:
    """Key and extension, in lower case, of each member that has them."""
    for member in members:
        match = _MEMBER.fullmatch(member.name)
        if match and not _META.match(member.name):
            yield match["key"], match["extension"].lower(), member


def _label(tar: OpenTar, files: dict[str, Member], image: Member, label_field: str | None) -> Label:
    if label_field is None and "cls" in files:
        text = tar.read(files["cls"]).decode(errors="replace").strip()
        label: Any = int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else text
    else:
        label = _json_field(tar, files, image, label_field or "label")
    if not isinstance(label, (int, str)) or isinstance(label, bool) or label == "":
        raise InputError(f"{image}: its label {label!r} is neither a whole number nor a name; see --label-field")
    return label


def _json_field(tar: OpenTar, files: dict[str, Member], image: Member, field: str) -> Any:
    if "json" not in files:
        raise InputError(f"{image} has no label: its sample has neither .cls nor .json, only .{', .'.join(files)}")
    try:
        content = json.loads(tar.read(files["json"]))
    except ValueError as error:
        raise InputError(f"{files['json']} is no JSON: {error}") from error
    if not isinstance(content, dict) or field not in content:
        fields = ", ".join(content) if isinstance(content, dict) else "none"
        raise InputError(f"{files['json']} has no field {field!r} (it has: {fields}); choose one with --label-field")
    return content[field]


def _class_number(sample: _Sample, number_of: dict[str, int]) -> int:
    number = number_of.get(sample.label, -1) if isinstance(sample.label, str) else sample.label
    if not 0 <= number < len(number_of):
        raise InputError(
            f"{sample.image} has the label {sample.label!r}, which is none of the {len(number_of)} classes"
        )
    return number
