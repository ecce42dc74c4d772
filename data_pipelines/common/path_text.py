"""Paths to text and back, independent of the locale."""

import os
from pathlib import Path


def text_of(path: str | os.PathLike[str]) -> str:
    """A path or command-line word as text, the same under every locale: UTF-8, other bytes as surrogates."""
    return os.fsencode(path).decode(errors="surrogateescape")


def path_of(text: str) -> Path:
    """The path from which `text_of` made this text."""
    return Path(os.fsdecode(text.encode(errors="surrogateescape")))
