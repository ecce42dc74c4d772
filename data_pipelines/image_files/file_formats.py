"""File formats by their first bytes, as suffixes are not reliable."""

from typing import Literal

from data_pipelines.image_files.dicom import is_dicom

Format = Literal["jpeg", "png", "gif", "bmp", "webp", "tiff", "ppm", "jp2", "avif", "heic", "dicom"]

HEAD_BYTES = 132  # what tells DICOM; all others need less
NAMES: dict[Format, str] = {
    "jpeg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "webp": "WebP",
    "tiff": "TIFF",
    "ppm": "PPM",
    "jp2": "JPEG 2000",
    "avif": "AVIF",
    "heic": "HEIC",
    "dicom": "DICOM",
}

_BEGINNINGS: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # of more than 4 GB
    (b"MM\0+", "tiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
)
# What else lies in people's folders.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose file comes with git lfs pull"),
    (b"\0\5\x16\7", "what macOS keeps beside a file"),
    (b"FUJIFILMCCD-RAW", "raw file of a camera"),
    (b"IIRO", "raw file of a camera"),
    (b"IIRS", "raw file of a camera"),
    (b"IIU\0", "raw file of a camera"),
    (b"<svg", "a drawing (SVG)"),
)
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # of videos
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def format_of(head: bytes) -> Format | None:
    """The format of an image or DICOM file whose first HEAD_BYTES bytes, or all of them, are `head`; None for others,
    such as a video, or a camera's raw file in a format other than TIFF."""
    if head[128:HEAD_BYTES] == b"DICM":  # what stands before it may be a TIFF as well
        return "dicom"
    for beginning, name in _BEGINNINGS:
        if head.startswith(beginning):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "ppm"
    if head[4:8] == b"ftyp":
        return _of_media_file(head)
    return "dicom" if is_dicom(head) else None


def describe_other(content: bytes) -> str:
    """Description of a file that is not an image, such as "a video". content: all of it, or its beginning."""
    if not content:
        return "an empty file"
    for beginning, name in _OTHERS:
        if content.startswith(beginning):
            return name
    if content[4:12] == b"ftypcrx ":
        return "raw file of a camera"
    if content[4:8] in _BOXES or (content[:4] == b"RIFF" and content[8:12] == b"AVI "):
        return "a video"
    head = content[:HEAD_BYTES]
    if not any(head):
        return "a file of zeros"
    words = head.lstrip(b"\xef\xbb\xbf").lower().split()
    if words and words[0].startswith((b"<!doctype", b"<html")):
        return "a web page, no picture"
    is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in head)
    return "text, no picture" if is_text else "no image format that is known"


def _of_media_file(head: bytes) -> Format | None:
    """By the brands of an ISO base media file, the major one and those that it is compatible with."""
    length = min(len(head), int.from_bytes(head[:4], "big"))
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, length - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "avif"
    return "heic" if brands & _HEIC_BRANDS else None
