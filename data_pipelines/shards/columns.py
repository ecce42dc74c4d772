"""The columns of an index, each a memory-mapped `.npy` file."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.common.errors import InputError

COLUMNS = {"shard": np.int32, "offset": np.int64, "length": np.int64, "height": np.int32, "width": np.int32}
Array = npt.NDArray[Any]


def load_column(path: Path, rows: int, kind: str, ndim: int) -> Array:
    """A memory-mapped column; `kind` "i" for integers, "f" for floats."""
    try:
        column: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is Python's own notation, and its reader raises whatever it stumbles over
        raise InputError(f"{path} cannot be read ({error}); prepare the set again") from error
    found = (getattr(column, "ndim", None), getattr(getattr(column, "dtype", None), "kind", None))
    if found != (ndim, kind) or len(column) != rows:
        raise InputError(f"{path} is not the column of {rows} rows that its manifest says; prepare the set again")
    return column
