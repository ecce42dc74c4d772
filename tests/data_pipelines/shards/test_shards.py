"""What goes into a shard comes out of it, here and in the `webdataset` package; damage is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from seven_images import CLASSES, LABELS

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import sha256_of
from data_pipelines.common.manifest import read_manifest
from data_pipelines.shards.columns import COLUMNS
from data_pipelines.shards.index import Index
from data_pipelines.shards.writer import ShardWriter, join_shards

FINDINGS = np.array([[0, 1, np.nan], [np.nan, np.nan, np.nan], [1, 1, 0]], np.float32)


def test_round_trip(prepared: Path, images: list[bytes]) -> None:
    index = Index.load(prepared, "train")
    assert len(index.shards) == len(list((prepared / "train").glob("*.tar"))) == 4
    assert index.shard.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert [index.encoded(row).tobytes() for row in range(len(index))] == images
    assert index.keys(np.arange(7)) == [f"image-{number:03d}" for number in range(7)]
    assert index.labels.tolist() == LABELS
    assert index.height.tolist() == [20 + i for i in range(7)]
    assert index.width.tolist() == [30 - i for i in range(7)]
    assert index.group.tolist() == [5, 5, -1, 2**62, 0, 1, 2]
    assert (index.task, index.classes, index.num_classes, index.channels) == ("single_label", CLASSES, 3, 3)
    assert {name: getattr(index, name).dtype for name in COLUMNS} == COLUMNS
    assert isinstance(index.labels, np.memmap)
    assert index.labels.dtype == np.int64


def test_multi_label_round_trip(write_set: Callable[..., Path]) -> None:
    folder = write_set(FINDINGS, CLASSES)
    index = Index.load(folder, "train")
    assert index.task == "multi_label"
    assert index.labels.dtype == np.float32
    np.testing.assert_array_equal(index.labels, FINDINGS)
    samples = list(wds.WebDataset([str(folder / "train" / "000000.tar")], shardshuffle=False))
    described = [json.loads(sample["json"])["labels"] for sample in samples]
    assert described == [{"cat": 0, "dog": 1}, {}, {"cat": 1, "dog": 1, "eel": 0}]


def test_webdataset_reads_the_shards(prepared: Path, images: list[bytes]) -> None:
    shards = sorted(str(path) for path in (prepared / "train").glob("*.tar"))
    samples = list(wds.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"image-{number:03d}" for number in range(7)]
    assert [sample.get("jpg", sample.get("png")) for sample in samples] == images
    assert ["jpg" in sample for sample in samples] == [encoded[:2] == b"\xff\xd8" for encoded in images]
    described = [json.loads(sample["json"]) for sample in samples]
    assert described == [{"label": label, "class": CLASSES[label]} for label in LABELS]


def test_manifest_describes_the_shards(prepared: Path) -> None:
    shards = read_manifest(prepared)["splits"]["train"]["shards"]
    assert sum(shard["images"] for shard in shards) == 7
    for shard in shards:
        path = prepared / "train" / shard["file"]
        assert (path.stat().st_size, sha256_of(path)) == (shard["bytes"], shard["sha256"])


def test_two_images_of_one_key_are_refused_by_name(tmp_path: Path) -> None:
    picture = EncodedImage(b"picture", "png", 1, 1, 1)
    shards = []
    for number, keys in enumerate((["one", "two"], ["three", "two"])):
        writer = ShardWriter(tmp_path, tmp_path / "rows", f"{number:06d}", number, CLASSES, "single_label")
        for key in keys:
            writer.add(key, picture, 0)
        shards.append(writer.close())
    with pytest.raises(InputError, match="two images have the key 'two'; rename one of the files"):
        join_shards(tmp_path, tmp_path / "rows", [shards], "stored each")
    assert not list(tmp_path.glob("*.npy"))


def test_a_shard_stands_under_its_name_when_it_is_whole(tmp_path: Path) -> None:
    def begun() -> ShardWriter:
        writer = ShardWriter(tmp_path, tmp_path / "rows", "000000", 0, CLASSES, "single_label")
        writer.add("one", EncodedImage(b"picture", "png", 1, 1, 1), 2)
        return writer

    writer = begun()
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".tmp"]
    writer.discard()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    content = begun().close(source="of it")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        f"000000.{s}" for s in ("json", "npz", "tar")
    ]
    assert json.loads((tmp_path / "rows" / "000000.json").read_text()) == content
    assert (content["file"], content["images"], content["source"]) == ("000000.tar", 1, "of it")
    assert content["sha256"] == sha256_of(tmp_path / "000000.tar")


def test_missing_split_is_named(prepared: Path) -> None:
    with pytest.raises(InputError, match=r"has no val split \(it has: train\)"):
        Index.load(prepared, "val")


@pytest.mark.parametrize("name", ["../000000.tar", "/etc/passwd", "a/../../b.tar", "..", "", "a\0b", "x" * 300])
def test_names_in_a_manifest_lead_nowhere_else(prepared: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "set"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="not the name of a file beside it"):
        read_manifest(folder)
    manifest["splits"]["../other"] = manifest["splits"].pop("train")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"a split '\.\./other'"):
        read_manifest(folder)


@pytest.mark.parametrize("channels", [True, 1.0, 2, "3", None])
def test_channels_of_a_manifest_are_one_or_three(prepared: Path, tmp_path: Path, channels: Any) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "set"))
    manifest = json.loads((folder / "manifest.json").read_text()) | {"channels": channels}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="1 or 3 channels"):
        read_manifest(folder)
