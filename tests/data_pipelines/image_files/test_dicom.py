"""What is no single grey DICOM image is refused by name, whatever its encoding; damaged files are found."""

import io
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_encodings import RAMP, compressed
from dicom_files import PIXELS, dicom_bytes, make_dicom, saved
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from data_pipelines.common.errors import InputError
from data_pipelines.image_files import dicom
from data_pipelines.image_files.dicom import dicom_facts, dicom_pixels, is_dicom

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "frames": (
        {"NumberOfFrames": 12, "PixelData": PIXELS.tobytes() * 12},
        r"multi-frame DICOM \(12 frames\); .* export",
    ),
    "rgb": (
        {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PixelData": PIXELS.tobytes() * 3},
        r"colour DICOM \(RGB\); an X-ray is MONOCHROME1 or MONOCHROME2",
    ),
    "ybr": ({"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3}, r"colour DICOM \(YBR_FULL\)"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, r"colour DICOM \(PALETTE COLOR\)"),
    "no_colours": ({"PhotometricInterpretation": None}, r"colour DICOM \(unknown\)"),
    "samples": ({"SamplesPerPixel": 3, "PixelData": PIXELS.tobytes() * 3, "PlanarConfiguration": 0}, "of shape"),
    "report": (
        {"Rows": None, "Columns": None, "PixelData": None, "Modality": "SR"},
        r"without an image \(modality SR\)",
    ),
    "no_pixels": ({"PixelData": None}, "pixel data are missing or cut off"),
    "cut_off": (
        {"PixelData": PIXELS.tobytes()[:-2]},
        "cannot be decoded .*Explicit VR Little Endian.* less than expected",
    ),
    "deep": ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits per pixel; an X-ray has up to 16"),
    "huge": ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels, more than"),
    "flat": ({"PixelData": bytes(48)}, "one shade only"),
    "beyond_window": ({"WindowCenter": 10000, "WindowWidth": 10}, "one shade only"),
    "padding": ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 255}, "all padding"),
    "no_bits": ({"BitsStored": None}, "cannot be decoded .*Bits Stored"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_single_grey_image_is_refused_by_name(name: str) -> None:
    elements, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason) as caught:
        dicom_pixels(dicom_bytes(**elements))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoded", [b"", b"DICM", b"\x89PNG" + bytes(300), b"\xff\xd8\xff" + bytes(300)])
def test_what_is_no_dicom_is_refused(encoded: bytes, tmp_path: Path) -> None:
    (tmp_path / "0.dcm").write_bytes(encoded)
    with pytest.raises(ValueError, match="no DICOM file"):
        dicom_pixels(encoded)
    with pytest.raises(ValueError, match="no DICOM file"):
        dicom_facts(tmp_path / "0.dcm")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_preamble_may_be_missing(syntax: UID) -> None:
    pixels = RAMP if syntax.is_little_endian else RAMP.astype(">u2")
    encoded = saved(make_dicom(pixels, syntax), with_preamble=False)
    assert encoded[128:132] != b"DICM"
    assert is_dicom(encoded[:132])
    np.testing.assert_allclose(dicom_pixels(encoded), RAMP / 65535, atol=1e-6)


def test_other_files_are_no_dicom(photo: Callable, encode: Callable) -> None:
    assert is_dicom(dicom_bytes()[:132])
    for file_format in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "ICO"):
        assert not is_dicom(encode(photo(0, 20, 20), file_format)[:132])
    for head in (b"", b"\x08", bytes(132), b"path,label\n" + bytes(121)):
        assert not is_dicom(head)


COMPRESSED = [RLELossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGBaseline8Bit]


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name[:14])
def test_compressed_pixels(syntax: UID) -> None:
    dataset, expected = compressed(syntax)
    shown = dicom_pixels(saved(dataset))
    lossy = syntax == JPEGBaseline8Bit
    white = 255 if lossy else 4095
    np.testing.assert_allclose(shown, expected / white, atol=0.01 if lossy else 1e-6)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name[:14])
@pytest.mark.parametrize("share", [0.3, 0.8, 0.97])
def test_compressed_pixels_that_are_cut_off_are_refused(syntax: UID, share: float) -> None:
    dataset, _ = compressed(syntax)
    encoded = saved(dataset)
    with pytest.raises(ValueError, match=r"cut off|cannot be decoded|without an image"):
        dicom_pixels(encoded[: int(len(encoded) * share)])
    with pytest.raises(ValueError, match="cut off"):
        dicom_pixels(encoded[:-10])
    (stream,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([stream[: int(len(stream) * share)]])
    with pytest.raises(ValueError, match=r"cannot be decoded \((JPEG|RLE)"):
        dicom_pixels(saved(dataset))


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian", "MR_small_padded"],
)
def test_files_of_others(name: str) -> None:
    shown, expected = (dicom_pixels(Path(sample(one)).read_bytes()) for one in (name, "MR_small"))
    np.testing.assert_array_equal(shown, expected)
    assert np.ptp(expected) > 0.5


def sample(name: str) -> str:
    """A file that comes with pydicom."""
    return str(get_testdata_file(f"{name}.dcm", download=False))


def test_jpeg_ls_that_is_cut_off_is_refused() -> None:
    dataset = pydicom.dcmread(sample("MR_small_jpeg_ls_lossless"))
    (stream,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([stream[: len(stream) // 2]])
    with pytest.raises(ValueError, match=r"JPEG-LS.*cut off before its end marker"):
        dicom_pixels(saved(dataset))


def test_syntax_that_nothing_decodes_is_named() -> None:
    dataset, _ = compressed(RLELossless)
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    with pytest.raises(ValueError, match="MPEG2 Main Profile"):
        dicom_pixels(saved(dataset))


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = saved(compressed(JPEG2000Lossless)[0])
    decoder = pydicom.pixels.get_decoder(JPEG2000Lossless)
    with monkeypatch.context() as patched:
        patched.setattr(type(decoder), "is_available", property(lambda _: False))
        with pytest.raises(InputError, match=r"JPEG 2000 .*a decoder; in the checkout .*pip install -e '\.\[dicom\]'"):
            dicom_pixels(encoded)
    dicom._pydicom.cache_clear()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"in the checkout of bitscale: pip install -e '\.\[dicom\]'"):
        dicom_pixels(encoded)


def test_nothing_is_printed_of_files_that_bend_the_standard(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    encoded = Path(sample("MR_small_padded")).read_bytes()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        logging.getLogger("pydicom").setLevel(logging.WARNING)
        _ = pydicom.dcmread(io.BytesIO(encoded)).pixel_array
        assert warned, "pydicom does not warn of this file any more: take another"
        assert caplog.records
        warned.clear()
        caplog.clear()
        dicom._pydicom.cache_clear()
        dicom_pixels(encoded)
        assert not warned
        assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_every_file_of_pydicom_is_read_or_refused_with_a_reason() -> None:
    shown, reasons = 0, []
    for path in sorted(Path(sample("MR_small")).parent.glob("*.dcm")):
        try:
            pixels = dicom_pixels(path.read_bytes())
        except ValueError as error:
            reasons.append(str(error))
        else:
            shown += 1
            assert pixels.ndim == 2
            assert 0 <= pixels.min() < pixels.max() <= 1
    assert shown >= 15
    assert len(reasons) >= 20
    assert all(reasons)
