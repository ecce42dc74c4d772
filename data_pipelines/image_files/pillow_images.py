"""Opening images with Pillow by content, with checks of their size, for thumbnails and for several frames."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import PIL
from PIL import Image, UnidentifiedImageError

from data_pipelines.image_files.file_formats import HEAD_BYTES, NAMES, Format, describe_other, format_of
from data_pipelines.image_files.orientation import UPRIGHT, orientation_in
from data_pipelines.image_files.pixel_limit import MAX_PIXELS, require_pixels, too_many_pixels
from data_pipelines.image_files.png import whole_png
from data_pipelines.image_files.tiff import one_picture
from data_pipelines.image_files.webp import remark_on_end

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own is lower, and loaders have to open what was prepared

# What Pillow calls the formats.
_PLUGINS: dict[Format, tuple[str, ...]] = {
    "jpeg": ("JPEG", "MPO"),
    "png": ("PNG",),
    "gif": ("GIF",),
    "bmp": ("BMP",),
    "webp": ("WEBP",),
    "tiff": ("TIFF",),
    "ppm": ("PPM",),
    "jp2": ("JPEG2000",),
    "avif": ("AVIF",),
    "heic": ("HEIF",),
}
_OF_FRAMES = ("gif", "png", "webp", "avif")  # others show their first or main picture everywhere; TIFF has pages


class OpenedImage(NamedTuple):
    """image: decoded. white_is_zero: its values must be inverted. turn: orientation that is still to be applied.
    is_turned: whether it was not upright. encoded: the file without damaged metadata. remark: a warning about it."""

    image: Image.Image
    white_is_zero: bool
    turn: int
    is_turned: bool
    encoded: bytes
    remark: str


@contextmanager
def opened(encoded: bytes, upright: bool = False, one_frame: bool = False) -> Iterator[OpenedImage]:
    """Decode a picture; `upright`: as its EXIF block says that it is to be shown; of several frames the first, unless
    `one_frame`.

    Raises UnidentifiedImageError, saying what it is, for what is none, ValueError for one that has too many pixels, or
    several frames if `one_frame`, or needs a decoder that is not there, and whatever Pillow raises for a damaged file.
    """
    kind, white_is_zero, remark = format_of(encoded[:HEAD_BYTES]), False, ""
    if kind == "png":
        encoded, remark = whole_png(encoded)
    elif kind == "tiff":
        encoded, white_is_zero = one_picture(encoded, one_frame)
    elif kind == "heic":
        _register_heic()
    elif kind == "dicom":
        raise ValueError("DICOM, which is read as an X-ray only (--xray-size)")
    with _open(encoded, kind) as image:
        require_pixels(image.height, image.width, _name(kind))
        if one_frame and kind in _OF_FRAMES:
            _require_one_frame(image, encoded, kind)
        image.load()
        if kind == "webp":
            remark = remark_on_end(encoded, image)
        # Pillow turns every TIFF as it decodes it, and pillow-heif every HEIC; neither leaves the note to turn it.
        exif = encoded if kind == "tiff" else image.info.get("exif")
        orientation = orientation_in(exif) if upright and isinstance(exif, bytes) else UPRIGHT
        turn = UPRIGHT if kind == "tiff" else orientation
        yield OpenedImage(image, white_is_zero, turn, orientation != UPRIGHT, encoded, remark)


def _open(encoded: bytes, kind: Format | None) -> Image.Image:
    try:
        # What has no format that is known by its beginning may have one that Pillow knows otherwise.
        return Image.open(io.BytesIO(encoded), formats=None if kind is None else _PLUGINS[kind])
    except Image.DecompressionBombError as error:
        raise ValueError(too_many_pixels(f"{_name(kind)} of a huge size")) from error
    except (UnidentifiedImageError, KeyError) as error:  # the latter for a format that is new in Pillow
        if kind is None:
            raise UnidentifiedImageError(describe_other(encoded)) from error
        name = _name(kind)
        raise ValueError(f"{name} that is damaged, or of a kind that Pillow {PIL.__version__} cannot read") from error


def _name(kind: Format | None) -> str:
    return "picture" if kind is None else NAMES[kind]


def _require_one_frame(image: Image.Image, encoded: bytes, kind: Format) -> None:
    frames = _num_gif_frames(encoded) if kind == "gif" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"{_name(kind)} of {frames} frames; only pictures of one are taken")


def _num_gif_frames(encoded: bytes) -> int:
    """Counted in a picture of its own: it is moved to its last frame."""
    try:
        with _open(encoded, "gif") as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # what follows the first one is damaged
        return 1


@lru_cache(maxsize=1)
def _register_heic() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ValueError("HEIC, for which pillow-heif is needed: pip install pillow-heif") from error
    register_heif_opener()


def composited_on(image: Image.Image, background: str) -> Image.Image | None:
    """A transparent image composited on "white" or "black", RGB; None if no pixel is transparent. Values of transparent
    pixels were never meant to be seen."""
    if not image.has_transparency_data:
        return None
    seen = image.convert("RGBA")
    if seen.getchannel("A").getextrema()[0] == 255:
        return None
    return Image.alpha_composite(Image.new("RGBA", seen.size, background), seen).convert("RGB")
