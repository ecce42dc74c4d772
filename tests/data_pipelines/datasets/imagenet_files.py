"""Small files in the layouts of ImageNet."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.common.raw_set import RawImage, RawSet

WNIDS = ("n01440764", "n01443537", "n02084071")  # the last is a class of 21k only, and inner in the tree of 1k
Files = dict[str, bytes]
NamesAndBytes = list[tuple[str, int, str, bytes]]


def jpeg(text: str) -> bytes:
    """Readers do not decode: any bytes will do, of different lengths."""
    return b"\xff\xd8" + text.encode() * (1 + len(text) % 3)


def train_files(wnid: str, count: int = 20) -> Files:
    return {f"{wnid}_{number}.JPEG": jpeg(f"{wnid} {number}") for number in range(count)}


def tar_bytes(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_files(root: Path, files: Files) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def content(images: Sequence[RawImage] | RawSet) -> NamesAndBytes:
    chosen = images.images if isinstance(images, RawSet) else images
    return sorted((image.key, int(image.label), image.split, image.read()) for image in chosen)
