"""Lossy WebP files that end in zeros: sound where the picture ends in one colour, else to be told of."""

from collections.abc import Callable

import numpy as np
import pytest

from data_pipelines.image_files.image_verification import verify_image
from data_pipelines.image_files.webp import REMARK


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_tail_of_zeros_is_told_of(share: float, encode: Callable) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (160, 160, 3), dtype=np.uint8)
    whole = encode(noise, "WEBP")
    cut = whole[: int(len(whole) * share)].ljust(len(whole), b"\0")
    assert verify_image(whole).remark == ""
    assert verify_image(cut).remark == REMARK


def test_pictures_that_end_in_one_colour_are_whole(encode: Callable) -> None:
    """An encoder of little effort codes every block of it."""
    pixels = np.full((400, 400, 3), 255, dtype=np.uint8)
    pixels[:200] = np.random.default_rng(0).integers(0, 255, (200, 400, 3), dtype=np.uint8)
    encoded = encode(pixels, "WEBP", method=0)
    assert encoded.endswith(bytes(16))
    assert verify_image(encoded).remark == ""
