"""Tars as the owners of data sets distribute them."""

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path


def tar_writer(folder: Path) -> Callable[..., Path]:
    """A function that writes a tar below a folder of some files, by name, and returns its path; None makes a folder."""

    def write(place: str, files: Mapping[str, bytes | None], tar_format: int = tarfile.GNU_FORMAT) -> Path:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=tar_format) as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
                info.size = len(data or b"")
                tar.addfile(info, io.BytesIO(data or b""))
        return path

    return write
