"""Checks for enough disk space before anything is written."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawImage, RawSet

_TAR_BYTES_PER_IMAGE = 2048  # headers, the label's file, padding
_SAMPLED_FILES = 256


def require_space(raw: RawSet, partial: Path) -> None:
    """Raise InputError if the file system cannot hold what is still to be written."""
    num_images, num_bytes = raw.num_images, raw.num_bytes
    if raw.xray_size and num_images:
        num_bytes = num_images * raw.xray_size**2  # a PNG of grey pixels is hardly larger than they are
        num_bytes = num_bytes * 5 // 4 if raw.xray_cut == "whole" else num_bytes  # films are 4:5
    elif num_bytes is None and isinstance(raw.images, Sequence):
        num_bytes = _estimated_bytes(raw.images)
    if num_bytes is None:
        return
    if raw.shorter_side and num_images:  # a photograph of 4:3 as JPEG, at most about a byte for each pixel
        num_bytes = min(num_bytes, num_images * raw.shorter_side**2 * 4 // 3)
    num_bytes += (num_images or 0) * _TAR_BYTES_PER_IMAGE
    missing = num_bytes - sum(path.stat().st_size for path in partial.rglob("*.tar"))
    free = shutil.disk_usage(partial).free
    if missing > free:
        raise InputError(
            f"{partial.parent} has {free / 1e9:.1f} GB free, the prepared set needs about {missing / 1e9:.1f} GB more; "
            "free some space, or choose another --out"
        )


def _estimated_bytes(images: Sequence[RawImage]) -> int | None:
    """Estimated bytes of all files, from the mean of a sample."""
    sizes = []
    for image in images[:: max(1, len(images) // _SAMPLED_FILES)]:
        try:
            sizes.append(image.num_bytes())
        except OSError:
            continue  # a missing file has its row in the quarantine to come
    return sum(sizes) * len(images) // len(sizes) if sizes else None
