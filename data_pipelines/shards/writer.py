"""Writes a prepared set: shard by shard, then the columns of the index."""

import io
import json
import os
import secrets
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.common.files import atomic_file
from data_pipelines.common.hashes import hash_name, sha256_of
from data_pipelines.common.patients import NO_GROUP
from data_pipelines.shards.columns import COLUMNS
from data_pipelines.shards.shard_reader import ShardReader

_ROW_COLUMNS = COLUMNS | {"group": np.int64, "key": np.int64, "digest": np.int64}


class ShardWriter:
    """Writes one shard, `<name>.tar`, and beside it in `rows` what the index needs of it.

    Nothing stands under these names before it is whole, and `<name>.json` comes last: a shard that has it is finished,
    and a preparation that was interrupted goes on after it. `number` is the shard's place among those of its part.
    """

    def __init__(self, folder: Path, rows: Path, name: str, number: int, classes: Sequence[str], task: str) -> None:
        self.name, self.number, self._classes, self._task = name, number, tuple(classes), task
        self._path, self._rows = folder / f"{name}.tar", rows / name
        folder.mkdir(parents=True, exist_ok=True)
        rows.mkdir(parents=True, exist_ok=True)
        self._temporary = folder / f".{name}.{secrets.token_hex(4)}.tmp"
        # Open across calls; names that are no text keep their bytes, whatever the locale.
        self._tar = tarfile.open(  # noqa: SIM115
            self._temporary, "w", format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="surrogateescape"
        )
        self._columns: dict[str, list[int]] = {name: [] for name in _ROW_COLUMNS}
        self._labels: list[Any] = []
        self._num_images = 0

    def add(
        self,
        key: str,
        image: EncodedImage,
        label: int | npt.NDArray[np.float32],
        group: int = NO_GROUP,
        digest: int = 0,
        facts: Mapping[str, str] | None = None,
    ) -> dict[str, int]:
        """Append a sample: a class number, or float32 [C] with NaN = unlabelled; `group` keeps a patient together,
        `digest` is equal for images that are equal, `facts` stand beside its label. Returns where it lies, for
        `refer`."""
        place = {
            "shard": self.number,
            "offset": self._tar.offset + tarfile.BLOCKSIZE,
            "length": len(image.encoded),
            "height": image.height,
            "width": image.width,
            "group": group,
            "key": hash_name(key),
            "digest": digest,
        }
        described = self._describe(label) | ({"facts": dict(facts)} if facts else {})
        _add_member(self._tar, f"{key}.{image.suffix}", image.encoded)
        _add_member(self._tar, f"{key}.json", json.dumps(described).encode())
        self.refer(place, label)
        self._num_images += 1
        return place

    def refer(self, place: dict[str, int], label: int | npt.NDArray[np.float32]) -> None:
        """Append a row for an image that was added before, to this shard or to another one of the same part."""
        for name, value in place.items():
            self._columns[name].append(value)
        self._labels.append(label)

    def _describe(self, label: Any) -> dict[str, Any]:
        if self._task == "single_label":
            return {"label": int(label), "class": self._classes[label]}
        known = ~np.isnan(label)
        return {"labels": {name: int(value) for name, value, ok in zip(self._classes, label, known, strict=True) if ok}}

    def close(self, **metadata: Any) -> dict[str, Any]:
        """Finish the shard; returns what stands in its `.json`: the shard's part of the manifest, and `metadata`."""
        self._tar.close()
        with self._temporary.open("rb") as file:  # on disk before the rows that say so
            os.fsync(file.fileno())
        columns: dict[str, Any] = {
            name: np.asarray(values, dtype=_ROW_COLUMNS[name]) for name, values in self._columns.items()
        }
        content = {
            "file": self._path.name,
            "images": self._num_images,
            "bytes": self._temporary.stat().st_size,
            "sha256": sha256_of(self._temporary),
            **metadata,
        }
        self._temporary.replace(self._path)
        with atomic_file(self._rows.with_suffix(".npz")) as file:
            np.savez(file, labels=_label_array(self._labels, self._classes, self._task), **columns)
        with atomic_file(self._rows.with_suffix(".json")) as file:
            file.write(json.dumps(content).encode())
        return content

    def discard(self) -> None:
        """Leave nothing of a shard that cannot be finished."""
        self._tar.close()
        self._temporary.unlink(missing_ok=True)


