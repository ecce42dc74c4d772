"""Atomic writing of files, and JSON."""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_path(path: Path, unique: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on exit it is flushed to disk and renamed.

    `unique`: for files that several processes may write at once. Without it, a file left by a killed process is
    overwritten by the next one.
    """
    # In containers, processes on two nodes may have the same number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp" if unique else f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name is on the disk too
    finally:
        os.close(folder)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it."""
    with atomic_path(path) as temporary:
        write(temporary)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file for writing that appears under its name only when complete; several processes may write it."""
    with atomic_path(path, unique=True) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """A UTF-8 path to a file, for libraries that accept no others; /proc/self/fd stands for the part of a path that has
    other bytes."""
    if _is_utf8(path):
        yield str(path)
        return
    by_folder = _is_utf8(Path(path.name))  # so that the file need not be there yet
    opened = os.open(path.parent if by_folder else path, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{opened}/{path.name}" if by_folder else f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def _is_utf8(path: Path) -> bool:
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(
        path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    )


def read_json(path: Path) -> Any:
    """The content of a JSON file; None when it is absent or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
