"""RandAugment: the operations and their magnitudes. The loaders apply them.

Source: Cubuk et al., arXiv:1909.13719. There are two sets of operations and strengths: that of
torchvision.transforms.RandAugment, and that of github.com/ildoonet/pytorch-randaugment (commit 48b8f50), which the
authors' program of arXiv:2106.00116 uses.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

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
IldoonetName = Literal[
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "CutoutAbs",
    "TranslateXabs",
    "TranslateYabs",
]
ILDOONET: tuple[IldoonetName, ...] = get_args(IldoonetName)
Space = Literal["torchvision", "ildoonet"]
SPACES: dict[Space, tuple[str, ...]] = {"torchvision": OPERATIONS, "ildoonet": ILDOONET}
Operand = Literal["crop", "image"]

_STRENGTHS = np.linspace(0, 1, MAGNITUDES)
_REACH = 150 / 331  # furthest translation of torchvision, share of a side
_TWO_SIDED = frozenset(OPERATIONS[1:10])
# Value at strength 0 and at strength 30, in the order of ILDOONET.
_ILDOONET_RANGES = (
    *((0, 1), (0, 1), (0, 1), (0, 30), (0, 4), (0, 256), (0, 110)),
    *((0.1, 1.9), (0.1, 1.9), (0.1, 1.9), (0.1, 1.9), (0, 0.3), (0, 0.3), (0, 40), (0, 100), (0, 100)),
)
_ILDOONET_TWO_SIDED = frozenset({"Rotate", "ShearX", "ShearY", "TranslateXabs", "TranslateYabs"})


@dataclass(frozen=True)
class Operations:
    """n operations, one after the other, on each of B images.

    op: int64 [B, n], places in SPACES[space]. magnitude: float32 [B, n], signed: the slope of shears; pixels, whose
    fraction does not count, of translations; degrees of rotations; 1 + magnitude is the factor of brightness, color,
    contrast and sharpness; bits that posterize keeps; value from which solarize inverts; 0 of the others. Of ildoonet
    float64 and as that package has them: see `randaugment_pillow`; cutout: float64 [B, n, 2], the centre of what is
    cut out, x and y as shares of the picture. on: the view, or the whole picture before it is cut.
    """

    op: Ints
    magnitude: npt.NDArray[np.floating[Any]]
    space: Space = "torchvision"
    on: Operand = "crop"
    cutout: npt.NDArray[np.float64] | None = None


def magnitude_table(size: int) -> Floats:
    """The unsigned magnitude of each operation at each strength for images of `size` x `size`, float32 [14, 31]."""
    rows = {
        "ShearX": 0.3 * _STRENGTHS,
        "ShearY": 0.3 * _STRENGTHS,
        "TranslateX": _REACH * size * _STRENGTHS,
        "TranslateY": _REACH * size * _STRENGTHS,
        "Rotate": 30 * _STRENGTHS,
        "Brightness": 0.9 * _STRENGTHS,
        "Color": 0.9 * _STRENGTHS,
        "Contrast": 0.9 * _STRENGTHS,
        "Sharpness": 0.9 * _STRENGTHS,
        "Posterize": 8 - np.rint(4 * _STRENGTHS),
        "Solarize": np.linspace(255, 0, MAGNITUDES),
    }
    return np.stack([rows.get(name, np.zeros(MAGNITUDES)) for name in OPERATIONS]).astype(np.float32)


def signed_operations(
    op: Ints, negative: npt.NDArray[np.bool_], strength: int, height: int | Ints, width: int | Ints
) -> Operations:
    """The drawn operations, [B, n], at one strength (0 to 30), on images of this height and width (pixels; one for
    all, or [B, 1]); `negative` counts where an operation has two sides."""
    two_sided = np.array([name in _TWO_SIDED for name in OPERATIONS])
    magnitude = magnitude_table(1)[op, strength]
    for name, side in (("TranslateX", width), ("TranslateY", height)):
        moved = (_REACH * side * _STRENGTHS[strength]).astype(np.float32)
        magnitude = np.where(op == OPERATIONS.index(name), moved, magnitude)
    return Operations(op, np.where(negative & two_sided[op], -magnitude, magnitude))


def ildoonet_operations(
    op: Ints, negative: npt.NDArray[np.bool_], strength: int, cutout: npt.NDArray[np.float64]
) -> Operations:
    """The drawn operations of ILDOONET, [B, n], at one strength (0 to 30), in pixels of whatever they are done on;
    `negative` counts where an operation has two sides; cutout: [B, n, 2], as in Operations."""
    two_sided = np.array([name in _ILDOONET_TWO_SIDED for name in ILDOONET])
    # In the package's own order of operations: the last digit decides what is rounded down.
    values = np.array([strength / 30 * float(high - low) + low for low, high in _ILDOONET_RANGES])
    magnitude = values[op]
    return Operations(op, np.where(negative & two_sided[op], -magnitude, magnitude), "ildoonet", cutout=cutout)
