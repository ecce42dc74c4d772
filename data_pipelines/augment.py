"""How each image is cut out of its picture: a pure function of (seed, position in the stream, image size).

Every policy describes a view by the same four things, so that each loader implements one pipeline:
cut `window` out of the stored image, resize it to `resized`, cut the square of `size` at `offset`, mirror it if `flip`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from data_pipelines.draws import integers, uniform

Ints = npt.NDArray[np.int64]
PolicyName = Literal["random_resized_crop", "resize_random_crop", "center_crop", "squash"]

# What a draw is for. Part of the hash: a new purpose takes a new number and leaves the other draws as they were.
_FLIP, _CROP_TOP, _CROP_LEFT, _MIXUP, _CROP_AREA, _CROP_RATIO = range(6)

_CROP_ATTEMPTS = 10
_CROP_SCALE = (0.08, 1.0)
_CROP_RATIO_RANGE = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Views:
    """B views, in pixels.

    window: int64 [B, 4] = top, left, height, width. resized, offset: int64 [B, 2] = height, width and top, left.
    flip: bool [B].
    """

    window: Ints
    resized: Ints
    offset: Ints
    flip: npt.NDArray[np.bool_]
    size: int


def random_resized_crop(seed: int, positions: Ints, heights: Ints, widths: Ints, size: int, resize: int) -> Views:
    """Random area (8-100%) and aspect ratio (3:4 to 4:3), resized to `size`; `resize` is not used.

    Source: Szegedy et al., arXiv:1409.4842; rounding and the centred fall-back as in torchvision.
    """
    attempts = np.arange(_CROP_ATTEMPTS)[:, None]
    area = uniform(seed, positions, _CROP_AREA, attempts) * (_CROP_SCALE[1] - _CROP_SCALE[0]) + _CROP_SCALE[0]
    low, high = np.log(_CROP_RATIO_RANGE)
    ratio = np.exp(uniform(seed, positions, _CROP_RATIO, attempts) * (high - low) + low)
    width = np.rint(np.sqrt(area * heights * widths * ratio)).astype(np.int64)
    height = np.rint(np.sqrt(area * heights * widths / ratio)).astype(np.int64)
    fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
    first, columns = fits.argmax(axis=0), np.arange(len(positions))
    height, width, found = height[first, columns], width[first, columns], fits.any(axis=0)

    # No attempt fitted: the largest centred window within the allowed ratios.
    height = np.where(found, height, np.minimum(heights, np.rint(widths / _CROP_RATIO_RANGE[0]).astype(np.int64)))
    width = np.where(found, width, np.minimum(widths, np.rint(heights * _CROP_RATIO_RANGE[1]).astype(np.int64)))
    top = np.where(found, integers(heights - height + 1, seed, positions, _CROP_TOP), (heights - height) // 2)
    left = np.where(found, integers(widths - width + 1, seed, positions, _CROP_LEFT), (widths - width) // 2)
    window = np.stack([top, left, height, width], axis=1)
    resized = _both(np.full(len(positions), size))
    return Views(window, resized, np.zeros_like(resized), _flip(seed, positions), size)


def resize_random_crop(seed: int, positions: Ints, heights: Ints, widths: Ints, size: int, resize: int) -> Views:
    """Squash to `resize` x `resize`, then a random square of `size`: BiT's transfer training (arXiv:1912.11370)."""
    bound = resize - size + 1
    offset = np.stack(
        [integers(bound, seed, positions, _CROP_TOP), integers(bound, seed, positions, _CROP_LEFT)], axis=1
    )
    return Views(_whole(heights, widths), _both(np.full(len(positions), resize)), offset, _flip(seed, positions), size)


def center_crop(seed: int, positions: Ints, heights: Ints, widths: Ints, size: int, resize: int) -> Views:
    """Shorter side to `resize`, then the central square of `size`: the usual ImageNet evaluation. Draws nothing."""
    shorter = np.minimum(heights, widths)
    resized = np.stack([heights * resize // shorter, widths * resize // shorter], axis=1)
    no_flip = np.zeros(len(positions), dtype=np.bool_)
    return Views(_whole(heights, widths), resized, (resized - size) // 2, no_flip, size)


def squash(seed: int, positions: Ints, heights: Ints, widths: Ints, size: int, resize: int) -> Views:
    """Squash to `size` x `size`: BiT's transfer evaluation. Draws nothing; `resize` is not used."""
    whole, no_flip = _whole(heights, widths), np.zeros(len(positions), dtype=np.bool_)
    return Views(whole, _both(np.full(len(positions), size)), np.zeros_like(whole[:, :2]), no_flip, size)


Policy = Callable[[int, Ints, Ints, Ints, int, int], Views]
POLICIES: dict[PolicyName, Policy] = {
    "random_resized_crop": random_resized_crop,
    "resize_random_crop": resize_random_crop,
    "center_crop": center_crop,
    "squash": squash,
}


@dataclass(frozen=True)
class Augmentation:
    """A policy with its numbers. `flip` = False switches mirroring off, for images whose mirror image means another
    thing; `mixup_alpha` = 0 switches MixUp off."""

    policy: PolicyName
    size: int
    resize: int
    seed: int = 0
    flip: bool = True
    mixup_alpha: float = 0.0

    def views(self, positions: Ints, heights: Ints, widths: Ints) -> Views:
        """The views of B images of the given sizes (pixels, [B]) at B positions of the stream."""
        views = POLICIES[self.policy](self.seed, positions, heights, widths, self.size, self.resize)
        return views if self.flip else replace(views, flip=np.zeros_like(views.flip))

    def mixup(self, positions: Ints) -> npt.NDArray[np.float32] | None:
        """Share of the own image in each mixture, float32 [B]; None without MixUp."""
        return mixup_weights(self.seed, positions, self.mixup_alpha) if self.mixup_alpha else None


def mixup_weights(seed: int, positions: Ints, alpha: float) -> npt.NDArray[np.float32]:
    """Share of the own image in each mixture, float32 [B], from Beta(alpha, alpha); position p mixes with p XOR 1.

    Both partners draw the same weight. Source: Zhang et al., arXiv:1710.09412.
    """
    weights: npt.NDArray[np.float32] = betaincinv(alpha, alpha, uniform(seed, positions >> 1, _MIXUP)).astype(
        np.float32
    )
    return weights


def _flip(seed: int, positions: Ints) -> npt.NDArray[np.bool_]:
    return uniform(seed, positions, _FLIP) < 0.5


def _whole(heights: Ints, widths: Ints) -> Ints:
    return np.stack([np.zeros_like(heights), np.zeros_like(widths), heights, widths], axis=1)


def _both(side: Ints) -> Ints:
    return np.stack([side, side], axis=1)
