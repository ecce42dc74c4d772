"""Tar shards that the `webdataset` package can read: `<key>.jpg|png` followed by `<key>.json` for each sample.

Beside the shards of a split lies one `.npy` per column, so that millions of rows are mapped instead of read, and above
the splits lies `manifest.json`, written last: a folder without it is not a prepared data set.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class SplitWriter:
    """Writes one split: shards of about `shard_bytes` and, on `close`, the columns."""

    def __init__(self, folder: Path, classes: Sequence[str], task: str, shard_bytes: int = 1 << 30) -> None:
        self.folder, self.classes, self.task, self.shard_bytes = folder, tuple(classes), task, shard_bytes
        self.folder.mkdir(parents=True)
        self._columns: dict[str, list[int]] = {name: [] for name in (*COLUMNS, "group")}
        self._labels: list[Any] = []
        self._shards: list[dict[str, Any]] = []
        self._tar: tarfile.TarFile | None = None

    def add(self, key: str, image: EncodedImage, label: int | npt.NDArray[np.float32], group: int = NO_GROUP) -> None:
        """Append a sample: a class number, or float32 [C] with NaN = unlabelled; `group` keeps a patient together."""
        if self._tar is None or self._tar.offset >= self.shard_bytes:
            self._finish_shard()
            path = self.folder / f"{len(self._shards):06d}.tar"
            self._shards.append({"file": path.name, "images": 0})
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - open across calls
        row = {
            "shard": len(self._shards) - 1,
            "offset": self._tar.offset + BLOCK_BYTES,
            "length": len(image.encoded),
            "height": image.height,
            "width": image.width,
            "group": group,
        }
        _add_member(self._tar, f"{key}.{image.suffix}", image.encoded)
        _add_member(self._tar, f"{key}.json", json.dumps(self._describe(label)).encode())
        for name, value in row.items():
            self._columns[name].append(value)
        self._labels.append(label)
        self._shards[-1]["images"] += 1

    def _describe(self, label: Any) -> dict[str, Any]:
        if self.task == "single_label":
            return {"label": int(label), "class": self.classes[label]}
        known = ~np.isnan(label)
        return {"labels": {name: int(value) for name, value, ok in zip(self.classes, label, known, strict=True) if ok}}

    def _finish_shard(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        path = Path(str(self._tar.name))
        self._shards[-1] |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        self._tar = None

    def close(self) -> dict[str, Any]:
        """Finish the last shard and write the columns; returns the split's part of the manifest."""
        self._finish_shard()
        for name, values in self._columns.items():
            np.save(self.folder / f"{name}.npy", np.asarray(values, dtype=COLUMNS.get(name, np.int64)))
        if self.task == "single_label":
            np.save(self.folder / "labels.npy", np.asarray(self._labels, dtype=np.int64))
        else:
            labels = np.asarray(self._labels, dtype=np.float32)
            np.save(self.folder / "labels.npy", labels.reshape(-1, len(self.classes)))
        return {"images": len(self._labels), "shards": self._shards}


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Fixed owner, mode and time: the same images give the same shard, byte for byte.
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` so that it is either absent or whole."""
    temporary = folder / f".{MANIFEST}.tmp"
    with temporary.open("w") as file:
        json.dump({"format_version": FORMAT_VERSION, **manifest}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MANIFEST)


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
