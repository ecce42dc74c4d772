"""Write one part of a set: its images, verified in parallel, as shards; finished ones are not written again."""

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial as bind
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import UnidentifiedImageError
from tqdm import tqdm

from data_pipelines.datasets.raw import Member, RawImage, RawSet
from data_pipelines.depth import Depth
from data_pipelines.errors import InputError
from data_pipelines.images import verify_image, verify_xray
from data_pipelines.index import Split
from data_pipelines.shard_writer import ShardWriter
from data_pipelines.shards import EncodedImage, hash_bytes

ROWS = "rows"  # folder, beside that of the set, of what the index needs of each finished shard
SHARD_IMAGES = 4096  # images of the source for each shard: what an interruption costs at most
Bad = tuple[str, str]  # file, reason
Places = dict[int, dict[str, int]]  # by the digest of an image, where it lies

_IN_FLIGHT = 8  # images for each thread: bounds the memory
_QUIET_SECONDS = 60  # between two lines of progress in a log file


def progress_bar(**options: Any) -> "tqdm[Any]":
    """A progress bar on a terminal, and a line each minute in a log file."""
    if sys.stderr.isatty():
        return tqdm(**options)
    return tqdm(**options, mininterval=_QUIET_SECONDS, delay=_QUIET_SECONDS, ascii=True)


def shard_name(number: int, part: int, parts: int) -> str:
    """File name of a shard, without its suffix."""
    return f"{number:06d}" if parts == 1 else f"{part:03d}-{number:06d}"


def finished_shards(folder: Path, split: str, part: int, parts: int) -> list[dict[str, Any]]:
    """What is known of the finished shards of a part, in the order of their numbers; `folder` is that of the set."""
    shards: list[dict[str, Any]] = []
    while (path := folder.parent / ROWS / split / f"{shard_name(len(shards), part, parts)}.json").is_file():
        shards.append(json.loads(path.read_text(encoding="utf-8")))
    return shards


def write_part(raw: RawSet, folder: Path, part: int, parts: int, bar: "tqdm[Any]", most_bad: int | None) -> list[Bad]:
    """Write the shards of a part that are not finished yet, or were made of other images than they would be now.

    Returns the bad images of all of its shards. Stops early once there are more than `most_bad`.
    """
    images: Iterable[RawImage] = raw.images
    if parts > 1:
        images = raw.part(part, parts) if raw.part else islice(raw.images, part, None, parts)
    writer = _PartWriter(raw, folder, part, parts, bar)
    with ThreadPoolExecutor(num_threads(), thread_name_prefix="verify") as pool:
        try:
            for split, number, chunk in _chunks(_listed(raw.name, images)):
                writer.write(split, number, chunk, pool)
                if most_bad is not None and len(writer.bad) > most_bad:
                    return writer.bad
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    writer.remove_others()
    return writer.bad


def num_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _listed(name: str, images: Iterable[RawImage]) -> Iterator[RawImage]:
    """The images; what cannot be listed is the fault of the source, not of the output."""
    try:
        yield from images
    except OSError as error:
        raise InputError(f"the images of {name} cannot be listed ({error}); mend --root") from error


def _chunks(images: Iterable[RawImage]) -> Iterator[tuple[Split, int, list[RawImage]]]:
    """The images of each shard, with its split and its number in it."""
    waiting: dict[Split, list[RawImage]] = {"train": [], "val": [], "test": []}
    numbers: dict[Split, int] = dict.fromkeys(waiting, 0)
    for image in images:
        waiting[image.split].append(image)
        if len(waiting[image.split]) == SHARD_IMAGES:
            yield image.split, numbers[image.split], waiting[image.split]
            numbers[image.split] += 1
            waiting[image.split] = []
    for split, chunk in waiting.items():
        if chunk:
            yield split, numbers[split], chunk


