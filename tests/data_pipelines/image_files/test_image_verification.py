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
from dicom_files import dicom_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.xray_storage import Depth
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.image_files.png import encode_png
from data_pipelines.image_files.shrink import shrunk_size

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


XRAYS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "grey PNG": ("PNG", "L", {}),
    "colour PNG": ("PNG", "RGB", {}),
    "palette PNG": ("PNG", "P", {}),
    "transparent PNG": ("PNG", "LA", {}),
    "grey JPEG": ("JPEG", "L", {"quality": 98}),
    "colour JPEG": ("JPEG", "RGB", {"quality": 98}),
    "grey TIFF": ("TIFF", "L", {}),
    "16-bit PNG": ("PNG", "I;16", {}),
    "16-bit TIFF": ("TIFF", "I;16", {}),
    "32-bit TIFF": ("TIFF", "I", {}),
}


@pytest.mark.parametrize("name", XRAYS)
@pytest.mark.parametrize("size", [32, 90])
def test_xrays_become_8_bit_grey_of_the_size_asked_for(name: str, size: int, encode: Callable) -> None:
    """A ramp from left to right keeps its shades, be it shrunk or enlarged."""
    file_format, mode, options = XRAYS[name]
    shades = np.arange(64)[None, :].repeat(64, 0) * 4
    bits = {"I;16": 257, "I": 257}.get(mode or "", 1)
    dtype = {"I;16": np.uint16, "I": np.int32}.get(mode or "", np.uint8)
    pixels = ((shades + 3 * (shades == 252)) * bits).astype(dtype)
    encoded = encode(pixels, file_format, None if bits > 1 else mode, **options)
    image = verify_xray(encoded, size, Depth(16))  # of those that have more than 8
    assert (image.suffix, image.height, image.width, image.channels) == ("png", size, size, 1)
    inner = opened(image)[2:-2, 2:-2].astype(float)
    expected = ((np.arange(size) + 0.5) * 64 / size - 0.5) * 4
    tolerance = 3 if file_format == "JPEG" else 1
    np.testing.assert_allclose(inner, np.broadcast_to(expected[2:-2], inner.shape), atol=tolerance)


@pytest.mark.parametrize("bits", [16, 14, 12, 10, 8, 7])
@pytest.mark.parametrize(("kind", "dtype"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32)])
def test_deep_xrays_keep_their_shades(bits: int, kind: str, dtype: type, encode: Callable) -> None:
    """Whatever the file could hold: scanners put 12 bits into 16."""
    pixels = SHADES >> (16 - bits)
    stored = opened(verify_xray(encode(pixels.astype(dtype), kind), 256, Depth(max(8, bits))))
    np.testing.assert_array_equal(stored, np.rint(pixels * (255 / (max(256, 2**bits) - 1))))
    assert len(np.unique(stored)) == min(256, 2**bits)


