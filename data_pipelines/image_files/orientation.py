"""EXIF orientation of photographs (CIPA DC-008, "Orientation"): rotated or mirrored images turned upright."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.image_files.tiff import ORDERS, entry_of, is_big_tiff

Pixels = npt.NDArray[Any]

UPRIGHT = 1
_ORIENTATION = 274
_PREFIX = b"Exif\0\0"  # in some files
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
    """The orientation in an EXIF block or a TIFF, 2 to 8; UPRIGHT if there is none, or an unknown one."""
    exif = exif.removeprefix(_PREFIX)
    order, is_big = ORDERS.get(exif[:2], "<"), is_big_tiff(exif)
    try:
        (start,) = struct.unpack_from(f"{order}Q", exif, 8) if is_big else struct.unpack_from(f"{order}L", exif, 4)
        found = entry_of(exif, start, _ORIENTATION, order, is_big)
        orientation = struct.unpack_from(order + found.kind, exif, found.place)[0] if found else UPRIGHT
    except struct.error:  # a bad block is no fault of the picture
        return UPRIGHT
    return orientation if orientation in _TURNS else UPRIGHT


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels [H, W, ...] as a viewer shows them."""
    return pixels if orientation == UPRIGHT else np.ascontiguousarray(_TURNS[orientation](pixels))
