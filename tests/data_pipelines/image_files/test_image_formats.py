"""Pictures are known by their content, and what is none, or holds several, is refused for a reason to act on."""

import io
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom_bytes
from PIL import Image, UnidentifiedImageError
from tiff_files import DNG_VERSION, NEW_SUBFILE, PHOTOMETRIC, SUB_DIRECTORIES, grey_tiff

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.image_files import pillow_images
from data_pipelines.image_files.file_formats import HEAD_BYTES, format_of
from data_pipelines.image_files.frames import why_not_one
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.image_files.pixel_limit import MAX_PIXELS

SIDE = 24


def pixels_of(image: EncodedImage) -> np.ndarray:
    with Image.open(io.BytesIO(image.encoded)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# Kind, options, and whether nothing is lost.
FORMATS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "jpeg": ("JPEG", {"quality": 95}, False),
    "png": ("PNG", {}, True),
    "gif": ("GIF", {}, False),
    "bmp": ("BMP", {}, True),
    "webp": ("WEBP", {"lossless": True}, True),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}, True),
    "ppm": ("PPM", {}, True),
    "jp2": ("JPEG2000", {}, True),
    "avif": ("AVIF", {"quality": 95}, False),
    "heic": ("HEIF", {"quality": 95}, False),
}


def encoded_as(kind: str, picture: np.ndarray, **more: Any) -> bytes:
    """The file of a photograph; skipped where there is no encoder."""
    name, options, _ = FORMATS[kind]
    if kind == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {name}")
    return saved(Image.fromarray(picture), name, **options, **more)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_as_pillow_reads_it(kind: str, photo: Callable) -> None:
    picture = photo(3, SIDE, 40)
    encoded = encoded_as(kind, picture)
    assert format_of(encoded[:HEAD_BYTES]) == kind
    image = verify_image(encoded)
    assert (image.suffix, image.height, image.width) == ("jpg" if kind == "jpeg" else "png", SIDE, 40)
    with Image.open(io.BytesIO(encoded)) as theirs:
        assert np.abs(pixels_of(image) - np.asarray(theirs.convert("RGB"))).max() <= 2
    assert np.abs(pixels_of(image) - picture).mean() <= (0 if FORMATS[kind][2] else 12)
    assert verify_image(encoded, 16).is_shrunk
    film = verify_xray(encoded, 16)
    assert (film.height, film.width, film.channels) == (16, 16, 1)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "jpeg"])
def test_files_that_are_cut_off_are_refused(kind: str, photo: Callable) -> None:
    encoded = encoded_as(kind, photo(3, SIDE, 40))
    for kept in (len(encoded) - 9, len(encoded) * 2 // 3, len(encoded) // 3, 40, 14):
        for verify in (verify_image, lambda content: verify_xray(content, 16)):
            with pytest.raises((ValueError, OSError, SyntaxError)):
                verify(encoded[:kept])


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {}), ("TIFF", {})]
)
def test_several_frames_are_refused(kind: str, options: dict[str, Any], photo: Callable) -> None:
    frames = [Image.fromarray(photo(number, SIDE, SIDE)) for number in range(3)]
    moving = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    name, what = {"WEBP": "WebP"}.get(kind, kind), "pages" if kind == "TIFF" else "frames"
    for verify in (verify_image, lambda content, upright: verify_xray(content, 16, upright=upright)):
        with pytest.raises(ValueError, match=f"^{name} of 3 {what}; only pictures of one are taken$"):
            verify(moving, upright=True)
    single = saved(frames[0], kind, save_all=True, **options)
    assert verify_image(single, upright=True).height == SIDE


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_published_sets_give_the_first_of_several_frames(kind: str, photo: Callable) -> None:
    frames = [Image.fromarray(photo(number, SIDE, SIDE)) for number in range(3)]
    moving = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(moving)) as theirs:
        first = np.asarray(theirs.convert("RGB")).astype(int)
    np.testing.assert_array_equal(pixels_of(verify_image(moving)), first)
    assert verify_xray(moving, SIDE).height == SIDE


