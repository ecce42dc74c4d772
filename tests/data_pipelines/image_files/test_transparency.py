"""What lies below transparent pixels was never meant to be seen: of one's own pictures it is not."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines.image_files.image_verification import ON_BLACK, ON_WHITE, verify_image, verify_xray

SIDE = 24
INNER = (slice(8, 16), slice(8, 16))


def hidden() -> np.ndarray:
    """A red square on transparent noise, uint8 [H, W, 4]."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    pixels[INNER] = (255, 0, 0, 255)
    return pixels


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def palette(kind: str) -> bytes:
    picture = Image.new("P", (SIDE, SIDE), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0] + [0] * 750)
    picture.paste(0, (8, 8, 16, 16))
    return saved(picture, kind, transparency=1)


def colour_as_transparent() -> bytes:
    pixels = np.full((SIDE, SIDE, 3), (0, 255, 0), dtype=np.uint8)
    pixels[INNER] = (255, 0, 0)
    return saved(Image.fromarray(pixels), transparency=(0, 255, 0))


def pixels_of(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as picture:
        return np.asarray(picture)


FILES = {
    "PNG": saved(Image.fromarray(hidden())),
    "WebP": saved(Image.fromarray(hidden()), "WEBP", lossless=True, exact=True),
    "palette": palette("PNG"),
    "GIF": palette("GIF"),
    "one colour": colour_as_transparent(),
}


@pytest.mark.parametrize("name", FILES)
def test_ones_own_pictures_are_laid_on_white_and_others_stay(name: str) -> None:
    own, known = verify_image(FILES[name], upright=True), verify_image(FILES[name])
    expected = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    expected[INNER] = (255, 0, 0)
    np.testing.assert_array_equal(pixels_of(own.encoded), expected)
    assert (own.suffix, own.channels, own.remark) == ("png", 3, ON_WHITE)
    assert known.remark == ""
    with Image.open(io.BytesIO(FILES[name])) as picture:
        np.testing.assert_array_equal(pixels_of(known.encoded), np.asarray(picture.convert("RGB")))


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    pixels = np.full((SIDE, SIDE, 4), (0, 0, 0, 102), dtype=np.uint8)
    assert (pixels_of(verify_image(saved(Image.fromarray(pixels)), upright=True).encoded) == 153).all()


def test_an_alpha_channel_that_hides_nothing_changes_nothing() -> None:
    pixels = hidden()
    pixels[..., 3] = 255
    encoded = saved(Image.fromarray(pixels))
    assert verify_image(encoded, upright=True) == verify_image(encoded)


def test_xrays_are_laid_on_black_as_the_padding_of_dicom_is() -> None:
    pixels = np.full((SIDE, SIDE, 2), (200, 0), dtype=np.uint8)
    pixels[INNER] = (150, 255)
    encoded = saved(Image.fromarray(pixels, "LA"))
    own = verify_xray(encoded, SIDE, upright=True)
    shown = pixels_of(own.encoded)
    assert (shown[INNER] == 150).all()
    assert (shown[0] == 0).all()
    assert own.remark == ON_BLACK
    assert (pixels_of(verify_xray(encoded, SIDE).encoded)[0] == 200).all()


@pytest.mark.parametrize(
    ("colour_type", "channels", "reason"),
    [(4, 2, "grey values of more than 8 bits with transparency; save"), (6, 4, "colours of more than 8 bits; save")],
)
def test_deep_pictures_are_refused_with_a_remedy(colour_type: int, channels: int, reason: str) -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(range(8 * channels)) for _ in range(4)))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    encoded = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    with pytest.raises(ValueError, match=reason):
        verify_xray(encoded, 32)
    with pytest.raises(ValueError, match="pixels of more than 8 bits; save photographs with 8"):
        verify_image(encoded)
