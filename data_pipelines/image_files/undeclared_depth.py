"""The largest pixel value of images that do not state their bit depth; a set's white level follows from it."""

from pathlib import Path

import numpy as np

from data_pipelines.common.raw_set import RawImage
from data_pipelines.image_files.bit_depth import declared_bits
from data_pipelines.image_files.dicom import is_dicom
from data_pipelines.image_files.pillow_images import opened
from data_pipelines.image_files.png import PNG_SIGNATURE, has_sbit

_HEAD_BYTES = 132  # what tells DICOM
_JPEG_SUFFIXES = {".jpg", ".jpeg"}
_OF_8_BITS = (b"\xff\xd8", b"BM", b"RIFF", b"GIF8")  # JPEG, BMP, WebP, GIF


def largest_undeclared(image: RawImage, is_full: bool) -> int:
    """The largest pixel of a grey image of more than 8 bits whose file does not state its depth; -1 for others and for
    unreadable files. is_full: 16 bits are known to be in use, so no PNG needs to be decoded."""
    try:
        if isinstance(image.image, Path) and image.image.suffix.lower() in _JPEG_SUFFIXES:
            return -1
        head = image.read(_HEAD_BYTES)
        is_png = head.startswith(PNG_SIGNATURE)
        # Byte 24 of a PNG is its depth, byte 25 its kind of colours, of which 0 is grey.
        if head.startswith(_OF_8_BITS) or is_dicom(head) or (is_png and (is_full or head[24:26] != b"\x10\0")):
            return -1
        encoded = image.read()
        with opened(encoded) as picture:
            if not picture.image.mode.startswith("I") or declared_bits(picture.image, has_sbit(encoded)) is not None:
                return -1
            pixels = np.asarray(picture.image)
        return int(pixels.max()) if pixels.min() >= 0 else -1
    except Exception:  # whatever a decoder throws at a broken file
        return -1
