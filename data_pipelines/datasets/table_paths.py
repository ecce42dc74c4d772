"""Finds the files named in a table, also where the spelling on disk differs."""

import os
from collections import Counter
from pathlib import Path

from data_pipelines.common.path_text import path_of, text_of
from data_pipelines.datasets.similar_names import composed

_FORM, _BYTES = "in another Unicode form than they have", "in UTF-8 where they have Latin-1"
_CASE, _SLASHES = "with a suffix in other letters, such as .JPG for .jpg", "with \\ for /"


class Listing:
    """What lies below a folder, listed folder by folder as it is asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, set[str] | None] = {}
        self._means: dict[tuple[str, str], dict[str, list[str]]] = {}
        self.found_otherwise: Counter[str] = Counter()

    def with_slashes(self, name: str) -> str:
        """The name with slashes for backslashes, unless it has none or there is such a file."""
        if "\\" not in name or self._has(*_parted(name)):
            return name
        self.found_otherwise[_SLASHES] += 1
        return name.replace("\\", "/")

    def path(self, name: str) -> Path | None:
        """The file of this name below the folder, else the only one of its other Unicode normal form, as computers of
        other makers write it, of the same letters in Latin-1, or with its suffix in other letters; else None."""
        if self._has(*_parted(name)):
            return self.root / path_of(name)
        ways = set()
        found = ""
        parts = name.split("/")
        for number, part in enumerate(parts):
            actual, way = self._nearest(found, part, is_file=number == len(parts) - 1)
            if actual is None:
                return None
            ways |= {way} if way else set()
            found = f"{found}/{actual}" if found else actual
        self.found_otherwise.update(sorted(ways))
        return self.root / path_of(found)

    def with_suffix(self, name: str) -> str:
        """The name of a file that is called so but for its suffix; "" where there is none."""
        folder, last = _parted(name)
        found = [other for other in self._listed(folder) or () if other.rpartition(".")[0] == last]
        return f"{folder}/{min(found)}".lstrip("/") if found else ""

    def notes(self, table: Path) -> list[str]:
        """What is to be said of names that are not as the table has them."""
        name = text_of(table.name)
        return [f"files that {name} names {way}, and that were found: {n:,}" for way, n in self.found_otherwise.items()]

    def _listed(self, folder: str) -> set[str] | None:
        """The names in a folder; None where it cannot be listed."""
        if folder not in self._names:
            try:
                self._names[folder] = {text_of(name) for name in os.listdir(self.root / path_of(folder))}
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = set()
            except OSError:
                self._names[folder] = None
        return self._names[folder]

    def _has(self, folder: str, name: str) -> bool:
        names = self._listed(folder)
        if names is None:
            return os.path.lexists(self.root / path_of(f"{folder}/{name}"))
        return name in names

    def _nearest(self, folder: str, name: str, is_file: bool) -> tuple[str | None, str]:
        """The name in a folder that this one means, None if it is none or not one only, and in which way it differs."""
        if name == ".." or self._has(folder, name):
            return name, ""
        for way, alike in _WAYS.items():
            same = self._alike(folder, way).get(alike(name), []) if is_file or way != _CASE else []
            if same:
                return (same[0] if len(same) == 1 else None), way
        return None, ""

    def _alike(self, folder: str, way: str) -> dict[str, list[str]]:
        """The names in a folder by what is the same of those that mean the same."""
        if (folder, way) not in self._means:
            means: dict[str, list[str]] = {}
            for name in sorted(self._listed(folder) or ()):
                means.setdefault(_WAYS[way](name), []).append(name)
            self._means[folder, way] = means
        return self._means[folder, way]


def _parted(name: str) -> tuple[str, str]:
    folder, _, last = name.rpartition("/")
    return folder, last


def _decoded(name: str) -> str:
    """Of a name that is no UTF-8, the letters that Latin-1 makes of it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape").decode("latin-1")
    return name


def _with_lower_suffix(name: str) -> str:
    stem, dot, suffix = composed(name).rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"


_WAYS = {_FORM: composed, _BYTES: _decoded, _CASE: _with_lower_suffix}
