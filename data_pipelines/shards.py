"""Tar shards that the `webdataset` package can read: `<key>.jpg|png` followed by `<key>.json` for each sample.

Beside the shards of a split lies one `.npy` per column, so that millions of rows are mapped instead of read, and above
the splits lies `manifest.json`, written last: a folder without it is not a prepared data set.
"""

import hashlib
import json
import mmap
import os
import secrets
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from data_pipelines.errors import InputError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MANIFEST_KEYS = {"name", "task", "classes", "channels", "horizontal_flip", "splits"}
BLOCK_BYTES = 512  # of a tar: a member's data follow its header of one block
COLUMNS = {"shard": np.int32, "offset": np.int64, "length": np.int64, "height": np.int32, "width": np.int32}
NO_GROUP = -1


@dataclass(frozen=True)
class EncodedImage:
    """A verified image as it goes into a shard: `encoded` is the file's bytes, `suffix` is "jpg" or "png", height and
    width are in pixels, `channels` is 1 or 3."""

    encoded: bytes
    suffix: str
    height: int
    width: int
    channels: int


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write that appears under its name only when it is whole."""
    # In containers, processes on two nodes may have the same number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def hash_bytes(data: bytes) -> int:
    """63 bits of a hash, non-negative: equal for equal bytes."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1


def hash_name(name: str) -> int:
    """63 bits of a hash, non-negative: equal for equal names, which may hold bytes that are no text."""
    return hash_bytes(name.encode(errors="surrogateescape"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` so that it is either absent or whole."""
    with atomic_file(folder / MANIFEST) as file:
        file.write(json.dumps({"format_version": FORMAT_VERSION, **manifest}, indent=1).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises InputError naming the file and the remedy."""
    path = folder / MANIFEST
    prepare_again = "prepare the set again: python -m data_pipelines.prepare --help"
    if not path.is_file():
        raise InputError(f"{folder} is no prepared data set: {path} is missing or was never finished; {prepare_again}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        version = manifest["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path} has format version {version}, this program reads {FORMAT_VERSION}; {prepare_again}"
            )
        missing = _MANIFEST_KEYS - manifest.keys()
        if missing:
            raise InputError(f"{path} lacks {', '.join(sorted(missing))}; {prepare_again}")
        shards = []
        for split, content in manifest["splits"].items():
            if content["images"] and not content["shards"]:
                raise ValueError(f"{split} has images but no shards")
            shards += [(folder / split / shard["file"], shard["bytes"]) for shard in content["shards"]]
        if manifest["task"] not in ("single_label", "multi_label") or not isinstance(manifest["classes"], list):
            raise ValueError("no known task, or no list of classes")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); {prepare_again}") from error
    for file, size_bytes in shards:
        size = file.stat().st_size if file.is_file() else None
        if size != size_bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise InputError(f"{file} {found}, its manifest says {size_bytes} bytes; {prepare_again}")
    return manifest


class ShardReader:
    """Maps shards and hands out the encoded bytes of single images without copying them."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = tuple(shards)
        self._maps: dict[int, npt.NDArray[np.uint8]] = {}

    def encoded(self, shard: int, offset: int, length: int) -> npt.NDArray[np.uint8]:
        """The bytes of one image, uint8 [length], a view of the mapped file."""
        return self._map(shard)[offset : offset + length]

    def key(self, shard: int, offset: int) -> str:
        """The sample's key, read from the tar header before its image."""
        header = self._map(shard)[offset - BLOCK_BYTES : offset].tobytes()
        return tarfile.TarInfo.frombuf(header, "utf-8", "strict").name.rpartition(".")[0]

    def description(self, shard: int, offset: int, length: int) -> dict[str, Any]:
        """What the member behind an image says of it: its label, and maybe "facts"."""
        mapped = self._map(shard)
        start = offset + -(-length // BLOCK_BYTES) * BLOCK_BYTES
        size = tarfile.TarInfo.frombuf(mapped[start : start + BLOCK_BYTES].tobytes(), "utf-8", "strict").size
        start += BLOCK_BYTES
        content: dict[str, Any] = json.loads(mapped[start : start + size].tobytes())
        return content

    def read_ahead(self, shard: int, offset: int, length: int) -> None:
        """Ask the system to fetch these bytes of the mapped file, without waiting for them."""
        mapped: Any = self._map(shard)
        first = offset - offset % mmap.PAGESIZE
        mapped._mmap.madvise(mmap.MADV_WILLNEED, first, offset + length - first)

    def check_row(self, shard: int, offset: int, length: int) -> None:
        """Raise InputError unless a tar member of that length begins there."""
        try:
            header = self._map(shard)[offset - BLOCK_BYTES : offset].tobytes()
            size = tarfile.TarInfo.frombuf(header, "utf-8", "strict").size
        except (tarfile.TarError, ValueError) as error:
            size = f"no member ({error})"  # type: ignore[assignment]
        if size != length:
            raise InputError(
                f"{self._shards[shard]} does not match its index: at byte {offset} the index expects an image of "
                f"{length} bytes, the shard has {size}; prepare the set again"
            )

    def _map(self, shard: int) -> npt.NDArray[np.uint8]:
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self._shards[shard], dtype=np.uint8, mode="r")
        return self._maps[shard]
