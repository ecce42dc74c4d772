"""Writes one part of a set as shards, verifying its images in parallel; finished shards are kept if they are up to
date."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial as bind
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import UnidentifiedImageError

from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import hash_bytes
from data_pipelines.common.progress import Progress
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.common.splits import SPLITS, Split
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.preparation.file_states import LOOKERS, UNREADABLE, Contents, State, state_of
from data_pipelines.preparation.quarantine import Bad, bad_row
from data_pipelines.preparation.shard_records import (
    ROWS,
    chunks,
    contents_path,
    digest_of_images,
    forget_from,
    images_of,
    settings_of,
    shard_name,
    valid_record,
)
from data_pipelines.shards.writer import ShardWriter

Places = dict[int, dict[str, int]]  # by the digest of an image, where it lies

_IN_FLIGHT = 8  # images for each thread: bounds the memory


def write_part(raw: RawSet, folder: Path, part: int, parts: int, bar: Progress, most_bad: int | None) -> list[Bad]:
    """Write the shards of a part that are not finished, or were made from other images than there are now.

    Returns the bad images of all of its shards. Stops early once there are more than `most_bad`.
    """
    with (
        ThreadPoolExecutor(num_usable_cpus(), thread_name_prefix="verify") as pool,
        ThreadPoolExecutor(LOOKERS, thread_name_prefix="look") as lookers,
    ):
        writer = _PartWriter(raw, folder, part, parts, bar, pool, lookers)
        try:
            for split, number, chunk in chunks(images_of(raw, part, parts)):
                writer.write(split, number, chunk)
                if most_bad is not None and len(writer.bad) > most_bad:
                    return writer.bad
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    writer.remove_others()
    return writer.bad


@dataclass
class _Filled:
    """Outcome of filling a shard with its images."""

    bad: list[tuple[RawImage, str]] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    channels: int = 1
    shrunk: int = 0
    turned: int = 0
    remarks: Counter[str] = field(default_factory=Counter)

    def count(self, verified: EncodedImage) -> None:
        self.channels = max(self.channels, verified.channels)
        self.shrunk += verified.is_shrunk
        self.turned += verified.is_turned
        if verified.remark:
            self.remarks[verified.remark] += 1


class _Verified(NamedTuple):
    """A verified image for a shard, or the reason why it cannot be used, with the state and hash of its source."""

    found: EncodedImage | str
    state: State
    content: int


class _PartWriter:
    """Writes the shards of one part one by one, and remembers where equal images lie."""

    def __init__(
        self, raw: RawSet, folder: Path, part: int, parts: int, bar: Progress, pool: Executor, lookers: Executor
    ) -> None:
        self._raw, self._folder, self._part, self._parts, self._bar = raw, folder, part, parts, bar
        self._pool, self._lookers = pool, lookers
        self._merges = raw.equal_images != "stored each"
        self._verify, self._settings = _verifier(raw), settings_of(raw)
        self._places: dict[str, Places] = {split: {} for split in SPLITS}
        self._written = dict.fromkeys(SPLITS, 0)
        self.bad: list[Bad] = []

    def write(self, split: Split, number: int, images: list[RawImage]) -> None:
        """Write a shard, unless it is finished and up to date."""
        name, rows = shard_name(number, self._part, self._parts), self._folder.parent / ROWS / split
        self._written[split] = number + 1
        if (rows / f"{name}.json").is_file():
            known = valid_record(rows, name, images, self._settings, self._lookers)
            if known and self._is_whole(split, known) and not self._any_mended(images, known["bad_keys"]):
                self._remember(split, rows / f"{name}.npz")
                self.bad += [(file, reason) for file, reason in known["bad"]]
                self._bar.update(len(images))
                return
            self._forget(split, number)
        shard = ShardWriter(self._folder / split, rows, name, number, self._raw.classes, self._raw.task)
        try:
            filled = self._fill(shard, self._places[split], images)
            Contents.of(images, filled.states, filled.hashes).save(contents_path(rows, name))
        except BaseException:
            shard.discard()
            raise
        bad = [bad_row(image, reason) for image, reason in filled.bad]
        self.bad += bad
        shard.close(
            source=digest_of_images(images, self._settings),
            settings=digest_of_images([], self._settings),
            seen=len(images),
            channels=filled.channels,
            shrunk=filled.shrunk,
            turned=filled.turned,
            remarks=filled.remarks,
            bad=bad,
            bad_keys=[image.key for image, _ in filled.bad],
        )

    def _is_whole(self, split: str, known: dict[str, Any]) -> bool:
        tar = self._folder / split / known["file"]
        return tar.is_file() and bool(tar.stat().st_size == known["bytes"])

    def _forget(self, split: Split, number: int) -> None:
        """Mark a shard as unfinished; with merging of equal images the later ones too, which may refer to it."""
        if self._merges:
            forget_from(self._folder, split, self._part, self._parts, number)
        else:
            name = shard_name(number, self._part, self._parts)
            (self._folder.parent / ROWS / split / f"{name}.json").unlink()

    def remove_others(self) -> None:
        """Remove shards of an earlier start that had more images."""
        for split, number in self._written.items():
            for other in reversed(forget_from(self._folder, split, self._part, self._parts, number)):
                (self._folder / split / other["file"]).unlink(missing_ok=True)

    def _fill(self, shard: ShardWriter, places: Places, images: list[RawImage]) -> _Filled:
        """Add the usable images."""
        filled = _Filled()
        for image, (verified, state, content) in self._verified(images):
            self._bar.update()
            filled.states.append(state)
            filled.hashes.append(content)
            if isinstance(verified, str):
                filled.bad.append((image, verified))
                continue
            filled.count(verified)
            digest = hash_bytes(verified.encoded) if self._merges else 0
            if digest in places:
                shard.refer(places[digest], image.label)
                continue
            place = shard.add(image.key, verified, image.label, image.group, digest, image.facts)
            if self._merges:
                places[digest] = place
        return filled

    def _verified(self, images: Iterable[RawImage]) -> Iterator[tuple[RawImage, _Verified]]:
        """Each image with its outcome; in order, decoded in parallel."""
        stream = ((image, self._pool.submit(self._verify_one, image)) for image in images)
        waiting: deque[tuple[RawImage, Future[_Verified]]] = deque(islice(stream, _IN_FLIGHT * num_usable_cpus()))
        while waiting:
            image, verified = waiting.popleft()
            yield image, verified.result()
            waiting.extend(islice(stream, 1))

    def _verify_one(self, image: RawImage) -> _Verified:
        state, content = state_of(image.image), UNREADABLE

        def read() -> bytes:
            nonlocal content
            encoded = image.read()
            content = hash_bytes(encoded)
            return encoded

        return _Verified(verified_or_reason(read, self._verify), state, content)

    def _any_mended(self, images: list[RawImage], bad_keys: list[str]) -> bool:
        """Whether an image that was bad can be used now, as after a decoder was installed."""
        bad = set(bad_keys)
        again = self._verified([image for image in images if image.key in bad])
        return any(not isinstance(verified.found, str) for _, verified in again)

    def _remember(self, split: Split, rows: Path) -> None:
        if not self._merges:
            return
        with np.load(rows, allow_pickle=False) as table:
            columns = {name: table[name].tolist() for name in table.files if name != "labels"}
        for row, digest in enumerate(columns["digest"]):
            self._places[split].setdefault(digest, {name: values[row] for name, values in columns.items()})


def _verifier(raw: RawSet) -> Callable[[bytes], EncodedImage]:
    turned: dict[str, Any] = {"upright": True} if raw.upright else {}
    if raw.xray_size:
        return bind(verify_xray, size=raw.xray_size, depth=raw.depth, cut=raw.xray_cut, **turned)
    return bind(verify_image, shorter_side=raw.shorter_side, **turned)


def verified_or_reason(read: Callable[[], bytes], verify: Callable[[bytes], EncodedImage]) -> EncodedImage | str:
    """The result of `verify` on the bytes, or the reason why the image cannot be used. Raises InputError for a missing
    decoder."""
    try:
        encoded = read()
        return verify(encoded) if encoded else "an empty file"
    except InputError:  # a decoder that is not installed is no fault of the image
        raise
    except UnidentifiedImageError as error:
        return str(error)
    except OSError as error:  # the file is named beside the reason
        return error.strerror or f"{type(error).__name__}: {error}"
    except Exception as error:  # whatever a decoder throws at a broken file is a reason for the quarantine
        kind = "" if type(error) is ValueError and str(error) else f"{type(error).__name__}: "  # ours say it in words
        return (f"{kind}{error}".splitlines() or ["unknown"])[0]
