"""Small films to prepare, and how a preparation is stopped and watched."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_films import Encode

from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.preparation import part_writer as part_module
from data_pipelines.preparation.output import Output


@pytest.fixture
def picture(photo: Callable, encode: Callable) -> Encode:
    """Pictures of the same size in bytes and pixels, by number."""
    return lambda number: encode(np.full((8, 8), number, np.uint8), compress_level=0)


@pytest.fixture
def films(tmp_path: Path, picture: Encode) -> Path:
    """Ten pictures of two classes."""
    for number in range(10):
        path = tmp_path / "films" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return tmp_path / "films"


@pytest.fixture
def stop(prepare_until: Callable[[str, RawSet, Output], None]) -> Callable[[RawSet, Output], None]:
    """A function that prepares and is stopped when all shards are finished."""
    return partial(prepare_until, "join_parts")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The names of the files that were read, and of those that were decoded."""
    done: dict[str, list[str]] = {"read": [], "decoded": []}
    read, blocks, verified = RawImage.read, RawImage.blocks, part_module._PartWriter._verify_one

    def noted_read(image: RawImage, most: int = -1) -> bytes:
        done["read"].append(Path(str(image.image)).name)
        return read(image, most)

    def noted_blocks(image: RawImage) -> Iterator[bytes]:
        done["read"].append(Path(str(image.image)).name)
        return blocks(image)

    def noted_decoding(writer: Any, image: RawImage) -> Any:
        done["decoded"].append(Path(str(image.image)).name)
        return verified(writer, image)

    monkeypatch.setattr(RawImage, "read", noted_read)
    monkeypatch.setattr(RawImage, "blocks", noted_blocks)
    monkeypatch.setattr(part_module._PartWriter, "_verify_one", noted_decoding)
    return done


@pytest.fixture
def three_images_to_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.preparation.shard_records.SHARD_IMAGES", 3)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # only its time would be felt