def test_a_phones_jpeg_with_a_second_picture_is_the_first(photo: Callable) -> None:
    pictures = [Image.fromarray(photo(number, SIDE, SIDE)) for number in range(2)]
    several = saved(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    image = verify_image(several)
    assert image.encoded == several
    assert np.abs(pixels_of(image) - photo(0, SIDE, SIDE)).mean() < 8


FILM = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 256


@pytest.mark.parametrize("more", [{NEW_SUBFILE: 1}, {NEW_SUBFILE: 4}, {NEW_SUBFILE: 5}, {255: 2}])
def test_smaller_copies_and_masks_are_no_pages(more: dict[int, int]) -> None:
    np.testing.assert_array_equal(pixels_of(verify_image(grey_tiff(FILM, 8, more=({}, more))))[:, :, 0], FILM)


@pytest.mark.parametrize("more", [{}, {NEW_SUBFILE: 2}, {255: 3}])
def test_pages_are_counted(more: dict[int, int]) -> None:
    for big in (False, True):
        with pytest.raises(ValueError, match="TIFF of 3 pages"):
            verify_image(grey_tiff(FILM, 8, more=({}, more, more), big=big), upright=True)


def test_directories_in_a_ring() -> None:
    """The last one names the first as the next."""
    encoded = bytearray(grey_tiff(FILM, 8))
    encoded[-4:] = encoded[4:8]
    np.testing.assert_array_equal(pixels_of(verify_image(bytes(encoded)))[:, :, 0], FILM)


RAW: dict[str, Callable[[], bytes]] = {
    "DNG": lambda: grey_tiff(FILM, 8, more=({DNG_VERSION: 1},)),
    "CR2": lambda: grey_tiff(FILM, 8, canon=True),
    "NEF, ARW": lambda: grey_tiff(FILM, 8, more=({NEW_SUBFILE: 1},)),
    "PEF": lambda: grey_tiff(FILM, 8, more=({PHOTOMETRIC: 32_803},)),
    "raw as a sub directory": lambda: with_sub_directory(32_803),
    "raw and linear": lambda: with_sub_directory(34_892),
}


def with_sub_directory(photometric: int) -> bytes:
    """A picture, and another one that only the first directory names."""
    encoded = bytearray(grey_tiff(FILM, 8, more=({SUB_DIRECTORIES: 0}, {PHOTOMETRIC: photometric})))
    (first,) = struct.unpack_from("<L", encoded, 4)
    (entries,) = struct.unpack_from("<H", encoded, first)
    link = first + 2 + 12 * entries
    for place in range(first + 2, link, 12):
        if struct.unpack_from("<H", encoded, place)[0] == SUB_DIRECTORIES:
            encoded[place + 8 : place + 12] = encoded[link : link + 4]
    encoded[link : link + 4] = bytes(4)
    return bytes(encoded)


@pytest.mark.parametrize("name", RAW)
def test_raw_files_never_give_their_thumbnail(name: str) -> None:
    for verify in (verify_image, lambda content: verify_xray(content, 16)):
        with pytest.raises(ValueError, match=r"raw file of a camera, .* save the picture itself as JPEG, PNG or TIFF"):
            verify(RAW[name]())
    assert why_not_one(io.BytesIO(RAW[name]()), "tiff")  # so that the scan leaves it out and counts it


TIFFS = [{}, {NEW_SUBFILE: 1}, {NEW_SUBFILE: 2}, {255: 2}, {PHOTOMETRIC: 32_803}, {DNG_VERSION: 1}]


@pytest.mark.parametrize("big", [False, True])
def test_only_what_a_scan_takes_of_tiff_is_decoded(big: bool) -> None:
    for pages in [[page] for page in TIFFS] + [[first, second] for first in TIFFS for second in TIFFS]:
        encoded = grey_tiff(FILM, 8, more=pages, big=big)
        if why_not_one(io.BytesIO(encoded), "tiff") is None:
            assert verify_image(encoded, upright=True).height == SIDE
        else:
            with pytest.raises(ValueError, match=r"raw file of a camera|TIFF of 2 pages"):
                verify_image(encoded, upright=True)


def media(brand: bytes) -> bytes:
    return b"\0\0\0\x14ftyp" + brand + bytes(4) + b"mp42" + bytes(200)


# What else lies in a folder, and what is said of it.
OTHERS: dict[bytes, str] = {
    b"": "an empty file",
    bytes(4096): "a file of zeros",
    b"404 not found\n" * 20: "text, no picture",
    b"<!DOCTYPE html><html></html>": "a web page, no picture",
    b"\n <html lang=en>": "a web page, no picture",
    b"%PDF-1.7": "a PDF",
    b"PK\3\4" + bytes(99): "a ZIP archive",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:": "git lfs pull",
    media(b"qt  "): "a video",
    media(b"isom"): "a video",
    media(b"crx "): "raw file of a camera",
    b"\0\0\0\x08wide\0\0\1\0mdat" + bytes(99): "a video",
    b"RIFF\0\0\0\0AVI LIST": "a video",
    b"\x1aE\xdf\xa3" + bytes(99): "a video",
    b"FUJIFILMCCD-RAW 0201": "raw file of a camera",
    b"\0\5\x16\7" + bytes(99): "what macOS keeps beside a file",
    b"\x13\x37" * 99: "no image format that is known",
}


@pytest.mark.parametrize("content", OTHERS, ids=OTHERS.values())
def test_what_is_no_picture_is_called_what_it_is(content: bytes) -> None:
    for verify in (verify_image, lambda encoded: verify_xray(encoded, 16)):
        with pytest.raises(UnidentifiedImageError, match=OTHERS[content]):
            verify(content)


def test_dicom_is_no_photograph(photo: Callable) -> None:
    film = dicom_bytes(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE))
    assert format_of(film[:HEAD_BYTES]) == "dicom"
    with pytest.raises(ValueError, match="DICOM, which is read as an X-ray only"):
        verify_image(film)
    both = grey_tiff(FILM, 8)[:8] + film[8:]
    assert format_of(both[:HEAD_BYTES]) == "dicom"
    assert verify_xray(both, 16).height == 16


