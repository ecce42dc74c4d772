"""Readers of small films, and whether a set is as if it were prepared at once."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare

Encode = Callable[[int], bytes]


class Stopped(BaseException):
    """As a kill: nothing is tidied up."""


def reader(root: Path, **options: Any) -> RawSet:
    return replace(image_folder(root, 0, 0, **options), is_user_set=True, source="none")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def require_as_at_once(raw: RawSet, out: Path, **options: Any) -> None:
    """The set is the one that a preparation at once gives, apart from where bad files are listed to lie."""
    at_once = out.with_name("at_once") / out.name
    prepare(raw, Output(at_once, **options))
    assert files_of(out) == files_of(at_once)
    shutil.rmtree(at_once.parent)
