"""Members of tars by offset, read from the headers alone, without unpacking."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member

_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_LARGEST_RECORD_BYTES = 1 << 20  # a tar is filled up with zeros to a whole record, by default 10 KiB
_AGAIN = "fetch or write it again"


class OpenTar:
    """A tar that is not compressed: a file, or a member of one. A context manager.

    Raises InputError for one that is missing, compressed, no tar, or incomplete, as far as its two ends tell.
    """

    def __init__(self, tar: Path | Member) -> None:
        self._tar = tar
        self._path, self._offset = (tar.tar, tar.offset) if isinstance(tar, Member) else (tar, 0)
        try:
            self._file = self._path.open("rb")
            length = tar.length if isinstance(tar, Member) else os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise InputError(f"{tar} cannot be read: {error}") from error
        self._window = _Window(self._file.fileno(), self._offset, length)

    def __enter__(self) -> "OpenTar":
        try:
            self._require_both_ends()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, member: Member, last_bytes: int | None = None) -> bytes:
        """The bytes of a member, or only the last so many of them. Raises InputError."""
        wanted = member.length if last_bytes is None else min(last_bytes, member.length)
        try:
            return os.pread(self._file.fileno(), wanted, member.offset + member.length - wanted)
        except OSError as error:
            raise InputError(f"{member} cannot be read: {error}") from error

    def file(self, member: Member) -> IO[bytes]:
        """A member to read and seek in, while the tar is open."""
        return _Window(self._file.fileno(), member.offset, member.length)  # type: ignore[return-value]

    def members(self) -> Iterator[Member]:
        """The files, in the order in which they lie in the tar; their contents are jumped over.

        Raises InputError where the tar is damaged or incomplete, and for members that are links or devices or whose
        names lead out of the tar.
        """
        try:
            yield from self._walk()
        except (tarfile.TarError, ValueError, OSError) as error:
            raise InputError(f"{self._tar} is damaged or incomplete ({error}); {_AGAIN}") from error

    def _walk(self) -> Iterator[Member]:
        self._window.seek(0)
        with tarfile.TarFile(fileobj=self._window, mode="r", encoding="utf-8") as tar:  # type: ignore[arg-type]  # IO asks for more
            for info in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                self._require_plain(info)
                if info.isreg():
                    name = f"{self._tar.name}/{info.name}" if isinstance(self._tar, Member) else info.name
                    yield Member(self._path, name, self._offset + info.offset_data, info.size)
            self._require_end(tar.offset)

    def _require_plain(self, info: tarfile.TarInfo) -> None:
        where = f"{self._tar} has the member {info.name!r}"
        path = PurePosixPath(info.name)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{where}, a name that leads out of the tar; do not trust it, {_AGAIN}")
        if info.issparse() or not (info.isreg() or info.isdir()):
            raise InputError(f"{where}, which is not a plain file but a link, device or the like; {_AGAIN} without it")
        if info.size < 0 or info.offset_data + info.size > self._window.length:
            raise InputError(f"{where}, which reaches beyond its end: it is damaged or incomplete; {_AGAIN}")

    def _require_both_ends(self) -> None:
        first = self._window.read(tarfile.BLOCKSIZE)
        for magic, program in _COMPRESSED.items():
            if first.startswith(magic):
                raise InputError(f"{self._tar} is compressed, so its members cannot be found; unpack it with {program}")
        try:
            if any(first) or not first:  # a tar of nothing begins with its end
                tarfile.TarInfo.frombuf(first, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise InputError(f"{self._tar} is not a tar file ({error}); {_AGAIN}") from error
        self._window.seek(max(0, self._window.length - tarfile.BLOCKSIZE))
        if self._window.length % tarfile.BLOCKSIZE or any(self._window.read(tarfile.BLOCKSIZE)):
            raise InputError(f"{self._tar} is incomplete: it does not end as a tar does; {_AGAIN}")

    def _require_end(self, offset: int) -> None:
        # tarfile takes a damaged header for the end, and the end of the file for that of the tar, both without a word.
        self._window.seek(offset)
        rest = self._window.read(_LARGEST_RECORD_BYTES)
        if not rest or any(rest):
            raise InputError(
                f"{self._tar} is damaged, incomplete, or several tars in one: at byte {offset} there is neither a "
                f"member nor the end; {_AGAIN}"
            )


class _Window(io.RawIOBase):
    """A range of a file, without a buffer: a header costs its 512 bytes, and what lies between is jumped over."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self.length = length
        self._descriptor, self._offset, self._position = descriptor, offset, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.length}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.length - self._position)
        wanted = left if size < 0 else min(size, left)
        data = os.pread(self._descriptor, wanted, self._offset + self._position)
        self._position += len(data)
        return data


def members(tar: Path | Member) -> Iterator[Member]:
    """The files in a tar, or in a tar inside a tar; see `OpenTar`."""
    with OpenTar(tar) as opened:
        yield from opened.members()
