"""Sets of small pictures, preparations that are stopped, and what these leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from data_pipelines.common.raw_set import RawSet
from data_pipelines.shards.index import Index

MakeSet = Callable[..., RawSet]
Reads = list[str]
StopAt = Callable[..., bool]


class Stopped(BaseException):
    """As a kill: nothing is tidied up."""


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def samples_of(folder: Path, split: Any = "train") -> list[tuple[str, Any, bytes]]:
    """Key, label and bytes of each row."""
    index = Index.load(folder, split)
    keys = index.keys(np.arange(len(index)))
    return [(key, index.labels[row].tolist(), index.encoded(row).tobytes()) for row, key in enumerate(keys)]


def stored_in(folder: Path) -> list[tuple[str, bytes]]:
    """Key and bytes of each sample in the shards of train, as webdataset reads them."""
    shards = sorted(map(str, (folder / "train").glob("*.tar")))
    return [(sample["__key__"], sample["png"]) for sample in wds.WebDataset(shards, shardshuffle=False)]
