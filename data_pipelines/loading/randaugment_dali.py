"""RandAugment's operations in DALI, on CPU and GPU; operation and magnitude of each image are inputs.

They give what torchvision's give for uint8, but for rounding: color and contrast may differ by 1 of 255 in a few
pixels, equalize in more; where a rotation falls between two pixels, it may take the other one.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn
from nvidia.dali import math as dali_math
from nvidia.dali.types import Constant, DALIDataType, DALIInterpType

from data_pipelines.loading.randaugment import OPERATIONS, Operations
from data_pipelines.loading.views import affine_maps

INPUTS = 3  # of each operation: op, warp, value

_OP = {name: place for place, name in enumerate(OPERATIONS)}
_IDENTITY, _LAST_WARP = _OP["Identity"], _OP["Rotate"]
_BRIGHTNESS, _COLOR, _CONTRAST, _SHARPNESS = (_OP[name] for name in ("Brightness", "Color", "Contrast", "Sharpness"))
_POSTERIZE, _SOLARIZE, _AUTOCONTRAST, _EQUALIZE = (
    _OP[name] for name in ("Posterize", "Solarize", "AutoContrast", "Equalize")
)

_UINT8 = DALIDataType.UINT8
_GREY = [0.2989, 0.587, 0.114]
# DALI rounds to integers where torchvision truncates. Half would leave whole numbers to the rounding of ties.
_TRUNCATE = -0.499


def host_inputs(operations: Operations, size: int, channels: int) -> list[npt.NDArray[Any]]:
    """What `randaugment` needs of n operations on B images, INPUTS arrays for each of the n.

    op: int32 [B]. warp: float32 [B, 2, 3], as in Views. value: float32 [B], the factor of brightness, color, contrast
    and sharpness, the bits that posterize keeps as a mask, the value from which solarize inverts.
    """
    assert (operations.space, operations.on) == ("torchvision", "crop"), (
        "DALI has only the operations of torchvision, on crops"
    )
    inputs: list[npt.NDArray[Any]] = []
    for op, magnitude in zip(operations.op.T, operations.magnitude.T, strict=True):
        bits = np.where(op == _POSTERIZE, magnitude, 8)
        value = np.select([op == _POSTERIZE, op == _SOLARIZE], [256 - 2 ** (8 - bits), magnitude], 1 + magnitude)
        if channels == 1:
            op = np.where(op == _COLOR, _IDENTITY, op)
        inputs += [op.astype(np.int32), _warps(op, magnitude, size), value.astype(np.float32)]
    return inputs


def _warps(op: npt.NDArray[np.int64], magnitude: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """The geometric operations as maps from output to input places; the identity for all others."""
    # torchvision's `rotate` turns the other way than its `affine`.
    angle = np.where(op == _OP["Rotate"], -magnitude, 0)
    pixels = np.trunc(magnitude)
    shift = np.stack([(op == _OP["TranslateX"]) * pixels, (op == _OP["TranslateY"]) * pixels], axis=1)
    warps = affine_maps(size, angle, np.ones(len(op)), shift)
    warps[:, 0, 1] += (op == _OP["ShearX"]) * magnitude
    warps[:, 1, 0] += (op == _OP["ShearY"]) * magnitude
    return warps


def randaugment(images: Any, op: Any, warp: Any, value: Any, size: int, channels: int) -> Any:
    """One operation on each image, uint8 HWC, within a pipeline with conditionals; the rest as in `host_inputs`."""
    if (op > _IDENTITY) & (op <= _LAST_WARP):
        images = fn.warp_affine(images, matrix=warp, fill_value=0, interp_type=DALIInterpType.INTERP_NN)
    elif op == _BRIGHTNESS:
        images = fn.brightness_contrast(images, brightness=value, brightness_shift=_TRUNCATE / 255)
    elif op == _COLOR:
        images = _blend(images, _grey(images, channels), value)
    elif op == _CONTRAST:
        images = _blend(images, fn.reductions.mean(_grey(images, channels), keep_dims=True), value)
    elif op == _SHARPNESS:
        images = _sharpness(images, value, size)
    elif op == _POSTERIZE:
        images = images & _beside(images, fn.cast(value, dtype=_UINT8))
    elif op == _SOLARIZE:
        images = images ^ ((images >= _beside(images, value)) * np.uint8(255))
    elif op == _AUTOCONTRAST:
        images = _autocontrast(images)
    elif op == _EQUALIZE:
        images = _equalize(images)
    return images


def _beside(images: Any, node: Any) -> Any:
    """A value of each image on the device of the images."""
    return node.gpu() if images.device == "gpu" else node


def _grey(images: Any, channels: int) -> Any:
    """uint8 [H, W, 1], rounded down."""
    return fn.coord_transform(images, M=_GREY, T=[_TRUNCATE], dtype=_UINT8) if channels == 3 else images


def _blend(images: Any, other: Any, factor: Any) -> Any:
    """factor * images + (1 - factor) * other, rounded down."""
    # One pass over the bytes, where multiplying and adding are two.
    scaled = fn.brightness_contrast(images, brightness=factor, brightness_shift=_TRUNCATE, dtype=DALIDataType.FLOAT)
    return fn.cast(scaled + other * _beside(images, 1 - factor), dtype=_UINT8)


def _sharpness(images: Any, factor: Any, size: int) -> Any:
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    sharpened = _blend(images, fn.filter(images, Constant(kernel, device=images.device)), factor)
    # The outermost pixels stay as they are: they have no complete neighbourhood.
    inside = np.zeros((size, size, 1), np.uint8)
    inside[1:-1, 1:-1] = 255
    return _where(Constant(inside, device=images.device), sharpened, images)


def _autocontrast(images: Any) -> Any:
    low = fn.reductions.min(images, axis_names="HW", keep_dims=True)
    high = fn.reductions.max(images, axis_names="HW", keep_dims=True)
    flat = low == high
    stretched = dali_math.floor((images - low) / ((high - low) * (1 / 255) + flat))
    return _where(flat * np.uint8(255), images, fn.cast(stretched, dtype=_UINT8))


def _equalize(images: Any) -> Any:
    """As Pillow and torchvision do it.

    With c(v) = how many pixels lie below v and M = how many lie below the highest value, DALI equalizes the negative to
    255 - 255 c / M, rounded. Theirs is c / step, where step = M // 255, and nothing at all where step = 0.
    """
    highest = fn.reductions.max(images, axis_names="HW", keep_dims=True)
    is_below = fn.cast(images < highest, dtype=_UINT8)
    below = fn.reductions.sum(is_below, axis_names="HW", keep_dims=True)
    step = below // 255
    share = fn.equalize(images ^ np.uint8(255)) ^ np.uint8(255)
    ratio = below / (255.0 * dali_math.max(step, 1))
    return _where((step > 0) * np.uint8(255), fn.cast(share * ratio, dtype=_UINT8), images)


def _where(mask: Any, chosen: Any, other: Any) -> Any:
    """`chosen` where the mask is 255, `other` where it is 0, all of them uint8."""
    return other ^ ((other ^ chosen) & mask)
