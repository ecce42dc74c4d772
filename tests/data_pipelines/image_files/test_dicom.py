"""DICOM pixels are what a viewer shows, and what is no single grey image is refused by name."""

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
from dicom_files import PIXELS, dicom_bytes, make_dicom, saved
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
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
from data_pipelines.image_files.dicom import DicomFacts, dicom_facts, dicom_pixels, is_dicom

DEEP = np.random.default_rng(0).permutation(4096).astype(np.uint16).reshape(64, 64)
RAMP = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)


def values_shown(**elements: Any) -> np.ndarray:
    """The grey values of pixels 0, 1, ... 255."""
    return dicom_pixels(dicom_bytes(np.arange(256, dtype=np.uint8).reshape(16, 16), **elements)).ravel()


def lut(first: int, bits: int, entries: np.ndarray) -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.add_new("LUTData", "OW", entries.tobytes() + b"\0" * (entries.nbytes % 2))
    return pydicom.Sequence([item])


def test_without_a_window_the_range_is_that_of_the_stored_bits() -> None:
    pixels = dicom_pixels(dicom_bytes(PIXELS + 7))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, (PIXELS + 7) / 255, atol=1e-7)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("rescaling", [{}, {"RescaleSlope": -2, "RescaleIntercept": 100}])
def test_a_shade_does_not_depend_on_the_others_of_its_image(kind: str, rescaling: dict[str, Any]) -> None:
    """Two films of one value in most places; the brightest of one is a bit longer than the other's."""
    shades = []
    for brightest in (2047, 2048, 4095):
        pixels = np.full((6, 8), 1000, dtype=np.uint16)
        pixels[0, 0] = brightest
        shades.append(
            dicom_pixels(dicom_bytes(pixels, BitsStored=12, PhotometricInterpretation=kind, **rescaling))[1, 1]
        )
    is_dark = (kind == "MONOCHROME1") != bool(rescaling)
    assert shades == pytest.approx([1 - 1000 / 4095 if is_dark else 1000 / 4095] * 3, abs=1e-6)


def test_the_range_of_a_lut_is_that_of_its_entries() -> None:
    table = np.arange(4096, dtype=np.uint16) * 2
    for largest in (1000, 4095):
        shown = dicom_pixels(dicom_bytes(RAMP.clip(max=largest), ModalityLUTSequence=lut(0, 16, table)))
        np.testing.assert_allclose(shown, RAMP.clip(max=largest) / 4095, atol=1e-6)


def test_the_bits_may_be_given_instead_and_must_hold_all_values() -> None:
    np.testing.assert_allclose(dicom_pixels(dicom_bytes(RAMP), 12), RAMP / 4095, atol=1e-6)
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    np.testing.assert_allclose(dicom_pixels(dicom_bytes(signed), 12), RAMP / 4095, atol=1e-6)
    for pixels in (RAMP, signed):
        with pytest.raises(ValueError, match=r"a pixel of -?[24],?0\d\d, more than 11 bits hold; --bits 12 takes it"):
            dicom_pixels(dicom_bytes(pixels), 11)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 100, "WindowWidth": 90}])
def test_monochrome1_is_the_negative_of_monochrome2(window: dict[str, Any]) -> None:
    bright, dark = (values_shown(PhotometricInterpretation=kind, **window) for kind in ("MONOCHROME2", "MONOCHROME1"))
    np.testing.assert_allclose(bright, 1 - dark, atol=1e-7)
    assert bright[0] == 0
    assert dark[0] == 1


def test_window_is_honoured() -> None:
    shown = values_shown(WindowCenter=100, WindowWidth=51)
    # C.11.2.1.2.1: black up to c - 0.5 - (w - 1) / 2, white beyond c - 0.5 + (w - 1) / 2
    assert np.flatnonzero(shown == 0).tolist() == list(range(75))
    assert np.flatnonzero(shown == 1).tolist() == list(range(125, 256))
    np.testing.assert_allclose(np.diff(shown[75:125]), 1 / 50, atol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescaling", [{}, {"RescaleSlope": 2, "RescaleIntercept": -100}])
def test_windows_are_those_of_pydicom(function: str, rescaling: dict[str, Any]) -> None:
    dataset = make_dicom(RAMP, WindowCenter=1500, WindowWidth=900, VOILUTFunction=function, **rescaling)
    oracle = apply_voi_lut(apply_modality_lut(RAMP, dataset), dataset)
    low, high = (apply_modality_lut(np.array(limit), dataset) for limit in (0, 65535))
    np.testing.assert_allclose(dicom_pixels(saved(dataset)), (oracle - low) / (high - low), atol=1e-6)


def test_first_of_several_windows_is_taken() -> None:
    one = values_shown(WindowCenter=60, WindowWidth=20)
    np.testing.assert_array_equal(values_shown(WindowCenter=[60, 200], WindowWidth=[20, 9]), one)


def test_window_of_one_pixel_value_is_a_threshold() -> None:
    assert values_shown(WindowCenter=100, WindowWidth=1).tolist() == [0] * 100 + [1] * 156
    assert values_shown(WindowCenter=100.5, WindowWidth=1).tolist() == [0] * 101 + [1] * 155


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": -5},
        {"WindowCenter": 100},
        {"WindowWidth": 40},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 100, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
    ],
)
def test_window_that_cannot_be_used_gives_the_full_range(window: dict[str, Any]) -> None:
    np.testing.assert_allclose(values_shown(**window), np.arange(256) / 255, atol=1e-7)


