"""`prepare --shorter-side`: photographs shrunk once, so that training does not decode megapixels for a crop."""

from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError

JPEG_QUALITY = 95  # of photographs that are shrunk; chroma at half resolution, as cameras store it
SMALLEST_SIDE = 32  # pixels; the least that training takes (--data.image-size)
SUGGESTED_SIDE = 512  # pixels: crops of 224 out of it are seldom enlarged

# CPU time of reading, cutting and resizing a JPEG photograph of a quarter of a byte per pixel, for each of its pixels
# and besides: `rule` of the usual kind in benchmarks/results/loading_large.json. Only their ratio counts here.
_NS_PER_PIXEL, _NS_PER_IMAGE = 5.5, 1.9e6
_WORTH_SAYING = 2.0  # times as fast


def require_shorter_side(side: int | None, xray_size: int | None, has_dicom: bool) -> None:
    """Raise InputError for a side that is too small to train on, and for X-rays, which have a size of their own."""
    if side is None:
        return
    if side < SMALLEST_SIDE:
        raise InputError(
            f"--shorter-side is {side}, and training takes images of {SMALLEST_SIDE} pixels or more; give "
            f"--shorter-side {SUGGESTED_SIDE} for crops of 224 pixels, or leave it out to store the files as they are"
        )
    if xray_size is not None or has_dicom:
        what = f"--xray-size {xray_size}" if xray_size is not None else "DICOM files, which are taken for X-rays,"
        raise InputError(
            f"--shorter-side is for photographs, and {what} already shrinks every image to a square of one size; leave "
            "out --shorter-side, and choose that size with --xray-size"
        )


def shrunk_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width after shrinking the shorter side to `side`, which must not be larger; the other is rounded."""
    shorter = min(height, width)
    return (height * side + shorter // 2) // shorter, (width * side + shorter // 2) // shorter


def shrink(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, C] with the shorter side shrunk to `side`: area filter, in which each new pixel is the mean of the
    area it covers, with partially covered pixels in proportion."""
    height, width = shrunk_size(pixels.shape[0], pixels.shape[1], side)
    columns = _mean_rows(_mean_rows(pixels, height).swapaxes(0, 1), width)
    return np.ascontiguousarray(np.rint(columns).astype(np.uint8).swapaxes(0, 1))


def _mean_rows(pixels: npt.NDArray[Any], count: int) -> npt.NDArray[np.float32]:
    """The means over `count` equal stretches of the first axis, float32 [count, ...]."""
    # Pillow's box filter takes whole pixels only, one or two in turn where the picture shrinks by less than two.
    means = np.empty((count, *pixels.shape[1:]), dtype=np.float32)
    borders = np.linspace(0, len(pixels), count + 1)
    for row, (start, end) in enumerate(pairwise(borders)):
        whole = np.arange(int(start), ceil(end))
        covered = np.minimum(whole + 1, end) - np.maximum(whole, start)
        weights = (covered / (end - start)).astype(np.float32)
        means[row] = np.tensordot(weights, pixels[whole[0] : whole[-1] + 1], 1)
    return means


def gain(heights: npt.NDArray[np.integer], widths: npt.NDArray[np.integer], side: int) -> float:
    """Factor by which reading would be faster, by the rule above, with the shorter sides limited to `side`."""
    pixels = heights.astype(np.float64) * widths
    share = np.minimum(1.0, side / np.minimum(heights, widths)) ** 2
    before, after = pixels.mean(), (pixels * share).mean()
    return float((_NS_PER_PIXEL * before + _NS_PER_IMAGE) / (_NS_PER_PIXEL * after + _NS_PER_IMAGE))


def size_note(heights: npt.NDArray[np.integer], widths: npt.NDArray[np.integer]) -> str | None:
    """Note on what shrinking images of these sizes would save; None if that is little."""
    if not len(heights) or (times := gain(heights, widths, SUGGESTED_SIDE)) < _WORTH_SAYING:
        return None
    megapixels = (heights.astype(np.float64) * widths).mean() / 1e6
    return (
        f"the images have {megapixels:.1f} megapixels on average; prepared with --shorter-side {SUGGESTED_SIDE}, "
        f"reading them would be about {times:.0f} times faster, by the measured cost of a pixel "
        "(bitscale pretrain --data.scaled-decode leaves the files as they are, and about halves the cost)"
    )


def shrunk_note(side: int, shrunk: int, images: int) -> str:
    """Note on what --shorter-side did to the images."""
    if not shrunk:
        return f"--shorter-side {side} changed nothing: no image has a longer shorter side; all are stored as they were"
    return (
        f"{shrunk:,} of {images:,} photographs were shrunk to a shorter side of {side} pixels by an area filter, what "
        f"was JPEG as JPEG of quality {JPEG_QUALITY}, the others without loss; the rest is stored as it was"
    )
