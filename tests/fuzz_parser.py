"""What `tests.fuzz` tries: a whole input in a folder, and what reads it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Parser:
    """`read` takes the path of one of `files`, changed; it may write below `folder` and nowhere else. is_part: they are
    parts of files, which are refused as they are, so that headers are changed more often than numbers. words: to put
    into them, where the usual ones would not do. is_slow: it takes a second, so that tests try few inputs."""

    folder: Path
    files: list[Path]
    read: Callable[[Path], object]
    is_part: bool = False
    words: Sequence[bytes] = ()
    is_slow: bool = False