def _label_array(labels: list[Any], classes: tuple[str, ...], task: str) -> npt.NDArray[Any]:
    if task == "single_label":
        return np.asarray(labels, dtype=np.int64)
    return np.asarray(labels, dtype=np.float32).reshape(-1, len(classes))


def join_shards(folder: Path, rows: Path, shards: Sequence[Sequence[dict[str, Any]]], merge: str) -> dict[str, Any]:
    """Write the columns of a split whose shards are finished; returns the split's part of the manifest.

    shards: what `ShardWriter.close` returned, for each part in the order of their numbers. merge: "stored each", or
    what to do with rows of equal images, as `raw_set.RawSet.equal_images`.
    Raises InputError for two images of one key.
    """
    names = [[Path(shard["file"]).stem for shard in part] for part in shards]
    tables = []
    for part, base in zip(names, np.cumsum([0, *(len(part) for part in names)]), strict=False):
        for name in part:
            with np.load(rows / f"{name}.npz", allow_pickle=False) as table:
                tables.append({column: table[column] for column in (*_ROW_COLUMNS, "labels")})
            tables[-1]["shard"] += base
    folder.mkdir(parents=True, exist_ok=True)
    flat = [shard for part in shards for shard in part]
    if not tables:
        return {"images": 0, "shards": [], "columns": {}}
    columns = {name: np.concatenate([table[name] for table in tables]) for name in (*_ROW_COLUMNS, "labels")}
    if merge != "stored each":
        columns = _merged(columns, weighted=merge == "uniform")
    _require_distinct_keys(columns, [folder / shard["file"] for shard in flat])
    del columns["key"], columns["digest"]
    hashes = {}
    for name, values in columns.items():
        with atomic_file(folder / f"{name}.npy") as file:
            np.save(file, values)
        hashes[name] = sha256_of(folder / f"{name}.npy")
    in_manifest = [{name: shard[name] for name in ("file", "images", "bytes", "sha256")} for shard in flat]
    return {"images": len(columns["labels"]), "shards": in_manifest, "columns": hashes}


def _merged(columns: dict[str, npt.NDArray[Any]], weighted: bool) -> dict[str, npt.NDArray[Any]]:
    """Rows of equal images all refer to the first copy, and stand once for each label."""
    _, first, image = np.unique(columns["digest"], return_index=True, return_inverse=True)
    for name in ("shard", "offset", "length", "height", "width", "group", "key"):
        columns[name] = columns[name][first[image]]
    _, kept = np.unique(image * (columns["labels"].max(initial=0) + 1) + columns["labels"], return_index=True)
    # Rows of one image are neighbours: sampling with weights then takes each image once in an epoch.
    kept = kept[np.argsort(first[image[kept]], kind="stable")]
    merged = {name: values[kept] for name, values in columns.items()}
    if weighted:
        merged["weight"] = 1 / np.bincount(image[kept])[image[kept]]
    return merged


def _require_distinct_keys(columns: dict[str, npt.NDArray[Any]], shards: list[Path]) -> None:
    order = np.lexsort([columns["offset"], columns["shard"], columns["key"]])
    key, shard, offset = (columns[name][order] for name in ("key", "shard", "offset"))
    twice = np.flatnonzero((key[1:] == key[:-1]) & ((shard[1:] != shard[:-1]) | (offset[1:] != offset[:-1])))
    if twice.size:
        name = ShardReader(shards).key(shard[twice[0]], int(offset[twice[0]]))
        raise InputError(f"two images have the key {name!r}; rename one of the files")


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Fixed owner, mode and time: the same images give the same shard, byte for byte.
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
