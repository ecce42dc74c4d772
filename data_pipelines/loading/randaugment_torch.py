"""RandAugment's operations in torchvision, the reference for those in DALI."""

from collections.abc import Callable
from math import atan, degrees

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from data_pipelines.loading.randaugment import OPERATIONS, OperationName, Operations


def _shear(image: Tensor, x: float, y: float) -> Tensor:
    angles = [degrees(atan(x)), degrees(atan(y))]
    sheared: Tensor = F.affine(image, angle=0, translate=[0, 0], scale=1, shear=angles, center=[0, 0])
    return sheared


def _translate(image: Tensor, x: float, y: float) -> Tensor:
    shifted: Tensor = F.affine(image, angle=0, translate=[int(x), int(y)], scale=1, shear=[0, 0])
    return shifted


_APPLY: dict[OperationName, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, slope: _shear(image, slope, 0),
    "ShearY": lambda image, slope: _shear(image, 0, slope),
    "TranslateX": lambda image, pixels: _translate(image, pixels, 0),
    "TranslateY": lambda image, pixels: _translate(image, 0, pixels),
    "Rotate": lambda image, angle: F.rotate(image, angle),
    "Brightness": lambda image, change: F.adjust_brightness(image, 1 + change),
    "Color": lambda image, change: F.adjust_saturation(image, 1 + change),
    "Contrast": lambda image, change: F.adjust_contrast(image, 1 + change),
    "Sharpness": lambda image, change: F.adjust_sharpness(image, 1 + change),
    "Posterize": lambda image, bits: F.posterize(image, int(bits)),
    "Solarize": lambda image, threshold: F.solarize(image, threshold),
    "AutoContrast": lambda image, _: F.autocontrast(image),
    "Equalize": lambda image, _: F.equalize(image),
}


def randaugment(image: Tensor, operations: Operations, i: int) -> Tensor:
    """The i-th image, uint8 [C, H, W], after its operations: nearest-neighbour, and 0 outside the picture."""
    for op, magnitude in zip(operations.op[i].tolist(), operations.magnitude[i].tolist(), strict=True):
        image = _APPLY[OPERATIONS[op]](image, magnitude)
    return image
