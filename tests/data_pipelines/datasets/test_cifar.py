"""CIFAR's pickles give their images and labels, and nothing in them is executed."""

import io
import os
import pickle
import pickletools
import struct
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.cifar import cifar10, cifar100

NAMES = ("airplane", "bird", "cat")


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2.7 with NumPy 1.x wrote: byte strings as strings, numbers for truth values, old names."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    def save_truth(self, value: bool) -> None:
        self.save(int(value))

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string
    dispatch[bool] = save_truth
    dispatch[type] = dispatch[type(np.empty(0).__reduce__()[0])] = save_global


def pickle_2(content: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def pixels_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def batch(seed: int, count: int, field: str = "labels") -> dict[str, Any]:
    names = [f"photo_{number}.png" for number in range(count)]
    labels = [number % len(NAMES) for number in range(count)]
    return {"batch_label": "a batch", field: labels, "data": pixels_of(seed, count), "filenames": names}


@pytest.fixture
def cifar10_root(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "batches.meta").write_bytes(pickle_2({"label_names": list(NAMES), "num_vis": 3072}))
    (folder / "readme.html").write_text("<html></html>")
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(pickle_2(batch(number, 8)))
    (folder / "test_batch").write_bytes(pickle_2(batch(0, 7)))
    return tmp_path / "root"


def decode(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = batch(1, 8)
    path.write_bytes(pickle_2(change(content)))


def test_pickles_of_the_fixture_are_like_the_originals(cifar10_root: Path) -> None:
    operations = list(pickletools.genops((cifar10_root / "cifar-10-batches-py" / "data_batch_1").read_bytes()))
    names = {operation.name for operation, _, _ in operations}
    called = {argument for operation, argument, _ in operations if operation.name == "GLOBAL"}
    assert called == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert "BINSTRING" in names
    assert not names & {"BINUNICODE", "BINBYTES", "NEWTRUE", "NEWFALSE"}


def test_every_pixel_and_label_arrives(cifar10_root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = cifar10(cifar10_root)
        images = {image.key: image for image in raw.images}
    assert raw.classes == NAMES
    assert raw.num_images == len(images) == 47
    assert raw.expected_images == 60_000
    for number, name in enumerate(["test_batch", *(f"data_batch_{number}" for number in range(1, 6))]):
        planes = pixels_of(number, 8 if number else 7).reshape(-1, 3, 32, 32)
        for row in range(len(planes)):
            image = images[f"{name}/{row:05d}"]
            np.testing.assert_array_equal(decode(image.read()), planes[row].transpose(1, 2, 0))
            assert image.label == row % len(NAMES)
            assert (image.split == "test") == (name == "test_batch")


def test_val_is_carved_out_of_train(cifar10_root: Path) -> None:
    counts = Counter(image.split for image in cifar10(cifar10_root, val_fraction=0.4).images)
    assert 4 < counts["val"] < 30
    assert counts["test"] == 7
    assert {image.split for image in cifar10(cifar10_root, val_fraction=0).images} == {"train", "test"}
    with pytest.raises(InputError, match=r"--val-fraction is 0.5"):
        cifar10(cifar10_root, val_fraction=0.5)


def test_iterations_and_parts_agree(cifar10_root: Path) -> None:
    raw = cifar10(cifar10_root)
    keys = [image.key for image in raw.images]
    assert keys == [image.key for image in raw.images]
    assert raw.part is not None
    assert [[image.key for image in raw.part(part, 3)] for part in range(3)] == [keys[part::3] for part in range(3)]


def test_the_archive_and_the_folder_itself_are_read_too(cifar10_root: Path, tmp_path: Path) -> None:
    expected = [(image.key, image.label, image.image) for image in cifar10(cifar10_root).images]
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(cifar10_root / "cifar-10-batches-py", "cifar-10-batches-py")
    for root in (tmp_path / "packed", cifar10_root / "cifar-10-batches-py"):
        assert [(image.key, image.label, image.image) for image in cifar10(root).images] == expected


def test_pickles_of_python_3_are_read(cifar10_root: Path) -> None:
    folder = cifar10_root / "cifar-10-batches-py"
    expected = [image.image for image in cifar10(cifar10_root).images]
    for protocol in (2, 4):
        for number in range(1, 6):
            content = {key.encode(): value for key, value in batch(number, 8).items()}
            (folder / f"data_batch_{number}").write_bytes(pickle.dumps(content, protocol=protocol))
        assert [image.image for image in cifar10(cifar10_root).images] == expected


def test_fine_labels_of_cifar100(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    meta = {"fine_label_names": list(NAMES), "coarse_label_names": ["vehicles", "animals"]}
    (folder / "meta").write_bytes(pickle_2(meta))
    for name, count in (("train", 9), ("test", 4)):
        content = batch(count, count, "fine_labels") | {"coarse_labels": [1] * count}
        (folder / name).write_bytes(pickle_2(content))
    raw = cifar100(tmp_path)
    assert raw.classes == NAMES
    labels = {image.key: (image.label, image.split == "test") for image in raw.images}
    assert labels == {f"train/{row:05d}": (row % 3, False) for row in range(9)} | {
        f"test/{row:05d}": (row % 3, True) for row in range(4)
    }


class Malicious:
    """A pickle of it calls a function with one argument."""

    def __init__(self, function: Callable[[Any], Any], argument: Any) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("where", ["data_batch_1", "batches.meta"])
def test_nothing_is_executed(cifar10_root: Path, tmp_path: Path, protocol: int, where: str) -> None:
    marker = tmp_path / "marker"
    evil = pickle.dumps({b"data": Malicious(os.system, f"touch {marker}")}, protocol)
    pickle.loads(evil)
    assert marker.exists()  # so it is harmful, where it is read as pickles are
    marker.unlink()
    (cifar10_root / "cifar-10-batches-py" / where).write_bytes(evil)
    with pytest.raises(InputError, match=rf"{where} asks for (posix|nt)\.system.*was not executed.*do not trust"):
        cifar10(cifar10_root)
    assert not marker.exists()


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.frombuffer])
def test_nothing_else_can_be_named(cifar10_root: Path, function: Callable[[Any], Any]) -> None:
    (cifar10_root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Malicious(function, "1")))
    with pytest.raises(InputError, match=r"test_batch asks for \w+(\.\w+)*, which no CIFAR file does"):
        cifar10(cifar10_root)


def test_arrays_of_objects_are_refused(cifar10_root: Path) -> None:
    path = cifar10_root / "cifar-10-batches-py" / "data_batch_2"
    for array in (np.array([[{}]]), np.zeros((8, 3072), dtype=np.int64)):
        rewrite(path, lambda content, array=array: content | {"data": array})
        with pytest.raises(InputError, match=r"data_batch_2 is damaged .*an array of type"):
            cifar10(cifar10_root)


def test_mistakes_are_named(cifar10_root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"root holds neither cifar-100-python.tar.gz nor .*https://www.cs.toronto.edu"
    ):
        cifar100(cifar10_root)
    path = cifar10_root / "cifar-10-batches-py" / "data_batch_3"
    changes: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda content: content | {"labels": [0] * 7}, "holds no label for each of its 8 images"),
        (lambda content: content | {"labels": [0] * 7 + [3]}, "has the label 3, but there are 3 classes"),
        (lambda content: content | {"labels": [0] * 7 + [-1]}, "has the label -1"),
        (lambda content: content | {"data": content["data"][:, :3000]}, "holds no rows of 3072 bytes"),
        (lambda content: {"data": content["data"]}, "holds no label for each"),
        (lambda content: [content], "is a pickle of list"),
    ]
    for change, message in changes:
        rewrite(path, change)
        with pytest.raises(InputError, match=f"data_batch_3 {message}"):
            cifar10(cifar10_root)
    path.write_bytes(pickle_2(batch(3, 8))[:5000])
    with pytest.raises(InputError, match=r"data_batch_3 is damaged .* fetch it again from https"):
        cifar10(cifar10_root)
    path.unlink()
    with pytest.raises(InputError, match=r"cifar-10-batches-py lacks data_batch_3"):
        cifar10(cifar10_root)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8bno archive")
    with pytest.raises(InputError, match=r"cifar-10-python.tar.gz is damaged"):
        cifar10(tmp_path)
