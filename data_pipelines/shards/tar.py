"""Tar shards that the `webdataset` package can read: `<key>.jpg|png` followed by `<key>.json` for each sample.

Beside the shards of a split lies one `.npy` per column, so that millions of rows are mapped instead of read, and above
the splits lies `manifest.json`, written last: a folder without it is not a prepared data set.
"""

import hashlib
import json
import os
import tarfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError, ShardError
from data_pipelines.common.files import atomic_file
from data_pipelines.image_files.bit_depth import LEAST_BITS, MOST_BITS

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MANIFEST_KEYS = {"name", "task", "classes", "channels", "horizontal_flip", "splits"}
BLOCK_BYTES = 512  # of a tar: a member's data follow its header of one block
COLUMNS = {"shard": np.int32, "offset": np.int64, "length": np.int64, "height": np.int32, "width": np.int32}
NO_GROUP = -1
_SHA256_DIGITS, _NAME_CHARACTERS = 64, 200
RECHECK_S = 10.0  # between two looks at the name of a shard that is being read
_MOST_FILES = 65_536
_MOST_DESCRIBED_BYTES = 1 << 20


@dataclass(frozen=True)
class EncodedImage:
    """A verified image as it goes into a shard: `encoded` is the file's bytes, `suffix` is "jpg" or "png", height and
    width are in pixels, `channels` is 1 or 3, `is_shrunk` a photograph that was larger, `is_turned` one that lay on its
    side, `remark` what is to be said of it although it was taken."""

    encoded: bytes
    suffix: str
    height: int
    width: int
    channels: int
    is_shrunk: bool = False
    is_turned: bool = False
    remark: str = ""


def hash_bytes(data: bytes) -> int:
    """63 bits of a hash, non-negative: equal for equal bytes."""
    return hash_blocks((data,))


