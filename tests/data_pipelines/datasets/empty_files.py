"""Trees of empty files in the layouts of data sets, and what a reader makes of them."""

from collections.abc import Iterable
from pathlib import Path

from data_pipelines.common.raw_set import RawSet


def touch(root: Path, files: Iterable[str]) -> None:
    """Empty files: readers do not open them."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def splits_of(raw: RawSet) -> dict[str, str]:
    return {image.key: image.split for image in raw.images}
