"""The white level of images with more than 8 bits, from the file's header or from the set; never from one image's
maximum, at which its brightness would jump by a factor of two at each power of two."""

from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.common.xray_storage import LEAST_BITS, MOST_BITS, Depth

_PNG_BITS = 16
_SCALED_BY_PILLOW = {"PPM", "JPEG2000"}  # to 16 bits, from those that their headers say
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF


def declared_bits(picture: Any, has_sbit: bool) -> int | None:
    """What a file says of the depth of its grey pixels of 16 or 32 bits; None where it only says how it holds them.

    picture: opened by Pillow. has_sbit: it is a PNG with a chunk sBIT, whose writer knew of fewer bits: it has to scale
    them to 65,535 (W3C, PNG, "sBIT: significant bits"). Of TIFF's MaxSampleValue only 255, 511, ... count: the standard
    lets it be the largest value of the picture, too.
    """
    if has_sbit or picture.format in _SCALED_BY_PILLOW:
        return _PNG_BITS
    tags = getattr(picture, "tag_v2", {})
    try:
        held, white = (int(np.ravel(tags.get(tag, 0))[0]) for tag in (_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE))
    except (TypeError, ValueError, IndexError):  # tags of another type
        return None
    if LEAST_BITS < held < _PNG_BITS:
        return held
    is_depth = white & (white + 1) == 0 and LEAST_BITS <= white.bit_length() <= min(held, MOST_BITS)
    return white.bit_length() if is_depth else None


def require_within(value: int, needed: int, bits: int) -> None:
    """Raise ValueError for a pixel value that needs more bits than the image has."""
    if needed > bits:
        raise ValueError(f"a pixel of {value:,}, more than {bits} bits hold; --bits {needed} takes it")


def scaled(
    pixels: npt.NDArray[np.integer], depth: Depth, declared: int | None, white_is_zero: bool = False
) -> npt.NDArray[np.float32]:
    """Grey values from 0 to 255, of an image of this depth whose file declares so many bits. Raises ValueError for
    values that do not fit, and if nothing states the depth."""
    if pixels.min() < 0:
        raise ValueError("negative pixels")
    bits, largest = depth.of(declared), int(pixels.max())
    require_within(largest, largest.bit_length(), bits)
    white = (1 << bits) - 1
    shades = white - pixels.astype(np.int64) if white_is_zero else pixels
    values: npt.NDArray[np.float32] = shades.astype(np.float32) * np.float32(255 / white)
    return values
