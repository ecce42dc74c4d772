"""The three splits, and the split of an image by a hash of its name."""

import hashlib
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def hash_split(name: str, val_fraction: float, test_fraction: float) -> Split:
    """The split of a patient, or of an image without one, by a hash of its name: the same everywhere, and unchanged
    when others are added."""
    draw = int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "big") / 2**64
    if draw < test_fraction:
        return "test"
    return "val" if draw < test_fraction + val_fraction else "train"
