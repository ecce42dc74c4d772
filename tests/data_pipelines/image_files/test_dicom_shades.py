"""The grey values of DICOM are those that a viewer shows: windows, tables, ranges, padding."""

from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_encodings import DEEP, RAMP
from dicom_files import PIXELS, dicom_bytes, make_dicom, saved
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from data_pipelines.image_files.dicom import dicom_pixels


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
