"""DICOM: grey values of X-rays as a viewer shows them, and patient and view from the header.

Needs pydicom and its decoders, the extra `bitscale[dicom]`. Section numbers are of the DICOM standard, part 3.
"""

import io
import logging
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError
from data_pipelines.image_files.dicom_display import displayed, padding_in, range_of
from data_pipelines.image_files.dicom_elements import element_text, items_of, number_of
from data_pipelines.image_files.dicom_kinds import kind_without_image
from data_pipelines.image_files.pixel_limit import require_pixels

DICOM_SUFFIXES = {".dcm", ".dicom"}

_HEAD_BYTES = 132  # a preamble of 128 bytes that mean nothing, then the letters
_MAX_JPEG_TAIL = 64  # bytes from the end marker on: some writers pad
_FACTS = (
    "PatientID", "ViewPosition", "ViewCodeSequence", "SeriesDescription", "Modality", "PatientSex", "PatientAge",
    "StudyDate", "Rows",
)  # fmt: skip
_VIEW_OF_WORD = {
    "PA": "PA", "POSTERO": "PA", "POSTEROANTERIOR": "PA", "AP": "AP", "ANTERO": "AP", "ANTEROPOSTERIOR": "AP",
    "LAT": "LATERAL", "LATERAL": "LATERAL",
}  # fmt: skip
_PER_YEAR, _OLDEST = {"D": 365, "W": 52, "M": 12, "Y": 1}, 90
_LATERAL_VIEWS = {"LATERAL", "LL", "RL"}


