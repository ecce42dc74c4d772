"""The largest number of pixels an image may have, as a header alone can ask for any amount of memory."""

MAX_PIXELS = 1 << 28  # a square of 16,384 a side: 800 MB of colours


def too_many_pixels(what: str) -> str:
    """Why an image is refused."""
    return f"{what}, more than the {MAX_PIXELS:,} pixels that one picture may have; shrink it before, or leave it out"


def require_pixels(height: int, width: int, what: str = "picture") -> None:
    """Raise ValueError for an image of this size, in pixels, if it is too large."""
    if height * width > MAX_PIXELS:
        raise ValueError(too_many_pixels(f"{what} of {width} x {height} pixels"))
