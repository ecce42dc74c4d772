"""What a TIFF tells that Pillow does not look at: that it is the raw file of a camera, its pages, white as zero.

Sources: TIFF 6.0; of raw files, Adobe's specification of DNG 1.7.
"""

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_SUBFILE, _OLD_SUBFILE, _BITS, _PHOTOMETRIC, _SUB_DIRECTORIES, _DNG_VERSION = 254, 255, 258, 262, 330, 50706
_REDUCED, _MASK = 1, 4  # bits of _SUBFILE: a smaller copy of a picture, and where another is transparent
_OLD_REDUCED = 2  # value of _OLD_SUBFILE
_RAW_COLOURS = {32803, 34892}  # behind a filter for each pixel, and raw in another way
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_BIG, _HEADER_BYTES, _BIG_HEADER_BYTES = 43, 8, 16
_CANON = b"CR"  # behind the header
_MOST_DIRECTORIES = 10_000  # a chain of them may be a ring


def one_picture(encoded: bytes) -> tuple[bytes, bool]:
    """The TIFF for Pillow to open, and whether the pixels that it finds have to be inverted.

    Pillow inverts pictures of up to 8 bits where zero is white. Of deeper ones it takes some as they are and refuses
    the others, so that it gets them as if zero was black.
    Raises ValueError for the raw file of a camera, of which Pillow would take a thumbnail, and for several pages.
    """
    directories = list(_directories(encoded))
    if not directories:  # Pillow will say what is wrong
        return encoded, False
    place, first = directories[0]
    inner = [found for start in _numbers(first, _SUB_DIRECTORIES) for _, found in _directories(encoded, start)]
    colours = {number for found in [first, *inner] for number in _numbers(found, _PHOTOMETRIC)}
    if encoded[8:10] == _CANON or _DNG_VERSION in first or colours & _RAW_COLOURS or _belongs_to_another(first):
        raise ValueError(
            "raw file of a camera, or TIFF that begins with a thumbnail; save the picture itself as JPEG, PNG or TIFF"
        )
    pages = 1 + sum(not _belongs_to_another(found) for _, found in directories[1:])
    if pages > 1:
        raise ValueError(f"TIFF of {pages} pages; only pictures of one are taken")
    if _numbers(first, _PHOTOMETRIC) != [_WHITE_IS_ZERO] or max(_numbers(first, _BITS), default=1) <= 8:
        return encoded, False
    return _with_black_as_zero(encoded, place), True


def _directories(encoded: bytes, start: int | None = None) -> Iterator[tuple[int, ImageFileDirectory_v2]]:
    """The directories of a chain, with where they stand, up to one that cannot be read; start: None for the first."""
    is_big = encoded[2:4] in (bytes([_BIG, 0]), bytes([0, _BIG]))
    header, file = encoded[: _BIG_HEADER_BYTES if is_big else _HEADER_BYTES], io.BytesIO(encoded)
    for _ in range(_MOST_DIRECTORIES):
        try:
            directory = ImageFileDirectory_v2(header)
            place = directory.next if start is None else start
            if not place:
                return
            file.seek(place)
            directory.load(file)
        except Exception:  # whatever Pillow stumbles over
            return
        yield place, directory
        start = directory.next


def _numbers(directory: ImageFileDirectory_v2, tag: int) -> list[int]:
    """The values of a tag of whole numbers; [] where it has none."""
    try:
        values: Any = np.ravel(directory[tag])
        return [int(value) for value in values]
    except Exception:  # it is not there, or of another type
        return []


def _belongs_to_another(directory: ImageFileDirectory_v2) -> bool:
    """Whether this is no picture of its own: a smaller copy, or the mask of another."""
    kind = sum(_numbers(directory, _SUBFILE))
    return bool(kind & (_REDUCED | _MASK)) or _numbers(directory, _OLD_SUBFILE) == [_OLD_REDUCED]


def _with_black_as_zero(encoded: bytes, directory: int) -> bytes:
    """The same file, but for what its first directory says of zero."""
    order, is_big = ("<" if encoded[:2] == b"II" else ">"), _BIG in encoded[2:4]
    count, bytes_of_count, bytes_of_entry, value = ("Q", 8, 20, 12) if is_big else ("H", 2, 12, 8)
    (entries,) = struct.unpack_from(order + count, encoded, directory)
    first = directory + bytes_of_count
    tags = [struct.unpack_from(order + "H", encoded, first + number * bytes_of_entry)[0] for number in range(entries)]
    place = first + tags.index(_PHOTOMETRIC) * bytes_of_entry + value
    changed = bytearray(encoded)
    struct.pack_into(order + "H", changed, place, _BLACK_IS_ZERO)
    return bytes(changed)