def test_twelve_bits_in_sixteen_keep_their_shades() -> None:
    shown = dicom_pixels(dicom_bytes(DEEP, BitsStored=12))
    assert len(np.unique(shown)) == 4096
    np.testing.assert_allclose(shown, DEEP / 4095, atol=1e-6)
    windowed = dicom_pixels(dicom_bytes(DEEP, BitsStored=12, WindowCenter=2048, WindowWidth=4096))
    assert len(np.unique(windowed)) == 4096
    overlaid = dicom_pixels(dicom_bytes(DEEP | 0x8000 * (DEEP % 2), BitsStored=12))
    np.testing.assert_array_equal(overlaid, shown)


def test_sixteen_bits_keep_their_shades() -> None:
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert len(np.unique(dicom_pixels(dicom_bytes(pixels)))) == 65536


def test_window_is_in_rescaled_units() -> None:
    plain = values_shown(WindowCenter=100, WindowWidth=51)
    moved = values_shown(RescaleSlope=1, RescaleIntercept=-1000, WindowCenter=-900, WindowWidth=51)
    np.testing.assert_array_equal(moved, plain)
    halved = values_shown(RescaleSlope=0.5, WindowCenter=50, WindowWidth=25, VOILUTFunction="LINEAR_EXACT")
    expected = values_shown(WindowCenter=100, WindowWidth=50, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(halved, expected, atol=1e-6)


def test_negative_slope_makes_large_values_dark() -> None:
    window = {"WindowCenter": -127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"}
    for elements in ({}, window):
        shown = values_shown(RescaleSlope=-1, RescaleIntercept=0, **elements)
        np.testing.assert_allclose(shown, 1 - np.arange(256) / 255, atol=1e-6)


def test_signed_pixels() -> None:
    pixels = (np.arange(4096) - 2048).astype(np.int16).reshape(64, 64)
    for bits in (12, 16):
        shown = dicom_pixels(dicom_bytes(pixels, BitsStored=bits)).ravel()
        np.testing.assert_allclose(shown, (np.arange(4096) - 2048 + 2 ** (bits - 1)) / (2**bits - 1), atol=1e-6)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_luts_are_those_of_pydicom(syntax: UID) -> None:
    curve = (np.linspace(0, 1, 3000) ** 2 * 65535).astype(np.uint16)
    dataset = make_dicom(RAMP, syntax, VOILUTSequence=lut(500, 16, curve), WindowCenter=9, WindowWidth=3)
    shown = dicom_pixels(saved(dataset))
    np.testing.assert_allclose(shown, apply_voi_lut(RAMP, dataset) / 65535, atol=1e-6)
    dataset = make_dicom(RAMP, syntax, ModalityLUTSequence=lut(500, 16, curve), WindowCenter=30000, WindowWidth=5000)
    shown = dicom_pixels(saved(dataset))
    np.testing.assert_allclose(
        shown, apply_voi_lut(apply_modality_lut(RAMP, dataset), dataset) / 65535, atol=1e-6, rtol=1e-5
    )


def test_lut_of_eight_bits_and_of_fewer_bits_than_announced() -> None:
    entries = np.arange(4096) // 16
    for table in (entries.astype(np.uint8), entries.astype(np.uint16)):
        shown = dicom_pixels(dicom_bytes(RAMP, VOILUTSequence=lut(0, 8, table)))
        np.testing.assert_allclose(shown, (RAMP // 16) / 255, atol=1e-6)
    announced = lut(0, 16, np.arange(4096, dtype=np.uint16))
    np.testing.assert_allclose(dicom_pixels(dicom_bytes(RAMP, VOILUTSequence=announced)), RAMP / 4095, atol=1e-6)
    short = lut(0, 16, np.arange(100, dtype=np.uint16))
    short[0].LUTDescriptor = [4096, 0, 16]
    with pytest.raises(ValueError, match=r"LUT cannot be read \(100 entries where 4096 are announced\)"):
        dicom_pixels(dicom_bytes(RAMP, VOILUTSequence=short))


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_no_value_of_the_image(kind: str) -> None:
    pixels = PIXELS.astype(np.uint16) + 100
    expected = dicom_pixels(dicom_bytes(pixels, PhotometricInterpretation=kind))
    expected[0, :3] = 0
    pixels[0, :3] = (60000, 60001, 60002)
    padding = {"PixelPaddingValue": 60002, "PixelPaddingRangeLimit": 60000}
    shown = dicom_pixels(dicom_bytes(pixels, PhotometricInterpretation=kind, **padding))
    np.testing.assert_array_equal(shown, expected)
    single = dicom_pixels(dicom_bytes(pixels, PhotometricInterpretation=kind, PixelPaddingValue=60002))
    bright = 60001 / 65535
    assert single[0, 1] == pytest.approx(bright if kind == "MONOCHROME2" else 1 - bright)
    assert single[0, 2] == 0
    with pytest.raises(ValueError, match="60,001, more than 12 bits"):
        dicom_pixels(dicom_bytes(pixels, PhotometricInterpretation=kind, PixelPaddingValue=60002), 12)
    dicom_pixels(dicom_bytes(pixels, PhotometricInterpretation=kind, **padding), 12)  # padding is no value


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


def lossless_jpeg(pixels: np.ndarray, bits: int) -> bytes:
    """JPEG Lossless with selection value 1 (ITU-T T.81, annex H); every difference category has a code of five bits."""
    height, width = pixels.shape
    frame = bytes([bits, height >> 8, height & 255, width >> 8, width & 255, 1, 1, 0x11, 0])
    table = bytes([0]) + bytes([0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17))
    marked = [(0xC3, frame), (0xC4, table), (0xDA, bytes([1, 1, 0, 1, 0, 0]))]
    predicted = np.empty((height, width), dtype=np.int64)
    predicted[:, 1:] = pixels[:, :-1]
    predicted[1:, 0] = pixels[:-1, 0]
    predicted[0, 0] = 1 << (bits - 1)
    stream = ""
    for difference in (pixels.astype(np.int64) - predicted).ravel().tolist():
        category = abs(difference).bit_length()
        stream += f"{category:05b}"
        if category:
            stream += f"{difference if difference > 0 else difference + (1 << category) - 1:0{category}b}"
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    header = b"".join(bytes([255, kind]) + (len(body) + 2).to_bytes(2, "big") + body for kind, body in marked)
    return b"\xff\xd8" + header + data + b"\xff\xd9"


def compressed(syntax: UID) -> tuple[pydicom.Dataset, np.ndarray]:
    """A compressed X-ray, and the pixels that it stands for."""
    if syntax == JPEGLosslessSV1:
        dataset = make_dicom(DEEP, BitsStored=12)
        dataset.PixelData = encapsulate([lossless_jpeg(DEEP, 12)])
    elif syntax == JPEGBaseline8Bit:
        buffer, dataset = io.BytesIO(), make_dicom(RAMP.astype(np.uint8))
        smooth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
        Image.fromarray(smooth).save(buffer, "JPEG", quality=100)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
        return dataset, smooth
    else:
        dataset = make_dicom(DEEP, BitsStored=12)
        dataset.compress(syntax)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset, DEEP


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
        with pytest.raises(InputError, match=r"JPEG 2000 .*a decoder; in the checkout .*pip install '\.\[dicom\]'"):
            dicom_pixels(encoded)
    dicom._pydicom.cache_clear()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"in the checkout of bitscale: pip install '\.\[dicom\]'"):
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


def facts_of(tmp_path: Path, **elements: Any) -> DicomFacts:
    (tmp_path / "one.dcm").write_bytes(dicom_bytes(**elements))
    return dicom_facts(tmp_path / "one.dcm")


def code(*meanings: str) -> pydicom.Sequence:
    items = []
    for meaning in meanings:
        item = pydicom.Dataset()
        item.CodeMeaning = meaning
        items.append(item)
    return pydicom.Sequence(items)


@pytest.mark.parametrize(
    ("elements", "view", "lateral"),
    [
        ({"ViewPosition": "PA"}, "PA", False),
        ({"ViewPosition": "ap "}, "AP", False),
        ({"ViewPosition": "LATERAL"}, "LATERAL", True),
        ({"ViewPosition": "XTABLE LATERAL"}, "LATERAL", True),
        ({"ViewPosition": "LL"}, "LL", True),
        ({"ViewPosition": "RL"}, "RL", True),
        ({"ViewPosition": "AP LLD"}, "AP", False),
        ({"ViewPosition": "LLD"}, "", None),
        ({"ViewPosition": ""}, "", None),
        ({}, "", None),
        ({"ViewPosition": "AP", "SeriesDescription": "CHEST LAT"}, "AP", False),
        ({"ViewPosition": "??", "ViewCodeSequence": code("postero-anterior")}, "PA", False),
        ({"ViewCodeSequence": code("antero-posterior")}, "AP", False),
        ({"ViewCodeSequence": code("left lateral")}, "LATERAL", True),
        ({"ViewCodeSequence": pydicom.Sequence(), "SeriesDescription": "Thorax lat."}, "LATERAL", True),
        ({"ViewCodeSequence": code(""), "SeriesDescription": "W034 CHEST_LAT_2"}, "LATERAL", True),
        ({"SeriesDescription": "CHEST PA"}, "PA", False),
        ({"SeriesDescription": "CHEST PA AND LATERAL"}, "", None),
        ({"SeriesDescription": "LATERAL DECUBITUS"}, "", None),
        ({"SeriesDescription": "PLATE, DILATED"}, "", None),
    ],
)
def test_view(elements: dict[str, Any], view: str, lateral: bool | None, tmp_path: Path) -> None:
    facts = facts_of(tmp_path, **elements)
    assert (facts.view, facts.lateral) == (view, lateral)


@pytest.mark.parametrize(("patient", "expected"), [(" a-7 ", "a-7"), ("", None), ("  ", None), (None, None)])
def test_patient(patient: str | None, expected: str | None, tmp_path: Path) -> None:
    assert facts_of(tmp_path, PatientID=patient, PatientName="Doe^Jane").patient == expected


@pytest.mark.parametrize(
    ("age", "expected"),
    [("061Y", "61"), ("099Y", "90"), ("018M", "1"), ("030D", "0"), ("110W", "2"), ("61", ""), ("", ""), (None, "")],
)
def test_age_in_years_is_capped(age: str | None, expected: str, tmp_path: Path) -> None:
    facts = facts_of(tmp_path, PatientAge=age, PatientSex="f")
    assert (facts.age, facts.sex) == (expected, "F")
    assert facts_of(tmp_path, PatientSex="unknown").sex == ""


def test_facts_need_neither_pixels_nor_any_element(tmp_path: Path) -> None:
    nothing = dict.fromkeys(["Modality", "PatientID", "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelData"])
    assert facts_of(tmp_path, **nothing) == DicomFacts(patient=None, view="", lateral=None, modality="")
    path = tmp_path / "cut.dcm"
    for encoded in (dicom_bytes(), saved(compressed(RLELossless)[0])):
        path.write_bytes(encoded[:-40])
        assert dicom_facts(path) == DicomFacts(patient="p1", view="", lateral=None, modality="DX")
    with pytest.raises(OSError, match="No such file"):
        dicom_facts(tmp_path / "none.dcm")


def test_elements_of_wrong_types_are_tolerated(tmp_path: Path) -> None:
    dataset = make_dicom()
    for keyword, kind, value in [
        ("ViewPosition", "LO", ["PA", "AP"]),
        ("ViewCodeSequence", "LO", "lateral"),
        ("SeriesDescription", "OB", b"LAT\0"),
        ("NumberOfFrames", "LO", "one"),
        ("RescaleSlope", "LO", "steep"),
        ("WindowCenter", "LO", "middle"),
        ("WindowWidth", "LO", "wide"),
        ("PixelPaddingValue", "LO", "none"),
        ("VOILUTSequence", "LO", "none"),
    ]:
        dataset.add_new(keyword, kind, value)
    path = tmp_path / "weird.dcm"
    path.write_bytes(saved(dataset))
    assert dicom_facts(path) == DicomFacts(patient="p1", view="PA", lateral=False, modality="DX")
    dataset.NumberOfFrames = "1"
    np.testing.assert_allclose(dicom_pixels(saved(dataset)), PIXELS / 255, atol=1e-7)


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
