"""JPEGs of which decoders warn: taken where only metadata or padding is concerned, refused where pixels are damaged."""

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_files import (
    ADOBE,
    BAD_PROFILE,
    CODES,
    COMMENT,
    FRAME,
    ICC,
    JFIF,
    SCAN,
    TABLE,
    UNKNOWN_TRANSFORM,
    before,
    first,
    of_numbered_colours,
    of_revision,
    padded,
    place_of,
    segment,
    without,
    without_spectrum,
)
from PIL import Image

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.image_files.jpeg import REMARK, decode_jpeg
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import evaluation_order
from data_pipelines.loading.unreadable import damage
from data_pipelines.loading.views import Augmentation
from data_pipelines.shards.in_memory import in_memory_index

Change = Callable[[bytes], bytes]

# What libjpeg warns of, although every pixel is there.
SOUND: dict[str, Change] = {
    "no revision of JFIF": lambda jpeg: of_revision(jpeg, b"\0\0"),
    "revision 2 of JFIF": lambda jpeg: of_revision(jpeg, b"\2\0"),
    "zeros at the beginning": lambda jpeg: first(jpeg, bytes(3)),
    "zeros between tables": lambda jpeg: before(jpeg, TABLE, bytes(5)),
    "zeros before the codes": lambda jpeg: before(jpeg, CODES, bytes(1)),
    "zeros before the scan": lambda jpeg: before(jpeg, SCAN, bytes(100)),
    "a few zeros before the end": lambda jpeg: padded(jpeg, 9),
    "many zeros before the end": lambda jpeg: padded(jpeg, 5000),
    "zeros, and marks that fill": lambda jpeg: jpeg[:-2] + bytes(40) + b"\xff\xff" + jpeg[-2:],
    "a comment that is longer than it says": lambda jpeg: before(jpeg, TABLE, segment(COMMENT, b"hello") + b" all"),
    "bad profile of colours": lambda jpeg: first(jpeg, segment(ICC, BAD_PROFILE)),
    "no spectrum": without_spectrum,
    "all of it": lambda jpeg: padded(
        first(of_revision(without_spectrum(jpeg), b"\0\0"), bytes(4) + segment(ICC, BAD_PROFILE)), 64
    ),
}


def kinds_of(photo: Callable, encode: Callable) -> dict[str, bytes]:
    """JPEGs of several kinds, all with JFIF."""
    return {
        "colour": encode(photo(1, 40, 56), "JPEG"),
        "grey": encode(photo(1, 40, 56, 1), "JPEG"),
        "progressive": encode(photo(1, 40, 56), "JPEG", progressive=True),
        "restarts": encode(photo(1, 40, 56), "JPEG", restart_marker_blocks=2),
        "best codes": encode(photo(2, 40, 56), "JPEG", optimize=True, quality=95),
    }