def hash_blocks(blocks: Iterable[bytes]) -> int:
    """`hash_bytes` of blocks of bytes in a row, which need not be in memory all at once."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


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


def read_manifest(folder: Path, check_shards: bool = True) -> dict[str, Any]:
    """The manifest of a prepared folder, whose shards are there and of the right size unless that is not checked.
    Raises InputError naming the file and the remedy."""
    path = folder / MANIFEST
    prepare_again = "prepare the set again: python -m data_pipelines.prepare --help"
    if not path.is_file():
        raise InputError(f"{folder} is no prepared data set: {path} is missing or was never finished; {prepare_again}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
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
            _require_split(split, content)
            shards += [(folder / split / shard["file"], shard["bytes"]) for shard in content["shards"]]
        _require_description(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); {prepare_again}") from error
    for file, size_bytes in shards if check_shards else ():
        size = file.stat().st_size if file.is_file() else None
        if size != size_bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise InputError(f"{file} {found}, its manifest says {size_bytes} bytes; {prepare_again}")
    return manifest


def _require_split(split: str, content: dict[str, Any]) -> None:
    """Raise ValueError for what cannot be a split; names of files are names, and lead nowhere else."""
    if split not in ("train", "val", "test"):
        raise ValueError(f"a split {split!r}")
    if not isinstance(content["images"], int) or isinstance(content["images"], bool) or content["images"] < 0:
        raise ValueError(f"{split} has {content['images']!r} images")
    if content["images"] and not content["shards"]:
        raise ValueError(f"{split} has images but no shards")
    columns = content.get("columns", {})
    if not isinstance(columns, dict) or not all(name.isidentifier() for name in columns):
        raise ValueError(f"the columns of {split} have other names")
    sums = [*columns.values(), *(shard.get("sha256", "") for shard in content["shards"])]
    if not all(isinstance(one, str) for one in sums):
        raise ValueError(f"the sums of {split} are no texts")
    for shard in content["shards"]:
        file = shard["file"]
        if Path(file).name != file or file in ("", ".", "..") or "\0" in file or len(file) > _NAME_CHARACTERS:
            raise ValueError(f"{split} has a shard {file!r}, which is no name of a file beside it")


def _require_description(manifest: dict[str, Any]) -> None:
    """Raise ValueError for what cannot describe a set."""
    classes = manifest["classes"]
    if manifest["task"] not in ("single_label", "multi_label") or not isinstance(classes, list):
        raise ValueError("no known task, or no list of classes")
    if not all(isinstance(name, str) for name in (*classes, manifest["name"])):
        raise ValueError("a name that is no text")
    channels = manifest["channels"]
    if type(channels) is not int or channels not in (1, 3) or not isinstance(manifest["horizontal_flip"], bool):
        raise ValueError("images have 1 or 3 channels, and may be flipped or not")
    if manifest.get("patients", "none") not in ("none", "apart", "may leak"):
        raise ValueError("what it says of patients is not known")
    if manifest.get("metric", "top1") not in ("top1", "auc"):
        raise ValueError("its metric is not known")
    if type(side := manifest.get("shorter_side", 1)) is not int or side < 1:
        raise ValueError("the shorter side of its images is no number of pixels")
    bits, sources = manifest.get("bits", MOST_BITS), (manifest.get(f"bits_{by}", False) for by in ("found", "given"))
    if type(bits) is not int or not LEAST_BITS <= bits <= MOST_BITS or any(type(one) is not bool for one in sources):
        raise ValueError("the bits of its pixels are not known")
    if manifest.get("xray_cut", "square") not in ("square", "whole"):
        raise ValueError("what was kept of its X-rays is not known")
    if not isinstance(manifest.get("upright", False), bool):
        raise ValueError("whether its images were turned is not known")
    if manifest.get("split_by", "patient") not in ("patient", "image"):
        raise ValueError("by what it was split is not known")


class ShardReader:
    """Reads single images out of shards. Every few seconds it looks whether a shard is still the one that was prepared.

    Bytes are copied, not mapped: of a mapped file that is cut off or cannot be fetched, the system kills the reader.
    All methods that read raise ShardError.
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
        header = self._read(int(shard), offset - BLOCK_BYTES, BLOCK_BYTES).tobytes()
        try:
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name.rpartition(".")[0]
        except (tarfile.TarError, ValueError) as error:
            raise ShardError(f"{self._shards[shard]} has no image at byte {offset} ({error})") from error

    def description(self, shard: int, offset: int, length: int) -> dict[str, Any]:
        """What the member behind an image says of it: its label, and maybe "facts"."""
        start = offset + -(-length // BLOCK_BYTES) * BLOCK_BYTES
        try:
            header = self._read(shard, start, BLOCK_BYTES).tobytes()
            size = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
            if size > _MOST_DESCRIBED_BYTES:
                raise ValueError(f"{size} bytes of description")
            content = json.loads(self._read(shard, start + BLOCK_BYTES, size).tobytes())
        except (tarfile.TarError, ValueError) as error:
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
            if not BLOCK_BYTES <= offset <= self._opened(int(shard)).size:
                raise ValueError("beyond its end")
            header = self._read(int(shard), offset - BLOCK_BYTES, BLOCK_BYTES).tobytes()
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
        """By its size and, if it has changed since it was first read, by its sum: a new date alone is no harm."""
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
    """Closed when nobody uses it any more."""

    def __init__(self, path: Path, size: int) -> None:
        self.descriptor, self.size, self.checked_s = os.open(path, os.O_RDONLY | os.O_CLOEXEC), size, 0.0

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.descriptor)


@lru_cache(maxsize=1)
def most_open() -> int:
    """Shards that a process may hold open: half of what the system allows it, raised as far as that goes."""
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
    """Bytes and SHA-256 by split and file; empty without a manifest that says so."""
    try:
        splits = json.loads(manifest.read_text(encoding="utf-8"))["splits"]
        return {
            (split, shard["file"]): (int(shard["bytes"]), str(shard["sha256"]))
            for split, content in splits.items()
            for shard in content["shards"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
