"""Readers of ImageNet, from the tars as distributed (not unpacked) or from class folders."""

import csv
import os
import re
import tarfile
from collections.abc import Iterator
from functools import partial as bind
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member, RawImage, RawSet, Repeatable, key_of
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.reading import read_mat, require_fractions
from data_pipelines.datasets.tars import OpenTar, members

Place = Path | Member  # of the images of a class: a folder, a tar, or a tar inside a tar

_SUFFIXES = {".jpeg", ".jpg", ".png"}  # .JPEG as distributed, the others in copies that people made
_WNID = re.compile(r"n\d{8}")
_TRAIN_TAR, _VAL_TAR, _DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12"
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_KAGGLE_FOLDER, _KAGGLE_TRUTH = "ILSVRC/Data/CLS-LOC", "LOC_val_solution.csv"
_TO_BE_HAD = "ImageNet is to be had at https://image-net.org/download after registration"
_LICENCE = "ImageNet, image-net.org, for non-commercial research and education"
_END_BYTES = 64


class _Found(NamedTuple):
    name: str
    image: Path | Member
    fingerprint: str


def imagenet1k(root: Path, val_fraction: float = 0.01) -> RawSet:
    """ImageNet-1k (ILSVRC 2012): 1,281,167 training images; the 50,000 official validation images become test.

    ROOT holds, as distributed and not unpacked, ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and
    ILSVRC2012_devkit_t12.tar.gz; or train/<wnid>/*.JPEG and val/<wnid>/*.JPEG; or what Kaggle distributes
    (ILSVRC/Data/CLS-LOC/{train,val} and LOC_val_solution.csv). Classes: WordNet ids in ascending order.

    Papers report accuracy on the official validation images: they are test here, and val is carved out of train by a
    hash of each file's name. The official test images, which have no labels, are not read.

    To be had at https://image-net.org/download after registration, for non-commercial research and education.
    Source: Russakovsky et al., arXiv:1409.0575.
    """
    require_fractions(val=val_fraction)
    data = root / _KAGGLE_FOLDER if (root / _KAGGLE_FOLDER).is_dir() else root
    places = _class_places(root / _TRAIN_TAR if (root / _TRAIN_TAR).is_file() else data / "train")
    num_images, train_bytes = _measure(places)
    test = _official_val(root, data / "val", tuple(places))

    def images(part: int, parts: int) -> Iterator[RawImage]:
        for label, (wnid, place) in list(enumerate(places.items()))[part::parts]:
            for found in _images_in(place):
                key = key_of(f"train/{wnid}/{found.name}")
                yield RawImage(key, hash_split(key, val_fraction, 0), found.image, label)
        yield from test[part::parts]

    return RawSet(
        name="imagenet1k",
        task="single_label",
        classes=tuple(places),
        images=Repeatable(bind(images, 0, 1)),
        num_images=None if num_images is None else num_images + len(test),
        source=f"{_LICENCE}: ILSVRC 2012; Russakovsky et al., arXiv:1409.0575",
        num_bytes=None if train_bytes is None else train_bytes + sum(image.num_bytes() for image in test),
        part=lambda part, parts: Repeatable(bind(images, part, parts)),
        expected_images=1_281_167 + 50_000,
        notes=("test is the official validation set; val is carved out of train",),
    )


