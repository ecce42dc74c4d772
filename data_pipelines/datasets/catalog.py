"""Finds prepared data sets by name."""

import os
from collections.abc import Callable
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from data_pipelines.common.advice import quoted
from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import MANIFEST
from data_pipelines.common.message_parts import apart_in, nearest
from data_pipelines.common.typed_paths import typed_path

EMBEDDED = Path(__file__).parents[1] / "embedded"


def data_root() -> Path:
    """The folder of prepared sets: $BITSCALE_DATA, or `data` in the current folder."""
    return typed_path(os.environ.get("BITSCALE_DATA") or "data", "BITSCALE_DATA")


def find(name: str, is_listed: bool = False) -> Path:
    """The folder of a prepared set: a path, a name below the data root, or the name of an embedded set.

    is_listed: whether the name comes from a list of sets, which is typed with spaces.
    Raises InputError with the line that prepares it, or with the nearest name.
    """
    name = str(typed_path(name, "the name of a data set"))
    candidates = [data_root() / name, EMBEDDED / name]
    if Path(name).is_dir():
        candidates.insert(0, Path(name))
    for folder in candidates:
        if (folder / MANIFEST).is_file():
            return folder
    from data_pipelines.datasets.registry import NAMED_SETS  # with all readers, and pandas: training needs none of them

    if name in NAMED_SETS:
        raise InputError(
            f"data set {name!r} is not prepared; prepare it with: "
            f"bitscale prepare {name} {_root_flag(NAMED_SETS[name])}--out {quoted(data_root() / name)}"
        )
    own = f"bitscale prepare image-folder --root {{}} --out {quoted(data_root() / Path(name).name)}"
    if Path(name).is_dir() and any(path.is_dir() for path in Path(name).iterdir()):
        raise InputError(f"{name} is not a prepared data set; if it is a folder of images: {own.format(quoted(name))}")
    prepared = {path.parent.name for root in (data_root(), EMBEDDED) for path in root.glob(f"*/{MANIFEST}")}
    if is_listed and (apart := apart_in(name, {*prepared, *NAMED_SETS})):
        raise InputError(f"no prepared data set {name!r} in {data_root()}{apart}")
    raise InputError(
        f"no prepared data set {name!r} in {data_root()} (set BITSCALE_DATA to look elsewhere)"
        f"{_meant(Path(name).name, prepared, set(NAMED_SETS))}; class folders are prepared with: "
        f"{own.format('DIR')}"
    )


def _meant(name: str, prepared: set[str], known: set[str]) -> str:
    """The nearest name, else those of the sets that are here."""
    is_near = get_close_matches(name, prepared | known, n=1)
    return nearest(name, sorted(prepared | known if is_near else prepared))


def _root_flag(reader: Callable[..., Any]) -> str:
    return "--root DIR " if "root" in signature(reader).parameters else ""
