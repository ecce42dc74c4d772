"""Paths to text and back, independent of the locale."""

import os
from pathlib import Path


def text_of(path: str | os.PathLike[str]) -> str:
    """A path or a word of the command line as text, the same under every locale: UTF-8, other bytes as surrogates."""
    return os.fsencode(path).decode(errors="surrogateescape")


def path_of(text: str) -> Path:
    """The path of which `text_of` makes this text."""
    return Path(os.fsdecode(text.encode(errors="surrogateescape")))
