"""Samples of a prepared set that cannot be read any more: a missing shard, or damaged bytes.

Another sample replaces them, drawn by a hash of the position alone. So it is the same on every rank and after a
restart, no state is needed, and all other positions stay as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError, ShardError
from data_pipelines.image_files.image_verification import verify_image
from data_pipelines.image_files.pixel_limit import MAX_PIXELS
from data_pipelines.image_files.png import PNG_SIGNATURE, encode_png, require_whole_png
from data_pipelines.loading.sampler import BatchRequest
from data_pipelines.shards.index import Index

Encoded = npt.NDArray[np.uint8]
Replacement = Callable[[int, int], int | None]
"""The sample to show at (position, attempt from 0) in place of its own; None for a black image."""

ATTEMPTS = 32
BLANK = -1


@dataclass(frozen=True)
class UnreadableSample:
    """A sample that was not shown at its position, the reason, and its replacement: a row of the index, or BLANK.

    of_shard: its shard is the reason, not its own bytes."""

    position: int
    sample: int
    reason: str
    of_shard: bool
    replacement: int


def blank(position: int, attempt: int) -> int | None:
    """The replacement in evaluation: a black image, which is left out of the metrics."""
    return None


def readable(
    index: Index, request: BatchRequest, replacement: Replacement | None
) -> tuple[BatchRequest, list[Encoded], tuple[UnreadableSample, ...]]:
    """The request with unreadable samples replaced, the encoded bytes of each image, and what was replaced.

    Unreadable are samples of missing or damaged shards, and PNGs with wrong checksums, which decoders do not check.
    Without a `replacement`, raises ShardError and checks no checksums."""
    encoded: list[Encoded] = []
    unreadable: list[UnreadableSample] = []
    for i, row in enumerate(request.samples):
        if replacement is None:
            encoded.append(index.encoded(row))
            continue
        lost = None
        try:
            content = index.encoded(row)
            if content[: len(PNG_SIGNATURE)].tobytes() == PNG_SIGNATURE:
                require_whole_png(content.data)
        except ShardError as error:
            request, content, lost = replaced(index, request, i, str(error), True, replacement)
        except ValueError as error:
            request, content, lost = replaced(index, request, i, one_line(error), False, replacement)
        encoded.append(content)
        unreadable += [lost] if lost else []
    return request, encoded, tuple(unreadable)


def replaced(
    index: Index, request: BatchRequest, i: int, reason: str, of_shard: bool, replacement: Replacement
) -> tuple[BatchRequest, Encoded, UnreadableSample]:
    """The request with another sample in the i-th place, the bytes of that sample, and a record of the exchange."""
    position, sample = int(request.positions[i]), int(request.samples[i])
    shown, content = BLANK, None
    for attempt in range(ATTEMPTS):
        candidate = replacement(position, attempt)
        if candidate is None:
            break
        if candidate != sample and (content := _undamaged(index, candidate)) is not None:
            shown = candidate
            break
    if content is None:
        size = int(index.height[sample]), int(index.width[sample])
        if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            pixels = f"{size[1]} x {size[0]} pixels"
            raise InputError(f"the index beside {index.shards[0]} has an image of {pixels}; prepare the set again")
        content = np.frombuffer(encode_png(np.zeros(size, dtype=np.uint8)), dtype=np.uint8)
    else:
        samples = np.array(request.samples)
        samples[i] = shown
        request = replace(request, samples=samples)
    return request, content, UnreadableSample(position, sample, reason, of_shard, shown)


def damage(index: Index, row: int, encoded: Encoded) -> str | None:
    """Why an image cannot be decoded, by the strict decoders of `prepare`; None if it can."""
    try:
        found = verify_image(encoded.tobytes())
    except InputError:  # a decoder that is not installed is no fault of the image
        raise
    except Exception as error:  # whatever a decoder throws at a broken file
        return one_line(error)
    if (found.height, found.width) != (index.height[row], index.width[row]):
        return f"it is {found.width} x {found.height} pixels, its index says {index.width[row]} x {index.height[row]}"
    return found.remark or None  # `prepare` stores none that decoders remark on


def one_line(error: BaseException) -> str:
    """An error's message in one line."""
    return (f"{type(error).__name__}: {error}".splitlines() or ["unknown"])[0]


def _undamaged(index: Index, row: int) -> Encoded | None:
    try:
        content = index.encoded(row)
    except ShardError:
        return None
    return content if damage(index, row, content) is None else None


def sample_place(index: Index, row: int) -> str:
    """Location of a sample as text: set, split, shard and byte."""
    shard = int(index.shard[row])
    path = index.shards[shard]
    return f"{index.origins[shard]}/{path.parent.name}/{path.name}@{int(index.offset[row])}"


def sample_key(index: Index, row: int) -> str:
    """A sample's key, or its location where that cannot be read."""
    try:
        return index.keys([row])[0]
    except ShardError:
        return sample_place(index, row)


def sample_keys(index: Index, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
    """The keys of samples, or their locations where these cannot be read."""
    return [sample_key(index, int(row)) for row in rows]
