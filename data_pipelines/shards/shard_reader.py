"""Reads tar shards, which the `webdataset` package can read too: `<key>.jpg|png`, then `<key>.json` per sample.

Beside the shards of a split lies one `.npy` per column, so that millions of rows are mapped instead of read, and above
the splits lies `manifest.json`, written last: a folder without it is not a prepared data set.
"""

import json
import os
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError, ShardError
from data_pipelines.common.hashes import sha256_of
from data_pipelines.common.manifest import MANIFEST

_SHA256_DIGITS = 64
RECHECK_S = 10.0  # between two looks at the name of a shard that is being read
_MOST_FILES = 65_536
_MOST_DESCRIBED_BYTES = 1 << 20


class ShardReader:
    """Reads single images out of shards. Every few seconds it checks that a shard is still the one that was prepared.

    Bytes are read, not mapped: if a mapped file is truncated or unreachable, the system kills the process. All methods
    that read raise ShardError.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = tuple(shards)
        self._open: dict[int, _OpenShard] = {}
        self._known: dict[int, tuple[int, ...]] = {}
        self._bad: dict[int, str] = {}
        self._opening = Lock()

    def encoded(self, shard: int, offset: int, length: int) -> npt.NDArray[np.uint8]:
        """The bytes of one image, uint8 [length]."""
        return self._read(int(shard), offset, length)

    def key(self, shard: int, offset: int) -> str:
        """The sample's key, read from the tar header before its image."""
        header = self._read(int(shard), offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE).tobytes()
        try:
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name.rpartition(".")[0]
        except (tarfile.TarError, ValueError) as error:
            raise ShardError(f"{self._shards[shard]} has no image at byte {offset} ({error})") from error

    def description(self, shard: int, offset: int, length: int) -> dict[str, Any]:
        """The JSON member after an image: its label, and maybe "facts"."""
        start = offset + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        try:
            header = self._read(shard, start, tarfile.BLOCKSIZE).tobytes()
            size = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
            if size > _MOST_DESCRIBED_BYTES:
                raise ValueError(f"{size} bytes of description")
            content = json.loads(self._read(shard, start + tarfile.BLOCKSIZE, size).tobytes())
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise ShardError(f"{self._shards[shard]} has no description at byte {start} ({error})") from error
        return content if isinstance(content, dict) else {}

    def read_ahead(self, shard: int, offset: int, length: int) -> None:
        """Ask the system to fetch these bytes, without waiting for them."""
        with suppress(ShardError, OSError):
            os.posix_fadvise(self._opened(shard).descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def check_row(self, shard: int, offset: int, length: int) -> None:
        """Raise InputError unless a tar member of that length begins there."""
        found: int | str
        try:
            if not tarfile.BLOCKSIZE <= offset <= self._opened(int(shard)).size:
                raise ValueError("beyond its end")
            header = self._read(int(shard), offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE).tobytes()
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
        except (tarfile.TarError, ValueError) as error:
            found = f"no member ({error})"
        if found != length:
            raise InputError(
                f"{self._shards[shard]} does not match its index: at byte {offset} the index expects an image of "
                f"{length} bytes, the shard has {found}; prepare the set again"
            )

    def _read(self, shard: int, offset: int, length: int) -> npt.NDArray[np.uint8]:
        opened = self._opened(shard)
        if offset < 0 or not 0 <= length <= opened.size - offset:
            self._refuse(shard, f"has {opened.size} bytes, its index expects {length} at {offset}")
        content = np.empty(length, dtype=np.uint8)
        done = 0
        try:
            while done < length:
                got = os.preadv(opened.descriptor, [content[done:]], offset + done)  # type: ignore[list-item]
                if not got:
                    self._refuse(shard, f"ends at byte {offset + done}, its index expects {length} at {offset}")
                done += got
        except OSError as error:
            self._refuse(shard, f"cannot be read ({error.strerror})")
        return content

    def _opened(self, shard: int) -> "_OpenShard":
        with self._opening:  # a loader reads beside the thread that trains, which may ask for keys
            return self._looked_at(shard)

    def _looked_at(self, shard: int) -> "_OpenShard":
        now = time.monotonic()
        kept = self._open.get(shard)
        if kept is not None and now - kept.checked_s < RECHECK_S:
            return kept
        if shard in self._bad:
            self._refuse(shard, self._bad[shard])
        path = self._shards[shard]
        try:
            found = path.stat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen != self._known.get(shard):
                self._require_as_prepared(shard, found.st_size)
                self._known[shard], kept = seen, None
            if kept is None:
                while len(self._open) >= most_open():
                    self._open.pop(next(iter(self._open)), None)
                kept = self._open[shard] = _OpenShard(path, found.st_size)
        except FileNotFoundError:
            self._refuse(shard, "has disappeared")
        except OSError as error:
            self._refuse(shard, f"cannot be read ({error.strerror})")
        assert kept is not None
        kept.checked_s = now
        return kept

    def _require_as_prepared(self, shard: int, size: int) -> None:
        """Check its size and, if it has changed since it was first read, its checksum: a new date alone is harmless."""
        path = self._shards[shard]
        manifest = path.parent.parent / MANIFEST
        written_ns = manifest.stat().st_mtime_ns if manifest.is_file() else 0
        expected = _sums(manifest, written_ns).get((path.parent.name, path.name))
        if expected is None or len(expected[1]) != _SHA256_DIGITS:
            if shard in self._known:
                self._refuse(shard, "has changed while it was in use")
            return
        if size != expected[0]:
            self._refuse(shard, f"has {size} bytes, its manifest says {expected[0]}")
        if shard in self._known and sha256_of(path) != expected[1]:
            self._refuse(shard, "has changed: its SHA-256 is not that of its manifest")

    def _refuse(self, shard: int, reason: str) -> NoReturn:
        self._bad[shard] = reason
        self._open.pop(shard, None)
        raise ShardError(f"{self._shards[shard]} {reason}; prepare the set again, or bring the file back")


class _OpenShard:
    """An open shard, closed once nobody uses it."""

    def __init__(self, path: Path, size: int) -> None:
        self.descriptor, self.size, self.checked_s = os.open(path, os.O_RDONLY | os.O_CLOEXEC), size, 0.0

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.descriptor)


@lru_cache(maxsize=1)
def most_open() -> int:
    """Number of shards a process may hold open: half of the system's limit, after raising that as far as allowed."""
    import resource  # of Unix only

    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if most == resource.RLIM_INFINITY else min(most, _MOST_FILES)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            allowed = wanted
    return max(16, (wanted if allowed == resource.RLIM_INFINITY else allowed) // 2)


@lru_cache(maxsize=64)
def _sums(manifest: Path, written_ns: int) -> dict[tuple[str, str], tuple[int, str]]:
    """Size and SHA-256 by split and file; empty without a manifest that has them."""
    try:
        splits = json.loads(manifest.read_text(encoding="utf-8"))["splits"]
        return {
            (split, shard["file"]): (int(shard["bytes"]), str(shard["sha256"]))
            for split, content in splits.items()
            for shard in content["shards"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
