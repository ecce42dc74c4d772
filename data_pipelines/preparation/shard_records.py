"""Records of finished shards in an unfinished set, and whether a shard is up to date with its images."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member, RawImage, RawSet
from data_pipelines.common.splits import SPLITS, Split
from data_pipelines.preparation.file_states import LOOKERS, Contents, read_changed

ROWS = "rows"  # folder, beside that of the set, of what the index needs of each finished shard
SHARD_IMAGES = 4096  # images of the source for each shard: what an interruption costs at most


def shard_name(number: int, part: int, parts: int) -> str:
    """File name of a shard, without its suffix."""
    return f"{number:06d}" if parts == 1 else f"{part:03d}-{number:06d}"


def finished_shards(folder: Path, split: str, part: int, parts: int) -> list[dict[str, Any]]:
    """Records of the finished shards of a part, in order; `folder` is that of the set."""
    shards: list[dict[str, Any]] = []
    while (path := folder.parent / ROWS / split / f"{shard_name(len(shards), part, parts)}.json").is_file():
        shards.append(json.loads(path.read_text(encoding="utf-8")))
    return shards


def contents_path(rows: Path, name: str) -> Path:
    """The file with the `Contents` of a shard; `rows` is the folder of its split."""
    return rows / f"{name}.contents.npz"


def num_unknown(folder: Path, of_parts: Iterable[int], parts: int) -> int:
    """Number of finished shards of some parts without `Contents`, as written by earlier versions."""
    finished = [
        (split, shard) for split in SPLITS for part in of_parts for shard in finished_shards(folder, split, part, parts)
    ]
    return sum(
        not contents_path(folder.parent / ROWS / split, Path(shard["file"]).stem).is_file() for split, shard in finished
    )


def forget_part(folder: Path, part: int, parts: int) -> None:
    """Mark all shards of a part as unfinished."""
    for split in SPLITS:
        forget_from(folder, split, part, parts, 0)


def is_made_of(raw: RawSet, folder: Path, parts: int) -> bool:
    """Whether all shards are finished and made from exactly these images as they are now; the shards' tars may have
    moved."""
    settings = settings_of(raw)
    with ThreadPoolExecutor(LOOKERS, thread_name_prefix="look") as lookers:
        for part in range(parts):
            numbers = dict.fromkeys(SPLITS, 0)
            for split, number, images in chunks(images_of(raw, part, parts)):
                rows, name = folder.parent / ROWS / split, shard_name(number, part, parts)
                if valid_record(rows, name, images, settings, lookers) is None:
                    return False
                numbers[split] += 1
            if any(len(finished_shards(folder, split, part, parts)) != number for split, number in numbers.items()):
                return False
    return True


def forget_from(folder: Path, split: str, part: int, parts: int, first: int) -> list[dict[str, Any]]:
    """Mark the shards of a split from `first` on as unfinished, and return them. From the last to the first, so that an
    interruption leaves no finished shard behind an unfinished one."""
    shards = finished_shards(folder, split, part, parts)[first:]
    for shard in reversed(shards):
        (folder.parent / ROWS / split / shard["file"]).with_suffix(".json").unlink()
    return shards


def valid_record(
    rows: Path, name: str, images: list[RawImage], settings: bytes, lookers: Executor
) -> dict[str, Any] | None:
    """The record of a shard if it is finished and made from exactly these images as they are now."""
    path, contents = rows / f"{name}.json", Contents.load(contents_path(rows, name))
    if contents is None or not path.is_file():  # earlier versions did not keep what they made a shard of
        return None
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if known["source"] != digest_of_images(images, settings):
        return None
    now = read_changed(images, contents, lookers)
    if not now.is_same(contents):
        return None
    if np.array_equal(now.states, contents.states):
        return known
    now.save(contents_path(rows, name))  # so that they are not read the next time
    return None if known["bad"] else known  # which names files that may lie elsewhere by now


def images_of(raw: RawSet, part: int, parts: int) -> Iterator[RawImage]:
    """The images of a part; failing to list them is reported as a fault of the source, not of the output."""
    images: Iterable[RawImage] = raw.images
    if parts > 1:
        images = raw.part(part, parts) if raw.part else islice(raw.images, part, None, parts)
    try:
        yield from images
    except OSError as error:
        raise InputError(f"the images of {raw.name} cannot be listed ({error}); check --root") from error


def chunks(images: Iterable[RawImage]) -> Iterator[tuple[Split, int, list[RawImage]]]:
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


def settings_of(raw: RawSet) -> bytes:
    """The settings that, besides the images, determine the contents of a shard."""
    xrays = (raw.xray_size, raw.xray_cut, raw.bits, raw.bits_given) if raw.xray_size else ()
    photographs = (raw.shorter_side, raw.upright)
    return json.dumps((raw.task, raw.classes, raw.equal_images, xrays, photographs)).encode()


def digest_of_images(images: list[RawImage], settings: bytes) -> str:
    """A digest that changes with any key, split, label, group or fact, with generated images, places in tars, and the
    settings; the contents of files are left to `Contents`."""
    digest = hashlib.sha256(settings)
    for image in images:
        label = image.label.tobytes() if isinstance(image.label, np.ndarray) else b"%d" % image.label
        source = image.image if isinstance(image.image, bytes) else b""
        place = image.image.offset if isinstance(image.image, Member) else 0
        key, split = image.key.encode(errors="surrogateescape"), image.split.encode()
        digest.update(b"%s\0%s\0%s\0%d\0%d\0%s\0" % (key, split, label, image.group, place, source))
        if image.facts:
            digest.update(json.dumps(dict(image.facts), sort_keys=True).encode())
    return digest.hexdigest()
