"""Films and photographs of a user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_files import dicom_bytes

from data_pipelines.common.raw_set import RawSet


@dataclass(frozen=True)
class Films:
    """DICOM files below `root`, class folder by class folder, and the patient of each."""

    root: Path
    patients: Mapping[str, str]


VIEWS = ("PA", "AP", "LATERAL", "LL", None)


def write_dicom(path: Path, **elements: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_bytes(**elements))


def parted(raw: RawSet) -> int:
    """How many patients have images in more than one split."""
    splits_of: dict[int, set[str]] = {}
    for image in raw.images:
        splits_of.setdefault(image.group, set()).add(image.split)
    return sum(len(found) > 1 for found in splits_of.values())


def has_note(raw: RawSet, *words: str) -> bool:
    return any(all(word in note for word in words) for note in raw.notes)


Rows = Sequence[Sequence[Any]]
