"""Small pictures and small prepared sets, made on the spot."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from data_pipelines.common.manifest import write_manifest
from data_pipelines.common.raw_set import RawSet
from data_pipelines.image_files.image_verification import verify_image
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.writer import ShardWriter, join_shards

Pixels = npt.NDArray[np.uint8]


def draw_photo(number: int, height: int, width: int, channels: int = 3) -> Pixels:
    """Smooth shades, hard edges and fine stripes, by number; uint8 [H, W, 3], or [H, W] for one channel."""
    rng = np.random.default_rng(number)
    row, column = np.arange(height)[:, None, None] / 40, np.arange(width)[None, :, None] / 40
    waves = np.sin(row * rng.uniform(1, 4, 3) + column * rng.uniform(1, 4, 3) + rng.uniform(0, 6, 3))
    box = (np.abs(row - rng.uniform(0, height / 40)) < 0.4) & (np.abs(column - rng.uniform(0, width / 40)) < 0.4)
    stripes = 25 * np.sin(row * rng.uniform(70, 90) + column * rng.uniform(40, 60))
    pixels = (np.where(box, rng.uniform(30, 220, 3), 127 + 95 * waves) + stripes).astype(np.uint8)
    return pixels if channels == 3 else pixels[:, :, 0]


def encode_pixels(pixels: Pixels, file_format: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """The bytes of an image file; `mode` is Pillow's, where it is not that of the array."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo() -> Callable[..., Pixels]:
    return draw_photo


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    return encode_pixels


@pytest.fixture(scope="session")
def write_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a prepared set of one split and returns its folder."""

    def write(
        labels: Sequence[Any],
        classes: Sequence[str],
        images: Sequence[bytes] | None = None,
        groups: Sequence[int] | None = None,
        split: str = "train",
        shard_images: int = 1000,
    ) -> Path:
        folder, rows = tmp_path_factory.mktemp("set"), tmp_path_factory.mktemp("rows")
        task = "single_label" if np.ndim(labels) == 1 else "multi_label"
        images = images or [encode_pixels(draw_photo(number, 6, 5 + number % 3)) for number in range(len(labels))]
        verified = [verify_image(encoded) for encoded in images]
        shards = []
        for start in range(0, len(labels), shard_images):
            writer = ShardWriter(folder / split, rows, f"{len(shards):06d}", len(shards), classes, task)
            for number in range(start, min(start + shard_images, len(labels))):
                group = [groups[number]] if groups else []
                writer.add(f"image-{number:03d}", verified[number], labels[number], *group)
            shards.append(writer.close())
        manifest = {
            "name": "small",
            "task": task,
            "classes": list(classes),
            "channels": max(image.channels for image in verified),
            "horizontal_flip": True,
            "splits": {split: join_shards(folder / split, rows, [shards], "stored each")},
        }
        write_manifest(folder, manifest)
        return folder

    return write


@pytest.fixture
def prepare_until(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, RawSet, Output], None]:
    """A function that prepares and is killed at a step of `prepare_set`, such as "tidy"."""

    class Killed(BaseException):
        """Nothing is tidied up."""

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    def prepare_and_kill(step: str, raw: RawSet, output: Output) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(f"data_pipelines.preparation.prepare_set.{step}", kill)
            with pytest.raises(Killed):
                prepare(raw, output)

    return prepare_and_kill


@pytest.fixture
def prepare_untidily(prepare_until: Callable[[str, RawSet, Output], None]) -> Callable[[RawSet, Output], None]:
    """A function that prepares and is killed when the set has got its name."""

    def prepare_and_stop(raw: RawSet, output: Output) -> None:
        prepare_until("tidy", raw, output)
        assert output.out.exists()

    return prepare_and_stop


@pytest.fixture
def class_folders(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes some PNG files per class, below `place`, and returns the root."""

    def write(place: str = "raw", classes: Sequence[str] = ("cat", "dog"), count: int = 6, channels: int = 3) -> Path:
        for label, name in enumerate(classes):
            folder = tmp_path / place / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw_photo(100 * label + number, 8 + number, 9, channels)
                (folder / f"{number}.png").write_bytes(encode_pixels(pixels))
        return tmp_path / place.split("/")[0]

    return write
