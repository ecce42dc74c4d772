"""DICOM headers that say where pixels, windows and padding are otherwise than most do."""

from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import dicom_bytes, make_dicom, saved
from pydicom.uid import RLELossless

from data_pipelines.image_files.dicom import dicom_pixels

RAMP = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
WINDOW = {"WindowCenter": 1000, "WindowWidth": 500}
RESCALING = {"RescaleSlope": 0.5, "RescaleIntercept": -100}


def sequence(**elements: Any) -> pydicom.Sequence:
    item = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return pydicom.Sequence([item])


@pytest.mark.parametrize("group", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_windows_in_functional_groups_count_as_in_the_header(group: str) -> None:
    macros = sequence(
        FrameVOILUTSequence=sequence(**WINDOW), PixelValueTransformationSequence=sequence(**RESCALING, RescaleType="US")
    )
    plain = dicom_pixels(dicom_bytes(RAMP, BitsStored=12, **WINDOW, **RESCALING))
    assert 0 < np.mean((plain > 0) & (plain < 1)) < 0.5
    enhanced = dicom_pixels(dicom_bytes(RAMP, BitsStored=12, NumberOfFrames=1, **{group: macros}))
    np.testing.assert_array_equal(enhanced, plain)


def test_header_precedes_functional_groups_and_frame_all_frames() -> None:
    other, plain = {"WindowCenter": 3000, "WindowWidth": 100}, dicom_pixels(dicom_bytes(RAMP, **WINDOW))
    shared = {"SharedFunctionalGroupsSequence": sequence(FrameVOILUTSequence=sequence(**other))}
    of_frame = {"PerFrameFunctionalGroupsSequence": sequence(FrameVOILUTSequence=sequence(**WINDOW))}
    np.testing.assert_array_equal(dicom_pixels(dicom_bytes(RAMP, **WINDOW, **shared)), plain)
    np.testing.assert_array_equal(dicom_pixels(dicom_bytes(RAMP, **of_frame, **shared)), plain)


def with_high_bit(pixels: np.ndarray, high_bit: int, syntax: str | None = None) -> bytes:
    dataset = make_dicom(pixels, BitsStored=12)
    dataset.HighBit = high_bit
    if syntax is not None:
        dataset.compress(syntax, generate_instance_uid=False)
    return saved(dataset)


@pytest.mark.parametrize("syntax", [None, RLELossless])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_pixels_in_the_upper_bits_are_shifted(kind: type, syntax: str | None) -> None:
    pixels = RAMP if kind is np.uint16 else RAMP.astype(kind) - 2048
    expected = dicom_pixels(dicom_bytes(pixels.astype(kind), BitsStored=12))
    shifted = (pixels.astype(np.int32) << 4).astype(kind)
    np.testing.assert_array_equal(dicom_pixels(with_high_bit(shifted, 15, syntax)), expected)


def test_a_high_bit_that_the_pixels_contradict() -> None:
    np.testing.assert_array_equal(dicom_pixels(with_high_bit(RAMP + 1, 15)), dicom_pixels(with_high_bit(RAMP + 1, 11)))
    with pytest.raises(ValueError, match="HighBit is 15 with 12 bits stored, but bits below and above"):
        dicom_pixels(with_high_bit((RAMP << 4) + 1, 15))


@pytest.mark.parametrize(
    ("kind", "vr", "padding"), [(np.int16, "US", 63536), (np.int16, "SS", -2000), (np.uint16, "SS", -2000)]
)
def test_padding_of_the_other_sign_is_padding(kind: type, vr: str, padding: int) -> None:
    pixels = RAMP.astype(kind)
    pixels[0, :5] = np.array(63536, dtype=np.uint16).astype(kind)
    dataset = make_dicom(pixels)
    dataset.add_new("PixelPaddingValue", vr, padding)
    shown = dicom_pixels(saved(dataset))
    assert not shown[0, :5].any()
    assert shown[0, 5:].all()
