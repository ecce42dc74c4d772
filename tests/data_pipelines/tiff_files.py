"""TIFF files of grey pixels, byte by byte: of any depth, with white as zero, with several directories."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

NEW_SUBFILE, BITS, PHOTOMETRIC, MAKE, SUB_DIRECTORIES, DNG_VERSION = 254, 258, 262, 271, 330, 50706
LONG = 4


def packed(pixels: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of pixels, each beginning with a byte."""
    if bits >= 8 and bits % 8 == 0:
        return pixels.astype(f"{order}i{bits // 8}" if pixels.min() < 0 else f"{order}u{bits // 8}").tobytes()
    rows = ("".join(f"{value:0{bits}b}" for value in row) for row in pixels.tolist())
    padded = (row.ljust(-(-len(row) // 8) * 8, "0") for row in rows)
    return b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in padded)


def tags_of(pixels: np.ndarray, bits: int, white_is_zero: bool, place: int, length: int) -> dict[int, int]:
    height, width = pixels.shape
    return {256: width, 257: height, BITS: bits, 259: 1, PHOTOMETRIC: 0 if white_is_zero else 1, 273: place, 277: 1} | {
        278: height,
        279: length,
    }


def grey_tiff(
    pixels: np.ndarray,
    bits: int,
    white_is_zero: bool = False,
    order: str = "<",
    more: Sequence[Mapping[int, int]] = ({},),
    big: bool = False,
    canon: bool = False,
) -> bytes:
    """One directory for each of `more`, which holds its tags beyond those of the pixels; all show the same ones."""
    header_bytes, offset, count = (16, "Q", "Q") if big else (16 if canon else 8, "L", "H")
    data = packed(pixels, bits, order)
    data += bytes(-len(data) % 2)
    body, place = data, header_bytes + len(data)
    for number, tags in enumerate(more):
        entries = sorted((tags_of(pixels, bits, white_is_zero, header_bytes, len(data)) | dict(tags)).items())
        directory = struct.pack(order + count, len(entries))
        for tag, value in entries:
            directory += struct.pack(f"{order}HH{offset}{offset}", tag, LONG, 1, value)
        place_of_next = place + len(directory) + struct.calcsize(order + offset)
        place = place_of_next
        body += directory + struct.pack(order + offset, place_of_next if number + 1 < len(more) else 0)
    magic = b"II" if order == "<" else b"MM"
    first = header_bytes + len(data)
    header = struct.pack(f"{order}HHHQ", 43, 8, 0, first) if big else struct.pack(f"{order}HL", 42, first)
    return (magic + header + (b"CR\2\0" if canon else b"")).ljust(header_bytes, b"\0") + body
