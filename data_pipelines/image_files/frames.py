"""Whether a file holds a single image, not an animation, a multi-page document or a raw file's preview."""

from typing import IO

from PIL.GifImagePlugin import GifImageFile
from PIL.WebPImagePlugin import WebPImageFile

from data_pipelines.image_files import tiff
from data_pipelines.image_files.file_formats import Format

_WEBP_ANIMATION = 0x02  # among the flags of an extended WebP file
_BRANDS_BYTES = 64  # of an AVIF file, more than its brands take


def why_not_one(file: IO[bytes], name: Format) -> str | None:
    """Reason why a file of this format is left out because it does not hold a single image, such as "GIFs of several
    frames"; None if it does, or cannot be read, which its decoder reports. `file` is seekable."""
    file.seek(0)
    try:
        if name == "gif":
            return "GIFs of several frames" if GifImageFile(file).is_animated else None
        if name == "webp":
            return "WebPs of several frames" if _is_animated_webp(file) else None
        if name == "avif":
            return "AVIFs of several frames" if _is_avif_sequence(file) else None
        return tiff.why_not_one(file) if name == "tiff" else None
    except Exception:  # whatever a decoder throws at a broken file
        return None


def _is_animated_webp(file: IO[bytes]) -> bool:
    head = file.read(21)  # the rest is only needed where this says that frames follow, which may be one
    if head[12:16] != b"VP8X" or not head[20] & _WEBP_ANIMATION:
        return False
    file.seek(0)
    return bool(WebPImageFile(file).is_animated)


def _is_avif_sequence(file: IO[bytes]) -> bool:
    if b"avis" not in file.read(_BRANDS_BYTES):
        return False
    from PIL.AvifImagePlugin import AvifImageFile  # here because Pillow before 11.3 has none

    file.seek(0)
    return bool(AvifImageFile(file).is_animated)
