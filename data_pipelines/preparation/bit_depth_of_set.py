"""A set whose files do not say how many bits their pixels have is looked through before it is prepared."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.image_files.bit_depth import LEAST_BITS, declared_bits
from data_pipelines.image_files.dicom import is_dicom
from data_pipelines.image_files.pillow_images import opened
from data_pipelines.image_files.png import PNG_SIGNATURE, has_sbit
from data_pipelines.preparation.part_writer import progress_bar

_HEAD_BYTES = 132  # what tells DICOM
_JPEG_SUFFIXES = {".jpg", ".jpeg"}
_OF_8_BITS = (b"\xff\xd8", b"BM", b"RIFF", b"GIF8")  # JPEG, BMP, WebP, GIF
_PNG_BITS = 16
BLOCK = 4096  # images asked for at once: bounds the memory


def find_bits(raw: RawSet) -> int | None:
    """The bits that hold the largest value of all grey pictures of more than 8 bits whose files do not say their depth;
    None where there is none.

    Reads the beginning of each file, and decodes those pictures. What cannot be read counts as nothing: it is refused
    later, as is a picture that has larger values by then.
    """
    largest = -1
    images = iter(raw.images)
    with (
        ThreadPoolExecutor(num_usable_cpus(), thread_name_prefix="depth") as pool,
        progress_bar(desc=f"{raw.name}: depth of its pixels", total=raw.num_images, unit="image") as bar,
    ):
        for block in _blocks(images):
            is_full = largest >> (_PNG_BITS - 1) > 0
            largest = max(largest, *pool.map(lambda image, full=is_full: _largest(image, full), block))
            bar.update(len(block))
    return None if largest < 0 else max(LEAST_BITS, largest.bit_length())


def depth_note(bits: int) -> str:
    """What is to be said of a set that was looked through."""
    return (
        f"pictures of more than 8 bits whose files do not say how many count as of {bits}, by the largest value of all "
        f"of them: {(1 << bits) - 1:,} is white; --bits says it otherwise"
    )


def _blocks(images: Iterator[RawImage]) -> Iterator[list[RawImage]]:
    while block := list(islice(images, BLOCK)):
        yield block


def _largest(image: RawImage, is_full: bool) -> int:
    """The largest pixel where nobody says the depth, else -1; is_full: it is known that 16 bits are in use."""
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
