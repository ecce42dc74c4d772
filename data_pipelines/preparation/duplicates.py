"""Byte-identical images: dropped with `--drop-duplicates`, else counted and named."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import hash_bytes, hash_name
from data_pipelines.common.message_parts import some_of
from data_pipelines.common.progress import Progress
from data_pipelines.common.raw_set import RawImage, RawSet, Repeatable
from data_pipelines.common.splits import SPLITS, Split
from data_pipelines.preparation.file_states import LOOKERS, UNREADABLE, Contents, Numbers, read_changed
from data_pipelines.preparation.quarantine import called
from data_pipelines.preparation.shard_records import contents_path

LEFT_OUT = "duplicates"
_TABLE = "contents.npz"
BLOCK = 4096  # images asked for at once: bounds the memory
_NAMED = 3
_EMPTY = hash_bytes(b"")
_KEPT_FIRST = ("test", "val", "train")  # so that nobody trains on what is held out

Pair = tuple[int, int]


def without_duplicates(raw: RawSet, partial: Path) -> RawSet:
    """The set with each image once: kept in test if it is there, else in val, else in train.

    Reads all files once; `partial` keeps their hashes, so that later only changed files are read again. Raises
    InputError for sets that have a rule of their own for equal images, and for two images with the same key.
    """
    if raw.equal_images != "stored each":
        raise InputError(f"{raw.name} pairs equal pictures with each of their labels; leave out --drop-duplicates")
    contents, splits, labels = _read_all(raw, partial / _TABLE)
    _require_distinct_keys(raw, contents.keys)
    order = np.lexsort([np.arange(len(splits)), splits, contents.hashes])
    hashes = contents.hashes[order]
    is_again = np.zeros(len(order), dtype=bool)
    is_again[1:] = (hashes[1:] == hashes[:-1]) & (hashes[1:] != UNREADABLE) & (hashes[1:] != _EMPTY)
    if not is_again.any():
        return raw
    kept_one = order[np.maximum.accumulate(np.where(is_again, 0, np.arange(len(order))))]
    others = int(np.count_nonzero(labels[order] != labels[kept_one]))
    note = f"of the pictures that are dropped, {others:,} had another label than the equal one that is kept"
    dropped = set(contents.keys[order[is_again]].tolist())
    return _without(raw, dropped, (*((note,) if others else ()), *_emptied(raw, dropped)))


def _read_all(raw: RawSet, table: Path) -> tuple[Contents, Numbers, Numbers]:
    """Content hash of each image, the rank of its split, and a number that is equal for equal labels."""
    former = Contents.load(table)
    found: list[Contents] = []
    splits: list[int] = []
    labels: list[int] = []
    images = iter(raw.images)
    with (
        ThreadPoolExecutor(LOOKERS, thread_name_prefix="look") as lookers,
        Progress(f"{raw.name}: equal pictures", raw.num_images, "image") as bar,
    ):
        while block := list(islice(images, BLOCK)):
            found.append(read_changed(block, former, lookers))
            splits += [_KEPT_FIRST.index(image.split) for image in block]
            labels += [hash_bytes(np.asarray(image.label).tobytes()) for image in block]
            bar.update(len(block))
    contents = Contents.joined(found)
    contents.save(table)
    return contents, np.array(splits), np.array(labels)


def _require_distinct_keys(raw: RawSet, keys: Numbers) -> None:
    found, counts = np.unique(keys, return_counts=True)
    if (counts > 1).any():
        key = next(image.key for image in raw.images if hash_name(image.key) == found[counts > 1][0])
        raise InputError(f"two images have the key {key!r}; rename one of the files")


def _emptied(raw: RawSet, dropped: set[int]) -> tuple[str, ...]:
    """Note on classes or findings that have no image left in train."""
    had, has = np.zeros((2, len(raw.classes)), dtype=bool)
    for image in raw.images:
        if image.split != "train":
            continue
        of_image = image.label == 1 if isinstance(image.label, np.ndarray) else image.label
        had[of_image] = True
        if hash_name(image.key) not in dropped:
            has[of_image] = True
    lost = [name for name, is_lost in zip(raw.classes, had & ~has, strict=True) if is_lost]
    fact = "all images of train were dropped, as equal ones are kept in test or val, of:"
    return (f"{fact} {some_of(lost, _NAMED)}",) if lost else ()


def _without(raw: RawSet, dropped: set[int], notes: tuple[str, ...]) -> RawSet:
    part = raw.part

    def kept(images: Iterable[RawImage]) -> Iterator[RawImage]:
        return (image for image in images if hash_name(image.key) not in dropped)

    def kept_part(number: int, parts: int) -> Iterable[RawImage]:
        assert part is not None
        return kept(part(number, parts))

    return replace(
        raw,
        images=list(kept(raw.images)) if isinstance(raw.images, Sequence) else Repeatable(lambda: kept(raw.images)),
        part=kept_part if part else None,
        num_images=None if raw.num_images is None else raw.num_images - len(dropped),
        left_out={**raw.left_out, LEFT_OUT: len(dropped)},
        notes=(*raw.notes, *notes),
    )


@dataclass(frozen=True)
class Equal:
    """Byte-identical images: how many are in more than one split, how many in one split with different labels, and
    examples of each, as pairs of key hashes."""

    across: int
    differing: int
    examples_across: tuple[Pair, ...]
    examples_differing: tuple[Pair, ...]


def count_equal_images(rows: Path, shards: Mapping[Split, Sequence[str]], merges: bool) -> Equal:
    """Count equal images of a set whose shards are finished. rows: the folder of their records; shards: their names by
    split; merges: equal images of one split are stored once, with all of their labels."""
    stored = [_stored(rows / split, name) for split in SPLITS for name in shards[split]]
    splits = np.repeat(
        [number for number, split in enumerate(SPLITS) for _ in shards[split]], [len(s[0]) for s in stored]
    )
    keys, hashes, labels = (np.concatenate(columns) for columns in zip(*stored, strict=True))
    order = np.argsort(hashes, kind="stable")
    is_equal = hashes[order[1:]] == hashes[order[:-1]]
    first, second = order[:-1][is_equal], order[1:][is_equal]
    is_across = splits[first] != splits[second]
    differs = ~is_across & (not merges) & _differs(labels[first], labels[second])

    def some(chosen: npt.NDArray[np.bool_]) -> tuple[int, tuple[Pair, ...]]:
        of_each = np.flatnonzero(chosen)[np.unique(hashes[first[chosen]], return_index=True)[1]]
        one, other = (keys[rows[np.sort(of_each)[:_NAMED]]].tolist() for rows in (first, second))
        return len(of_each), tuple(zip(one, other, strict=True))

    (across, of_across), (differing, of_differing) = some(is_across), some(differs)
    return Equal(across, differing, of_across, of_differing)


def _stored(rows: Path, name: str) -> tuple[Numbers, Numbers, npt.NDArray[Any]]:
    """Key hashes, file hashes and labels of the images in a shard."""
    contents = Contents.load(contents_path(rows, name))
    assert contents is not None, "shards are finished last"
    with np.load(rows / f"{name}.npz", allow_pickle=False) as table:
        keys, labels = table["key"], table["labels"]
    row = contents.rows_of(keys)
    is_here = contents.keys[row] == keys  # others are equal to a picture in another shard
    return keys[is_here], contents.hashes[row[is_here]], labels[is_here]


def _differs(labels: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether the labels of each pair differ; two unknown findings count as equal."""
    differ = (labels != others) & ~((labels != labels) & (others != others))
    in_any: npt.NDArray[np.bool_] = differ if labels.ndim == 1 else differ.any(axis=1)
    return in_any


