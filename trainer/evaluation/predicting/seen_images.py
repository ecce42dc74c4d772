"""Which new images a run was trained on: those that are stored as an image of its training set is, byte for byte."""

import hashlib
from functools import lru_cache

import numpy as np

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import ShardError
from data_pipelines.common.splits import Split
from data_pipelines.shards.index import Index
from trainer.evaluation.leaks import digests_of, sizes_of
from trainer.evaluation.runs import Run, own_data

SEEN = "trained on"
_SIZES_KEPT = 4096


class SeenImages:
    """The images of some indexes. Only those of the same number of bytes, height and width are read."""

    def __init__(self, indexes: list[Index]) -> None:
        self._indexes, self._sizes = indexes, [sizes_of(index) for index in indexes]
        self._of_size = lru_cache(_SIZES_KEPT)(self._read)

    def has(self, image: EncodedImage) -> bool:
        """Whether an image, verified as those of the run, is among them."""
        size = (len(image.encoded), image.height, image.width)
        return hashlib.sha256(image.encoded).digest() in self._of_size(size)

    def _read(self, size: tuple[int, int, int]) -> frozenset[bytes]:
        found: set[bytes] = set()
        for index, sizes in zip(self._indexes, self._sizes, strict=True):
            rows = np.flatnonzero(sizes == sizes_of(size))
            try:
                found.update(digests_of(index, rows))
            except ShardError:  # a prediction does not need them
                continue
        return frozenset(found)


def seen_images(run: Run) -> SeenImages:
    """The training images of a run. Raises InputError where they are not at hand, or the set was prepared again."""
    splits: list[Split] = ["train", "val"] if run.trained_on == "train+val" else ["train"]
    return SeenImages([own_data(run, split)[0] for split in splits])