@dataclass(frozen=True)
class DicomFacts:
    """Facts from a header. patient: the PatientID, None if blank; view: PA, AP, LATERAL, LL, RL, or "" if it is none of
    them or unknown; lateral: None if the view is unknown; modality: "DX", "CR" ..., or ""; sex: M, F, O or ""; age:
    whole years, above 89 as 90, or ""; study_date: as the header writes it, or ""; left_out: for kinds of files without
    an image, the reason under which they are counted, else ""."""

    patient: str | None
    view: str
    lateral: bool | None
    modality: str
    sex: str = ""
    age: str = ""
    study_date: str = ""
    left_out: str = ""


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 132 or more, is DICOM. Without the preamble that the standard
    requires, it begins with an element of group 2 or 8."""
    if head[128:_HEAD_BYTES] == b"DICM":
        return True
    little, big = head[1:2] + head[3:4] == b"\0\0", head[0:1] + head[2:3] == b"\0\0"
    return (little and head[0] in (2, 8)) or (big and head[1] in (2, 8) and head[4:6].isalpha())


def dicom_facts(path: Path) -> DicomFacts:
    """Facts from the header of a file; pixels and names are not read.

    Raises OSError, ValueError for what is no DICOM, and InputError without pydicom.
    """
    with path.open("rb") as file:
        return _facts_of(file)


def _facts_of(file: BinaryIO) -> DicomFacts:
    dataset = _read(file, stop_before_pixels=True, specific_tags=list(_FACTS))
    meanings = [element_text(code, "CodeMeaning") for code in items_of(dataset, "ViewCodeSequence")]
    sources = [element_text(dataset, "ViewPosition"), " ".join(meanings), element_text(dataset, "SeriesDescription")]
    view = next(filter(None, map(_view, sources)), "")
    modality = element_text(dataset, "Modality").upper()
    sop_class = element_text(dataset.file_meta, "MediaStorageSOPClassUID")
    return DicomFacts(
        patient=element_text(dataset, "PatientID") or None,
        view=view,
        lateral=view in _LATERAL_VIEWS if view else None,
        modality=modality,
        sex=sex if (sex := element_text(dataset, "PatientSex").upper()) in ("M", "F", "O") else "",
        age=_years(element_text(dataset, "PatientAge")),
        study_date=element_text(dataset, "StudyDate"),
        left_out=kind_without_image(modality, sop_class, has_size=bool(number_of(dataset, "Rows"))),
    )


def why_no_image(encoded: bytes) -> str:
    """Reason why a DICOM file of a kind without an image, such as a report, is left out; else ""."""
    try:
        return _facts_of(io.BytesIO(encoded)).left_out
    except ValueError:
        return ""


def dicom_pixels(encoded: bytes, bits: int | None = None) -> npt.NDArray[np.float32]:
    """Grey values of an X-ray, float32 [H, W] in [0, 1] with bright bone, as a viewer shows it at first.

    Modality LUT or rescaling, then the first VOI LUT or window (C.11.1, C.11.2); without one, the least value that the
    bits of a pixel can hold becomes 0 and the largest 1, not those that this image has: `bits`, else BitsStored.
    MONOCHROME1 is inverted. Padding (C.7.5.1.1.2) is 0.
    Raises ValueError, with the reason, for what is no single grey image or is damaged, or has values of more than
    `bits`, and InputError without pydicom or a decoder.
    """
    dataset = _read(io.BytesIO(encoded))
    _require_one_grey_image(dataset)
    stored = _stored(dataset)
    first = int(stored.min())
    # Every step maps a stored value by itself, so a table of them is mapped instead of millions of pixels.
    codes = np.subtract(stored, first, dtype=np.int32)
    values = np.arange(first, int(stored.max()) + 1)
    is_padding = padding_in(dataset, values)
    occurs = np.zeros(len(values), dtype=bool)
    occurs[codes] = True
    occurs &= ~is_padding
    if not occurs.any():
        raise ValueError("DICOM image that is all padding")
    grey = displayed(dataset, values, range_of(dataset, values[occurs], bits))
    if np.ptp(grey[occurs]) == 0:
        raise ValueError("DICOM image of one shade only, as its window or LUT shows it")
    if element_text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        grey = 1 - grey
    grey[is_padding] = 0
    pixels: npt.NDArray[np.float32] = grey.astype(np.float32)[codes]
    return pixels


@lru_cache(maxsize=1)
def _pydicom() -> ModuleType:
    try:
        import pydicom
        import pydicom.encaps
        import pydicom.pixels
    except ImportError as error:
        raise InputError(
            "DICOM files need pydicom and its decoders; in the checkout of bitscale: pip install -e '.[dicom]'"
        ) from error
    # Most scanners bend the standard somewhere: a line for each of a million files would hide what matters.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"(pydicom|libjpeg|openjpeg|pylibjpeg|rle)(\.|$)")
    return pydicom


def _read(file: BinaryIO, **options: Any) -> Any:
    if not is_dicom(file.read(_HEAD_BYTES)):
        raise ValueError("no DICOM file")
    file.seek(0)
    pydicom = _pydicom()
    try:
        dataset = pydicom.dcmread(file, force=True, **options)
    except Exception as error:  # whatever pydicom's parser stumbles over
        if isinstance(error, OSError) and error.errno is not None:  # of the file system, and may be gone next time
            raise
        raise ValueError(f"damaged DICOM header ({error})") from error
    if not dataset.file_meta.get("TransferSyntaxUID"):
        is_implicit, is_little = dataset.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if is_little else pydicom.uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if is_implicit else explicit
    return dataset


def _require_one_grey_image(dataset: Any) -> None:
    if not len(dataset):
        raise ValueError("DICOM that is cut off or empty")
    height, width = number_of(dataset, "Rows"), number_of(dataset, "Columns")
    if not height or not width:
        raise ValueError(f"DICOM without an image (modality {element_text(dataset, 'Modality') or 'unknown'})")
    require_pixels(int(height), int(width), "DICOM")
    frames = number_of(dataset, "NumberOfFrames") or 1
    if frames > 1:
        raise ValueError(f"multi-frame DICOM ({frames:.0f} frames); an X-ray is one frame, export each as a file")
    colours = element_text(dataset, "PhotometricInterpretation")
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"colour DICOM ({colours or 'unknown'}); an X-ray is MONOCHROME1 or MONOCHROME2")
    if "PixelData" not in dataset:
        raise ValueError("DICOM whose pixel data are missing or cut off")
    if (number_of(dataset, "BitsAllocated") or 16) > 16:
        raise ValueError(f"DICOM of {dataset.BitsAllocated} bits per pixel; an X-ray has up to 16")


def _stored(dataset: Any) -> npt.NDArray[np.integer]:
    """The stored pixel values [H, W], decompressed."""
    pydicom, syntax = _pydicom(), dataset.file_meta.TransferSyntaxUID
    try:
        if syntax.is_encapsulated:
            if not pydicom.pixels.get_decoder(syntax).is_available:
                raise InputError(
                    f"{syntax.name} needs a decoder; in the checkout of bitscale: pip install -e '.[dicom]'"
                )
            _require_whole_jpeg(dataset, syntax)
        pixels = _right_aligned(dataset)
        if pixels.ndim != 2:
            raise ValueError(f"an array of shape {pixels.shape} instead of rows and columns")
    except InputError:
        raise
    except Exception as error:  # each decoder has exceptions of its own
        reason = " ".join(str(error).split())
        raise ValueError(f"DICOM pixel data cannot be decoded ({syntax.name}): {reason}") from error
    return pixels


def _right_aligned(dataset: Any) -> npt.NDArray[np.integer]:
    """The decoded array. pydicom takes the lowest bits whatever HighBit says (part 5, 8.1.1). Raises ValueError where
    the pixels contradict it."""
    pixels: npt.NDArray[np.integer] = dataset.pixel_array
    allocated, stored, high = (number_of(dataset, word) for word in ("BitsAllocated", "BitsStored", "HighBit"))
    if not allocated or not stored or high is None or not stored <= high < allocated:
        return pixels
    dataset.BitsStored = int(high) + 1
    try:
        whole: npt.NDArray[np.integer] = dataset.pixel_array
    finally:
        dataset.BitsStored = int(stored)
    below = int(high + 1 - stored)
    if not (whole & ((1 << below) - 1)).any():
        return whole >> below
    if np.array_equal(whole, pixels):  # nothing above the lowest bits: it is the header that errs
        return pixels
    raise ValueError(f"HighBit is {high:.0f} with {stored:.0f} bits stored, but bits below and above those are in use")


def _require_whole_jpeg(dataset: Any, syntax: Any) -> None:
    """libjpeg fills up a JPEG or JPEG-LS stream that is cut off without a word."""
    uid = _pydicom().uid
    if syntax not in [*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes]:
        return
    (stream,) = _pydicom().encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    if b"\xff\xd9" not in stream[-_MAX_JPEG_TAIL:]:
        raise ValueError("the stream is cut off before its end marker")


def _view(text: str) -> str:
    """The one view that a text names; "" if none or, as of a series with both, several."""
    if text.upper() in _LATERAL_VIEWS:
        return text.upper()
    words = re.findall("[A-Z]+", text.upper())
    views = {_VIEW_OF_WORD[word] for word in words if word in _VIEW_OF_WORD}
    if any(word.startswith("DECUB") for word in words):  # the patient lies on the side; the picture is frontal
        views.discard("LATERAL")
    return views.pop() if len(views) == 1 else ""


def _years(age: str) -> str:
    """An age string (part 5, section 6.2), such as 061Y or 018M, in whole years."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", age.upper())
    if match is None:
        return ""
    # Who is older is known to few: such ages are not told apart in public data either.
    return str(min(_OLDEST, int(match[1]) // _PER_YEAR[match[2]]))
