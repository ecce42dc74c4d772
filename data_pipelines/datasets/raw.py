"""What a reader hands to `prepare`: the images of a data set as its owner distributes it, not yet verified."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipelines.index import Split, Task
from data_pipelines.shards import NO_GROUP


@dataclass(frozen=True)
class RawImage:
    """One image. `image`: a file, or its encoded bytes; `label`: a class number, or float32 [C] with NaN = unlabelled;
    `group`: equal for images that must not be parted between splits (one patient), -1 when unknown."""

    key: str
    split: Split
    image: Path | bytes
    label: int | npt.NDArray[np.float32]
    group: int = NO_GROUP


@dataclass(frozen=True)
class RawSet:
    """A data set before `prepare`. `source` says where it comes from and under what licence; `horizontal_flip` whether
    a mirrored image still shows the same; `synthetic` whether the images were generated."""

    name: str
    task: Task
    classes: tuple[str, ...]
    images: Iterable[RawImage]
    num_images: int
    source: str
    horizontal_flip: bool = True
    synthetic: bool = False
