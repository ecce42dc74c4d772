"""PNG chunks with checksums, which Pillow does not check, and encoding of PNG files."""

import io
import zlib
from collections.abc import Iterator
from itertools import takewhile

import numpy as np
import numpy.typing as npt
from PIL import Image

PNG_SIGNATURE, _CHUNK_BYTES = b"\x89PNG\r\n\x1a\n", 12  # of a chunk: length, kind and check sum
_LEVEL = 4  # for X-rays 1% larger than the best, which takes six times as long
_DEPTH_PLACE, _COLOURS_PLACE = 24, 25
REMARK = "metadata of a PNG whose check sum is wrong"
# Chunks that no reader here asks for and that Pillow needs for no pixel. A damaged kind of chunk is none of them.
_NOT_OF_PIXELS = {
    b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tIME",
    b"bKGD", b"hIST", b"sPLT",
}  # fmt: skip


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode uint8 [H, W] or [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=_LEVEL)
    return buffer.getvalue()


def is_grey_png(encoded: bytes) -> bool:
    """Whether this PNG is greyscale, with or without transparency."""
    return encoded[_COLOURS_PLACE] in (0, 4)


def is_deep_png(encoded: bytes) -> bool:
    """Whether this PNG has more than 8 bits per colour channel: Pillow silently reads them as 8 bits."""
    return encoded.startswith(PNG_SIGNATURE) and encoded[_DEPTH_PLACE] > 8


def require_whole_png(encoded: bytes | memoryview) -> None:
    """Raise ValueError unless every chunk up to the last is present with a correct checksum: Pillow checks neither."""
    for kind, _, _ in _damaged(encoded):
        raise ValueError(_reason(kind))


def whole_png(encoded: bytes) -> tuple[bytes, str]:
    """A PNG without metadata chunks that have wrong checksums, and REMARK if there are any, else "". Raises ValueError
    unless every other chunk up to the last is whole."""
    kept, place = [], 0
    for kind, start, end in _damaged(encoded):
        if kind not in _NOT_OF_PIXELS:
            raise ValueError(_reason(kind))
        kept.append(encoded[place : start - 8])
        place = end + 4
    return (b"".join([*kept, encoded[place:]]), REMARK) if kept else (encoded, "")


def has_sbit(encoded: bytes) -> bool:
    """Whether this PNG states how many bits of its pixels are significant. Raises ValueError if it ends before its
    pixels."""
    if not encoded.startswith(PNG_SIGNATURE):
        return False
    before_pixels = takewhile(lambda kind: kind != b"IDAT", (kind for kind, _, _ in _chunks(encoded)))
    return b"sBIT" in before_pixels


def _reason(kind: bytes) -> str:
    return f"PNG that is cut off or damaged in its chunk {kind!r}"


def _damaged(encoded: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk whose check sum is wrong."""
    for kind, start, end in _chunks(encoded):
        if zlib.crc32(encoded[start - 4 : end]).to_bytes(4, "big") != encoded[end : end + 4]:
            yield kind, start, end


def _chunks(encoded: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk of a PNG up to the last: its kind, and where its data begin and end. Raises ValueError without one."""
    place, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if place + _CHUNK_BYTES > len(encoded):
            raise ValueError("PNG that is cut off")
        length, kind = int.from_bytes(encoded[place : place + 4], "big"), bytes(encoded[place + 4 : place + 8])
        yield kind, place + 8, place + 8 + length
        place += _CHUNK_BYTES + length
