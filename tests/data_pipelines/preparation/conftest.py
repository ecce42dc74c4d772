"""Small films to prepare, and how a preparation is stopped and watched."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sets import MakeSet, Reads, StopAt, Stopped
from small_films import Encode

from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.preparation import part_writer as part_module
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare


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


@pytest.fixture(scope="session")
def pictures(photo: Callable, encode: Callable) -> list[bytes]:
    return [encode(photo(number, 6, 5 + number)) for number in range(20)]


@pytest.fixture
def make_set(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> MakeSet:
    """A function that makes a set of pictures, by number, with some of val after the fourth. The file of `~number` is
    missing; the key tells the row and the picture."""
    files = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(pictures):
        (files / f"{number}.png").write_bytes(picture)

    def make(numbers: Sequence[int], labels: Sequence[int] = (), num_val: int = 0, **options: Any) -> RawSet:
        rows = enumerate(zip(numbers, labels or [0, 1, 1] * 9, strict=False))
        images = [
            RawImage(f"{row:02d}-{max(number, ~number)}", "train", files / f"{number}.png", label)
            for row, (number, label) in rows
        ]
        images[4:4] = [RawImage(f"val-{row}", "val", pictures[row], row) for row in range(num_val)]
        about: dict[str, Any] = {"name": "small", "task": "single_label", "classes": ("cat", "dog"), "source": "drawn"}
        return RawSet(**about | {"images": images, "num_images": len(images)} | options)

    return make


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The keys of the images that were read so far."""
    keys: Reads = []
    for name in ("read", "blocks"):
        read = getattr(RawImage, name)
        monkeypatch.setattr(RawImage, name, lambda image, read=read: (keys.append(image.key), read(image))[1])
    return keys


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> StopAt:
    """A function that prepares and is stopped, and returns whether it was: before the n-th change of files (one appears
    under its name or goes away, or half of a folder went away), at an image, or when shards are to be joined."""
    processes = count(10**6)

    def stop(raw: RawSet, output: Output, change: int | None = None, key: str = "", joining: bool = False) -> bool:
        changes, process, read, remove_folder = count(), next(processes), RawImage.read, shutil.rmtree

        def stopped(*_: Any) -> Any:
            raise Stopped

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def changed(*arguments: Any, **options: Any) -> Any:
                is_one_of_many = ".npy" in str(arguments[0]) and "labels" not in str(arguments[0])
                if change is not None and not is_one_of_many and next(changes) >= change:
                    if original is remove_folder:
                        for path in sorted(path for path in Path(*arguments).rglob("*") if path.is_file())[:1]:
                            os.unlink(path)
                    raise Stopped
                return original(*arguments, **options)

            return changed

        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: process)  # every start is another process
            patched.setattr(RawImage, "read", lambda image: stopped() if image.key == key else read(image))
            for name in ("replace", "rename", "unlink"):
                patched.setattr(Path, name, counted(getattr(Path, name)))
            patched.setattr(shutil, "rmtree", counted(shutil.rmtree))
            if joining:
                patched.setattr("data_pipelines.preparation.join_parts.join_shards", stopped)
            try:
                prepare(raw, output)
            except Stopped:
                return True
        return False

    return stop
