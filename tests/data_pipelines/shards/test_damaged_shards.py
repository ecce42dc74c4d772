"""Damage of a prepared set is named, with its file and a remedy, when it is loaded or verified."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.shards.index import Index
from data_pipelines.shards.verify import verify


def cut_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def change_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def cut_shard(folder: Path) -> None:
    with (folder / "train" / "000001.tar").open("r+b") as shard:
        shard.truncate(5000)


def blank_shard(folder: Path) -> None:
    path = folder / "train" / "000001.tar"
    path.write_bytes(bytes(path.stat().st_size))


def swap_shards(folder: Path) -> None:
    one, other = (folder / "train" / f"00000{number}.tar" for number in (0, 1))
    assert one.stat().st_size == other.stat().st_size
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def change_column(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "train" / f"{name}.npy"
        np.save(path, change(np.load(path)))

    return damage


def cut_column(folder: Path) -> None:
    path = folder / "train" / "offset.npy"
    path.write_bytes(path.read_bytes()[:-3])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "manifest missing": (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json is missing"),
    "manifest cut": (cut_manifest, r"manifest\.json cannot be read"),
    "manifest a list": (lambda folder: (folder / "manifest.json").write_text("[]"), r"manifest\.json cannot be read"),
    "manifest of bytes": (
        lambda folder: (folder / "manifest.json").write_bytes(b"\xff\x00"),
        r"manifest\.json cannot be read",
    ),
    "manifest without task": (change_manifest(lambda manifest: manifest.pop("task")), r"manifest\.json lacks task;"),
    "manifest without two": (
        change_manifest(lambda manifest: [manifest.pop(key) for key in ("horizontal_flip", "classes")]),
        r"manifest\.json lacks classes, horizontal_flip;",
    ),
    "manifest without splits": (
        change_manifest(lambda manifest: manifest.pop("splits")),
        r"manifest\.json lacks splits",
    ),
    "split without shards": (
        change_manifest(lambda manifest: manifest["splits"]["train"].pop("shards")),
        r"manifest\.json cannot be read .*'shards'",
    ),
    "shard without size": (
        change_manifest(lambda manifest: manifest["splits"]["train"]["shards"][1].pop("bytes")),
        r"manifest\.json cannot be read .*'bytes'",
    ),
    "splits a list": (
        change_manifest(lambda manifest: manifest.update(splits=[])),
        r"manifest\.json cannot be read",
    ),
    "other version": (
        change_manifest(lambda manifest: manifest.update(format_version=99)),
        r"manifest\.json has format version 99, this program reads 1",
    ),
    "shard missing": (lambda folder: (folder / "train" / "000001.tar").unlink(), r"000001\.tar is missing"),
    "shard cut": (cut_shard, r"000001\.tar has 5000 bytes"),
    "shard replaced": (blank_shard, r"000001\.tar does not match its index"),
    "shards swapped": (swap_shards, r"00000[01]\.tar does not match its index"),
    "column missing": (lambda folder: (folder / "train" / "width.npy").unlink(), r"cannot be read.*width\.npy"),
    "column cut": (cut_column, r"train/offset\.npy cannot be read"),
    "column empty": (lambda folder: (folder / "train" / "offset.npy").write_bytes(b""), r"offset\.npy cannot be read"),
    "column a number": (change_column("height", lambda column: column[0]), r"height\.npy is not the column of 7 rows"),
    "column short": (change_column("offset", lambda column: column[:-1]), r"offset\.npy is not the column of 7 rows"),
    "labels long": (
        change_column("labels", lambda column: np.append(column, 0)),
        r"labels\.npy is not the column of 7 rows",
    ),
    "labels of findings": (
        change_column("labels", lambda column: np.zeros((7, 3), np.float32)),
        r"labels\.npy is not the column of 7 rows",
    ),
    "labels of floats": (
        change_column("labels", lambda column: column.astype(np.float32)),
        r"labels\.npy is not the column of 7 rows",
    ),
    "labels in a table": (
        change_column("labels", lambda column: column[:, None]),
        r"labels\.npy is not the column of 7 rows",
    ),
    "labels of one class": (
        change_manifest(lambda manifest: manifest.update(task="multi_label")),
        r"labels\.npy is not the column of 7 rows",
    ),
    "absent shard": (
        change_column("shard", lambda column: column + np.eye(7, dtype=np.int32)[3] * 9),
        "000000.tar names shards that are not there",
    ),
    "shard below zero": (change_column("shard", lambda column: column - 1), "names shards that are not there"),
    "offset shifted": (change_column("offset", lambda column: column + 512), "tar does not match its index"),
    "offset beyond": (change_column("offset", lambda column: column + 10**6), "tar does not match its index"),
    "first of a shard": (
        change_column("length", lambda column: column + np.eye(7, dtype=int)[2]),
        "1.tar does not match",
    ),
    "last of a shard": (
        change_column("length", lambda column: column + np.eye(7, dtype=int)[3]),
        "1.tar does not match",
    ),
    "length changed": (change_column("length", lambda column: column + 1), "tar does not match its index"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_with_file_and_remedy(prepared: Path, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    folder = tmp_path / "damaged"
    shutil.copytree(prepared, folder)
    Index.load(folder, "train")
    damage(folder)
    with pytest.raises(InputError, match=message) as raised:
        Index.load(folder, "train")
    assert str(folder) in str(raised.value)
    assert "prepare the set again" in str(raised.value)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


# None of these has another size, and the index of a few rows looks sound.
FLIPS = ["000000.tar", "000003.tar", "labels.npy", "group.npy", "width.npy"]


@pytest.mark.parametrize("name", FLIPS)
def test_verification_names_the_file_with_a_flipped_bit(prepared: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(prepared, folder)
    assert verify(folder) == len(list((folder / "train").iterdir())) == 4 + 7
    flip(folder / "train" / name, -1 if name.endswith("npy") else 700)
    Index.load(folder, "train")
    with pytest.raises(InputError) as raised:
        verify(folder)
    assert str(raised.value) == (f"not as prepared: {folder / 'train' / name}; copy the set again, or prepare it again")


def test_verification_names_every_damaged_or_missing_file(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(prepared, folder)
    flip(folder / "train" / "000002.tar", 1000)
    (folder / "train" / "height.npy").unlink()
    with pytest.raises(InputError, match=r"not as prepared: \S+/000002\.tar, \S+/height\.npy; copy"):
        verify(folder)


def test_sets_of_older_manifests_verify_without_columns(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "older"
    shutil.copytree(prepared, folder)
    change_manifest(lambda manifest: manifest["splits"]["train"].pop("columns"))(folder)
    assert verify(folder) == 4
    assert len(Index.load(folder, "train")) == 7
    flip(folder / "train" / "000001.tar", -1)
    with pytest.raises(InputError, match=r"not as prepared: \S+/000001\.tar; "):
        verify(folder)
