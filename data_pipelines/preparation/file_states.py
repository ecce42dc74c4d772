"""State (path, size, times) and content hash of each source file. Hashes decide where states differ; names never do, as
files are replaced under the same name."""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipelines.common.files import atomic_file
from data_pipelines.common.hashes import hash_blocks, hash_bytes, hash_name
from data_pipelines.common.raw_set import Member, RawImage

LOOKERS = 16  # threads: asking for the state of a file mostly waits for the file system
UNREADABLE = -1

_BLOCK = 256  # images for each call of a thread
_BLOCKS = 64  # asked for at once: bounds the memory
State = tuple[int, int, int, int]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contents:
    """What N images were made of, in order. keys: int64 [N], hashes of their keys. states: int64 [N, 4], as from
    `state_of`. hashes: int64 [N], of the bytes; UNREADABLE where those could not be read."""

    keys: Numbers
    states: Numbers
    hashes: Numbers

    @staticmethod
    def of(images: Sequence[RawImage], states: Iterable[State], hashes: Sequence[int]) -> "Contents":
        keys = np.array([hash_name(image.key) for image in images], dtype=np.int64)
        return Contents(keys, _table(states), np.asarray(hashes, dtype=np.int64))

    @staticmethod
    def joined(parts: Sequence["Contents"]) -> "Contents":
        parts = [Contents.of([], [], []), *parts]
        return Contents(
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.states for part in parts]),
            np.concatenate([part.hashes for part in parts]),
        )

    @staticmethod
    def load(path: Path) -> "Contents | None":
        """None if there is no whole file."""
        try:
            with np.load(path, allow_pickle=False) as table:
                return Contents(table["keys"], table["states"], table["hashes"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, path: Path) -> None:
        with atomic_file(path) as file:
            np.savez(file, keys=self.keys, states=self.states, hashes=self.hashes)

    @cached_property
    def _order(self) -> Numbers:
        return np.argsort(self.keys)

    def rows_of(self, keys: Numbers) -> Numbers:
        """Row number of each key; an arbitrary row for a key that is absent."""
        places = np.searchsorted(self.keys, keys, sorter=self._order).clip(max=len(self.keys) - 1)
        rows: Numbers = self._order[places]
        return rows

    def is_same(self, other: "Contents") -> bool:
        """Whether keys and bytes are equal, wherever the files lie."""
        return np.array_equal(self.keys, other.keys) and np.array_equal(self.hashes, other.hashes)


def state_of(image: Path | Member | bytes) -> State:
    """Hash of an image's path and its place in a tar; size of the file in bytes, -1 if absent; modification time and
    change time in ns, as archives restore the former. Get it before reading the bytes, so that a change in between
    shows later."""
    if isinstance(image, bytes):
        return hash_bytes(image), len(image), 0, 0
    path = image.tar if isinstance(image, Member) else image
    place = f"\0{image.name}\0{image.offset}\0{image.length}" if isinstance(image, Member) else ""
    name = hash_name(f"{path.absolute()}{place}")
    try:
        found = path.stat()
    except OSError:
        return name, -1, 0, 0
    return name, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_changed(images: Sequence[RawImage], former: Contents | None, pool: Executor) -> Contents:
    """The current contents of the images; only those whose state differs from that in `former` are read."""
    now = Contents.of(images, chain.from_iterable(_states(images, pool)), [UNREADABLE] * len(images))
    if former is not None and len(former.keys):
        row = former.rows_of(now.keys)
        is_known = (former.keys[row] == now.keys) & (former.states[row] == now.states).all(axis=1)
        now.hashes[is_known] = former.hashes[row[is_known]]
    to_read = np.flatnonzero((now.hashes == UNREADABLE) & (now.states[:, 1] >= 0))
    now.hashes[to_read] = list(pool.map(_hash_of, [images[row] for row in to_read.tolist()]))
    return now


def digest_of_states(images: Iterable[RawImage], pool: Executor) -> str:
    """A digest that changes when an image is added, removed or moved, and with the state of any file."""
    digest = hashlib.sha256()
    remaining = iter(images)
    while block := list(islice(remaining, _BLOCK * _BLOCKS)):
        for some, states in zip(_blocks(block), _states(block, pool), strict=True):
            digest.update(b"\0".join(image.key.encode(errors="surrogateescape") for image in some))
            digest.update(_table(states).tobytes())
    return digest.hexdigest()


def _hash_of(image: RawImage) -> int:
    try:
        return hash_blocks(image.blocks())
    except OSError:
        return UNREADABLE


def _states(images: Sequence[RawImage], pool: Executor) -> Iterator[list[State]]:
    return pool.map(lambda block: [state_of(image.image) for image in block], _blocks(images))


def _blocks(images: Sequence[RawImage]) -> Iterator[Sequence[RawImage]]:
    return (images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK))


def _table(states: Iterable[State]) -> Numbers:
    return np.array(list(states), dtype=np.int64).reshape(-1, 4)
