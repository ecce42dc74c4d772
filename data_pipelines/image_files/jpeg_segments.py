"""JPEG streams by segment: the EXIF block, and the stream without segments that are not part of the image.

Sources: ITU-T T.81, annex B; of JFIF T.871; of the segment that tells colours, Adobe's technical note 5116.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_RESTARTS, _APPS = range(0xD0, 0xD8), range(0xE0, 0xF0)
_MARKER, _BEHIND_SCAN = re.compile(rb"\xff[^\x00\xff]"), re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the others define tables, or nothing
_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
_JFIF, _EXIF, _ADOBE = (0xE0, b"JFIF\0"), (0xE1, b"Exif\0\0"), (0xEE, b"Adobe")
_TELLING = {_JFIF: 14, _ADOBE: 12}  # what tells the colours, and the bytes below which decoders overlook it
_JFIF_REVISION, _KNOWN_REVISION = len(_JFIF[1]), b"\1"
_WHOLE_SPECTRUM, _NO_SPECTRUM = bytes([0, 63, 0]), bytes(3)  # the end of SOS, without a meaning if sequential


class Segment(NamedTuple):
    """marker: its second byte. content: without marker and length. stray: bytes before it that belong to nothing. scan:
    the coded pixels behind it with their restart markers, of SOS only."""

    marker: int
    content: bytes
    stray: bytes
    scan: bytes

    def is_a(self, kind: tuple[int, bytes]) -> bool:
        """Whether it has this marker and begins with these bytes."""
        return self.marker == kind[0] and self.content.startswith(kind[1])

    @property
    def is_metadata(self) -> bool:
        """Whether neither pixels nor their colours depend on it."""
        return (self.marker in _APPS or self.marker == _COM) and not any(map(self.is_a, _TELLING))


def segments(encoded: bytes, until: int = _EOI) -> Iterator[Segment]:
    """What follows the first marker, up to the end of the picture, as libjpeg finds it, or to the first segment of the
    marker `until`, of SOS then without its scan. Raises ValueError where the stream is cut off or a segment has an
    impossible length."""
    place, marker = 2, _SOI
    while marker != _EOI:
        start = _place_of(_MARKER, encoded, place)
        stray, marker = encoded[place:start].rstrip(b"\xff"), encoded[start + 1]  # any number of them may precede it
        place, content, scan = start + 2, b"", b""
        if marker != _EOI and not _stands_alone(marker):
            length = int.from_bytes(encoded[place : place + 2], "big")
            content, place = encoded[place + 2 : place + length], place + length
            if marker == _SOI or length < 2 or len(content) < length - 2:
                raise ValueError("the file is cut off or damaged")
        if marker == _SOS and until != _SOS:
            end = len(encoded[: _place_of(_BEHIND_SCAN, encoded, place)].rstrip(b"\xff"))
            scan, place = encoded[place:end], end
        yield Segment(marker, content, stray, scan)
        if marker == until:
            return


def _stands_alone(marker: int) -> bool:
    return marker in _RESTARTS or marker == 1


def _place_of(marker: "re.Pattern[bytes]", encoded: bytes, place: int) -> int:
    """Where the next such marker stands. Raises ValueError without one."""
    found = marker.search(encoded, place)
    if found is None:
        raise ValueError("it is cut off")
    return found.start()


def exif_of(encoded: bytes) -> bytes:
    """The EXIF block of a JPEG, from its TIFF header on; b"" without one."""
    try:
        for segment in segments(encoded, until=_SOS):  # the end of a scan takes long to find
            if segment.is_a(_EXIF):
                return segment.content[len(_EXIF[1]) :]
    except ValueError:  # of a stream whose pixels are judged elsewhere
        pass
    return b""


def without_remarks(encoded: bytes, keep_zeros: bool) -> bytes:
    """The same pixels without what is no part of them: bytes that belong to nothing, metadata but for those that tell
    the colours, an unknown revision of JFIF, the numbers of a scan that mean nothing, and, unless `keep_zeros`, the
    zeros behind the coded pixels of the last scan.

    Raises ValueError where such bytes may be what is left of a segment that matters.
    """
    found = list(segments(encoded))
    _require_nothing_lost(found)
    is_sequential = any(segment.marker in _SEQUENTIAL for segment in found)
    if not keep_zeros:
        found[-2:-1] = map(_without_zeros, found[-2:-1])  # what stands before the end
    return b"\xff\xd8" + b"".join(_written(segment, is_sequential) for segment in found)


def _require_nothing_lost(found: Sequence[Segment]) -> None:
    """Zeros between segments are padding. Other bytes may be the rest of the segment before them, which counts unless
    that is metadata, or another segment, of which decoders do not miss the one that tells the colours, and scans but
    for the first."""
    told, is_metadata, is_scanned = False, True, False
    for segment in found:
        told |= segment.marker in _FRAMES and segment.content[5:6] == b"\1"  # of grey there is one kind
        for kind, least_bytes in _TELLING.items():
            told |= segment.is_a(kind)
            if segment.is_a(kind) and len(segment.content) < least_bytes:
                raise ValueError("the segment that tells its colours is cut off")
        if segment.stray.strip(b"\0") and not is_metadata:
            raise ValueError("stray bytes may be of a table")
        if segment.stray and is_scanned:
            raise ValueError("stray bytes may be of a scan")
        is_metadata, is_scanned = segment.is_metadata, is_scanned or segment.marker == _SOS
    if not told and any(segment.stray.strip(b"\0") for segment in found):
        raise ValueError("stray bytes may be of the segment that tells its colours")


def _has_no_spectrum(segment: Segment) -> bool:
    """As some encoders write it; not by zeros that reach into the coded pixels, or that were put in."""
    return segment.content.endswith(_NO_SPECTRUM) and not segment.scan.startswith((b"\0", _WHOLE_SPECTRUM[1:]))


def _without_zeros(segment: Segment) -> Segment:
    coded = segment.scan.rstrip(b"\0")
    if coded.endswith(b"\xff"):  # a byte of pixels, which a zero has to follow
        coded += b"\0"
    return segment._replace(scan=coded)


def _written(segment: Segment, is_sequential: bool) -> bytes:
    marker, content, _, scan = segment
    if marker == _EOI:
        return b"\xff\xd9"
    if segment.is_metadata or _stands_alone(marker):
        return b""
    if segment.is_a(_JFIF):
        content = content[:_JFIF_REVISION] + _KNOWN_REVISION + content[_JFIF_REVISION + 1 :]
    if marker == _SOS and is_sequential and _has_no_spectrum(segment):
        content = content[: -len(_WHOLE_SPECTRUM)] + _WHOLE_SPECTRUM
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + scan
