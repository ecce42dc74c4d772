"""RandAugment: which operations there are and how strong each is. The loaders carry them out.

Source: Cubuk et al., arXiv:1909.13719; operations and strengths are those of torchvision.transforms.RandAugment.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
OperationName = Literal[
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
]
# Their order is part of the draws: a number that is drawn stands for the operation at its place.
OPERATIONS: tuple[OperationName, ...] = get_args(OperationName)
MAGNITUDES = 31

_TWO_SIDED = frozenset(OPERATIONS[1:10])


@dataclass(frozen=True)
class Operations:
    """n operations, one after the other, on each of B images.

    op: int64 [B, n], places in OPERATIONS. magnitude: float32 [B, n], signed: the slope of shears; pixels, whose
    fraction does not count, of translations; degrees of rotations; 1 + magnitude is the factor of brightness, color,
    contrast and sharpness; bits that posterize keeps; value from which solarize inverts; 0 of the others.
    """

    op: Ints
    magnitude: Floats


def magnitude_table(size: int) -> Floats:
    """The unsigned magnitude of each operation at each strength for images of `size` x `size`, float32 [14, 31]."""
    strengths = np.linspace(0, 1, MAGNITUDES)
    rows = {
        "ShearX": 0.3 * strengths,
        "ShearY": 0.3 * strengths,
        "TranslateX": 150 / 331 * size * strengths,
        "TranslateY": 150 / 331 * size * strengths,
        "Rotate": 30 * strengths,
        "Brightness": 0.9 * strengths,
        "Color": 0.9 * strengths,
        "Contrast": 0.9 * strengths,
        "Sharpness": 0.9 * strengths,
        "Posterize": 8 - np.rint(4 * strengths),
        "Solarize": np.linspace(255, 0, MAGNITUDES),
    }
    return np.stack([rows.get(name, np.zeros(MAGNITUDES)) for name in OPERATIONS]).astype(np.float32)


def signed_operations(op: Ints, negative: npt.NDArray[np.bool_], strength: int, size: int) -> Operations:
    """The drawn operations, [B, n], at one strength (0 to 30); `negative` counts where an operation has two sides."""
    two_sided = np.array([name in _TWO_SIDED for name in OPERATIONS])
    magnitude = magnitude_table(size)[op, strength]
    return Operations(op, np.where(negative & two_sided[op], -magnitude, magnitude))
