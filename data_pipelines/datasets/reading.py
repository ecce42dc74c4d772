"""Shared by the readers: re-iterable image lists, and checks of the paths that a user gives."""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.splits import Split

# What splits are called in folders, tars and tables, in small or capital letters, also as in "train_set". Not eval,
# which is val to some and test to others.
SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SPLIT = rf"({'|'.join(SPLIT_NAMES)})(?:[ _-]?(?:set|data|images|split))?"
_SPLIT_IN_NAME = re.compile(rf"(?<![a-z]){_SPLIT}(?![a-z])")
_MISSING_SHARE = 0.05  # more than that is no damage but a wrong or unfinished root


def require_fractions(**fractions: float) -> None:
    """Raise InputError unless the fractions of the splits, by name, are each below a half."""
    for name, fraction in fractions.items():
        if not 0 <= fraction < 0.5:
            raise InputError(f"--{name}-fraction is {fraction}; it must lie in [0, 0.5)")


def split_of(name: str) -> Split | None:
    """The split that is called so, if any is."""
    whole = re.fullmatch(_SPLIT, name.strip().lower())
    return SPLIT_NAMES[whole[1]] if whole else None


def splits_in(name: str) -> set[Split]:
    """The splits that words of a name are of, as in "images-train-000" or "seg_test"."""
    return {SPLIT_NAMES[word[1]] for word in _SPLIT_IN_NAME.finditer(name.lower())}


def require_present(missing: Sequence[Path], num_files: int, remedy: str) -> None:
    """Raise InputError if more than one in twenty files is missing."""
    if len(missing) > _MISSING_SHARE * num_files:
        raise InputError(f"{len(missing)} of {num_files} images are missing, the first is {missing[0]}; {remedy}")


def require_files(paths: Sequence[Path], remedy: str) -> None:
    """Raise InputError if more than one in twenty of these files is missing; lists folders instead of asking each."""
    folders = {path.parent for path in paths}
    present = {folder: set(os.listdir(folder)) if os.path.isdir(folder) else set() for folder in folders}
    missing = [path for path in paths if path.name not in present[path.parent]]
    require_present(missing, len(paths), remedy)


def read_mat(contents: bytes, name: str, where: str) -> Any:
    """A variable of a MATLAB file, without axes of length one. Raises InputError naming `where`."""
    from scipy.io import loadmat  # here because it takes a quarter of a second and few sets need it

    try:
        return loadmat(io.BytesIO(contents), squeeze_me=True)[name]
    except Exception as error:  # a damaged file makes the parser raise whatever it stumbles over
        raise InputError(f"{where} is no MATLAB file with a variable {name!r} ({error!r}); fetch it again") from error
