"""Readers of the Oxford sets: 102 Flowers and Pets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawImage, RawSet, key_of
from data_pipelines.common.splits import Split, hash_split
from data_pipelines.datasets.reading import read_mat, require_files, require_fractions

_FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
_PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
FlowerSplit = Literal["official", "authors"]
_FLOWER_SPLITS: dict[FlowerSplit, dict[str, Split]] = {
    "official": {"trnid": "train", "valid": "val", "tstid": "test"},
    "authors": {"trnid": "test", "valid": "test", "tstid": "train"},
}
FLOWER_LISTS = {"trnid": 1_020, "valid": 1_020, "tstid": 6_149}
_AUTHORS_NOTE = "trained on the official test list and tested on the official train and val, as the paper's numbers are"


def flowers102(root: Path, split: FlowerSplit = "official") -> RawSet:
    """Oxford 102 Flowers: 8,189 photographs, in the official split of 1,020 train, 1,020 val and 6,149 test.

    ROOT holds the folder jpg (unpack it: tar -xzf 102flowers.tgz), imagelabels.mat and setid.mat. Classes: the numbers
    1 to 102; no names are distributed with them.

    --split authors is what the numbers of arXiv:2106.00116 are of: 6,149 train, of 20 to 238 images for each class (the
    official test list), 2,040 test (the official train and val), no val. Other publications use the official one.

    To be had at https://www.robots.ox.ac.uk/~vgg/data/flowers/102/; no licence is stated.
    Source: M.-E. Nilsback and A. Zisserman, "Automated flower classification over a large number of classes", 2008.
    """
    if (root / "102flowers.tgz").is_file() and not (root / "jpg").is_dir():
        raise InputError(f"{root / '102flowers.tgz'} is still packed: tar -xzf 102flowers.tgz, in {root}")
    labels = _numbers(root / "imagelabels.mat", "labels")
    lists = {name: _numbers(root / "setid.mat", name) for name in FLOWER_LISTS}
    _require_partition(np.concatenate(list(lists.values())), len(labels), root)
    if split == "authors":
        _require_official_lists({name: len(numbers) for name, numbers in lists.items()}, root)
    if labels.min() < 1:
        raise InputError(f"{root / 'imagelabels.mat'} has the label {labels.min()}; they count from 1; see {_FLOWERS}")
    paths = [root / "jpg" / f"image_{number:05d}.jpg" for number in range(1, len(labels) + 1)]
    require_files(paths, f"see {_FLOWERS}")
    images = [
        RawImage(key_of(paths[number - 1].name), role, paths[number - 1], int(labels[number - 1]) - 1)
        for name, role in _FLOWER_SPLITS[split].items()
        for number in lists[name]
    ]
    return RawSet(
        name="flowers102",
        task="single_label",
        classes=tuple(str(number) for number in range(1, int(labels.max()) + 1)),
        images=images,
        num_images=len(images),
        source=f"Oxford 102 Flowers, Nilsback and Zisserman 2008, {_FLOWERS}; no licence is stated",
        expected_images=8_189,
        split=None if split == "official" else split,
        notes=(_AUTHORS_NOTE,) if split == "authors" else (),
    )


def pets(root: Path, val_fraction: float = 0.1) -> RawSet:
    """Oxford-IIIT Pet: 7,349 photographs of 37 breeds of cats and dogs.

    ROOT holds the folders images and annotations (unpack images.tar.gz and annotations.tar.gz). Val is carved out of
    the official trainval by a hash of each file's name; test is the official one. Classes: the breeds, as in the file
    names, in the order of their numbers.

    To be had at https://www.robots.ox.ac.uk/~vgg/data/pets/; CC BY-SA 4.0.
    Source: Parkhi, Vedaldi, Zisserman and Jawahar, "Cats and dogs", CVPR 2012.
    """
    require_fractions(val=val_fraction)
    tables = {name: root / "annotations" / f"{name}.txt" for name in ("trainval", "test")}
    rows = {name: _pets_rows(path) for name, path in tables.items()}
    classes = _breeds(rows["trainval"], tables["trainval"])
    images = []
    for name, labelled in rows.items():
        for stem, number in labelled:
            if number > len(classes) or classes[number - 1] != _breed(stem):
                raise InputError(f"{tables[name]}: {stem} is of class {number}, which trainval.txt does not have so")
            key = key_of(f"{stem}.jpg")
            split = "test" if name == "test" else hash_split(key, val_fraction, 0)
            images.append(RawImage(key, split, root / "images" / f"{stem}.jpg", number - 1))
    require_files([Path(str(image.image)) for image in images], f"see {_PETS}")
    return RawSet(
        name="pets",
        task="single_label",
        classes=classes,
        images=images,
        num_images=len(images),
        source=f"Oxford-IIIT Pet, Parkhi et al. 2012, {_PETS}, CC BY-SA 4.0",
        expected_images=7_349,
        notes=("val is carved out of trainval",),
    )


def _numbers(path: Path, name: str) -> np.ndarray:
    """A row of whole numbers from a MATLAB file, int64 [N]."""
    if not path.is_file():
        raise InputError(f"{path} is missing: --root must hold jpg, imagelabels.mat and setid.mat from {_FLOWERS}")
    numbers = np.atleast_1d(read_mat(path.read_bytes(), name, str(path)))
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf" or not len(numbers):
        raise InputError(f"{path} has no row of numbers under {name!r}; fetch it again from {_FLOWERS}")
    return numbers.astype(np.int64)


def _require_partition(numbers: np.ndarray, num_labels: int, root: Path) -> None:
    if not np.array_equal(np.sort(numbers), np.arange(1, num_labels + 1)):
        raise InputError(
            f"{root}: setid.mat has {len(numbers)} image numbers, imagelabels.mat {num_labels} labels; each image must "
            f"be in one split and have a label; fetch both again from {_FLOWERS}"
        )


def _require_official_lists(sizes: dict[str, int], root: Path) -> None:
    """Of other lists there is no saying what the authors would have trained on."""
    if sizes != FLOWER_LISTS:
        found, expected = (", ".join(f"{name} {size:,}" for name, size in of.items()) for of in (sizes, FLOWER_LISTS))
        raise InputError(
            f"{root / 'setid.mat'} has other lists than Oxford's ({found}; Oxford's: {expected}), and --split authors "
            f"is defined by those; fetch setid.mat again from {_FLOWERS}, or take --split official"
        )


def _pets_rows(path: Path) -> list[tuple[str, int]]:
    """Name without suffix and class number, from 1, of each line."""
    if not path.is_file():
        raise InputError(f"{path} is missing: unpack images.tar.gz and annotations.tar.gz from {_PETS} in --root")
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        stem, number, *_ = [*line.split(), "", ""]
        if not number.isdecimal() or int(number) < 1 or "/" in stem:
            raise InputError(f"{path}: {line!r} is not a line of name, class number, species and breed")
        rows.append((stem, int(number)))
    return rows


def _breed(stem: str) -> str:
    return stem.rpartition("_")[0]


def _breeds(rows: Sequence[tuple[str, int]], path: Path) -> tuple[str, ...]:
    """The name of each class, by its number; each number must have one, and each name one number."""
    names = sorted({(number, _breed(stem)) for stem, number in rows})
    if not names or [number for number, _ in names] != list(range(1, len(names) + 1)):
        raise InputError(
            f"{path}: the class numbers are not 1, 2, 3 ... with one breed each; fetch it again from {_PETS}"
        )
    return tuple(name for _, name in names)
