"""Detects truncated lossy WebP files, whose decoder fills the missing end with predicted pixels."""

import numpy as np
from PIL import Image

REMARK = "lossy WebP that ends in zeros, as after a copy that broke off"

_CHUNKS_PLACE, _CHUNK_HEAD = 12, 8
_ZEROS = bytes(16)
_BLOCK = 16
_FLAT = 8  # shades by which what was one colour may differ


def remark_on_end(encoded: bytes, image: Image.Image) -> str:
    """REMARK if the coded pixels of a WebP end in zeros and the last rows of the decoded `image` are not of one colour,
    else "". Not a reason to refuse it: a few sound images end in zeros although their last rows have structure."""
    if not _coded_pixels(encoded).endswith(_ZEROS):
        return ""
    width, height = image.size
    last = np.asarray(image.convert("RGB").crop((0, (height - 1) // _BLOCK * _BLOCK, width, height)))
    return REMARK if np.ptp(last, axis=(0, 1)).max() > _FLAT else ""


def _coded_pixels(encoded: bytes) -> bytes:
    """Those of the first lossy picture; nothing if there is none."""
    place = _CHUNKS_PLACE
    while place + _CHUNK_HEAD <= len(encoded):
        start = place + _CHUNK_HEAD
        length = int.from_bytes(encoded[place + 4 : start], "little")
        if encoded[place : place + 4] == b"VP8 ":
            return encoded[start : start + length]
        place = start + length + length % 2
    return b""
