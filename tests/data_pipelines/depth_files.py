"""Pictures of more than 8 bits, in files that say their depth and in files that do not, and sets of them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from data_pipelines.common.raw_set import RawSet
from data_pipelines.common.xray_storage import AS_DECLARED, Depth
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.image_files.image_verification import verify_xray
from data_pipelines.image_files.png import PNG_SIGNATURE
from data_pipelines.shards.index import Index

SIDE = 8


def film(value: int, brightest: int, dtype: type = np.uint16) -> np.ndarray:
    """One value, but for two rows of the brightest."""
    pixels = np.full((SIDE, SIDE), value, dtype=dtype)
    pixels[:2] = brightest
    return pixels


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def with_sbit(encoded: bytes, bits: int) -> bytes:
    content = b"sBIT" + bytes([bits])
    chunk = struct.pack(">I", 1) + content + struct.pack(">I", zlib.crc32(content))
    after_header = len(PNG_SIGNATURE) + 25
    return encoded[:after_header] + chunk + encoded[after_header:]


def tiff(pixels: np.ndarray, white: int | None = None) -> bytes:
    buffer, tags = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    if white is not None:
        tags[281] = white
        tags.tagtype[281] = 3 if white < 1 << 16 else 4
    Image.fromarray(pixels).save(buffer, "TIFF", tiffinfo=tags)
    return buffer.getvalue()


def packed_tiff(pixels: np.ndarray) -> bytes:
    """12 bits for each pixel, two in three bytes."""
    height, width = pixels.shape
    bits = "".join(f"{value:012b}" for value in pixels.ravel())
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    entries = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries.append((279, len(data)))
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def shade(encoded: bytes, depth: Depth = AS_DECLARED) -> int:
    """What the value of most pixels becomes."""
    with Image.open(io.BytesIO(verify_xray(encoded, SIDE, depth).encoded)) as picture:
        return int(np.asarray(picture)[-1, -1])


def folder_of(root: Path, films: dict[str, bytes], splits: tuple[str, ...] = ("train",)) -> RawSet:
    for name, encoded in films.items():
        for split in splits:
            path = root / split / "chest" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
    fraction = 0.0
    return image_folder(root, fraction, fraction, split_by="image", xray_size=SIDE)


def shades(out: Path) -> dict[int, int]:
    """Of each stored picture, what the value of most pixels became, by that of its brightest."""
    index = Index.load(out, "train")
    found = {}
    for row in range(len(index)):
        with Image.open(io.BytesIO(index.encoded(row).tobytes())) as picture:
            found[int(np.asarray(picture)[0, 0])] = int(np.asarray(picture)[-1, -1])
    return found


# Values of most pixels and of the brightest, of files that say nothing of their depth.
UNDECLARED = {"a.png": png(film(2000, 4095)), "b.png": png(film(2000, 4096)), "c.tif": tiff(film(2000, 3000))}
