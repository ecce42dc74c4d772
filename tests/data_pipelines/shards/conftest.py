"""Small prepared sets, and a function that makes an index of any."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from seven_images import CLASSES, LABELS

from data_pipelines.shards.index import Index


@pytest.fixture(scope="session")
def load(write_set: Callable[..., Path]) -> Callable[..., Index]:
    def write_and_load(labels: Sequence[Any], classes: Sequence[str] = ("cat", "dog", "eel"), **options: Any) -> Index:
        return Index.load(write_set(labels, classes, **options), "train")

    return write_and_load


@pytest.fixture(scope="module")
def images(photo: Callable, encode: Callable) -> list[bytes]:
    kinds = [("PNG", 3), ("JPEG", 3), ("JPEG", 1), ("PNG", 1), ("PNG", 3), ("JPEG", 3), ("PNG", 3)]
    return [encode(photo(i, 20 + i, 30 - i, channels), kind) for i, (kind, channels) in enumerate(kinds)]


@pytest.fixture(scope="module")
def prepared(write_set: Callable[..., Path], images: list[bytes]) -> Path:
    """Seven images in shards of two."""
    return write_set(LABELS, CLASSES, images=images, groups=[5, 5, -1, 2**62, 0, 1, 2], shard_images=2)
