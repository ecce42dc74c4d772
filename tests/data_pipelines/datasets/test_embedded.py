"""The set that ships, and the readers of small sets that are at hand without a network."""

import gzip
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import sha256_of
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.splits import Split
from data_pipelines.datasets.catalog import EMBEDDED
from data_pipelines.datasets.embedded import FASHION_CLASSES, digits, fashion_mnist
from data_pipelines.image_files.png import encode_png
from data_pipelines.shards.index import Index


@pytest.mark.parametrize(("split", "per_class"), [("train", 900), ("val", 100), ("test", 200)])
def test_shipped_set_is_balanced_and_whole(split: Split, per_class: int) -> None:
    index = Index.load(EMBEDDED / "fashion_mnist", split)
    assert np.bincount(index.labels).tolist() == [per_class] * 10
    assert index.classes == FASHION_CLASSES
    assert (index.channels, index.task) == (1, "single_label")
    assert set(index.height) == set(index.width) == {28}
    assert len(set(index.keys(np.arange(len(index))))) == len(index)
    for shard in read_manifest(EMBEDDED / "fashion_mnist")["splits"][split]["shards"]:
        assert sha256_of(EMBEDDED / "fashion_mnist" / split / shard["file"]) == shard["sha256"]


def test_shipped_splits_share_no_image() -> None:
    splits: tuple[Split, ...] = ("train", "val", "test")
    indexes = [Index.load(EMBEDDED / "fashion_mnist", split) for split in splits]
    images = [{index.encoded(row).tobytes() for row in range(len(index))} for index in indexes]
    assert not images[0] & images[1]
    assert not (images[0] | images[1]) & images[2]


def write_idx(path: Path, values: np.ndarray) -> None:
    header = np.array([0x0800 + values.ndim, *values.shape], dtype=">i4")
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.tobytes() + values.astype(np.uint8).tobytes())


def test_fashion_mnist_is_read_from_the_original_files(tmp_path: Path) -> None:
    originals = {}
    for part, count in (("train", 10_400), ("t10k", 2_100)):
        labels = np.arange(count) % 10
        pixels = np.random.default_rng(count).integers(0, 256, (count, 2, 3))
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", pixels)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels)
        originals[part] = pixels, labels
    images = list(fashion_mnist(tmp_path).images)
    assert len({image.key for image in images}) == len(images) == 12_000
    counts = Counter((image.split, image.label) for image in images)
    assert counts == {(split, c): n for split, n in (("train", 900), ("val", 100), ("test", 200)) for c in range(10)}
    for image in images[::997]:
        part, row = image.key.split("-")
        assert (part == "t10k") == (image.split == "test")
        pixels, labels = (values[int(row)] for values in originals[part])
        assert image.label == labels
        assert np.array_equal(decode(image.image), pixels)


def decode(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image)


def test_incomplete_originals_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is missing: --root must hold"):
        fashion_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_idx(path, np.zeros((5, 2, 2)))
    with gzip.open(path) as file:
        content = file.read()
    for damaged in (content[:-1], b"\0\0\x08\x01" + content[4:]):
        path.write_bytes(gzip.compress(damaged))
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is not a complete idx file of 3 dimensions"):
            fashion_mnist(tmp_path)


def test_digits_are_scikit_learns() -> None:
    raw = digits()
    images = list(raw.images)
    assert len({image.key for image in images}) == len(images) == raw.num_images == 1797
    counts = Counter((image.split, image.label) for image in images)
    assert all(counts["train", digit] == 110 and counts["val", digit] == 20 for digit in range(10))
    assert not raw.horizontal_flip


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_encoded_png_decodes_to_its_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(decode(encode_png(pixels)), pixels)