def imagenet21k(
    root: Path,
    labels: Literal["pairs", "uniform"] = "pairs",
    val_fraction: float = 0.002,
    test_fraction: float = 0.002,
) -> RawSet:
    """ImageNet-21k, all of ImageNet: releases winter21 (19,167 classes) and fall11 (21,841 classes, 14 million images).

    ROOT holds a tar per class, <wnid>.tar, or a folder per class, in itself or in winter21_whole or fall11_whole; or
    one tar of class tars, fall11_whole.tar. These are not unpacked; winter21_whole.tar.gz must be, once: tar -xzf.
    Classes: WordNet ids in ascending order.

    An image may be in several classes under several names. --labels pairs trains on each (image, label), uniform counts
    each image once. Val and test are carved by a hash of length and last bytes of each file, so that equal files are in
    the same split; fractions of 0 leave them out.

    To be had at https://image-net.org/download after registration, for non-commercial research and education.
    Source: Deng et al., "ImageNet: a large-scale hierarchical image database", CVPR 2009.
    """
    require_fractions(val=val_fraction, test=test_fraction)
    places = _class_places(_whole(root))
    num_images, num_bytes = _measure(places)

    def images(part: int, parts: int) -> Iterator[RawImage]:
        for label, (wnid, place) in list(enumerate(places.items()))[part::parts]:
            for found in _images_in(place, fingerprints=True):
                split = hash_split(found.fingerprint, val_fraction, test_fraction)
                yield RawImage(key_of(f"{wnid}/{found.name}"), split, found.image, label)

    return RawSet(
        name="imagenet21k",
        task="single_label",
        classes=tuple(places),
        images=Repeatable(bind(images, 0, 1)),
        num_images=num_images,
        source=f"{_LICENCE}: all classes; Deng et al., CVPR 2009",
        equal_images=labels,
        num_bytes=num_bytes,
        part=lambda part, parts: Repeatable(bind(images, part, parts)),
        notes=("val and test are carved by content: equal files are in the same split",),
    )


def _whole(root: Path) -> Path:
    """The folder of class tars or class folders, or the tar of class tars."""
    if root.is_dir():
        folders = [folder for folder in (root, root / "winter21_whole", root / "fall11_whole") if folder.is_dir()]
        for folder in folders:
            if _entries(folder):
                return folder
        tars = sorted(root.glob("*.tar"))
        if len(tars) == 1:
            return tars[0]
    raise InputError(
        f"{root} holds neither class tars <wnid>.tar, nor class folders, nor one tar of class tars; unpack a "
        f".tar.gz with tar -xzf; {_TO_BE_HAD}"
    )


def _class_places(source: Path) -> dict[str, Place]:
    """Where the images of each class are, by WordNet id, ascending."""
    places: dict[str, Place] = {}
    if source.is_dir():
        places = _entries(source)
    elif source.is_file():
        for member in members(source):
            name = PurePosixPath(member.name)
            if name.suffix == ".tar" and _WNID.fullmatch(name.stem):
                if name.stem in places:
                    raise InputError(f"{source} holds {name.name} twice; unpack it, and keep the one that is whole")
                places[name.stem] = member
    else:
        raise InputError(f"{source} is missing, and so is any other layout that `--help` describes; {_TO_BE_HAD}")
    if not places:
        raise InputError(f"{source} holds no class, named as n01440764 is; {_TO_BE_HAD}")
    return dict(sorted(places.items()))


def _entries(folder: Path) -> dict[str, Place]:
    """Class folders and class tars by WordNet id."""
    places: dict[str, Place] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            wnid = entry.name.removesuffix(".tar")
            if not _WNID.fullmatch(wnid) or entry.is_dir() == entry.name.endswith(".tar"):
                continue
            if wnid in places:
                raise InputError(f"{folder} has both {wnid} and {wnid}.tar; keep the one that is whole")
            places[wnid] = folder / entry.name
    return places


def _is_tar(place: Place) -> bool:
    return isinstance(place, Member) or place.suffix == ".tar"


def _measure(places: dict[str, Place]) -> tuple[int | None, int | None]:
    """How many images there are where all are in folders, and how many bytes where all are in tars; else None.

    Raises InputError for a class without images, and for a tar that is not whole as far as its ends tell.
    """
    num_images, num_bytes = 0, 0
    for place in places.values():
        images = _images_in(place)
        if next(images, None) is None:
            raise InputError(f"{place} holds no image ({', '.join(sorted(_SUFFIXES))}); fill or remove it")
        if isinstance(place, Member):
            num_bytes += place.length
        elif _is_tar(place):
            num_bytes += place.stat().st_size
        else:
            num_images += 1 + sum(1 for _ in images)
    return (None if num_bytes else num_images), (None if num_images else num_bytes)


