"""Grey pictures for DICOM files, and how they may be compressed in them."""

import io

import numpy as np
import pydicom
from dicom_files import make_dicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
)

DEEP = np.random.default_rng(0).permutation(4096).astype(np.uint16).reshape(64, 64)


RAMP = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)


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
