"""Files that are either absent or whole."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, bring it to the disk, and give it its name."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
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


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """What libraries that take no other names than UTF-8 may call a file: what this process has open has such names."""
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
