"""Photographs that lie on their side or are mirrored, and say so in their EXIF block (CIPA DC-008, "Orientation")."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]

UPRIGHT = 1
_ORIENTATION = 274
_PREFIX = b"Exif\0\0"  # in some files
_ORDERS = {b"II": "<", b"MM": ">"}
_TYPES = {1: "B", 3: "H", 4: "L"}  # the standard says the second; writers take others
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


def orientation_in(exif: bytes) -> int:
    """What an EXIF block says of how to show its picture, 2 to 8; UPRIGHT where it says nothing that is known."""
    exif = exif.removeprefix(_PREFIX)
    order = _ORDERS.get(exif[:2], "<")
    try:
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == _ORIENTATION and kind in _TYPES:
                (said,) = struct.unpack_from(order + _TYPES[kind], exif, place + 8)
                return said if said in _TURNS else UPRIGHT
    except struct.error:  # a bad block is no fault of the picture
        pass
    return UPRIGHT


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels [H, W, ...] as a viewer shows them."""
    return pixels if orientation == UPRIGHT else np.ascontiguousarray(_TURNS[orientation](pixels))
