"""The chunks of a PNG, whose check sums Pillow does not look at, and PNG files made of pixels."""

import io
import zlib
from collections.abc import Iterator
from itertools import takewhile

import numpy as np
import numpy.typing as npt
from PIL import Image

PNG_SIGNATURE, _CHUNK_BYTES = b"\x89PNG\r\n\x1a\n", 12  # of a chunk: length, kind and check sum
_LEVEL = 4  # for X-rays 1% larger than the best, which takes six times as long
_DEPTH_PLACE = 24


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [H, W] or [H, W, 3] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=_LEVEL)
    return buffer.getvalue()


def is_deep_png(encoded: bytes) -> bool:
    """Whether this is a PNG of more than 8 bits for each colour: Pillow reads them as 8 bits without a word."""
    return encoded.startswith(PNG_SIGNATURE) and encoded[_DEPTH_PLACE] > 8


def require_whole_png(encoded: bytes | memoryview) -> None:
    """Raise ValueError unless every chunk up to the last is there and has its check sum: Pillow looks at neither."""
    for kind, start, end in _chunks(encoded):
        if zlib.crc32(encoded[start - 4 : end]).to_bytes(4, "big") != encoded[end : end + 4]:
            raise ValueError(f"PNG that is cut off or damaged in its chunk {kind!r}")


def has_sbit(encoded: bytes) -> bool:
    """Whether this is a PNG that says how many bits of its pixels are significant. Raises ValueError if it is cut off
    before its pixels."""
    if not encoded.startswith(PNG_SIGNATURE):
        return False
    before_pixels = takewhile(lambda kind: kind != b"IDAT", (kind for kind, _, _ in _chunks(encoded)))
    return b"sBIT" in before_pixels


def _chunks(encoded: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk of a PNG up to the last: its kind, and where its data begin and end. Raises ValueError without one."""
    place, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if place + _CHUNK_BYTES > len(encoded):
            raise ValueError("PNG that is cut off")
        length, kind = int.from_bytes(encoded[place : place + 4], "big"), bytes(encoded[place + 4 : place + 8])
        yield kind, place + 8, place + 8 + length
        place += _CHUNK_BYTES + length
