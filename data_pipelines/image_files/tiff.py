"""TIFF tags that Pillow does not look at: camera raw files, pages, white-is-zero.

Sources: TIFF 6.0; of raw files, Adobe's specification of DNG 1.7.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_SUBFILE, _OLD_SUBFILE, _BITS, _PHOTOMETRIC, _SUB_DIRECTORIES, _DNG_VERSION = 254, 255, 258, 262, 330, 50706
_REDUCED, _MASK = 1, 4  # bits of _SUBFILE: a smaller copy of a picture, and where another is transparent
_OLD_REDUCED = 2  # value of _OLD_SUBFILE
_RAW_COLOURS = {32803, 34892}  # behind a filter for each pixel, and raw in another way
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_BIG, _HEADER_BYTES, _BIG_HEADER_BYTES = 43, 8, 16
_KINDS = {1: "B", 3: "H", 4: "L"}  # of whole numbers; the standard says the second, writers take others
ORDERS = {b"II": "<", b"MM": ">"}
_CANON = b"CR"  # behind the header
_RAW_FILES, _THUMBNAILS, _PAGES = (
    "raw files of cameras",
    "TIFFs whose first picture is a thumbnail",
    "TIFFs of several pages",
)
Directory = tuple[int, ImageFileDirectory_v2]  # with where it stands


class Entry(NamedTuple):
    """Position of a tag's value, and its type for `struct`."""

    kind: str
    place: int


def entry_of(content: bytes, directory: int, tag: int, order: str, is_big: bool = False) -> Entry | None:
    """A tag with one unsigned integer, in the directory at that byte; None if it has none. order: byte order. Raises
    struct.error where the directory is cut off."""
    count, entry_bytes, to_value = ("Q", 20, 12) if is_big else ("H", 12, 8)
    (entries,) = struct.unpack_from(order + count, content, directory)
    first = directory + struct.calcsize(order + count)
    for place in range(first, first + entries * entry_bytes, entry_bytes):
        found, kind = struct.unpack_from(f"{order}HH", content, place)
        if found == tag and kind in _KINDS:
            return Entry(_KINDS[kind], place + to_value)
    return None


def one_picture(encoded: bytes, one_page: bool = True) -> tuple[bytes, bool]:
    """The TIFF for Pillow to open, and whether the pixels that it yields must be inverted.

    Pillow inverts pictures of up to 8 bits where zero is white. Of deeper ones it takes some as they are and refuses
    the others, so that it gets them as if zero was black.
    Raises ValueError for the raw file of a camera, of which Pillow would take a thumbnail, and, if `one_page`, for
    several pages, of which it takes the first.
    """
    file = io.BytesIO(encoded)
    directories = list(_directories(file))
    if not directories:  # Pillow will say what is wrong
        return encoded, False
    words = _why_not_one(file, directories)
    if words in (_RAW_FILES, _THUMBNAILS):
        raise ValueError(
            "raw file of a camera, or TIFF that begins with a thumbnail; save the picture itself as JPEG, PNG or TIFF"
        )
    if words == _PAGES and one_page:
        raise ValueError(f"TIFF of {_num_pages(directories)} pages; only pictures of one are taken")
    place, first = directories[0]
    if _numbers(first, _PHOTOMETRIC) != [_WHITE_IS_ZERO] or max(_numbers(first, _BITS), default=1) <= 8:
        return encoded, False
    return _with_black_as_zero(encoded, place), True


def why_not_one(file: IO[bytes]) -> str | None:
    """Reason why a TIFF is left out because it does not hold a single image; None if it does, or cannot be read."""
    directories = list(_directories(file))
    return _why_not_one(file, directories) if directories else None


def _why_not_one(file: IO[bytes], directories: Sequence[Directory]) -> str | None:
    _, first = directories[0]
    if _is_raw(file, first):
        return _RAW_FILES
    if _belongs_to_another(first):
        return _THUMBNAILS
    return _PAGES if _num_pages(directories) > 1 else None


def _is_raw(file: IO[bytes], first: ImageFileDirectory_v2) -> bool:
    inner = [found for start in _numbers(first, _SUB_DIRECTORIES) for _, found in _directories(file, start)]
    colours = {number for found in [first, *inner] for number in _numbers(found, _PHOTOMETRIC)}
    file.seek(_HEADER_BYTES)
    return file.read(len(_CANON)) == _CANON or _DNG_VERSION in first or bool(colours & _RAW_COLOURS)


def _num_pages(directories: Sequence[Directory]) -> int:
    return 1 + sum(not _belongs_to_another(found) for _, found in directories[1:])


def _directories(file: IO[bytes], start: int | None = None) -> Iterator[Directory]:
    """The directories of a chain, up to one that cannot be read; start: where the first stands, None for that of the
    file."""
    file.seek(0)
    header = file.read(_BIG_HEADER_BYTES)
    header = header if is_big_tiff(header) else header[:_HEADER_BYTES]
    seen = {0}
    while True:
        try:
            directory = ImageFileDirectory_v2(header)
            place = directory.next if start is None else start
            if place in seen:  # 0 is behind the last; the chain may be a ring, too
                return
            seen.add(place)
            file.seek(place)
            directory.load(file)
        except Exception:  # whatever Pillow stumbles over
            return
        yield place, directory
        start = directory.next


def is_big_tiff(encoded: bytes) -> bool:
    """Whether a TIFF has 64-bit offsets."""
    return _BIG in encoded[2:4]


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
    """The same file, but for what its first directory says of zero. Raises ValueError where that cannot be changed."""
    order = ORDERS[encoded[:2]]
    found = entry_of(encoded, directory, _PHOTOMETRIC, order, is_big=is_big_tiff(encoded))
    if found is None:
        raise ValueError("TIFF that says in a way of its own whether zero is black")
    changed = bytearray(encoded)
    struct.pack_into(order + found.kind, changed, found.place, _BLACK_IS_ZERO)
    return bytes(changed)
