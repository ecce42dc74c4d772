"""Small DICOM files, made on the spot."""

import io
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def make_dicom(pixels: np.ndarray = PIXELS, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> pydicom.Dataset:
    """An X-ray of 8- or 16-bit pixels [H, W]; `elements` by keyword, None leaves one out. Pixel data given as bytes are
    taken as they are."""
    bits = 8 * pixels.dtype.itemsize
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    described = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": "1.2.3",
        "Modality": "DX",
        "PatientID": "p1",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    } | elements
    for keyword, value in described.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "BitsStored" in dataset:
        dataset.HighBit = dataset.BitsStored - 1
    return dataset


def saved(dataset: pydicom.Dataset, with_preamble: bool = True) -> bytes:
    """The bytes of the file."""
    buffer = io.BytesIO()
    if with_preamble:
        dataset.save_as(buffer, enforce_file_format=True)
    else:
        syntax = dataset.file_meta.TransferSyntaxUID
        del dataset.file_meta
        dataset.save_as(buffer, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return buffer.getvalue()


def dicom_bytes(pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    """`make_dicom` as the bytes of a file."""
    return saved(make_dicom(pixels, **options))
