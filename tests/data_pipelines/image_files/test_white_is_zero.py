"""Films whose files take zero for white come out as those that take it for black, of whatever depth they are."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from depth_files import folder_of
from PIL import Image
from tiff_files import BITS, PHOTOMETRIC, grey_tiff

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.xray_storage import Depth
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.image_files.tiff import one_picture
from data_pipelines.preparation.bit_depth_of_set import find_bits

SIDE = 16
RAMP = np.linspace(0, 1, SIDE)[None].repeat(SIDE, 0)


def shades(image: EncodedImage) -> np.ndarray:
    with Image.open(io.BytesIO(image.encoded)) as picture:
        return np.asarray(picture.convert("L")).astype(int)


# What Pillow reads where zero is black: not all depths of files in which the first byte of a number is its largest.
LITTLE, LITTLE_AND_BIG, OTHER = ("<", False), ("<", True), (">", False)
KINDS = [
    (bits, *kind)
    for kind, depths in {LITTLE: (1, 2, 4, 8, 12, 16, 32), LITTLE_AND_BIG: (8, 12, 16), OTHER: (1, 2, 4, 8, 16)}.items()
    for bits in depths
]


@pytest.mark.parametrize(("bits", "order", "big"), KINDS)
def test_both_kinds_of_zero_give_the_same_shades(bits: int, order: str, big: bool) -> None:
    held = min(bits, 16)  # of 32 bits only so many are in use
    black_is_zero = np.rint(RAMP * (2**held - 1)).astype(np.int64)
    expected = shades(verify_xray(grey_tiff(black_is_zero, bits, order=order, big=big), SIDE, Depth(held)))
    assert expected[0, 0] == 0
    assert expected[0, -1] == 255
    inverted = grey_tiff(2**held - 1 - black_is_zero, bits, white_is_zero=True, order=order, big=big)
    np.testing.assert_array_equal(shades(verify_xray(inverted, SIDE, Depth(held))), expected)
    if bits <= 8:
        np.testing.assert_array_equal(shades(verify_image(inverted)), expected)
    else:
        with pytest.raises(ValueError, match="pixels of more than 8 bits"):
            verify_image(inverted)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_films(compression: str) -> None:
    values = np.rint(RAMP * 65_535).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", compression=compression)
    encoded = bytearray(buffer.getvalue())
    start = struct.unpack_from("<L", encoded, 4)[0]
    entry = next(
        place
        for place in range(start + 2, len(encoded), 12)
        if struct.unpack_from("<H", encoded, place)[0] == PHOTOMETRIC
    )
    encoded[entry + 8] = 0
    np.testing.assert_array_equal(
        shades(verify_xray(bytes(encoded), SIDE, Depth(16))),
        255 - shades(verify_xray(buffer.getvalue(), SIDE, Depth(16))),
    )


def test_the_depth_of_a_set_is_that_of_its_stored_values(tmp_path: Path) -> None:
    """Of 12 bits in 16, the largest value is of black."""
    values = np.rint(RAMP * 4095).astype(np.int64)
    films = {f"{name}.tif": grey_tiff(values, 16, name == "inverted") for name in ("inverted", "plain")}
    assert find_bits(folder_of(tmp_path, films)) == 12
    plain, inverted = (shades(verify_xray(films[f"{name}.tif"], SIDE, Depth(12))) for name in ("plain", "inverted"))
    np.testing.assert_array_equal(inverted, 255 - plain)
    with pytest.raises(ValueError, match="a pixel of 4,095, more than 11 bits hold"):
        verify_xray(films["inverted.tif"], SIDE, Depth(11))


def test_depth_by_the_user_and_by_the_file(tmp_path: Path) -> None:
    values = np.rint(RAMP * 1000).astype(np.int64)
    for depth, white in ((Depth(16), 65_535), (Depth(12, is_given=True), 4095)):
        found = shades(verify_xray(grey_tiff(values, 16, white_is_zero=True), SIDE, depth))
        assert found[0, 0] == 255
        assert found[0, -1] == round((white - 1000) / white * 255)
    assert shades(verify_xray(grey_tiff(values, 12, white_is_zero=True), SIDE))[0, -1] == round(3095 / 4095 * 255)


def test_floating_point_numbers_are_refused_either_way() -> None:
    """Their tags say 32 bits of another kind; nobody says what white is."""
    for white_is_zero in (False, True):
        encoded = grey_tiff(np.ones((4, 4), np.int64), 32, white_is_zero, more=({339: 3},))
        with pytest.raises(ValueError, match="floating-point"):
            verify_xray(encoded, SIDE)


def test_only_that_one_tag_is_changed() -> None:
    for big in (False, True):
        encoded = grey_tiff(np.arange(16).reshape(4, 4), 16, white_is_zero=True, big=big)
        changed, is_inverted = one_picture(encoded)
        assert is_inverted
        assert sum(one != other for one, other in zip(encoded, changed, strict=True)) == 1
        assert one_picture(changed) == (changed, False)
    plain = grey_tiff(np.arange(16).reshape(4, 4), 8, white_is_zero=True)
    assert one_picture(plain) == (plain, False)


@pytest.mark.parametrize("damage", [{PHOTOMETRIC: 70_000}, {BITS: 0}, {BITS: 1 << 31}])
def test_nonsense_in_tags_is_left_to_pillow(damage: dict[int, int]) -> None:
    encoded = grey_tiff(np.arange(16).reshape(4, 4), 16, white_is_zero=True, more=(damage,))
    assert one_picture(encoded)[1] in (False, True)
    with pytest.raises((ValueError, OSError, SyntaxError)):
        verify_xray(encoded, SIDE, Depth(16))


def test_palettes_of_grey_that_run_backwards(encode: Callable) -> None:
    """White is the first of the shades, and bilevel pictures have either order."""
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE), "P")
    picture.putpalette([shade for value in range(255, -1, -1) for shade in (value, value, value)])
    expected = 255 - np.arange(256).reshape(SIDE, SIDE)
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        for image in (verify_image(buffer.getvalue()), verify_xray(buffer.getvalue(), SIDE)):
            np.testing.assert_array_equal(shades(image), expected)
    board = np.indices((SIDE, SIDE)).sum(0) % 2 == 0
    for kind, options in (("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"}), ("PPM", {}), ("BMP", {})):
        encoded = encode(board, kind, **options)
        for image in (verify_image(encoded), verify_xray(encoded, SIDE)):
            np.testing.assert_array_equal(shades(image), board * 255)


def test_a_transparent_shade_stays_that_shade(encode: Callable) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE)
    encoded = encode(pixels, transparency=0)
    assert verify_image(encoded).encoded == encoded
    np.testing.assert_array_equal(shades(verify_xray(encoded, SIDE)), pixels)
