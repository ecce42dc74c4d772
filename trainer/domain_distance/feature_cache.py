"""Features kept between runs of the program, by what they were computed from."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipelines.common.files import atomic_file
from data_pipelines.common.messages import logger
from trainer.domain_distance.moments import Features
from trainer.kernels.native import cache_folder

_DIGEST_BYTES = hashlib.sha256().digest_size


def feature_folder() -> Path:
    """Where they are kept: beside other things that are computed once."""
    return cache_folder() / "features"


def cached(key: str, compute: Callable[[], Features]) -> Features:
    """The features of this key, read or computed and kept. A damaged file is replaced, with a note; a folder that
    cannot be written is no error."""
    path = feature_folder() / f"{key}.features"
    if path.is_file():
        try:
            return _read(path)
        except (OSError, ValueError, EOFError) as error:
            logger.info(f"note: {path} is damaged ({error}): these features are computed again")
    features = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(hashlib.sha256(np.ascontiguousarray(features).data).digest())
            np.save(file, features)
    except OSError as error:
        logger.info(f"note: features are not kept: {error}")
    return features


def _read(path: Path) -> Features:
    """Raises ValueError for a file that is not whole."""
    with path.open("rb") as file:
        digest = file.read(_DIGEST_BYTES)
        features: Features = np.load(file, allow_pickle=False)
    if features.dtype != np.float32 or features.ndim != 2:
        raise ValueError("it holds other numbers")
    if hashlib.sha256(features.data).digest() != digest:
        raise ValueError("its numbers are not those that were written")
    return features
