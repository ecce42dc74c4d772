"""What goes into a shard for the file of an image: decoded to its last byte, X-rays shrunk and made 8-bit grey,
photographs shrunk if that is asked for."""

import io
import zlib
from collections.abc import Iterator
from itertools import takewhile

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from data_pipelines.depth import AS_DECLARED, Depth, declared_bits, scaled
from data_pipelines.dicom import dicom_pixels, is_dicom
from data_pipelines.index import XrayCut
from data_pipelines.shards import EncodedImage
from data_pipelines.shrink import JPEG_QUALITY, shrink, shrunk_size

MAX_PIXELS = 178_956_970  # of one image, as Pillow's limit: a header alone can ask for any amount of memory

PNG_SIGNATURE, _PNG_CHUNK_BYTES = b"\x89PNG\r\n\x1a\n", 12  # of a chunk: length, kind and check sum
_PNG_LEVEL = 4  # for X-rays 1% larger than the best, which takes six times as long

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [H, W] or [H, W, 3] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def verify_image(encoded: bytes, shorter_side: int | None = None) -> EncodedImage:
    """Decode a photograph to its last byte. 8-bit grey and RGB JPEG and PNG stay as they are, others become RGB PNG.

    Those whose shorter side is above `shorter_side` (pixels) are shrunk to it: JPEG stays JPEG, others become PNG.
    Raises whatever the decoder raises for a damaged file, and ValueError for pictures of more than 8 bits.
    """
    if _is_jpeg(encoded):
        height, width, colours = _jpeg_header(encoded)
        pixels = simplejpeg.decode_jpeg(encoded, "GRAY" if colours == "Gray" else "RGB", strict=True)
        if colours in ("Gray", "YCbCr", "RGB"):
            if side := _side_to_shrink_to(shorter_side, height, width):
                return _shrunk(pixels, side, "jpg")
            return EncodedImage(encoded, "jpg", height, width, 1 if colours == "Gray" else 3)
    if encoded.startswith(PNG_SIGNATURE):
        require_whole_png(encoded)
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        # Pillow reads 16-bit colour as 8-bit without a word: the bit depth stands in byte 24 of a PNG.
        if image.mode.startswith(("I", "F")) or (image.format == "PNG" and encoded[24] > 8):
            raise ValueError("pixels of more than 8 bits")
        is_plain = image.format == "PNG" and image.mode in ("L", "RGB")
        side = _side_to_shrink_to(shorter_side, image.height, image.width)
        if is_plain and side is None:
            return EncodedImage(encoded, "png", image.height, image.width, len(image.getbands()))
        pixels = np.asarray(image if is_plain else image.convert("RGB"))
    if side:
        return _shrunk(np.atleast_3d(pixels), side, "jpg" if _is_jpeg(encoded) else "png")
    return EncodedImage(encode_png(pixels), "png", pixels.shape[0], pixels.shape[1], 3)


def _side_to_shrink_to(shorter_side: int | None, height: int, width: int) -> int | None:
    return shorter_side if shorter_side is not None and min(height, width) > shorter_side else None


def _shrunk(pixels: npt.NDArray[np.uint8], side: int, suffix: str) -> EncodedImage:
    small = shrink(pixels, side)
    height, width, channels = small.shape
    if suffix == "png":
        encoded = encode_png(small[:, :, 0] if channels == 1 else small)
    else:
        colours = {"colorspace": "GRAY", "colorsubsampling": "Gray"} if channels == 1 else {"colorsubsampling": "420"}
        encoded = simplejpeg.encode_jpeg(small, JPEG_QUALITY, **colours)
    return EncodedImage(encoded, suffix, height, width, channels, is_shrunk=True)


def require_whole_png(encoded: bytes | memoryview) -> None:
    """Raise ValueError unless every chunk up to the last is there and has its check sum: Pillow looks at neither."""
    for kind, start, end in _png_chunks(encoded):
        if zlib.crc32(encoded[start - 4 : end]).to_bytes(4, "big") != encoded[end : end + 4]:
            raise ValueError(f"PNG that is cut off or damaged in its chunk {kind!r}")


