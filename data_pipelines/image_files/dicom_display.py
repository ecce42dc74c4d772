"""A DICOM image's default display: LUTs, rescaling, windows and padding.

Section numbers are of the DICOM standard, part 3.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.image_files.bit_depth import require_within
from data_pipelines.image_files.dicom_elements import element_text, holder_of, items_of, number_of

Values = npt.NDArray[np.float64]


def range_of(dataset: Any, occurring: npt.NDArray[np.int64], bits: int | None) -> npt.NDArray[np.int64]:
    """Smallest and largest possible pixel value (C.7.6.3.1, BitsStored and PixelRepresentation)."""
    is_signed = bool(number_of(dataset, "PixelRepresentation"))
    if bits is not None:
        magnitudes = np.where(occurring < 0, ~occurring, occurring)  # -4096 takes as many bits as 4095
        largest = int(np.argmax(magnitudes))
        require_within(int(occurring[largest]), int(magnitudes[largest]).bit_length() + is_signed, bits)
    held = int(bits or number_of(dataset, "BitsStored") or number_of(dataset, "BitsAllocated") or 16)
    least = -(1 << (held - 1)) if is_signed else 0
    return np.array([least, least + (1 << held) - 1])


def displayed(dataset: Any, values: npt.NDArray[np.int64], limits: npt.NDArray[np.int64]) -> Values:
    """Stored values [n] as grey values in [0, 1], before any inversion; `limits`: their possible range."""
    scale = holder_of(dataset, "PixelValueTransformationSequence", ("RescaleSlope", "RescaleIntercept"))
    voi = holder_of(dataset, "FrameVOILUTSequence", ("VOILUTSequence", "WindowCenter", "WindowWidth"))
    modality_luts, voi_luts = items_of(dataset, "ModalityLUTSequence"), items_of(voi, "VOILUTSequence")
    is_little_endian = dataset.original_encoding[1]
    if modality_luts:
        rescaled, ends = _look_up(modality_luts[0], values, is_little_endian)
    else:
        slope, intercept = number_of(scale, "RescaleSlope"), number_of(scale, "RescaleIntercept")
        rescaled, ends = (
            np.asarray(stored * (1.0 if slope is None else slope) + (intercept or 0.0)) for stored in (values, limits)
        )
    if voi_luts:
        grey, table = _look_up(voi_luts[0], rescaled, is_little_endian)
        # Of the entries, not of the bits announced: a 12-bit table announced as 16-bit would come out black.
        return np.asarray((grey - table.min()) / max(np.ptp(table), 1))
    windowed = _windowed(voi, rescaled)
    if windowed is not None:
        return windowed
    low, high = ends.min(), ends.max()
    return np.clip((rescaled - low) / (high - low), 0, 1) if low < high else np.zeros(len(values))


def _windowed(voi: Any, values: Values) -> Values | None:
    """The first window, as C.11.2.1.2.1 and C.11.2.1.3 define it; None if there is none that can be used.

    Not pydicom's: that maps to the range of the stored values, and backwards where the rescale slope is negative.
    """
    centre, width = number_of(voi, "WindowCenter"), number_of(voi, "WindowWidth")
    if centre is None or width is None:
        return None
    function = element_text(voi, "VOILUTFunction").upper()
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


def padding_in(dataset: Any, values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which stored values are only padding to a rectangle."""
    padding = number_of(dataset, "PixelPaddingValue")
    if padding is None:
        return np.zeros(len(values), dtype=bool)
    limit = number_of(dataset, "PixelPaddingRangeLimit")
    ends = (padding, padding if limit is None else limit)
    low, high = sorted(_of_stored_type(dataset, end) for end in ends)
    return (low <= values) & (values <= high)


def _of_stored_type(dataset: Any, value: float) -> float:
    """Some scanners write the padding of signed pixels as unsigned, and that of unsigned ones as signed."""
    bits = int(number_of(dataset, "BitsAllocated") or 16)
    if number_of(dataset, "PixelRepresentation"):
        return value - (1 << bits) if 1 << (bits - 1) <= value < 1 << bits else value
    return value + (1 << 16) if value < 0 else value  # the element itself has 16 bits