@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (41, 100), (100, 43)])
@pytest.mark.parametrize("size", [16, 40, 64])
def test_the_central_square_is_taken(shape: tuple[int, int], size: int, encode: Callable) -> None:
    height, width = shape
    side, pixels = min(shape), np.zeros(shape, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = 200
    assert np.unique(opened(verify_xray(encode(pixels), size))).tolist() == [200]


@settings(max_examples=40, deadline=None)
@given(height=st.integers(8, 90), width=st.integers(8, 90), size=st.sampled_from([16, 32, 64]))
def test_whole_xrays_keep_their_borders_and_their_aspect(height: int, width: int, size: int) -> None:
    """A ramp from the top left to the bottom right ends in the shades of the corners, shrunk or enlarged."""
    ramp = np.add.outer(np.linspace(0, 100, height), np.linspace(0, 100, width)).astype(np.uint8)
    image = verify_xray(encode_png(ramp), size, cut="whole")
    assert (image.height, image.width) == shrunk_size(height, width, size)
    assert min(image.height, image.width) == size
    assert image.channels == 1
    stored = opened(image).astype(int)
    step = 100 / (min(height, width) - 1) * max(1, min(height, width) / size)
    corners = [(0, 0, 0), (0, -1, 100), (-1, 0, 100), (-1, -1, 200)]
    assert all(abs(stored[row, column] - shade) <= 2 * step + 2 for row, column, shade in corners)


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg")])
def test_whole_xrays_of_the_side_asked_for_stay_byte_for_byte(
    kind: str, suffix: str, photo: Callable, encode: Callable
) -> None:
    for height, width in ((48, 60), (60, 48), (48, 48)):
        encoded = encode(photo(4, height, width, 1), kind)
        assert verify_xray(encoded, 48, cut="whole") == EncodedImage(encoded, suffix, height, width, 1)
        colour = verify_xray(encode(photo(4, height, width, 3), kind), 48, cut="whole")
        assert (colour.suffix, opened(colour).shape) == ("png", (height, width))
        assert verify_xray(colour.encoded, 48, cut="whole") == colour


def test_stripes_are_not_enlarged_beyond_memory(encode: Callable) -> None:
    stripe = encode(np.zeros((2, 4_000), np.uint8))
    with pytest.raises(ValueError, match=r"enlarged to a size of 1024000 x 512 pixels, more than the 268,435,456"):
        verify_xray(stripe, 512, cut="whole")
    assert verify_xray(stripe, 512).height == 512


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("shape", [(64, 64), (50, 70), (20, 20)])
def test_one_shade_stays_that_shade(value: int, shape: tuple[int, int], encode: Callable) -> None:
    pixels = np.full(shape, value, np.uint8)
    for encoded in (encode(pixels), encode(pixels, "JPEG", quality=95), encode(pixels.astype(np.uint16))):
        assert np.abs(opened(verify_xray(encoded, 32, Depth(8))).astype(int) - value).max() <= 1


def test_shrinking_averages_what_it_leaves_out(encode: Callable) -> None:
    """A checkerboard of single pixels is grey from afar; every eighth pixel of it would be black or white."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(opened(verify_xray(encode(board), 32)).astype(int) - 127.5).max() <= 2
    lines = np.zeros((256, 256), np.uint8)
    lines[::8] = 240
    assert np.abs(opened(verify_xray(encode(lines), 32))[1:-1].astype(int) - 30).max() <= 8


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg")])
def test_xrays_that_are_as_asked_for_stay_byte_for_byte(
    kind: str, suffix: str, photo: Callable, encode: Callable
) -> None:
    encoded = encode(photo(4, 48, 48, 1), kind)
    assert verify_xray(encoded, 48) == EncodedImage(encoded, suffix, 48, 48, 1)
    for other in (
        encode(photo(4, 48, 48, 3), kind),
        encode(photo(4, 48, 49, 1), kind),
        encode(photo(4, 49, 48, 1), kind),
        encode(photo(4, 48, 48, 1), "TIFF"),
    ):
        image = verify_xray(other, 48)
        assert (image.suffix, opened(image).shape) == ("png", (48, 48))
        assert verify_xray(image.encoded, 48) == image


def test_colours_become_their_brightness(photo: Callable, encode: Callable) -> None:
    picture = photo(5, 48, 48)
    expected = np.asarray(Image.fromarray(picture).convert("L")).astype(int)
    assert np.abs(opened(verify_xray(encode(picture), 48)) - expected).max() == 0
    assert np.abs(opened(verify_xray(encode(picture, "JPEG", quality=98), 48)) - expected).mean() < 3


def test_dicom() -> None:
    pixels = np.zeros((80, 60), np.uint16)
    pixels[10:70] = np.linspace(100, 3000, 60).astype(np.uint16)
    image = verify_xray(dicom_bytes(pixels, BitsStored=12), 60)
    assert (image.suffix, image.height, image.width, image.channels) == ("png", 60, 60, 1)
    stored = opened(image)
    assert np.abs(stored - np.linspace(100, 3000, 60) / 4095 * 255).max() <= 1
    with pytest.raises(ValueError, match="DICOM"):
        verify_xray(dicom_bytes(pixels)[:-100], 60)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_of_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), pixels)
