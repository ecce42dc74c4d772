"""What is sound goes into a shard as it came or in 8 bits; what is not is refused for a reason that can be read."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.image_files.png import encode_png

SHADES = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)


def opened(image: EncodedImage) -> npt.NDArray[np.uint8]:
    """The pixels of what goes into the shard, as what it says it is."""
    with Image.open(io.BytesIO(image.encoded)) as picture:
        assert picture.format == {"jpg": "JPEG", "png": "PNG"}[image.suffix]
        assert picture.size == (image.width, image.height)
        assert len(picture.getbands()) == image.channels
        return np.asarray(picture)


def deep_colour_png() -> bytes:
    """4 x 4 pixels of 16 bits a channel, which Pillow cannot write."""
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(range(24)) for _ in range(4)))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def huge_jpeg(jpeg: bytes) -> bytes:
    """A small JPEG whose header says that it has 60,000 x 60,000 pixels."""
    size = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:size] + struct.pack(">HH", 60_000, 60_000) + jpeg[size + 4 :]


def flipped(encoded: bytes, place: int) -> bytes:
    """The same with one bit that is another."""
    return encoded[:place] + bytes([encoded[place] ^ 1]) + encoded[place:][1:]


@pytest.mark.parametrize(("kind", "channels"), [("PNG", 3), ("PNG", 1), ("JPEG", 3), ("JPEG", 1)])
def test_photographs_stay_as_they_are(kind: str, channels: int, photo: Callable, encode: Callable) -> None:
    encoded = encode(photo(1, 40, 30, channels), kind)
    image = verify_image(encoded)
    assert image == EncodedImage(encoded, {"PNG": "png", "JPEG": "jpg"}[kind], 40, 30, channels)
    opened(image)


def test_a_note_to_rotate_is_not_followed(photo: Callable, encode: Callable) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees"
    encoded = encode(photo(2, 40, 30), "JPEG", exif=exif)
    assert Image.open(io.BytesIO(encoded)).getexif()[0x0112] == 6
    assert verify_image(encoded) == EncodedImage(encoded, "jpg", 40, 30, 3)


# Format, mode, options, and whether nothing is lost.
CONVERTED: dict[str, tuple[str, str | None, dict[str, Any], bool]] = {
    "palette": ("PNG", "P", {}, True),
    "black and white": ("PNG", "1", {}, True),
    "alpha": ("PNG", "RGBA", {}, True),
    "grey alpha": ("PNG", "LA", {}, True),
    "cmyk": ("JPEG", "CMYK", {"quality": 95}, False),
    "gif": ("GIF", "P", {}, True),
    "bmp": ("BMP", None, {}, True),
    "tiff": ("TIFF", None, {}, True),
    "webp": ("WEBP", None, {"lossless": True}, True),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_other_photographs_become_rgb_png(name: str, photo: Callable, encode: Callable) -> None:
    file_format, mode, options, is_lossless = CONVERTED[name]
    picture = photo(3, 40, 30)
    image = verify_image(encode(picture, file_format, mode, **options))
    expected = np.asarray(Image.fromarray(picture).convert(mode or "RGB").convert("RGB"))
    assert (image.suffix, image.height, image.width, image.channels) == ("png", 40, 30, 3)
    assert np.abs(opened(image).astype(int) - expected).mean() < (1e-9 if is_lossless else 6)


# What is made of a sound JPEG and PNG, and the reasons why it is no photograph and no X-ray.
REFUSED: dict[str, tuple[Callable[[bytes, bytes], bytes], str, str]] = {
    "JPEG cut": (lambda jpeg, png: jpeg[: len(jpeg) * 2 // 3], "Premature end", "Premature end"),
    "JPEG without end": (lambda jpeg, png: jpeg[:-2], "Premature end", "Premature end"),
    "JPEG of a header": (lambda jpeg, png: jpeg[:300], ".", "."),
    "JPEG of two bytes": (lambda jpeg, png: jpeg[:2], ".", "."),
    "JPEG that is huge": (
        lambda jpeg, png: huge_jpeg(jpeg),
        "60000 x 60000 pixels, more",
        "60000 x 60000 pixels, more",
    ),
    "PNG cut": (lambda jpeg, png: png[: len(png) * 2 // 3], "cut off", "cut off"),
    # Pillow is content with the next five; DALI is not, and cannot leave out an image.
    "PNG without last byte": (lambda jpeg, png: png[:-1], "cut off", "cut off"),
    "PNG without end": (lambda jpeg, png: png[:-12], "cut off", "cut off"),
    "PNG without check sum": (lambda jpeg, png: png[:-16], "cut off", "cut off"),
    "PNG of another check sum": (lambda jpeg, png: flipped(png, len(png) - 13), "damaged", "damaged"),
    "PNG of another length": (lambda jpeg, png: flipped(png, png.index(b"IDAT") - 4), "damaged", "damaged"),
    "PNG of other pixels": (lambda jpeg, png: flipped(png, png.index(b"IDAT") + 100), ".", "."),
    "PNG of deep colours": (
        lambda jpeg, png: deep_colour_png(),
        "pixels of more than 8 bits",
        "colours of more than 8",
    ),
    "no bytes": (lambda jpeg, png: b"", "an empty file", "an empty file"),
    "text": (lambda jpeg, png: b"404 not found" * 20, "text, no picture", "text, no picture"),
}
REFUSALS = (ValueError, OSError, SyntaxError)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_damaged_or_no_picture_is_refused(name: str, photo: Callable, encode: Callable) -> None:
    make, no_photograph, no_xray = REFUSED[name]
    picture = photo(0, 60, 70)
    encoded = make(encode(picture, "JPEG"), encode(picture))
    tracemalloc.start()
    try:
        with pytest.raises(REFUSALS, match=no_photograph):
            verify_image(encoded)
        with pytest.raises(REFUSALS, match=no_xray):
            verify_xray(encoded, 32)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_numbers_that_are_no_shades_are_refused(encode: Callable) -> None:
    real, negative = encode(np.ones((4, 4), np.float32), "TIFF"), encode(np.full((4, 4), -1, np.int32), "TIFF")
    for encoded, no_xray in ((real, "pixels that are floating-point numbers"), (negative, "negative pixels")):
        with pytest.raises(ValueError, match=no_xray):
            verify_xray(encoded, 32)
        with pytest.raises(ValueError, match="pixels of more than 8 bits"):
            verify_image(encoded)


def test_deep_xrays_are_no_photographs_and_cut_ones_no_xrays(encode: Callable) -> None:
    deep = encode(SHADES)
    with pytest.raises(ValueError, match="pixels of more than 8 bits"):
        verify_image(deep)
    for cut in (1, 16, 200):
        with pytest.raises(REFUSALS, match=r"cut off|truncated"):
            verify_xray(deep[:-cut], 64)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_of_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), pixels)
