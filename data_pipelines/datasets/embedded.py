"""Readers of the small real sets that are available offline."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipelines.common.counter_rng import hash64
from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.common.splits import Split
from data_pipelines.image_files.png import encode_png

FASHION_CLASSES = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_DRAW_SEED = 0


def fashion_mnist(root: Path) -> RawSet:
    """A balanced subset of Fashion-MNIST, 28x28 grey: 900 train, 100 val and 200 test images of each of 10 classes.

    `root` holds the four files as distributed (`train-images-idx3-ubyte.gz` ...), for example from Debian's package
    `dataset-fashion-mnist`. Train and val come from the original's train part, test from its test part.
    Source: Xiao, Rasul and Vollgraf, arXiv:1708.07747; MIT licence.
    """
    chosen = [
        *_balanced(root, "train", {"train": range(900), "val": range(900, 1000)}),
        *_balanced(root, "t10k", {"test": range(200)}),
    ]
    return RawSet(
        name="fashion_mnist",
        task="single_label",
        classes=FASHION_CLASSES,
        images=chosen,
        num_images=len(chosen),
        source="Fashion-MNIST, Zalando SE, MIT licence: a balanced subset of 12,000 of 70,000 images",
    )


def _balanced(root: Path, part: str, ranks: dict[Split, range]) -> Iterator[RawImage]:
    images = _read_idx(root / f"{part}-images-idx3-ubyte.gz", dims=3)
    labels = _read_idx(root / f"{part}-labels-idx1-ubyte.gz", dims=1)
    for split, chosen in ranks.items():
        for row in _rows_by_class(labels, chosen):
            yield RawImage(f"{part}-{row:05d}", split, encode_png(images[row]), int(labels[row]))


def _rows_by_class(labels: npt.NDArray[np.uint8], chosen: range) -> npt.NDArray[np.int64]:
    """Rows of each class whose place in a fixed shuffle of that class lies in `chosen`, ascending."""
    draws = hash64(_DRAW_SEED, np.arange(len(labels)))
    rows = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    return np.sort(np.concatenate([r[np.argsort(draws[r])][chosen.start : chosen.stop] for r in rows]))


def _read_idx(path: Path, dims: int) -> npt.NDArray[np.uint8]:
    """An array in the idx format of MNIST: a big-endian header of magic number and sizes, then bytes."""
    if not path.is_file():
        raise InputError(f"{path} is missing: --root must hold Fashion-MNIST's four .gz files")
    with gzip.open(path) as file:
        header = np.frombuffer(file.read(4 * (1 + dims)), dtype=">i4")
        data = np.frombuffer(file.read(), dtype=np.uint8)
    if header[0] != 0x0800 + dims or data.size != np.prod(header[1:]):
        raise InputError(f"{path} is not a complete idx file of {dims} dimensions; fetch it again")
    return data.reshape(header[1:])


def digits() -> RawSet:
    """scikit-learn's handwritten digits, 8x8 grey: of each class 110 train and 20 val images, the rest (497) test.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, CC BY 4.0.
    """
    from sklearn.datasets import load_digits  # here because it takes a second and only this set needs it

    bunch = load_digits()
    labels = bunch.target.astype(np.uint8)
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    parts: dict[Split, range] = {"train": range(110), "val": range(110, 130), "test": range(130, len(labels))}
    images = [
        RawImage(f"digit-{row:04d}", split, encode_png(pixels[row]), int(labels[row]))
        for split, chosen in parts.items()
        for row in _rows_by_class(labels, chosen)
    ]
    return RawSet(
        name="digits",
        task="single_label",
        classes=tuple("0123456789"),
        images=images,
        num_images=len(images),
        source="Optical Recognition of Handwritten Digits, Alpaydin and Kaynak, UCI, CC BY 4.0, as in scikit-learn",
        horizontal_flip=False,  # a mirrored digit is another glyph
    )
