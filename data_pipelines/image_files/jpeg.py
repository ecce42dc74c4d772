"""Strict JPEG decoding: all pixels are present, and no decoder complains about the stored stream.

What libjpeg warns of (jerror.h) is damage to pixels, or a remark on something else. A picture with such a remark is
taken if the stream decodes without any warning once what was remarked on is left out: libjpeg tells but the first, and
behind a harmless one may be damage. That stream is stored, with the same pixels, for DALI stops at stray bytes.

JWRN_EXTRANEOUS_DATA, between segments       remark before the first scan, if they are zeros or behind metadata; else
                                             damage: the rest of a table that got longer, or a scan that is lost
JWRN_EXTRANEOUS_DATA, before the end         remark if they are zeros, and the last scan is whole without them; else
                                             damage: a decoder that lost its way is done too early
JWRN_EXTRANEOUS_DATA, JWRN_MUST_RESYNC       damage within a scan, and between two
JWRN_JFIF_MAJOR                              remark: the revision changes nothing
JWRN_BOGUS_ICC                               remark: profiles are not applied
JWRN_NOT_SEQUENTIAL                          remark: the numbers mean nothing in a sequential picture
JWRN_ADOBE_XFORM                             damage: the colours are a guess
JWRN_HIT_MARKER, JWRN_JPEG_EOF               damage: coded pixels, or the end, are missing
JWRN_HUFF_BAD_CODE, JWRN_ARITH_BAD_CODE      damage: the coded pixels mean nothing
JWRN_BOGUS_PROGRESSION                       damage: a scan is missing, or is there twice
JWRN_TOO_MUCH_DATA                           of encoders only
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from data_pipelines.image_files.jpeg_segments import without_remarks
from data_pipelines.image_files.pixel_limit import require_pixels

REMARK = "padding or metadata of a JPEG that decoders warn of"
PLAIN_COLOURS = ("Gray", "YCbCr", "RGB")  # those that DALI decodes, too


class Jpeg(NamedTuple):
    """A decoded JPEG: the stream to store, its pixels uint8 [H, W, C], its colour space as simplejpeg names it, and
    REMARK if the stream differs from the file's, else ""."""

    encoded: bytes
    pixels: npt.NDArray[np.uint8]
    colours: str
    remark: str = ""


def decode_jpeg(encoded: bytes, as_grey: bool = False) -> Jpeg:
    """Decode a JPEG to its last byte, grey ones to one channel, others to three unless `as_grey`. Raises ValueError for
    one that is damaged, or too large."""
    try:
        return _strictly_decoded(encoded, as_grey)
    except ValueError as error:
        warning = error
    try:
        streams = [without_remarks(encoded, keep_zeros) for keep_zeros in (True, False)]
    except ValueError as reason:
        raise ValueError(f"{warning}; {reason}") from warning
    damage = []
    for stream in streams:
        try:
            return _strictly_decoded(stream, as_grey)._replace(remark=REMARK)
        except ValueError as error:
            damage.append(error)
    raise damage[0]


def _strictly_decoded(encoded: bytes, as_grey: bool) -> Jpeg:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, strict=True)
    require_pixels(height, width, "JPEG")
    wanted = "GRAY" if as_grey or colours == "Gray" else "RGB"
    return Jpeg(encoded, simplejpeg.decode_jpeg(encoded, wanted, strict=True), colours)