def has_sbit(encoded: bytes) -> bool:
    """Whether this is a PNG that says how many bits of its pixels are significant. Raises ValueError if it is cut off
    before its pixels."""
    if not encoded.startswith(PNG_SIGNATURE):
        return False
    before_pixels = takewhile(lambda kind: kind != b"IDAT", (kind for kind, _, _ in _png_chunks(encoded)))
    return b"sBIT" in before_pixels


def _png_chunks(encoded: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk of a PNG up to the last: its kind, and where its data begin and end. Raises ValueError without one."""
    place, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if place + _PNG_CHUNK_BYTES > len(encoded):
            raise ValueError("PNG that is cut off")
        length, kind = int.from_bytes(encoded[place : place + 4], "big"), bytes(encoded[place + 4 : place + 8])
        yield kind, place + 8, place + 8 + length
        place += _PNG_CHUNK_BYTES + length


def verify_xray(encoded: bytes, size: int, depth: Depth = AS_DECLARED, cut: XrayCut = "square") -> EncodedImage:
    """Decode an X-ray to its last byte; its central square, or the whole of it, shrunk or enlarged to a shorter side of
    `size` pixels, as 8-bit grey PNG.

    JPEG, PNG of 8 or 16 bits, and DICOM; `depth`: of those of more than 8 bits. What is such a picture already is kept
    as it is. Raises whatever the decoder raises for a damaged file, and ValueError for pixels that are no grey values,
    larger than their depth allows, or of unknown depth, and for pictures that would get too large.
    """
    pixels, is_plain = _grey(encoded, depth)
    kept = pixels if cut == "whole" else _central_square(pixels)
    height, width = shrunk_size(kept.shape[0], kept.shape[1], size)
    if is_plain and pixels.shape == (height, width):
        return EncodedImage(encoded, "jpg" if _is_jpeg(encoded) else "png", height, width, 1)
    if height * width > MAX_PIXELS:  # a stripe a few pixels wide
        raise ValueError(f"{width} x {height} pixels with a shorter side of {size}, more than {MAX_PIXELS:,}")
    picture = Image.fromarray(np.ascontiguousarray(kept, dtype=np.float32))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)  # Pillow averages over what it leaves out
    return EncodedImage(encode_png(np.rint(np.asarray(resized)).astype(np.uint8)), "png", height, width, 1)


def _central_square(pixels: Pixels) -> Pixels:
    side = min(pixels.shape)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _grey(encoded: bytes, depth: Depth) -> tuple[Pixels, bool]:
    """Grey values [H, W] from 0 to 255, and whether the file itself is JPEG or PNG of 8-bit grey."""
    if _is_jpeg(encoded):
        _, _, colours = _jpeg_header(encoded)
        return simplejpeg.decode_jpeg(encoded, "GRAY", strict=True)[:, :, 0], colours == "Gray"
    if is_dicom(encoded):
        return dicom_pixels(encoded, depth.given) * np.float32(255), False
    if encoded.startswith(PNG_SIGNATURE):
        require_whole_png(encoded)
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        if image.mode.startswith("F"):
            raise ValueError("pixels that are floating-point numbers")
        if image.mode.startswith("I"):
            return scaled(np.asarray(image), depth, declared_bits(image, has_sbit(encoded))), False
        if image.format == "PNG" and encoded[24] > 8:
            raise ValueError("colours of more than 8 bits")
        return np.asarray(image.convert("L")), image.format == "PNG" and image.mode == "L"


def _is_jpeg(encoded: bytes) -> bool:
    return encoded[:2] == b"\xff\xd8"


def _jpeg_header(encoded: bytes) -> tuple[int, int, str]:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, strict=True)
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    return height, width, colours
