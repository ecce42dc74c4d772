"""JPEG streams put together: with segments of one's own, and without some of their own."""

import struct

JFIF, ICC, ADOBE, COMMENT, TABLE, CODES, FRAME, SCAN = 0xE0, 0xE2, 0xEE, 0xFE, 0xDB, 0xC4, 0xC0, 0xDA
UNKNOWN_TRANSFORM = b"Adobe\0\x64\0\0\0\0\7"
BAD_PROFILE = b"ICC_PROFILE\0\2\1..."  # the second of one


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def place_of(jpeg: bytes, marker: int) -> int:
    return jpeg.index(bytes([0xFF, marker]))


def before(jpeg: bytes, marker: int, more: bytes) -> bytes:
    """With more bytes before the first of these markers."""
    place = place_of(jpeg, marker)
    return jpeg[:place] + more + jpeg[place:]


def first(jpeg: bytes, more: bytes) -> bytes:
    """With more bytes behind the mark of its beginning."""
    return jpeg[:2] + more + jpeg[2:]


def without(jpeg: bytes, marker: int) -> bytes:
    place = place_of(jpeg, marker)
    return jpeg[:place] + jpeg[place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big") :]


def of_revision(jpeg: bytes, revision: bytes) -> bytes:
    place = jpeg.index(b"JFIF\0") + 5
    return jpeg[:place] + revision + jpeg[place + 2 :]


def padded(jpeg: bytes, zeros: int) -> bytes:
    """With zeros before the mark of its end."""
    return jpeg[:-2] + bytes(zeros) + jpeg[-2:]


def without_spectrum(jpeg: bytes) -> bytes:
    """What a scan says of its coefficients is all zero."""
    place = place_of(jpeg, SCAN)
    end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return jpeg[: end - 3] + bytes(3) + jpeg[end:]


def of_numbered_colours(jpeg: bytes) -> bytes:
    """Of colours called R, G and B, so that only the segment of Adobe tells what they are."""
    for marker, step in ((FRAME, 3), (SCAN, 2)):
        place = place_of(jpeg, marker) + (10 if marker == FRAME else 5)
        for number in range(3):
            jpeg = jpeg[: place + step * number] + bytes([number + 1]) + jpeg[place + step * number + 1 :]
    return jpeg
