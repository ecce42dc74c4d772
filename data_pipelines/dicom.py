"""DICOM: grey values of X-rays as a viewer would show them, and what their header tells of patient and view.

Needs pydicom and its decoders, the extra `bitscale[dicom]`. Section numbers are of the DICOM standard, part 3.
"""

import io
import logging
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from data_pipelines.depth import require_within
from data_pipelines.dicom_kinds import left_out_as
from data_pipelines.errors import InputError
from data_pipelines.pixel_limit import require_pixels

Values = npt.NDArray[np.float64]

DICOM_SUFFIXES = {".dcm", ".dicom"}

_HEAD_BYTES = 132  # a preamble of 128 bytes that mean nothing, then the letters
_MAX_JPEG_TAIL = 64  # bytes from the end marker on: some writers pad
_FACTS = (
    "PatientID", "ViewPosition", "ViewCodeSequence", "SeriesDescription", "Modality", "PatientSex", "PatientAge",
    "Rows",
)  # fmt: skip
_VIEW_OF_WORD = {
    "PA": "PA", "POSTERO": "PA", "POSTEROANTERIOR": "PA", "AP": "AP", "ANTERO": "AP", "ANTEROPOSTERIOR": "AP",
    "LAT": "LATERAL", "LATERAL": "LATERAL",
}  # fmt: skip
_PER_YEAR, _OLDEST = {"D": 365, "W": 52, "M": 12, "Y": 1}, 90
_LATERAL_VIEWS = {"LATERAL", "LL", "RL"}


