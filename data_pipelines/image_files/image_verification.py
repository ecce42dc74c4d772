"""From an image file to what its shard stores: fully decoded; X-rays shrunk to 8-bit grey; photographs turned upright
and shrunk if asked for."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.xray_storage import AS_DECLARED, Depth, XrayCut
from data_pipelines.image_files.bit_depth import declared_bits, scaled
from data_pipelines.image_files.dicom import dicom_pixels, is_dicom
from data_pipelines.image_files.jpeg import PLAIN_COLOURS, decode_jpeg
from data_pipelines.image_files.jpeg_segments import exif_of
from data_pipelines.image_files.orientation import UPRIGHT, orientation_in, turned
from data_pipelines.image_files.pillow_images import OpenedImage, composited_on, opened
from data_pipelines.image_files.pixel_limit import require_pixels
from data_pipelines.image_files.png import encode_png, has_sbit, is_deep_png, is_grey_png
from data_pipelines.image_files.shrink import JPEG_QUALITY, shrink, shrunk_size

ON_WHITE, ON_BLACK = "transparency, laid on white", "transparency, laid on black"
FLAT = "all grey values in an eighth of the range"
_FLAT_RANGE = 32  # grey values, of 256: what is left of 12 bits that count as 15

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


class _Photo(NamedTuple):
    """A photograph, uint8 [H, W, C]; the stream to store, or None if it has to be encoded again, as `suffix`."""

    pixels: npt.NDArray[np.uint8]
    stored: bytes | None
    suffix: str
    is_turned: bool
    remark: str = ""


class _Xray(NamedTuple):
    """Grey values [H, W] from 0 to 255; the JPEG or PNG that holds just these, or None."""

    pixels: Pixels
    stored: bytes | None = None
    is_turned: bool = False
    remark: str = ""


def verify_image(encoded: bytes, shorter_side: int | None = None, upright: bool = False) -> EncodedImage:
    """Decode a photograph to its last byte. 8-bit grey and RGB JPEG and PNG stay as they are, others become RGB PNG.

    Those whose shorter side is above `shorter_side` (pixels) are shrunk to it, and `upright` turns those that their
    EXIF block says are to be shown otherwise, and lays transparent ones on white: JPEG stays JPEG, others become PNG.
    JPEG and PNG are stored without what decoders only remark on.
    Raises whatever the decoder raises for a damaged file, and ValueError for what is no picture, for pictures of more
    than 8 bits and, with `upright`, of several frames: published sets have such files, of which the first frame counts.
    """
    is_jpeg = _is_jpeg(encoded)
    photo = _photo_of_jpeg(encoded, upright) if is_jpeg else _photo(encoded, upright)
    pixels, stored, suffix, is_turned, remark = photo
    is_shrunk = shorter_side is not None and min(pixels.shape[:2]) > shorter_side
    if shorter_side is not None and is_shrunk:
        pixels, stored, suffix = shrink(pixels, shorter_side), None, "jpg" if is_jpeg else "png"
    height, width, channels = pixels.shape
    if stored is None:
        stored = _encode_jpeg(pixels) if suffix == "jpg" else encode_png(pixels[:, :, 0] if channels == 1 else pixels)
    return EncodedImage(stored, suffix, height, width, channels, is_shrunk, is_turned, remark)


def _photo_of_jpeg(encoded: bytes, upright: bool) -> _Photo:
    jpeg = decode_jpeg(encoded)
    turn, pixels = orientation_in(exif_of(encoded)) if upright else UPRIGHT, jpeg.pixels
    is_plain = jpeg.colours in PLAIN_COLOURS
    if not is_plain:
        with opened(jpeg.encoded) as picture:
            pixels = np.asarray(picture.image.convert("RGB"))
    stored = jpeg.encoded if is_plain and turn == UPRIGHT else None
    return _Photo(turned(pixels, turn), stored, "jpg" if is_plain else "png", turn != UPRIGHT, jpeg.remark)


def _photo(encoded: bytes, upright: bool) -> _Photo:
    with opened(encoded, upright, one_frame=upright) as picture:
        image = picture.image
        if image.mode.startswith(("I", "F")) or is_deep_png(encoded):
            raise ValueError(
                "pixels of more than 8 bits; save photographs with 8, X-rays are prepared with --xray-size"
            )
        seen = composited_on(image, "white") if upright else None
        is_plain = seen is None and image.format == "PNG" and image.mode in ("L", "RGB")
        pixels = np.atleast_3d(np.asarray(image if is_plain else seen or image.convert("RGB")))
        stored = picture.encoded if is_plain and picture.turn == UPRIGHT else None
        remark = picture.remark or (ON_WHITE if seen else "")
        return _Photo(turned(pixels, picture.turn), stored, "png", picture.is_turned, remark)


def _encode_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    is_grey = pixels.shape[2] == 1
    colours = {"colorspace": "GRAY", "colorsubsampling": "Gray"} if is_grey else {"colorsubsampling": "420"}
    encoded: bytes = simplejpeg.encode_jpeg(pixels, JPEG_QUALITY, **colours)
    return encoded


def verify_xray(
    encoded: bytes, size: int | None, depth: Depth = AS_DECLARED, cut: XrayCut = "square", upright: bool = False
) -> EncodedImage:
    """Decode an X-ray to its last byte; its central square, or the whole of it, shrunk or enlarged to a shorter side of
    `size` pixels, or with None as large as it is, as 8-bit grey PNG. Enlarged ones, and those that come out nearly
    black or white, have a remark.

    DICOM and pictures; `depth`: of those of more than 8 bits; `upright`: turned as their EXIF block says, laid on black
    where they are transparent, and refused if they have several frames, of which else the first counts. What is such a
    picture already is kept as it is, JPEG and PNG without what decoders only remark on. Raises whatever the
    decoder raises for a damaged file, and ValueError for pixels that are no grey values, larger than their depth
    allows, or of unknown depth, and for pictures that would get too large.
    """
    pixels, stored, is_turned, remark = _grey(encoded, depth, upright)
    size = min(pixels.shape) if size is None else size
    is_flat = pixels.dtype != np.uint8 and float(pixels.max()) - float(pixels.min()) < _FLAT_RANGE
    enlarged = f"enlarged to {size} pixels" if min(pixels.shape) < size else ""
    remark = "; ".join(filter(None, (remark, FLAT if is_flat else "", enlarged)))
    kept = pixels if cut == "whole" else _central_square(pixels)
    height, width = shrunk_size(kept.shape[0], kept.shape[1], size)
    if stored is not None and pixels.shape == (height, width):
        return EncodedImage(stored, "jpg" if _is_jpeg(encoded) else "png", height, width, 1, remark=remark)
    require_pixels(height, width, "stripe enlarged to a size")
    picture = Image.fromarray(np.ascontiguousarray(kept, dtype=np.float32))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)  # Pillow averages over what it leaves out
    shrunk = encode_png(np.rint(np.asarray(resized)).astype(np.uint8))
    return EncodedImage(shrunk, "png", height, width, 1, is_turned=is_turned, remark=remark)


def _central_square(pixels: Pixels) -> Pixels:
    side = min(pixels.shape)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _grey(encoded: bytes, depth: Depth, upright: bool) -> _Xray:
    if _is_jpeg(encoded):
        jpeg = decode_jpeg(encoded, as_grey=True)
        turn = orientation_in(exif_of(encoded)) if upright else UPRIGHT
        stored = jpeg.encoded if jpeg.colours == "Gray" and turn == UPRIGHT else None
        return _Xray(turned(jpeg.pixels[:, :, 0], turn), stored, turn != UPRIGHT, jpeg.remark)
    if is_dicom(encoded):
        return _Xray(dicom_pixels(encoded, depth.given) * np.float32(255))
    with opened(encoded, upright, one_frame=upright) as picture:
        is_deep = picture.image.mode.startswith(("I", "F")) or is_deep_png(encoded)
        # As padding is in DICOM: white would be bright bone.
        seen = composited_on(picture.image, "black") if upright and not is_deep else None
        pixels, is_plain = _grey_of(picture._replace(image=seen or picture.image), depth)
        stored = picture.encoded if is_plain and picture.turn == UPRIGHT else None
        remark = picture.remark or (ON_BLACK if seen else "")
        return _Xray(turned(pixels, picture.turn), stored, picture.is_turned, remark)


def _grey_of(picture: OpenedImage, depth: Depth) -> tuple[Pixels, bool]:
    """Grey values, and whether the file itself is PNG of 8-bit grey."""
    image = picture.image
    if image.mode.startswith("F"):
        raise ValueError("pixels that are floating-point numbers")
    if image.mode.startswith("I"):
        declared = declared_bits(image, has_sbit(picture.encoded))
        return scaled(np.asarray(image), depth, declared, picture.white_is_zero), False
    if is_deep_png(picture.encoded):
        if is_grey_png(picture.encoded):
            raise ValueError("grey values of more than 8 bits with transparency; save it without an alpha channel")
        raise ValueError("colours of more than 8 bits; save it as grey, or with 8 bits for each colour")
    return np.asarray(image.convert("L")), image.format == "PNG" and image.mode == "L"


def _is_jpeg(encoded: bytes) -> bool:
    return encoded[:2] == b"\xff\xd8"
