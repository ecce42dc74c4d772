"""Bit depth of a set whose files do not state it, found by reading all of them before the preparation."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.progress import Progress
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.common.xray_storage import LEAST_BITS
from data_pipelines.image_files.undeclared_depth import largest_undeclared

_PNG_BITS = 16
BLOCK = 4096  # images asked for at once: bounds the memory


def find_bits(raw: RawSet) -> int | None:
    """Bits needed for the largest value among all grey images of more than 8 bits whose files do not state their depth;
    None if there are none.

    Reads the header of each file, and decodes those images. Unreadable files are skipped: they are refused later, as is
    an image that has larger values by then.
    """
    largest = -1
    images = iter(raw.images)
    with (
        ThreadPoolExecutor(num_usable_cpus(), thread_name_prefix="depth") as pool,
        Progress(f"{raw.name}: depth of its pixels", raw.num_images, "image") as bar,
    ):
        for block in _blocks(images):
            is_full = largest >> (_PNG_BITS - 1) > 0
            largest = max(largest, *pool.map(lambda image, full=is_full: largest_undeclared(image, full), block))
            bar.update(len(block))
    return None if largest < 0 else max(LEAST_BITS, largest.bit_length())


def depth_note(bits: int) -> str:
    """Note on a set whose bit depth was found by reading it."""
    return (
        f"pictures of more than 8 bits whose files do not say how many count as of {bits}, by the largest value of all "
        f"of them: {(1 << bits) - 1:,} is white; --bits says it otherwise"
    )


def _blocks(images: Iterator[RawImage]) -> Iterator[list[RawImage]]:
    while block := list(islice(images, BLOCK)):
        yield block
