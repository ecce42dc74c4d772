"""What several readers need: images that are made anew by each iteration, and checks of what a user points to."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.datasets.raw import RawImage
from data_pipelines.errors import InputError
from data_pipelines.index import Split

# What splits are called in folders, files and tables.
SPLIT_NAMES: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_MISSING_SHARE = 0.05  # more than that is no damage but a wrong or unfinished root


@dataclass(frozen=True)
class Repeatable:
    """Images that are not held in memory: every iteration calls `make`."""

    make: Callable[[], Iterator[RawImage]]

    def __iter__(self) -> Iterator[RawImage]:
        return self.make()


def require_fractions(**fractions: float) -> None:
    """Raise InputError unless the fractions of the splits, by name, are each below a half."""
    for name, fraction in fractions.items():
        if not 0 <= fraction < 0.5:
            raise InputError(f"--{name}-fraction is {fraction}; it must lie in [0, 0.5)")


def require_files(paths: Sequence[Path], remedy: str) -> None:
    """Raise InputError if more than one in twenty of these files is missing; lists folders instead of asking each."""
    folders = {path.parent for path in paths}
    present = {folder: set(os.listdir(folder)) if os.path.isdir(folder) else set() for folder in folders}
    missing = [path for path in paths if path.name not in present[path.parent]]
    if len(missing) > _MISSING_SHARE * len(paths):
        raise InputError(f"{len(missing)} of {len(paths)} images are missing, the first is {missing[0]}; {remedy}")


def read_mat(contents: bytes, name: str, where: str) -> Any:
    """A variable of a MATLAB file, without axes of length one. Raises InputError naming `where`."""
    from scipy.io import loadmat  # here because it takes a quarter of a second and few sets need it

    try:
        return loadmat(io.BytesIO(contents), squeeze_me=True)[name]
    except Exception as error:  # a damaged file makes the parser raise whatever it stumbles over
        raise InputError(f"{where} is no MATLAB file with a variable {name!r} ({error!r}); fetch it again") from error
