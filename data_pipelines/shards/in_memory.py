"""An index over encoded images in memory, which the loaders read like a prepared set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.shards.columns import Array
from data_pipelines.shards.index import Index


@dataclass(frozen=True, eq=False)
class InMemoryIndex(Index):
    """An index over encoded images in memory, without shards. Made by `in_memory_index`."""

    images: Sequence[EncodedImage] = ()

    def encoded(self, row: int) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.images[row].encoded, dtype=np.uint8)

    def take(self, rows: Array) -> "InMemoryIndex":
        taken = super().take(rows)
        assert isinstance(taken, InMemoryIndex)
        return replace(taken, images=[self.images[row] for row in rows])

    def read_ahead(self, rows: Array) -> None:
        """Nothing: they are in memory."""


def in_memory_index(images: Sequence[EncodedImage], channels: int) -> InMemoryIndex:
    """An index of verified images with a single class, to be decoded with `channels` colours, 1 or 3."""
    nothing = np.zeros(len(images), dtype=np.int64)
    return InMemoryIndex(
        task="single_label",
        classes=("",),
        channels=channels,
        flip=False,
        fingerprint="",
        metric="top1",
        patients="none",
        shards=(),
        origins=(),
        shard=nothing,
        offset=nothing,
        length=np.array([len(image.encoded) for image in images], dtype=np.int64),
        height=np.array([image.height for image in images], dtype=np.int64),
        width=np.array([image.width for image in images], dtype=np.int64),
        group=nothing - 1,
        labels=nothing,
        images=images,
    )
