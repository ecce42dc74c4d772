"""One's own photographs come out as a viewer shows them; those of known sets as they always did."""

import io
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jpeg_files import first, padded, segment
from PIL import Image, ImageOps
from tiff_files import grey_tiff

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.common.xray_storage import Depth
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.image_files.jpeg import REMARK
from data_pipelines.image_files.jpeg_segments import exif_of
from data_pipelines.image_files.orientation import orientation_in
from data_pipelines.shards.concat import concat
from data_pipelines.shards.index import Index

HEIGHT, WIDTH = 61, 40
ALL = range(2, 9)  # 1 is upright
SIDEWAYS = (5, 6, 7, 8)
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"quality": 95},
}


def rotated(picture: np.ndarray, kind: str, orientation: int) -> bytes:
    """A file that says so."""
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(buffer, kind, exif=exif, **FORMATS[kind])
    return buffer.getvalue()


def pixels_of(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as picture:
        return np.asarray(picture).astype(int)


def shown(encoded: bytes) -> np.ndarray:
    """As viewers, and Pillow, show it."""
    with Image.open(io.BytesIO(encoded)) as picture:
        return np.asarray(ImageOps.exif_transpose(picture)).astype(int)


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("kind", FORMATS)
def test_photographs_are_turned_as_they_are_shown(kind: str, orientation: int, photo: Callable) -> None:
    encoded = rotated(photo(1, HEIGHT, WIDTH), kind, orientation)
    image = verify_image(encoded, upright=True)
    height, width = (WIDTH, HEIGHT) if orientation in SIDEWAYS else (HEIGHT, WIDTH)
    suffix = "jpg" if kind == "JPEG" else "png"
    assert replace(image, encoded=b"") == EncodedImage(b"", suffix, height, width, 3, is_turned=True)
    differences = np.abs(pixels_of(image.encoded) - shown(encoded))
    assert differences.mean() <= (3 if kind == "JPEG" else 0)
    assert verify_image(image.encoded, upright=True) == replace(image, is_turned=False)  # and only once


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_turned_and_shrunk_by_one_encoding(orientation: int, channels: int, photo: Callable) -> None:
    """The mean of an area is the same from either side."""
    picture = photo(2, 2 * HEIGHT, 2 * WIDTH, channels)
    for kind in ("JPEG", "PNG"):
        encoded = rotated(picture, kind, orientation)
        image = verify_image(encoded, WIDTH, upright=True)
        assert (image.is_turned, image.is_shrunk, image.channels) == (True, True, channels)
        assert min(image.height, image.width) == WIDTH
        lying = verify_image(encoded, WIDTH)
        assert (image.height < image.width) == ((lying.height < lying.width) != (orientation in SIDEWAYS))
        upright = Image.fromarray(pixels_of(lying.encoded).astype(np.uint8))
        upright.getexif()[0x0112] = orientation
        again = np.asarray(ImageOps.exif_transpose(upright)).astype(int)
        assert np.abs(pixels_of(image.encoded) - again).mean() <= (3 if kind == "JPEG" else 1)


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("cut", ["square", "whole"])
def test_films_are_turned_before_they_are_cut(orientation: int, cut: Any, photo: Callable) -> None:
    for kind in ("JPEG", "PNG", "TIFF"):
        encoded = rotated(photo(3, HEIGHT, WIDTH, 1), kind, orientation)
        image = verify_xray(encoded, 32, cut=cut, upright=True)
        buffer = io.BytesIO()
        Image.fromarray(shown(encoded).astype(np.uint8)).save(buffer, "PNG")
        expected = verify_xray(buffer.getvalue(), 32, cut=cut)
        assert replace(image, encoded=b"") == replace(expected, encoded=b"", is_turned=True)
        assert np.abs(pixels_of(image.encoded) - pixels_of(expected.encoded)).max() <= 1
    same_size = rotated(photo(3, WIDTH, WIDTH, 1), "PNG", orientation)
    np.testing.assert_array_equal(
        pixels_of(verify_xray(same_size, WIDTH, cut=cut, upright=True).encoded), shown(same_size)
    )


def test_deep_films_are_turned_once() -> None:
    """Pillow turns every TIFF by itself."""
    deep = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    for kind in ("TIFF", "PNG"):
        image = verify_xray(rotated(deep, kind, 6), WIDTH, Depth(12), "whole", upright=True)
        assert (image.height, image.width, image.is_turned) == (WIDTH, HEIGHT, True)
        np.testing.assert_array_equal(pixels_of(image.encoded), np.rint(np.rot90(deep, -1) / 4095 * 255))


def test_other_colours_are_turned(photo: Callable) -> None:
    for mode in ("CMYK", "L"):
        picture, exif, buffer = Image.fromarray(photo(4, HEIGHT, WIDTH)).convert(mode), Image.Exif(), io.BytesIO()
        exif[0x0112] = 8
        picture.save(buffer, "JPEG", exif=exif, quality=95)
        image = verify_image(buffer.getvalue(), upright=True)
        assert (image.height, image.width, image.is_turned) == (WIDTH, HEIGHT, True)
        expected = np.rot90(np.asarray(Image.open(buffer).convert("RGB" if mode == "CMYK" else "L")).astype(int))
        assert np.abs(pixels_of(image.encoded) - expected).mean() <= 3
        assert image.suffix == ("png" if mode == "CMYK" else "jpg")


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_upright_stays_byte_for_byte(kind: str, photo: Callable, encode: Callable) -> None:
    for encoded in (rotated(photo(5, HEIGHT, WIDTH), kind, 1), encode(photo(5, HEIGHT, WIDTH), kind, **FORMATS[kind])):
        assert verify_image(encoded, upright=True) == verify_image(encoded)
        assert verify_xray(encoded, 32, upright=True) == verify_xray(encoded, 32)
        if kind in ("JPEG", "PNG"):
            assert verify_image(encoded, upright=True).encoded == encoded


@pytest.mark.parametrize("kind", FORMATS)
def test_sets_that_are_not_to_be_turned_keep_their_bytes(kind: str, photo: Callable) -> None:
    encoded = rotated(photo(6, HEIGHT, WIDTH), kind, 6)
    image = verify_image(encoded)
    assert not image.is_turned
    assert (image.encoded == encoded) == (kind in ("JPEG", "PNG"))
    assert not verify_xray(encoded, 32).is_turned


def exif_block(content: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + content)


def tag(kind: int, value: bytes, order: str = "<", number: int = 274) -> bytes:
    """The block of one tag."""
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    return header + struct.pack(f"{order}HHHL", 1, number, kind, 1) + value.ljust(4, b"\0") + bytes(4)


# EXIF blocks, and the turn that they ask for.
BLOCKS: dict[str, tuple[bytes, int]] = {
    "little-endian": (tag(3, b"\6\0"), 6),
    "big-endian": (tag(3, b"\0\6", ">"), 6),
    "a byte": (tag(1, b"\6"), 6),
    "a long number": (tag(4, b"\0\0\0\6", ">"), 6),
    "a text": (tag(2, b"6"), 1),
    "another tag": (tag(3, b"\6\0", number=256), 1),
    "0": (tag(3, b"\0\0"), 1),
    "9": (tag(3, b"\x09\0"), 1),
    "empty": (b"", 1),
    "nonsense": (b"nonsense", 1),
    "cut off": (tag(3, b"\6\0")[:12], 1),
    "a directory that is elsewhere": (b"II*\0\xff\xff\xff\xff", 1),
    "more tags than there are": (tag(3, b"\6\0", number=256)[:8] + b"\xff\xff" + bytes(24), 1),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_bad_block_is_no_fault_of_the_picture(name: str, photo: Callable, encode: Callable) -> None:
    block, orientation = BLOCKS[name]
    assert orientation_in(block) == orientation_in(b"Exif\0\0" + block) == orientation
    jpeg = first(encode(photo(7, HEIGHT, WIDTH), "JPEG"), exif_block(block))
    image = verify_image(jpeg, upright=True)
    assert image.is_turned == (orientation != 1)
    assert (image.encoded == jpeg) == (orientation == 1)


@pytest.mark.parametrize(("big", "order"), [(False, "<"), (False, ">"), (True, "<")])  # Pillow reads no fourth kind
def test_tiffs_of_either_kind_are_counted_as_turned(big: bool, order: str) -> None:
    film = np.arange(24 * 40).reshape(24, 40) % 256
    lying = verify_image(grey_tiff(film, 8, order=order, more=({274: 6},), big=big), upright=True)
    assert (lying.height, lying.width, lying.is_turned) == (40, 24, True)
    assert not verify_image(grey_tiff(film, 8, order=order, more=({274: 1},), big=big), upright=True).is_turned


def test_the_block_of_a_jpeg_is_sought_before_its_pixels_only(
    photo: Callable, encode: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = tag(3, b"\6\0")
    jpeg = encode(photo(7, HEIGHT, WIDTH), "JPEG")
    monkeypatch.setattr("data_pipelines.image_files.jpeg_segments._BEHIND_SCAN", None)
    assert exif_of(jpeg) == b""
    assert exif_of(first(jpeg, exif_block(block))) == block


def test_turning_goes_by_the_file_not_by_what_is_stored_of_it(photo: Callable) -> None:
    """A stream that is stored without its metadata has lost the note."""
    jpeg = padded(rotated(photo(8, HEIGHT, WIDTH), "JPEG", 6), 60)
    image = verify_image(jpeg, upright=True)
    assert (image.height, image.width, image.is_turned, image.remark) == (WIDTH, HEIGHT, True, REMARK)
    assert verify_image(jpeg).height == HEIGHT
    film = verify_xray(jpeg, 32, cut="whole", upright=True)
    assert (film.height < film.width, film.is_turned, film.remark) == (True, True, REMARK)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_heic_is_turned_by_its_decoder_alone(orientation: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    picture, exif, buffer = np.zeros((HEIGHT, WIDTH, 3), np.uint8), Image.Exif(), io.BytesIO()
    picture[:8] = 255
    exif[0x0112] = orientation
    Image.fromarray(picture).save(buffer, "HEIF", exif=exif.tobytes(), quality=95)
    assert b"irot" in buffer.getvalue()
    turns = {3: 2, 6: -1, 8: 1}[orientation]
    for upright in (False, True):
        image = verify_image(buffer.getvalue(), upright=upright)
        assert np.abs(pixels_of(image.encoded) - np.rot90(picture, turns)).mean() < 8


def test_an_index_knows_whether_its_set_was_turned(write_set: Callable[..., Path]) -> None:
    indexes = {}
    for stated in (None, False, True):
        folder = write_set([0, 1], ["a", "b"])
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(
            json.dumps(manifest if stated is None else manifest | {"upright": stated})
        )
        indexes[stated] = Index.load(folder, "train")
        assert indexes[stated].upright is bool(stated)
    assert concat([indexes[True], indexes[True]]).upright is True
    assert concat([indexes[None], indexes[False]]).upright is False
    assert concat([indexes[None], indexes[True]]).upright is None
    assert indexes[True].take(np.array([0])).upright is True


def test_a_manifest_that_says_nonsense_is_refused(write_set: Callable[..., Path]) -> None:
    folder = write_set([0, 1], ["a", "b"])
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"upright": "yes"}))
    with pytest.raises(InputError, match="whether its images were turned is not known"):
        Index.load(folder, "train")
