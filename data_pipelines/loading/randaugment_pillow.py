"""RandAugment's operations of github.com/ildoonet/pytorch-randaugment, by Pillow as there; see randaugment.ILDOONET."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

from data_pipelines.loading.randaugment import ILDOONET, IldoonetName, Operations

_CUTOUT_COLOUR = (125, 123, 114)
_CUTOUT_GREY = 123  # the same by Pillow's conversion
_SOLARIZE_FROM = 128

Point = tuple[float, float]


def _affine(image: Image.Image, x: Point, y: Point) -> Image.Image:
    """What lies at column + x[0] * row + x[1], row + y[0] * column + y[1]; the nearest pixel, and 0 outside."""
    return image.transform(image.size, Image.Transform.AFFINE, (1, x[0], x[1], y[0], 1, y[1]))


def _posterize(image: Image.Image, value: float, _: Point) -> Image.Image:
    return ImageOps.posterize(image, max(1, int(value)))


def _solarize_add(image: Image.Image, value: float, _: Point) -> Image.Image:
    # Rounded down, and inverted from 128 on as it is then.
    brighter = np.minimum(np.arange(256) + value, 255).astype(np.uint8)
    table = np.where(brighter < _SOLARIZE_FROM, brighter, 255 - brighter)
    return image.point(table.tolist() * len(image.getbands()))


def _cutout(image: Image.Image, value: float, centre: Point) -> Image.Image:
    """A filled square of `value` pixels; where it reaches over the upper or left edge it is moved in, not cut."""
    low = [int(max(0, share * side - value / 2)) for share, side in zip(centre, image.size, strict=True)]
    high = [min(side, start + value) for side, start in zip(image.size, low, strict=True)]
    image = image.copy()
    ImageDraw.Draw(image).rectangle([*low, *high], _CUTOUT_COLOUR if image.mode == "RGB" else _CUTOUT_GREY)
    return image


# Of an image, the operation's magnitude, and the centre of a cutout as shares of the width and height.
_APPLY: dict[IldoonetName, Callable[[Image.Image, float, Point], Image.Image]] = {
    "AutoContrast": lambda image, _, __: ImageOps.autocontrast(image),
    "Equalize": lambda image, _, __: ImageOps.equalize(image),
    "Invert": lambda image, _, __: ImageOps.invert(image),
    "Rotate": lambda image, degrees, _: image.rotate(degrees),
    "Posterize": _posterize,
    "Solarize": lambda image, threshold, _: ImageOps.solarize(image, threshold),  # type: ignore[arg-type]
    "SolarizeAdd": _solarize_add,
    "Color": lambda image, factor, _: ImageEnhance.Color(image).enhance(factor),
    "Contrast": lambda image, factor, _: ImageEnhance.Contrast(image).enhance(factor),
    "Brightness": lambda image, factor, _: ImageEnhance.Brightness(image).enhance(factor),
    "Sharpness": lambda image, factor, _: ImageEnhance.Sharpness(image).enhance(factor),
    "ShearX": lambda image, slope, _: _affine(image, (slope, 0), (0, 0)),
    "ShearY": lambda image, slope, _: _affine(image, (0, 0), (slope, 0)),
    "CutoutAbs": _cutout,
    "TranslateXabs": lambda image, pixels, _: _affine(image, (0, pixels), (0, 0)),
    "TranslateYabs": lambda image, pixels, _: _affine(image, (0, 0), (0, pixels)),
}


def randaugment(image: Tensor, operations: Operations, i: int) -> Tensor:
    """The i-th image, uint8 [C, H, W] with one channel or three, after its operations."""
    assert operations.cutout is not None, f"not of ildoonet: {operations.space}"
    pixels = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if len(image) == 1 else np.ascontiguousarray(pixels))
    drawn = (column[i].tolist() for column in (operations.op, operations.magnitude, operations.cutout))
    for op, magnitude, (x, y) in zip(*drawn, strict=True):
        picture = _APPLY[ILDOONET[op]](picture, magnitude, (x, y))
    return torch.from_numpy(np.array(picture).reshape(pixels.shape)).permute(2, 0, 1)