def test_heic_without_its_decoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    pillow_images._register_heic.cache_clear()
    for verify in (verify_image, lambda content: verify_xray(content, 16)):
        with pytest.raises(ValueError, match="pip install pillow-heif"):
            verify(media(b"heic"))


def test_formats_that_this_pillow_does_not_know(monkeypatch: pytest.MonkeyPatch, photo: Callable) -> None:
    monkeypatch.delitem(Image.OPEN, "JPEG2000", raising=False)
    with pytest.raises(ValueError, match=r"JPEG 2000 that is damaged, or of a kind that Pillow .* cannot read"):
        verify_image(b"\xff\x4f\xff\x51" + bytes(99))


def test_one_limit_for_the_pixels_of_all_formats(monkeypatch: pytest.MonkeyPatch, photo: Callable) -> None:
    """A header alone tells, before there is memory for them; Pillow has a lower limit of its own."""
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS > 182_000_000
    picture = photo(3, SIDE, 40)
    for module in ("pixel_limit", "pillow_images"):
        monkeypatch.setattr(f"data_pipelines.image_files.{module}.MAX_PIXELS", SIDE * 40 - 1)
    for kind in ("jpeg", "png", "bmp", "webp", "tiff", "ppm", "gif"):
        with pytest.raises(ValueError, match=f"of 40 x {SIDE} pixels, more than the 959 pixels .*; shrink it before"):
            verify_image(encoded_as(kind, picture))
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="PNG of a huge size, more than"):
        verify_image(encoded_as("png", picture))


def test_deep_shades_of_formats_that_say_their_depth() -> None:
    """Pillow brings these to 16 bits, whatever their headers say."""
    values = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) * 7
    for bits in (12, 16):
        film = b"P5 %d %d %d\n" % (SIDE, SIDE, (1 << bits) - 1) + values.astype(">u2").tobytes()
        expected = np.rint(values / ((1 << bits) - 1) * 255)
        assert np.abs(pixels_of(verify_xray(film, SIDE))[:, :, 0] - expected).max() <= 1
    deep = saved(Image.fromarray(values.astype(np.uint16)), "JPEG2000")
    assert np.abs(pixels_of(verify_xray(deep, SIDE))[:, :, 0] - np.rint(values / 257)).max() <= 1
    for film in (deep, b"P5 2 2 4095\n" + bytes(8)):
        with pytest.raises(ValueError, match="pixels of more than 8 bits"):
            verify_image(film)