def pixels_of(jpeg: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(jpeg, "RGB", strict=True).astype(int)


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("kind", ["colour", "grey", "progressive", "restarts", "best codes"])
def test_remarks_on_metadata_and_padding_cost_no_pixel(name: str, kind: str, photo: Callable, encode: Callable) -> None:
    if kind == "progressive" and name in ("no spectrum", "all of it"):  # there these numbers mean something
        return
    sound = kinds_of(photo, encode)[kind]
    changed = SOUND[name](sound)
    with pytest.raises(ValueError, match=r"JFIF|extraneous|ICC|SOS"):
        simplejpeg.decode_jpeg(changed, strict=True)
    image = verify_image(changed)
    assert (image.suffix, image.remark, image.is_turned) == ("jpg", REMARK, False)
    assert (image.height, image.width, image.channels) == (40, 56, 1 if kind == "grey" else 3)
    np.testing.assert_array_equal(pixels_of(image.encoded), pixels_of(sound))
    assert verify_image(image.encoded) == EncodedImage(image.encoded, "jpg", 40, 56, image.channels)


def test_films_and_shrunk_photographs(photo: Callable, encode: Callable) -> None:
    sound = encode(photo(1, 48, 48, 1), "JPEG")
    film = padded(sound, 40)
    kept = verify_xray(film, 48)
    assert (kept.suffix, kept.remark) == ("jpg", REMARK)
    np.testing.assert_array_equal(pixels_of(kept.encoded), pixels_of(sound))
    shrunk = verify_xray(film, 32)
    assert (shrunk.encoded, shrunk.remark) == (verify_xray(sound, 32).encoded, REMARK)
    photograph = verify_image(film, 32)
    assert (photograph.encoded, photograph.remark) == (verify_image(sound, 32).encoded, REMARK)
    assert photograph.is_shrunk
    cmyk = encode(photo(1, 40, 56), "JPEG", "CMYK")
    assert verify_image(first(cmyk, bytes(2))).encoded == verify_image(cmyk).encoded


def test_what_follows_the_end_is_no_part_of_the_picture(photo: Callable, encode: Callable) -> None:
    jpeg = encode(photo(1, 40, 56), "JPEG")
    for more in (bytes(100), b"a second picture" + jpeg, b"\xff"):
        assert verify_image(jpeg + more) == EncodedImage(jpeg + more, "jpg", 40, 56, 3)


def hole(jpeg: bytes, count: int) -> bytes:
    """The last bytes of pixels overwritten by zeros."""
    return jpeg[: -2 - count] + bytes(count) + jpeg[-2:]


# Damage to pixels, and what may be such.
DAMAGED: dict[str, Change] = {
    "cut off": lambda jpeg: jpeg[: len(jpeg) * 2 // 3],
    "no end": lambda jpeg: jpeg[:-2],
    "end too early": lambda jpeg: jpeg[: len(jpeg) * 2 // 3] + b"\xff\xd9",
    "pixels overwritten": lambda jpeg: jpeg[:-200] + b"\x12\x34" * 90 + jpeg[-20:],
    "pixels left over": lambda jpeg: jpeg[:-2] + b"\x12\x34" * 20 + jpeg[-2:],
    "hole before the end": lambda jpeg: hole(jpeg, 200),
    "hole and zeros before the end": lambda jpeg: padded(hole(jpeg, 3), 60),
    "table that got longer": lambda jpeg: (
        before(jpeg, TABLE, b"")[: place_of(jpeg, TABLE) + 20] + b"\x11\x22\x33" + jpeg[place_of(jpeg, TABLE) + 20 :]
    ),
    "table without its mark": lambda jpeg: jpeg[: place_of(jpeg, TABLE)] + b"\0" + jpeg[place_of(jpeg, TABLE) + 1 :],
    "codes without their mark": lambda jpeg: jpeg[: place_of(jpeg, CODES)] + b"\0" + jpeg[place_of(jpeg, CODES) + 1 :],
    "unknown colours": lambda jpeg: first(without(jpeg, JFIF), segment(ADOBE, UNKNOWN_TRANSFORM)),
    "zeros from the scan's header on": lambda jpeg: (lambda end: jpeg[: end - 3] + bytes(6) + jpeg[end + 3 :])(
        place_of(jpeg, SCAN) + 14
    ),
    "another spectrum": lambda jpeg: without_spectrum(jpeg).replace(
        jpeg[place_of(jpeg, SCAN) : place_of(jpeg, SCAN) + 11] + bytes(3),
        jpeg[place_of(jpeg, SCAN) : place_of(jpeg, SCAN) + 11] + b"\0\5\0",
    ),
    "two beginnings": lambda jpeg: first(jpeg, b"\xff\xd8"),
}
HARMLESS = ["no revision of JFIF", "zeros between tables", "bad profile of colours"]


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_also_behind_a_harmless_remark(name: str, photo: Callable, encode: Callable) -> None:
    """libjpeg tells the first of its warnings only."""
    sound = encode(photo(1, 80, 112), "JPEG", quality=95)
    damaged = DAMAGED[name](sound)
    with pytest.raises(ValueError, match=r"."):
        verify_image(damaged)
    for harmless in HARMLESS:
        if name == "unknown colours" and harmless == "no revision of JFIF":  # there is no JFIF left
            continue
        with pytest.raises(ValueError, match=r".") as refusal:
            verify_image(SOUND[harmless](damaged))
        assert not re.fullmatch(r"Warning: unknown JFIF revision number [\d.]+", str(refusal.value))
        with pytest.raises(ValueError, match=r"."):
            verify_xray(SOUND[harmless](damaged), 32)


def test_a_scan_that_is_lost_is_not_taken_for_padding(photo: Callable, encode: Callable) -> None:
    """Pillow shows what there is of a progressive picture without a word."""
    jpeg = kinds_of(photo, encode)["progressive"]
    start = jpeg.rindex(bytes([0xFF, SCAN]), 0, jpeg.rindex(bytes([0xFF, SCAN])))
    for lost in (bytes(jpeg.index(b"\xff\xc4", start) - start), jpeg[start + 1 : jpeg.index(b"\xff\xc4", start)]):
        damaged = jpeg[:start] + lost + jpeg[jpeg.index(b"\xff\xc4", start) :]
        Image.open(io.BytesIO(damaged)).load()
        with pytest.raises(ValueError, match="extraneous bytes before marker 0xc4; stray bytes may be of a"):
            verify_image(damaged)


def test_stray_bytes_within_the_pixels_are_damage(photo: Callable, encode: Callable) -> None:
    """Also zeros, before a mark at which decoders start anew."""
    jpeg = kinds_of(photo, encode)["restarts"]
    for stray in (bytes(40), b"\x12" * 40):
        with pytest.raises(ValueError, match=r"extraneous bytes before marker 0xd1"):
            verify_image(before(jpeg, 0xD1, stray))


def test_stray_bytes_where_the_colours_may_be_lost(photo: Callable, encode: Callable) -> None:
    """Without JFIF, only the segment of Adobe tells that these are no YCbCr."""
    rgb = of_numbered_colours(encode(photo(1, 40, 56), "JPEG", keep_rgb=True))
    place = place_of(rgb, ADOBE)
    lost = first(rgb[:place] + b"\x00" + rgb[place + 1 :], segment(COMMENT, b"hello"))
    assert np.abs(np.asarray(Image.open(io.BytesIO(lost))).astype(int) - photo(1, 40, 56)).mean() > 20
    with pytest.raises(ValueError, match="extraneous bytes"):
        verify_image(lost)
    cut = rgb[: place + 2] + b"\0\7Adobe" + rgb[place + 16 :]
    with pytest.raises(ValueError, match=r"."):
        verify_image(first(cut, bytes(3)))
    whole = first(rgb, segment(COMMENT, b"hello") + b" all")
    np.testing.assert_array_equal(pixels_of(verify_image(whole).encoded), pixels_of(rgb))


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_what_is_stored_never_stops_training(loader: str, photo: Callable, encode: Callable) -> None:
    """DALI stops at stray bytes between segments."""
    kinds = [jpeg for kind, jpeg in kinds_of(photo, encode).items() if kind != "progressive"]
    sound = [verify_image(jpeg) for jpeg in kinds for _ in SOUND]
    images = [verify_image(change(jpeg)) for jpeg in kinds for change in SOUND.values()]
    views = Augmentation("squash", 32, 32, flip=False)
    batches = []
    for index in (in_memory_index(images, 3), in_memory_index(sound, 3)):
        requests = evaluation_order(len(index), 0, 1, len(index))
        (batch,) = pick_loader(loader, on_gpu=False)[1](index, requests, views, torch.device("cpu"), 1)
        batches.append(batch.images)
    assert batches[0].equal(batches[1])


def test_rot_in_a_shard_is_no_remark(photo: Callable, encode: Callable) -> None:
    """What is stored has none, so that a loader that stops at it is told of the image."""
    jpeg = encode(photo(1, 40, 56), "JPEG")
    rotten = before(jpeg, TABLE, bytes(3))
    index = in_memory_index([EncodedImage(rotten, "jpg", 40, 56, 3)], 3)
    assert damage(index, 0, np.frombuffer(rotten, np.uint8)) == REMARK
    assert damage(index, 0, np.frombuffer(jpeg, np.uint8)) is None


@pytest.fixture(scope="module")
def few_bytes(photo: Callable, encode: Callable) -> list[bytes]:
    options = {"colour": {}, "progressive": {"progressive": True}, "best codes": {"optimize": True, "quality": 95}}
    return [encode(photo(1, 17, 24), "JPEG", **of_kind) for of_kind in options.values()]


@settings(max_examples=150, deadline=None)
@given(kind=st.integers(0, 2), removed=st.integers(0, 4), data=st.data())
def test_whatever_is_taken_with_a_remark_has_the_pixels_it_had(
    kind: int, removed: int, data: st.DataObject, few_bytes: list[bytes]
) -> None:
    jpeg = few_bytes[kind]
    header = jpeg.rindex(b"\xff\xda") + 14
    place = data.draw(st.integers(2, header) | st.integers(len(jpeg) - 20, len(jpeg)))
    put = data.draw(st.binary(max_size=12) | st.integers(0, 30).map(bytes))
    try:
        found = decode_jpeg(jpeg[:place] + put + jpeg[place + removed :])
    except ValueError:
        return
    if found.remark:
        np.testing.assert_array_equal(pixels_of(found.encoded), pixels_of(jpeg))


def test_the_first_frame_of_the_header_counts(photo: Callable, encode: Callable) -> None:
    """Grey has one kind of colours, so that bytes behind metadata hide nothing."""
    grey = without(encode(photo(1, 40, 56, 1), "JPEG"), JFIF)
    stray = before(grey, FRAME, segment(COMMENT, b"hello") + b" all")
    np.testing.assert_array_equal(pixels_of(verify_image(stray).encoded), pixels_of(grey))
    colour = without(encode(photo(1, 40, 56), "JPEG"), JFIF)
    with pytest.raises(ValueError, match="extraneous"):
        verify_image(before(colour, FRAME, segment(COMMENT, b"hello") + b" all"))
