"""What the elements of a DICOM file say: view, patient, age, and other facts."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_encodings import compressed
from dicom_files import PIXELS, dicom_bytes, make_dicom, saved
from pydicom.uid import (
    RLELossless,
)

from data_pipelines.image_files.dicom import DicomFacts, dicom_facts, dicom_pixels


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
