"""Kinds of DICOM files without an image, of which hospitals export as many as of X-rays."""

# Of reports, presentation states, key objects, documents, plans, registrations, sound and curves (C.7.3.1.1.1).
_WITHOUT_PICTURE = {
    "SR", "PR", "KO", "DOC", "ANN", "ASMT", "AU", "ECG", "EEG", "EMG", "EPS", "FID", "HD", "PLAN", "REG", "RESP",
    "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SMR", "STAIN",
}  # fmt: skip
_DIRECTORY = "1.2.840.10008.1.3.10"  # of a DICOMDIR


def kind_without_image(modality: str, sop_class: str, has_size: bool) -> str:
    """Reason why a file of a kind without an image is left out; "" for others, also if they are damaged."""
    kind = "DICOMDIR" if sop_class == _DIRECTORY else modality.upper()
    if kind != "DICOMDIR" and (kind not in _WITHOUT_PICTURE or has_size):
        return ""
    return f"DICOM files without a picture ({kind})"
