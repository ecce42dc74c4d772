"""A wrong check sum in the metadata of a PNG costs no picture; one in what makes the pixels does."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.image_files.png import REMARK, require_whole_png

PIXELS_BEGIN = 8 + 25  # behind the signature and IHDR


def chunk(kind: bytes, content: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ wrong)


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    return png[:PIXELS_BEGIN] + b"".join(chunks) + png[PIXELS_BEGIN:]


@pytest.mark.parametrize("kind", [b"tEXt", b"iCCP", b"eXIf", b"pHYs"])
@pytest.mark.parametrize("channels", [1, 3])
def test_metadata_of_a_wrong_check_sum_are_left_out(
    kind: bytes, channels: int, photo: Callable, encode: Callable
) -> None:
    png = encode(photo(1, 40, 30, channels))
    whole = chunk(b"tEXt", b"Comment\0whole")
    damaged = with_chunks(png, chunk(kind, b"Comment\0hello", wrong=1), whole, chunk(kind, b"other", wrong=9))
    stored = with_chunks(png, whole)
    assert verify_image(damaged) == EncodedImage(stored, "png", 40, 30, channels, remark=REMARK)
    require_whole_png(stored)
    if channels == 1:
        assert verify_xray(damaged, 30, cut="whole") == EncodedImage(stored, "png", 40, 30, 1, remark=REMARK)


@pytest.mark.parametrize("kind", [b"tRNS", b"sBIT", b"acTL", b"PLTE", b"iDAT", b"prVt"])
def test_chunks_that_may_bear_on_pixels_have_to_be_whole(kind: bytes, photo: Callable, encode: Callable) -> None:
    damaged = with_chunks(encode(photo(1, 40, 30)), chunk(kind, b"\0\1\2\3\4\5", wrong=1))
    with pytest.raises(ValueError, match=f"damaged in its chunk b'{kind.decode()}'"):
        verify_image(damaged)


def test_shards_hold_no_damaged_metadata(photo: Callable, encode: Callable) -> None:
    damaged = with_chunks(encode(photo(1, 40, 30)), chunk(b"tEXt", b"rotten", wrong=1))
    with pytest.raises(ValueError, match="damaged in its chunk b'tEXt'"):
        require_whole_png(damaged)
    with Image.open(io.BytesIO(verify_image(damaged).encoded)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), photo(1, 40, 30))
