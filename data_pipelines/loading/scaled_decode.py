"""JPEG decoding at 1/2, 1/4 or 1/8 of the size, where the crop is shrunk at least as much anyway."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

SCALES = (8, 4, 2)  # libjpeg has others, which are slower: only for these has it vectorised transforms
_SMALLEST = 16  # pixels a side, below which different scales give pictures of the same size


def decode_scale(window: Sequence[int], resized: Sequence[int], size: Sequence[int]) -> int:
    """The largest scale 1/8, 1/4, 1/2 or 1, as its denominator, at which a window still has the pixels it needs.

    window: top, left, height, width in the stored picture; resized: height, width to which it is resized; size: height,
    width of the picture. All in pixels.
    """
    if min(size) < _SMALLEST:
        return 1
    fits = (scale for scale in SCALES if window[2] >= scale * resized[0] and window[3] >= scale * resized[1])
    return next(fits, 1)


def scaled_size(size: Sequence[int], scale: int) -> tuple[int, int]:
    """Height and width of an image decoded at 1/scale, rounded up."""
    return -(-size[0] // scale), -(-size[1] // scale)


def scaled_box(window: Sequence[int], scale: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a window (top, left, height, width) in a picture decoded at 1/scale, exactly: pixel
    j of that picture covers the pixels from j * scale on, so borders are divided and not rounded."""
    top, left, height, width = window
    return left / scale, top / scale, (left + width) / scale, (top + height) / scale


def scaled_window(
    encoded: npt.NDArray[np.uint8],
    size: Sequence[int],
    channels: int,
    window: Sequence[int],
    resized: Sequence[int],
    scale: int,
) -> npt.NDArray[np.uint8]:
    """A window of a JPEG file decoded at 1/scale, resized as from the full image, uint8 [*resized, channels].

    Raises the decoder's errors for a damaged file.
    """
    height, width = scaled_size(size, scale)
    colours = "GRAY" if channels == 1 else "RGB"
    pixels = simplejpeg.decode_jpeg(encoded, colours, min_height=height, min_width=width)
    assert pixels.shape[:2] == (height, width), f"decoded at another scale than 1/{scale}: {pixels.shape}"
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    # Pillow takes borders between pixels; its bilinear filter averages as the one for full pictures does.
    cut = picture.resize((resized[1], resized[0]), Image.Resampling.BILINEAR, box=scaled_box(window, scale))
    return np.array(cut).reshape(*resized, channels)
