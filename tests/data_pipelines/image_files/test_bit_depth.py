"""Shades of pictures of more than 8 bits: by what their file says, and by what is said of it."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from depth_files import SIDE, film, packed_tiff, png, shade, tiff, with_sbit
from dicom_files import dicom_bytes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from data_pipelines.common.xray_storage import AS_DECLARED, Depth, depth_of
from data_pipelines.image_files.bit_depth import scaled
from data_pipelines.image_files.image_verification import verify_xray


@pytest.mark.parametrize("container", [png, tiff, lambda pixels: tiff(pixels.astype(np.int32))])
def test_brightness_does_not_halve_at_a_power_of_two(container: Callable) -> None:
    for brightest in (2001, 4095, 4096, 8191):
        assert shade(container(film(2000, brightest)), Depth(13)) == round(2000 / 8191 * 255)


def test_the_depth_of_a_file_holds_until_the_user_says_another() -> None:
    declared = tiff(film(1000, 2000), 4095)
    for depth, white in ((AS_DECLARED, 4095), (Depth(16), 4095), (Depth(16, is_given=True), 65_535)):
        assert shade(declared, depth) == round(1000 / white * 255)
    assert shade(packed_tiff(film(1000, 2000))) == round(1000 / 4095 * 255)
    # A writer of PNG has to scale fewer bits to all 16.
    assert shade(with_sbit(png(film(1000 * 16, 65_535)), 12)) == round(16_000 / 65_535 * 255)
    for encoded in (png(film(1000, 2000)), tiff(film(1000, 2000)), tiff(film(1000, 2000), 2000)):
        with pytest.raises(ValueError, match="the file does not say how many: say it with --bits"):
            verify_xray(encoded, SIDE)
    dicom = dicom_bytes(film(1000, 2000), BitsStored=16)
    for depth, white in ((AS_DECLARED, 65_535), (Depth(12), 65_535), (Depth(12, is_given=True), 4095)):
        assert shade(dicom, depth) == round(1000 / white * 255)


def test_tags_of_another_type_are_no_word_of_the_depth() -> None:
    buffer, tags = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    tags[281], tags.tagtype[281] = "white", 2
    Image.fromarray(film(1000, 2000)).save(buffer, "TIFF", tiffinfo=tags)
    with pytest.raises(ValueError, match="does not say how many"):
        verify_xray(buffer.getvalue(), SIDE)


@given(st.integers(8, 31), st.data())
def test_a_shade_is_the_share_of_the_largest_possible_value(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=6))
    pixels = np.array([values], dtype=np.int64)
    np.testing.assert_allclose(scaled(pixels, Depth(bits), None), pixels / (2**bits - 1) * 255, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=rf"more than {bits} bits hold; --bits {bits + 1} takes it"):
        scaled(np.append(pixels, [[2**bits]], axis=1), Depth(bits), None)


@pytest.mark.parametrize(
    ("about", "depth"),
    [
        ({}, AS_DECLARED),
        ({"bits": None, "bits_given": False}, AS_DECLARED),
        ({"bits": 12, "bits_found": False, "bits_given": True}, Depth(12, is_given=True)),
        ({"bits": 16, "bits_given": True}, Depth(16, is_given=True)),
        ({"bits": 12, "bits_given": False}, Depth(12)),
        # Of earlier versions: looked through, of PadChest, by --bits 12.
        ({"bits": 12, "bits_found": True}, Depth(12)),
        ({"bits": 16, "bits_found": False}, Depth(16)),
        ({"bits": 12, "bits_found": False}, Depth(12, is_given=True)),
    ],
)
def test_who_said_the_depth_is_known_of_earlier_sets_too(about: dict[str, Any], depth: Depth) -> None:
    assert depth_of(about) == depth
