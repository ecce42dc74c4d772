"""Readers of CIFAR-10 and CIFAR-100 ("python version"); the pickles are read without executing them."""

import io
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawImage, RawSet, Repeatable
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.reading import require_fractions
from data_pipelines.image_files.png import encode_png

_OWNER = "https://www.cs.toronto.edu/~kriz/cifar.html"
_SIDE = 32  # pixels
_AGAIN = f"fetch it again from {_OWNER}"


@dataclass(frozen=True)
class _Layout:
    folder: str
    archive: str
    meta: str
    names: bytes
    labels: bytes
    train: tuple[str, ...]
    test: str


_CIFAR10 = _Layout(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    meta="batches.meta",
    names=b"label_names",
    labels=b"labels",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
)
_CIFAR100 = _Layout(
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    meta="meta",
    names=b"fine_label_names",
    labels=b"fine_labels",
    train=("train",),
    test="test",
)


@dataclass(frozen=True)
class _Batch:
    pixels: npt.NDArray[np.uint8]  # [N, 3 * 32 * 32], planes of colours
    labels: tuple[int, ...]


def cifar10(root: Path, val_fraction: float = 0.1) -> RawSet:
    """CIFAR-10: 60,000 photographs of 32x32 pixels in 10 classes, stored as PNG.

    ROOT holds cifar-10-python.tar.gz, or the folder cifar-10-batches-py from it. Val is carved out of the 50,000
    training images by a hash of each one's place; test is the official one, 10,000 images.

    To be had at https://www.cs.toronto.edu/~kriz/cifar.html; no licence is stated.
    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    return _read("cifar10", root, val_fraction, _CIFAR10)


def cifar100(root: Path, val_fraction: float = 0.1) -> RawSet:
    """CIFAR-100: 60,000 photographs of 32x32 pixels in 100 (fine) classes, stored as PNG.

    ROOT holds cifar-100-python.tar.gz, or the folder cifar-100-python from it. Val is carved out of the 50,000
    training images by a hash of each one's place; test is the official one, 10,000 images.

    To be had at https://www.cs.toronto.edu/~kriz/cifar.html; no licence is stated.
    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    return _read("cifar100", root, val_fraction, _CIFAR100)


def _read(name: str, root: Path, val_fraction: float, layout: _Layout) -> RawSet:
    require_fractions(val=val_fraction)
    files = _files(root, layout)
    classes = _class_names(files[layout.meta], layout, f"{root}: {layout.meta}")
    batches = {
        batch: _batch(files[batch], layout.labels, len(classes), f"{root}: {batch}")
        for batch in (*layout.train, layout.test)
    }
    rows = [(batch, row) for batch, content in batches.items() for row in range(len(content.labels))]

    def images(part: int, parts: int) -> Iterator[RawImage]:
        for batch, row in rows[part::parts]:
            key = f"{batch}/{row:05d}"
            split = "test" if batch == layout.test else hash_split(key, val_fraction, 0)
            pixels = batches[batch].pixels[row].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
            yield RawImage(key, split, encode_png(pixels), batches[batch].labels[row])

    return RawSet(
        name=name,
        task="single_label",
        classes=classes,
        images=Repeatable(bind(images, 0, 1)),
        num_images=len(rows),
        source=f"{name}, A. Krizhevsky, 2009, {_OWNER}; no licence is stated",
        part=lambda part, parts: Repeatable(bind(images, part, parts)),
        expected_images=60_000,
        notes=("val is carved out of train",),
    )


def _files(root: Path, layout: _Layout) -> dict[str, bytes]:
    """The contents of the files, by name, from the folder or the archive."""
    wanted = {layout.meta, *layout.train, layout.test}
    for folder in (root / layout.folder, root):
        if (folder / layout.meta).is_file():
            files = {name: (folder / name).read_bytes() for name in wanted if (folder / name).is_file()}
            break
    else:
        folder = root / layout.archive
        if not folder.is_file():
            raise InputError(f"{root} holds neither {layout.archive} nor {layout.folder}/{layout.meta}; see {_OWNER}")
        files = _unpack(folder, wanted)
    if wanted - files.keys():
        raise InputError(f"{folder} lacks {', '.join(sorted(wanted - files.keys()))}; {_AGAIN}")
    return files


def _unpack(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if name in wanted and member.isreg() and (file := tar.extractfile(member)):
                    files[name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{archive} is damaged ({error}); {_AGAIN}") from error
    return files


def _class_names(contents: bytes, layout: _Layout, where: str) -> tuple[str, ...]:
    try:
        return tuple(name.decode() for name in _unpickle(contents, where)[layout.names])
    except (KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{where} holds no class names ({error!r}); {_AGAIN}") from error


def _batch(contents: bytes, labels_field: bytes, num_classes: int, where: str) -> _Batch:
    content = _unpickle(contents, where)
    pixels, labels = content.get(b"data"), content.get(labels_field)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * _SIDE * _SIDE,):
        raise InputError(f"{where} holds no rows of {3 * _SIDE * _SIDE} bytes under 'data'; {_AGAIN}")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise InputError(f"{where} holds no label for each of its {len(pixels)} images; {_AGAIN}")
    unknown = [label for label in labels if not isinstance(label, int) or not 0 <= label < num_classes]
    if unknown:
        raise InputError(f"{where} has the label {unknown[0]!r}, but there are {num_classes} classes; {_AGAIN}")
    return _Batch(pixels, tuple(labels))


def _unpickle(contents: bytes, where: str) -> dict[Any, Any]:
    try:
        content = _ArrayUnpickler(contents, where).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle makes the machine that reads it raise whatever it stumbles over
        raise InputError(f"{where} is damaged ({error!r}); {_AGAIN}") from error
    if not isinstance(content, dict):
        raise InputError(f"{where} is a pickle of {type(content).__name__}, not of a dictionary; {_AGAIN}")
    return content


def _uint8(kind: str | bytes, *_: Any) -> npt.DTypeLike:
    if kind not in ("u1", b"u1"):
        raise ValueError(f"an array of type {kind!r}")
    return np.dtype(np.uint8, copy=True)  # a copy, because the unpickler then sets its state


def _bytes(text: str, _: str) -> bytes:
    return text.encode("latin1")


_MAY_CALL: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _uint8,
    ("_codecs", "encode"): _bytes,  # how Python 3 writes bytes for Python 2
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads containers, text, numbers and arrays of uint8. A pickle can call whatever it can name, so it can name only
    what these need: anything else raises InputError.
    """

    def __init__(self, contents: bytes, where: str) -> None:
        super().__init__(io.BytesIO(contents), encoding="bytes")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _MAY_CALL[module, name]
        except KeyError:
            raise InputError(
                f"{self._where} asks for {module}.{name}, which no CIFAR file does; it was not executed: do not trust "
                f"this file, {_AGAIN}"
            ) from None