def notes_on(equal: Equal, raw: RawSet) -> list[tuple[str, str]]:
    """Notes on equal images: for the user, with files, and for the manifest, with keys."""
    wanted = {key for pair in (*equal.examples_across, *equal.examples_differing) for key in pair}
    named = _names(raw, wanted) if wanted else {}
    remedy = "; --drop-duplicates keeps each once, in test before val before train"
    facts = [
        (equal.across, equal.examples_across, "in more than one split", remedy),
        (equal.differing, equal.examples_differing, "in one split with different labels", ""),
    ]
    notes = []
    for count, examples, fact, advice in facts:
        if not count:
            continue
        begin = f"{count:,} {'picture is' if count == 1 else 'pictures are'} {fact}, byte for byte, such as"
        listed = [", ".join(" = ".join(named[key][which] for key in pair) for pair in examples) for which in (0, 1)]
        advice = advice if raw.equal_images == "stored each" else ""
        notes.append((f"{begin} {listed[0]}{advice}", f"{begin} {listed[1]}"))
    return notes


def _names(raw: RawSet, wanted: set[int]) -> dict[int, tuple[str, str]]:
    """Image names for the user, and their keys, by key hash."""
    found: dict[int, tuple[str, str]] = {}
    for image in raw.images:
        if (key := hash_name(image.key)) in wanted:
            found[key] = called(image), image.key
        if len(found) == len(wanted):
            break
    return found