def _images_in(place: Place, fingerprints: bool = False) -> Iterator[_Found]:
    """The images of a class folder or tar, in the same order every time; fingerprints are empty unless asked for."""
    if isinstance(place, Path) and not _is_tar(place):
        for name in sorted(filter(_is_image, os.listdir(place))):
            yield _Found(name, place / name, _fingerprint_of_file(place / name) if fingerprints else "")
        return
    with OpenTar(place) as tar:
        for member in tar.members():
            name = PurePosixPath(member.name).name
            if _is_image(name):
                end = tar.read(member, _END_BYTES) if fingerprints else b""
                yield _Found(name, member, _fingerprint(member.length, end) if fingerprints else "")


def _is_image(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in _SUFFIXES


def _fingerprint(length: int, end: bytes) -> str:
    # The last bytes are compressed pixels, and lie beside the next header, which is read anyway; the first are headers
    # that many files share.
    return f"{length}:{end.hex()}"


def _fingerprint_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            file.seek(max(0, length - _END_BYTES))
            return _fingerprint(length, file.read())
    except OSError:
        return ""  # whether it can be read is the business of `prepare`


def _official_val(root: Path, folder: Path, classes: tuple[str, ...]) -> list[RawImage]:
    """The official validation images as the test split, by name: from class folders, the tar, or one flat folder."""
    by_class = _entries(folder) if folder.is_dir() else {}
    tar = root / _VAL_TAR
    if by_class:
        labelled = [(found, wnid) for wnid, place in by_class.items() for found in _images_in(place)]
    elif tar.is_file() or folder.is_dir():
        place = tar if tar.is_file() else folder
        labelled = _labelled(list(_images_in(place)), place, *_val_truth(root))
    else:
        raise InputError(f"{tar} is missing, and so is the folder {folder}; {_TO_BE_HAD}")
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    images = []
    for found, wnid in sorted(labelled, key=lambda pair: pair[0].name):
        if wnid not in label_of:
            raise InputError(f"{found.image} is of class {wnid}, which train does not have; complete or correct train")
        images.append(RawImage(key_of(f"val/{found.name}"), "test", found.image, label_of[wnid]))
    return images


def _labelled(images: list[_Found], place: Path, wnids: dict[str, str], table: Path) -> list[tuple[_Found, str]]:
    """Images beside their classes. Raises InputError unless the table names just these images."""
    strangers = [image for image in images if PurePosixPath(image.name).stem not in wnids]
    if strangers or len(images) != len(wnids):
        raise InputError(
            f"{table} has labels for {len(wnids)} images, {place} holds {len(images)}, {len(strangers)} of them "
            "without a label; fetch both again"
        )
    return [(image, wnids[PurePosixPath(image.name).stem]) for image in images]


def _val_truth(root: Path) -> tuple[dict[str, str], Path]:
    """The classes of the validation images by file name without suffix, and the table that says so."""
    table = root / _KAGGLE_TRUTH
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        try:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}, table
        except (KeyError, IndexError, AttributeError) as error:
            raise InputError(f"{table} lacks ImageId or PredictionString in some row; fetch it again") from error
    devkit = root / _DEVKIT
    synsets = np.atleast_1d(read_mat(_from_devkit(root, _META), "synsets", f"{devkit}: {_META}"))
    try:
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        classes = [wnids[int(number)] for number in _from_devkit(root, _TRUTH).split()]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"{devkit}: {_META} and {_TRUTH} do not fit ({error!r}); fetch it again") from error
    return {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(classes, 1)}, devkit


def _from_devkit(root: Path, name: str) -> bytes:
    """A file of the development kit, unpacked or not."""
    unpacked, archive = root / _DEVKIT / "data" / name, root / f"{_DEVKIT}.tar.gz"
    if unpacked.is_file():
        return unpacked.read_bytes()
    if not archive.is_file():
        raise InputError(
            f"{archive} is missing (or {_KAGGLE_TRUTH} from Kaggle): without it the validation images have no labels; "
            f"{_TO_BE_HAD}"
        )
    try:
        with tarfile.open(archive, "r:gz") as tar:
            file = tar.extractfile(f"{_DEVKIT}/data/{name}")
            if file is None:
                raise KeyError(f"{name} is not a file")
            return file.read()
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise InputError(
            f"{archive} holds no {_DEVKIT}/data/{name} that can be read ({error}); fetch it again"
        ) from error
