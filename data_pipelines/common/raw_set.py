"""What a reader hands to `prepare`: the images of a data set as distributed by its owner, not yet verified."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from data_pipelines.common.patients import NO_GROUP, Patients
from data_pipelines.common.splits import Split
from data_pipelines.common.tasks import Task
from data_pipelines.common.xray_storage import Depth, XrayCut

BLOCK_BYTES = 4 << 20
_MAX_KEY_BYTES = 90  # a tar header holds 100 bytes of name


@dataclass(frozen=True)
class Member:
    """A file inside an uncompressed tar: `length` bytes at `offset`, both in bytes."""

    tar: Path
    name: str
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.tar}:{self.name}"


@dataclass(frozen=True)
class RawImage:
    """One image. `image`: a file, a member of a tar, or its encoded bytes; `label`: a class number, or float32 [C] with
    NaN = unlabelled; `group`: equal for images that must stay in one split (one patient), -1 when unknown; `facts`: by
    what to tell results apart, such as {"sex": "F", "age": "61", "view": "PA"}; `is_hidden`: nobody is to be told where
    it lies."""

    key: str
    split: Split
    image: Path | Member | bytes
    label: int | npt.NDArray[np.float32]
    group: int = NO_GROUP
    facts: Mapping[str, str] = field(default_factory=dict)
    is_hidden: bool = False

    def read(self, most: int = -1) -> bytes:
        """The encoded bytes, or the first `most` of them. Raises OSError."""
        if isinstance(self.image, bytes):
            return self.image if most < 0 else self.image[:most]
        if isinstance(self.image, Path):
            with self.image.open("rb") as file:
                return file.read(most)
        with self.image.tar.open("rb") as tar:
            length = self.image.length if most < 0 else min(most, self.image.length)
            return os.pread(tar.fileno(), length, self.image.offset)

    def blocks(self) -> Iterator[bytes]:
        """The encoded bytes, some megabytes at a time. Raises OSError."""
        if isinstance(self.image, bytes):
            yield self.image
            return
        path, offset, remaining = (
            (self.image, 0, sys.maxsize)
            if isinstance(self.image, Path)
            else (self.image.tar, self.image.offset, self.image.length)
        )
        with path.open("rb") as file:
            file.seek(offset)
            while block := file.read(min(BLOCK_BYTES, remaining)):
                remaining -= len(block)
                yield block

    def num_bytes(self) -> int:
        """Length of the encoded bytes. Raises OSError."""
        if isinstance(self.image, Path):
            return self.image.stat().st_size
        return len(self.image) if isinstance(self.image, bytes) else self.image.length


@dataclass(frozen=True)
class RawSet:
    """A data set before `prepare`.

    images: in an order that is the same every time, so that an interrupted preparation can go on; not held in memory
    where there are many. num_images: None where only reading tells. num_bytes: of the files; None for `prepare` to ask.
    part: the i-th of n parts of `images`, for array jobs over sets whose listing takes long; None: every n-th image.
    source: where the set comes from and under what licence. horizontal_flip: whether a mirrored image still shows the
    same. synthetic: whether the images were generated. xray_size: pixels of the shorter side to which X-rays are
    brought, as 8-bit grey; None stores the files as they are. xray_cut: whether the central square of an X-ray is kept
    or the whole of it. bits: of the pixels of X-rays whose files hold them in more than 8 and do not say their depth;
    None: `prepare` looks through them. bits_found: it did. bits_given: the user said it, for all files. shorter_side:
    photographs with a longer shorter side are shrunk to this many pixels there; None shrinks none. patients: "none"
    where there are none; "apart" if no patient is in two splits; "may leak" if some are, or that is not known. metric:
    what is reported; None: the task's own. equal_images: what becomes of files that are equal byte for byte: stored
    each, or stored once and paired with each label ("pairs"), sampled so that each such image counts as one
    ("uniform"). expected_images: as its owner says, for a warning. split: its name, where it is another than the
    owner's. split_by: "image" where that was chosen instead of patients. notes: what a user must know; printed, and in
    the manifest. views: those that its X-rays are of, where every image tells its own; () where that is not known.
    has_own_test, has_own_val: its owner says what is in it, which else is carved. is_user_set: of anybody's own images,
    called after their source. upright: photographs are turned as a viewer shows them. left_out: files that are no
    images of it, by their kind.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    images: Iterable[RawImage]
    num_images: int | None
    source: str
    horizontal_flip: bool = True
    synthetic: bool = False
    xray_size: int | None = None
    xray_cut: XrayCut = "square"
    bits: int | None = None
    bits_found: bool = False
    bits_given: bool = False
    shorter_side: int | None = None
    patients: Patients = "none"
    metric: Literal["top1", "auc"] | None = None
    equal_images: Literal["stored each", "pairs", "uniform"] = "stored each"
    num_bytes: int | None = None
    part: Callable[[int, int], Iterable[RawImage]] | None = None
    expected_images: int | None = None
    split: str | None = None
    split_by: Literal["image"] | None = None
    notes: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    has_own_test: bool = False
    has_own_val: bool = False
    is_user_set: bool = False
    upright: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.task == "single_label" or self.equal_images == "stored each", "findings are not class numbers"

    @property
    def depth(self) -> Depth:
        """The bits of X-rays whose files hold more than 8, and whether the user said them."""
        return Depth(self.bits, self.bits_given)


@dataclass(frozen=True)
class Repeatable:
    """Images that are not held in memory: every iteration calls `make`."""

    make: Callable[[], Iterator[RawImage]]

    def __iter__(self) -> Iterator[RawImage]:
        return self.make()


def key_of(name: str) -> str:
    """The key of an image of that relative path or name: without dots, because webdataset takes everything up to the
    first one for the key, and short enough for a tar header."""
    key = name.replace(".", "_")
    encoded = key.encode(errors="surrogateescape")
    return key if len(encoded) <= _MAX_KEY_BYTES and key.isprintable() else hashlib.sha256(encoded).hexdigest()