class _PartWriter:
    """Writes the shards of one part one by one and remembers where equal images lie."""

    def __init__(self, raw: RawSet, folder: Path, part: int, parts: int, bar: "tqdm[Any]") -> None:
        self._raw, self._folder, self._part, self._parts, self._bar = raw, folder, part, parts, bar
        self._merges = raw.equal_images != "stored each"
        self._verify = _verifier(raw)
        self._places: dict[str, Places] = {"train": {}, "val": {}, "test": {}}
        self._written = dict.fromkeys(self._places, 0)
        self.bad: list[Bad] = []

    def write(self, split: Split, number: int, images: list[RawImage], pool: ThreadPoolExecutor) -> None:
        """Write a shard, unless that is done."""
        name, rows = shard_name(number, self._part, self._parts), self._folder.parent / ROWS / split
        source, done = _digest(images), rows / f"{name}.json"
        self._written[split] = number + 1
        if done.is_file():
            content = json.loads(done.read_text(encoding="utf-8"))
            tar = self._folder / split / content["file"]
            is_whole = tar.is_file() and tar.stat().st_size == content["bytes"]
            is_same = content["source"] == source
            if is_whole and is_same and not self._any_mended(images, content["bad_keys"], pool):
                self._remember(split, rows / f"{name}.npz")
                self.bad += [(file, reason) for file, reason in content["bad"]]
                self._bar.update(len(images))
                return
            self._forget(split, number)
        shard = ShardWriter(self._folder / split, rows, name, number, self._raw.classes, self._raw.task)
        try:
            bad, channels, shrunk = self._fill(shard, self._places[split], images, pool)
        except BaseException:
            shard.discard()
            raise
        self.bad += [_bad(image, reason) for image, reason in bad]
        shard.close(
            source=source,
            seen=len(images),
            channels=channels,
            shrunk=shrunk,
            bad=[_bad(image, reason) for image, reason in bad],
            bad_keys=[image.key for image, _ in bad],
        )

    def _forget(self, split: Split, number: int) -> None:
        """Make a shard count as not finished, and with equal images the later ones too: they may refer to places in it.
        The last goes first, so that a stop in between leaves none that does."""
        shards = finished_shards(self._folder, split, self._part, self._parts)
        for other in reversed(shards[number:] if self._merges else shards[number : number + 1]):
            (self._folder.parent / ROWS / split / other["file"]).with_suffix(".json").unlink()

    def remove_others(self) -> None:
        """Remove the shards of an earlier start that had more images."""
        for split, number in self._written.items():
            for other in reversed(finished_shards(self._folder, split, self._part, self._parts)[number:]):
                (self._folder.parent / ROWS / split / other["file"]).with_suffix(".json").unlink()
                (self._folder / split / other["file"]).unlink(missing_ok=True)

    def _fill(
        self, shard: ShardWriter, places: Places, images: list[RawImage], pool: ThreadPoolExecutor
    ) -> tuple[list[tuple[RawImage, str]], int, int]:
        """Add the images that are sound; returns the others, the most channels of any, and how many were shrunk."""
        bad, channels, shrunk = [], 1, 0
        for image, verified in self._verified(images, pool):
            self._bar.update()
            if isinstance(verified, str):
                bad.append((image, verified))
                continue
            channels, shrunk = max(channels, verified.channels), shrunk + verified.is_shrunk
            digest = hash_bytes(verified.encoded) if self._merges else 0
            if digest in places:
                shard.refer(places[digest], image.label)
                continue
            place = shard.add(image.key, verified, image.label, image.group, digest, image.facts)
            if self._merges:
                places[digest] = place
        return bad, channels, shrunk

    def _verified(
        self, images: Iterable[RawImage], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[RawImage, EncodedImage | str]]:
        """Each image with what goes into the shard, or with the reason why it cannot; in order, decoded in parallel."""
        stream = ((image, pool.submit(self._verify_one, image)) for image in images)
        waiting: deque[tuple[RawImage, Future[EncodedImage | str]]] = deque(islice(stream, _IN_FLIGHT * num_threads()))
        while waiting:
            image, verified = waiting.popleft()
            yield image, verified.result()
            waiting.extend(islice(stream, 1))

    def _verify_one(self, image: RawImage) -> EncodedImage | str:
        return verified_or_reason(image.read, self._verify)

    def _any_mended(self, images: list[RawImage], bad_keys: list[str], pool: ThreadPoolExecutor) -> bool:
        """Whether an image that was bad is sound by now."""
        bad = set(bad_keys)
        again = self._verified([image for image in images if image.key in bad], pool)
        return any(not isinstance(verified, str) for _, verified in again)

    def _remember(self, split: Split, rows: Path) -> None:
        if not self._merges:
            return
        with np.load(rows, allow_pickle=False) as table:
            columns = {name: table[name].tolist() for name in table.files if name != "labels"}
        for row, digest in enumerate(columns["digest"]):
            self._places[split].setdefault(digest, {name: values[row] for name, values in columns.items()})


def _verifier(raw: RawSet) -> Callable[[bytes], EncodedImage]:
    if raw.xray_size:
        depth = Depth(raw.bits, raw.bits_given)
        return bind(verify_xray, size=raw.xray_size, depth=depth, cut=raw.xray_cut)
    return bind(verify_image, shorter_side=raw.shorter_side)


def verified_or_reason(read: Callable[[], bytes], verify: Callable[[bytes], EncodedImage]) -> EncodedImage | str:
    """What `verify` makes of the bytes that are read, or why it cannot. Raises InputError for a missing decoder."""
    try:
        return verify(read())
    except InputError:  # a decoder that is not installed is no fault of the image
        raise
    except UnidentifiedImageError as error:
        return str(error)
    except Exception as error:  # whatever a decoder throws at a broken file is a reason for the quarantine
        return (f"{type(error).__name__}: {error}".splitlines() or ["unknown"])[0]


def _bad(image: RawImage, reason: str) -> Bad:
    if image.is_hidden:
        return image.key, "it cannot be opened" if _names_a_file(image, reason) else reason
    return (image.key if isinstance(image.image, bytes) else str(image.image)), reason


def _names_a_file(image: RawImage, reason: str) -> bool:
    return not isinstance(image.image, bytes) and Path(str(image.image)).name in reason


def _digest(images: list[RawImage]) -> str:
    """Changes with any key, split, label, group or fact, with images that are made on the spot, and with places in
    tars; of files, which may have been moved, only their keys count."""
    digest = hashlib.sha256()
    for image in images:
        label = image.label.tobytes() if isinstance(image.label, np.ndarray) else b"%d" % image.label
        source = image.image if isinstance(image.image, bytes) else b""
        place = image.image.offset if isinstance(image.image, Member) else 0
        key, split = image.key.encode(errors="surrogateescape"), image.split.encode()
        digest.update(b"%s\0%s\0%s\0%d\0%d\0%s\0" % (key, split, label, image.group, place, source))
        if image.facts:
            digest.update(json.dumps(dict(image.facts), sort_keys=True).encode())
    return digest.hexdigest()
