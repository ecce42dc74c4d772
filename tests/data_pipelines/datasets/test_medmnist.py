"""MedMNIST's files: labels and pixels as stored, and what is refused."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.medmnist import SETS, medmnist


def arrays(shape: tuple[int, ...] = (28, 28), columns: int = 1, classes: int = 2) -> dict[str, Any]:
    numbers = np.random.default_rng(1)
    made: dict[str, Any] = {}
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        made[f"{split}_images"] = numbers.integers(0, 256, (count, *shape), dtype=np.uint8)
        made[f"{split}_labels"] = numbers.integers(0, classes, (count, columns), dtype=np.uint8)
    return made


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(28, 28), (64, 64, 3)])
def test_pixels_and_labels_are_those_of_the_file(save: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    content = arrays(shape)
    save(tmp_path / "breastmnist_64.npz", **content)
    raw = medmnist(tmp_path)
    assert (raw.name, raw.classes, raw.num_images) == ("breastmnist", ("malignant", "normal, benign"), 10)
    images = list(raw.images)
    for split in ("train", "val", "test"):
        of_split = [image for image in images if image.split == split]
        assert [image.label for image in of_split] == content[f"{split}_labels"][:, 0].tolist()
        for image, pixels in zip(of_split, content[f"{split}_images"], strict=True):
            np.testing.assert_array_equal(decode_png(image.read()), pixels)


def decode_png(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def test_chestmnist_has_findings(tmp_path: Path) -> None:
    content = arrays(columns=14)
    np.savez(tmp_path / "chestmnist.npz", **content)
    raw = medmnist(tmp_path / "chestmnist.npz")
    assert (raw.task, len(raw.classes), raw.patients) == ("multi_label", 14, "may leak")
    first = next(iter(raw.images)).label
    assert isinstance(first, np.ndarray)
    assert first.dtype == np.float32
    assert first.tolist() == content["train_labels"][0].tolist()
    assert raw.expected_images == 112_120
    content["val_labels"][1, 5] = 2  # a class of other sets, and no finding
    np.savez(tmp_path / "chestmnist.npz", **content)
    with pytest.raises(InputError, match="val_labels has the label 2, and must have 0 to 1"):
        medmnist(tmp_path / "chestmnist.npz")


def test_images_that_end_early_are_named(tmp_path: Path) -> None:
    """An array whose header says more images than follow, in an archive that is whole."""
    content, stream = arrays(), io.BytesIO()
    np.save(stream, content.pop("test_images"))
    np.savez(tmp_path / "pneumoniamnist.npz", **content)
    with zipfile.ZipFile(tmp_path / "pneumoniamnist.npz", "a") as archive:
        archive.writestr("test_images.npy", stream.getvalue()[:-100])
    with pytest.raises(InputError, match="test_images ends at image 2 of 3; fetch it again"):
        list(medmnist(tmp_path).images)


def test_organs_are_not_mirrored(tmp_path: Path) -> None:
    assert {name for name, facts in SETS.items() if not facts.flip} == {"organamnist", "organcmnist", "organsmnist"}
    np.savez(tmp_path / "organamnist.npz", **arrays(classes=11))
    assert not medmnist(tmp_path).horizontal_flip


def changed(**arrays_: Any) -> dict[str, Any]:
    content = arrays() | arrays_
    return {name: value for name, value in content.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(val_labels=None), "has no array val_labels"),
        (changed(train_labels=np.zeros((4, 1), np.uint8)), "1 whole numbers for each of 5 images"),
        (changed(test_labels=np.array([[0], [2], [0]], np.uint8)), "has the label 2, and must have 0 to 1"),
        (changed(val_labels=np.array([[0], [-1]], np.int8)), "has the label -1, and must have 0 to 1"),
        (changed(train_labels=np.zeros((5, 1), np.float32)), "type float32"),
        (changed(train_images=np.zeros((5, 28, 28, 28), np.uint8)), r"must have \[N, H, W\]"),
        (changed(train_images=np.zeros((5, 28, 28), np.float32)), "not an array of uint8"),
        (changed(train_images=np.asfortranarray(np.zeros((5, 28, 28), np.uint8))), "in C order"),
    ],
)
def test_other_contents_are_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "pneumoniamnist.npz", **content)
    with pytest.raises(InputError, match=message):
        medmnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("organmnist3d.npz", "holds volumes"),
        ("pneumonamnist.npz", "pneumoniamnist"),
        ("mine.npz", "called like none of MedMNIST's files"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / name, **arrays())
    with pytest.raises(InputError, match=message):
        medmnist(tmp_path)


def test_of_several_files_one_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.npz file"):
        medmnist(tmp_path)
    for name in ("bloodmnist.npz", "octmnist.npz"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"name one, such as --root .*bloodmnist\.npz"):
        medmnist(tmp_path)


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pneumoniamnist.npz"
    np.savez(path, **arrays())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("val_images.npy").header_offset
    content[start + 300] ^= 1  # a pixel: the check sum of the archive tells
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"pneumoniamnist\.npz is damaged"):
        list(medmnist(tmp_path).images)
    path.write_bytes(bytes(content[:-60]))
    with pytest.raises(InputError, match=r"is damaged, or no \.npz file"):
        medmnist(tmp_path)


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pneumoniamnist.npz"
    np.savez(path, **arrays())
    content = path.read_bytes()
    place = content.index(b"PK\x01\x02") + 10  # the method, in the first entry of the central directory
    path.write_bytes(content[:place] + b"\x63\x00" + content[place + 2 :])
    with pytest.raises(InputError, match=r"is damaged, or no \.npz file"):
        medmnist(tmp_path)
