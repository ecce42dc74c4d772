"""X-rays are verified and stored as grey pictures of the size asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_image_verification import SHADES, opened

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.xray_storage import Depth
from data_pipelines.image_files.image_verification import verify_xray
from data_pipelines.image_files.png import encode_png
from data_pipelines.image_files.shrink import shrunk_size

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