@dataclass(frozen=True)
class DicomFacts:
    """What a header tells. patient: the PatientID, None where it is blank; view: PA, AP, LATERAL, LL, RL, or "" where
    it is none of them or not said; lateral: None where the view is not said; modality: "DX", "CR" ..., or ""; sex: M,
    F, O or ""; age: whole years, above 89 as 90, or ""; left_out: as what it is counted if it is of a kind that has no
    picture, else ""."""

    patient: str | None
    view: str
    lateral: bool | None
    modality: str
    sex: str = ""
    age: str = ""
    left_out: str = ""


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 132 or more, is DICOM. Without the preamble that the standard asks
    for, it begins with an element of group 2 or 8."""
    if head[128:_HEAD_BYTES] == b"DICM":
        return True
    little, big = head[1:2] + head[3:4] == b"\0\0", head[0:1] + head[2:3] == b"\0\0"
    return (little and head[0] in (2, 8)) or (big and head[1] in (2, 8) and head[4:6].isalpha())


def dicom_facts(path: Path) -> DicomFacts:
    """What the header of a file tells; pixels are not read, names and dates are not kept.

    Raises OSError, ValueError for what is no DICOM, and InputError without pydicom.
    """
    with path.open("rb") as file:
        return _facts_of(file)


def _facts_of(file: BinaryIO) -> DicomFacts:
    dataset = _read(file, stop_before_pixels=True, specific_tags=list(_FACTS))
    meanings = [_text(code, "CodeMeaning") for code in _items(dataset, "ViewCodeSequence")]
    sources = [_text(dataset, "ViewPosition"), " ".join(meanings), _text(dataset, "SeriesDescription")]
    view = next(filter(None, map(_view, sources)), "")
    modality = _text(dataset, "Modality").upper()
    sop_class = _text(dataset.file_meta, "MediaStorageSOPClassUID")
    return DicomFacts(
        patient=_text(dataset, "PatientID") or None,
        view=view,
        lateral=view in _LATERAL_VIEWS if view else None,
        modality=modality,
        sex=sex if (sex := _text(dataset, "PatientSex").upper()) in ("M", "F", "O") else "",
        age=_years(_text(dataset, "PatientAge")),
        left_out=left_out_as(modality, sop_class, has_size=bool(_number(dataset, "Rows"))),
    )


def why_no_picture(encoded: bytes) -> str:
    """As what a file is left out if it is DICOM of a kind that has no picture, such as a report; else ""."""
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
    is_padding = _padding(dataset, values)
    occurs = np.zeros(len(values), dtype=bool)
    occurs[codes] = True
    occurs &= ~is_padding
    if not occurs.any():
        raise ValueError("DICOM image that is all padding")
    grey = _displayed(dataset, values, _range(dataset, values[occurs], bits))
    if np.ptp(grey[occurs]) == 0:
        raise ValueError("DICOM image of one shade only, as its window or LUT shows it")
    if _text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
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
        raise InputError("DICOM files need pydicom and its decoders: pip install 'bitscale[dicom]'") from error
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
    height, width = _number(dataset, "Rows"), _number(dataset, "Columns")
    if not height or not width:
        raise ValueError(f"DICOM without an image (modality {_text(dataset, 'Modality') or 'unknown'})")
    require_pixels(int(height), int(width), "DICOM")
    frames = _number(dataset, "NumberOfFrames") or 1
    if frames > 1:
        raise ValueError(f"multi-frame DICOM ({frames:.0f} frames); an X-ray is one frame, export each as a file")
    colours = _text(dataset, "PhotometricInterpretation")
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"colour DICOM ({colours or 'unknown'}); an X-ray is MONOCHROME1 or MONOCHROME2")
    if "PixelData" not in dataset:
        raise ValueError("DICOM whose pixel data are missing or cut off")
    if (_number(dataset, "BitsAllocated") or 16) > 16:
        raise ValueError(f"DICOM of {dataset.BitsAllocated} bits per pixel; an X-ray has up to 16")


def _stored(dataset: Any) -> npt.NDArray[np.integer]:
    """The stored pixel values [H, W], decompressed."""
    pydicom, syntax = _pydicom(), dataset.file_meta.TransferSyntaxUID
    try:
        if syntax.is_encapsulated:
            if not pydicom.pixels.get_decoder(syntax).is_available:
                raise InputError(f"{syntax.name} needs a decoder: pip install 'bitscale[dicom]'")
            _require_whole_jpeg(dataset, syntax)
        pixels: npt.NDArray[np.integer] = dataset.pixel_array
        if pixels.ndim != 2:
            raise ValueError(f"an array of shape {pixels.shape} instead of rows and columns")
    except InputError:
        raise
    except Exception as error:  # each decoder has exceptions of its own
        reason = " ".join(str(error).split())
        raise ValueError(f"DICOM pixel data cannot be decoded ({syntax.name}): {reason}") from error
    return pixels


def _require_whole_jpeg(dataset: Any, syntax: Any) -> None:
    """libjpeg fills up a JPEG or JPEG-LS stream that is cut off without a word."""
    uid = _pydicom().uid
    if syntax not in [*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes]:
        return
    (stream,) = _pydicom().encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    if b"\xff\xd9" not in stream[-_MAX_JPEG_TAIL:]:
        raise ValueError("the stream is cut off before its end marker")


def _range(dataset: Any, occurring: npt.NDArray[np.int64], bits: int | None) -> npt.NDArray[np.int64]:
    """The least and the largest value that a pixel can have (C.7.6.3.1, BitsStored and PixelRepresentation)."""
    is_signed = bool(_number(dataset, "PixelRepresentation"))
    if bits is not None:
        magnitudes = np.where(occurring < 0, ~occurring, occurring)  # -4096 takes as many bits as 4095
        largest = int(np.argmax(magnitudes))
        require_within(int(occurring[largest]), int(magnitudes[largest]).bit_length() + is_signed, bits)
    held = int(bits or _number(dataset, "BitsStored") or _number(dataset, "BitsAllocated") or 16)
    least = -(1 << (held - 1)) if is_signed else 0
    return np.array([least, least + (1 << held) - 1])


def _displayed(dataset: Any, values: npt.NDArray[np.int64], limits: npt.NDArray[np.int64]) -> Values:
    """Stored values [n] as grey values in [0, 1], before any inversion; `limits`: what they can be."""
    modality_luts, voi_luts = _items(dataset, "ModalityLUTSequence"), _items(dataset, "VOILUTSequence")
    is_little_endian = dataset.original_encoding[1]
    if modality_luts:
        rescaled, ends = _look_up(modality_luts[0], values, is_little_endian)
    else:
        slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
        rescaled, ends = (
            np.asarray(stored * (1.0 if slope is None else slope) + (intercept or 0.0)) for stored in (values, limits)
        )
    if voi_luts:
        grey, table = _look_up(voi_luts[0], rescaled, is_little_endian)
        # Of the entries, not of the bits announced: a 12-bit table announced as 16-bit would come out black.
        return np.asarray((grey - table.min()) / max(np.ptp(table), 1))
    windowed = _windowed(dataset, rescaled)
    if windowed is not None:
        return windowed
    low, high = ends.min(), ends.max()
    return np.clip((rescaled - low) / (high - low), 0, 1) if low < high else np.zeros(len(values))


def _windowed(dataset: Any, values: Values) -> Values | None:
    """The first window, as C.11.2.1.2.1 and C.11.2.1.3 define it; None if there is none that can be used.

    Not pydicom's: that maps to the range of the stored values, and backwards where the rescale slope is negative.
    """
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if centre is None or width is None:
        return None
    function = _text(dataset, "VOILUTFunction").upper()
    is_linear = function not in ("LINEAR_EXACT", "SIGMOID")
    if is_linear:
        centre, width = centre - 0.5, width - 1
    if width < 0 or (width == 0 and not is_linear):
        return None
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _look_up(item: Any, values: npt.NDArray[Any], is_little_endian: bool) -> tuple[Values, Values]:
    """Values through a LUT of the header, and the whole LUT. Not pydicom's: its index overflows with 8-bit entries."""
    try:
        length, first, bits = (int(number) for number in item.LUTDescriptor)
        data, length = item.LUTData, length or 1 << 16
        if isinstance(data, bytes):
            is_packed = bits <= 8 and len(data) < 2 * length
            data = np.frombuffer(data, dtype=np.uint8 if is_packed else "<u2" if is_little_endian else ">u2")
        table = np.asarray(data, dtype=np.float64).reshape(-1)[:length]
        if len(table) < length:
            raise ValueError(f"{len(table)} entries where {length} are announced")
    except Exception as error:  # of a header that may hold anything
        raise ValueError(f"DICOM LUT cannot be read ({error})") from error
    return table[np.clip(values - first, 0, length - 1).astype(np.int64)], table


def _padding(dataset: Any, values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which stored values only fill the picture up to a rectangle."""
    padding = _number(dataset, "PixelPaddingValue")
    if padding is None:
        return np.zeros(len(values), dtype=bool)
    limit = _number(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((padding, padding if limit is None else limit))
    return (low <= values) & (values <= high)


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


# Elements may be missing, empty, of several values or of another type than the standard says.


def _value(dataset: Any, keyword: str) -> Any:
    try:
        value = dataset.get(keyword)
    except Exception:  # a value that its type does not allow
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return value
    return next(iter(value), None)


def _text(dataset: Any, keyword: str) -> str:
    value = _value(dataset, keyword)
    return "" if value is None or isinstance(value, bytes) else str(value).strip(" \0\n\r\t")


def _number(dataset: Any, keyword: str) -> float | None:
    try:
        number = float(_value(dataset, keyword))
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _items(dataset: Any, keyword: str) -> list[Any]:
    try:
        return [item for item in dataset.get(keyword) or [] if hasattr(item, "get")]
    except Exception:  # a value that is no sequence
        return []
