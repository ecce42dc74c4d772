"""How each image is cut out of its picture: a pure function of (seed, position in the stream, image size).

Every policy describes a view by the same things, so that each loader implements one pipeline: cut `window` out of the
stored image, resize it to `resized`, cut the square of `size` at `offset`, mirror it if `flip`; then, where there are
any, RandAugment's `operations`, and last the `warp`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from data_pipelines.draws import integers, uniform
from data_pipelines.randaugment import OPERATIONS, Operations, signed_operations

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
PolicyName = Literal[
    "random_resized_crop", "resize_random_crop", "shorter_side_random_crop", "center_crop", "squash", "xray_affine"
]

# Furthest shift of a chest X-ray, as a share of its side: what arXiv:2106.00116 says, and what its program does.
PAPER_TRANSLATION, AUTHORS_TRANSLATION = 0.15, 0.25

# What a draw is for. Part of the hash: a new purpose takes a new number and leaves the other draws as they were.
_FLIP, _CROP_TOP, _CROP_LEFT, _MIXUP, _CROP_AREA, _CROP_RATIO = range(6)
_ANGLE, _SCALE, _SHIFT_X, _SHIFT_Y, _OPERATION, _SIGN = range(6, 12)

_CROP_ATTEMPTS = 10
_CROP_SCALE = (0.08, 1.0)
_CROP_RATIO_RANGE = (3 / 4, 4 / 3)
_LARGEST_ANGLE = 45.0
_LARGEST_SCALING = 0.1


@dataclass(frozen=True)
class Views:
    """B views, in pixels.

    window: int64 [B, 4] = top, left, height, width. resized, offset: int64 [B, 2] = height, width and top, left.
    flip: bool [B]. warp: float32 [B, 2, 3], the place (x, y) in the picture that an output place (x, y) shows, where
    (0, 0) is the outer corner of the first pixel and (0.5, 0.5) its centre; bilinear, and 0 outside the picture.
    """

    window: Ints
    resized: Ints
    offset: Ints
    flip: npt.NDArray[np.bool_]
    size: int
    warp: npt.NDArray[np.float32] | None = None
    operations: Operations | None = None


def random_resized_crop(numbers: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """Random area (8-100%) and aspect ratio (3:4 to 4:3), resized to `size`.

    Source: Szegedy et al., arXiv:1409.4842; rounding and the centred fall-back as in torchvision.
    """
    seed, attempts = numbers.seed, np.arange(_CROP_ATTEMPTS)[:, None]
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
    resized = _both(np.full(len(positions), numbers.size))
    return Views(window, resized, np.zeros_like(resized), _flip(seed, positions), numbers.size)


def resize_random_crop(numbers: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """Squash to `resize` x `resize`, then a random square of `size`: BiT's transfer training (arXiv:1912.11370)."""
    seed, bound = numbers.seed, numbers.resize - numbers.size + 1
    offset = np.stack(
        [integers(bound, seed, positions, _CROP_TOP), integers(bound, seed, positions, _CROP_LEFT)], axis=1
    )
    resized = _both(np.full(len(positions), numbers.resize))
    return Views(_whole(heights, widths), resized, offset, _flip(seed, positions), numbers.size)


def center_crop(numbers: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """Shorter side to `resize`, then the central square of `size`: the usual ImageNet evaluation. Draws nothing."""
    shorter = np.minimum(heights, widths)
    resized = np.stack([heights * numbers.resize // shorter, widths * numbers.resize // shorter], axis=1)
    no_flip = np.zeros(len(positions), dtype=np.bool_)
    return Views(_whole(heights, widths), resized, (resized - numbers.size) // 2, no_flip, numbers.size)


def squash(numbers: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """Squash to `size` x `size`: BiT's transfer evaluation. Draws nothing."""
    whole, no_flip = _whole(heights, widths), np.zeros(len(positions), dtype=np.bool_)
    resized = _both(np.full(len(positions), numbers.size))
    return Views(whole, resized, np.zeros_like(resized), no_flip, numbers.size)


def xray_affine(numbers: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """The central square, resized to `size`, then one warp: rotated by up to 45 degrees and scaled by 0.9 to 1.1 about
    the centre, shifted by up to `translation` of the side along each axis.

    Source: the augmentation of chest X-rays in arXiv:2106.00116, sec. 2.
    """
    side = np.minimum(heights, widths)
    window = np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)

    def within_one(purpose: int) -> Floats:
        return 2 * uniform(numbers.seed, positions, purpose) - 1

    reach = numbers.translation * numbers.size
    warp = affine_maps(
        numbers.size,
        angle=_LARGEST_ANGLE * within_one(_ANGLE),
        scale=1 + _LARGEST_SCALING * within_one(_SCALE),
        shift=reach * np.stack([within_one(_SHIFT_X), within_one(_SHIFT_Y)], axis=1),
    )
    resized = _both(np.full(len(positions), numbers.size))
    return Views(window, resized, np.zeros_like(resized), _flip(numbers.seed, positions), numbers.size, warp)


def affine_maps(size: int, angle: Floats, scale: Floats, shift: Floats) -> npt.NDArray[np.float32]:
    """Warps, as in Views, that turn a square clockwise by `angle` (degrees, [B]) and enlarge it by `scale` ([B]) about
    its centre, then move it by `shift` (pixels to the right and down, [B, 2]); torchvision composes them so."""
    cosine, sine = np.cos(np.deg2rad(angle)) / scale, np.sin(np.deg2rad(angle)) / scale
    linear = np.stack([np.stack([cosine, sine], axis=1), np.stack([-sine, cosine], axis=1)], axis=1)
    start = size / 2 - linear @ (size / 2 + shift)[:, :, None]
    return np.concatenate([linear, start], axis=2).astype(np.float32)


Policy = Callable[["Augmentation", Ints, Ints, Ints], Views]
POLICIES: dict[PolicyName, Policy] = {
    "random_resized_crop": random_resized_crop,
    "resize_random_crop": resize_random_crop,
    "center_crop": center_crop,
    "squash": squash,
    "xray_affine": xray_affine,
}


@dataclass(frozen=True)
class Augmentation:
    """A policy with its numbers.

    `size` is the side of what comes out; only resize_random_crop and center_crop use `resize`, only xray_affine uses
    `translation`, a share of the side. `flip` = False switches mirroring off, for images whose mirror image means
    another thing; `mixup_alpha` = 0 switches MixUp off. RandAugment goes with any policy: `randaugment_ops` operations
    on each image, 0 = off, of strength `randaugment_magnitude`, 0 to 30.
    """

    policy: PolicyName
    size: int
    resize: int
    seed: int = 0
    flip: bool = True
    mixup_alpha: float = 0.0
    randaugment_ops: int = 0
    randaugment_magnitude: int = 9
    translation: float = PAPER_TRANSLATION

    def views(self, positions: Ints, heights: Ints, widths: Ints) -> Views:
        """The views of B images of the given sizes (pixels, [B]) at B positions of the stream."""
        views = POLICIES[self.policy](self, positions, heights, widths)
        flip = views.flip if self.flip else np.zeros_like(views.flip)
        return replace(views, flip=flip, operations=self.operations(positions))

    def operations(self, positions: Ints) -> Operations | None:
        """RandAugment's operations at B positions; None where it is off."""
        if not self.randaugment_ops:
            return None
        rows, turns = positions[:, None], np.arange(self.randaugment_ops)
        op = integers(len(OPERATIONS), self.seed, rows, _OPERATION, turns)
        negative = uniform(self.seed, rows, _SIGN, turns) < 0.5
        return signed_operations(op, negative, self.randaugment_magnitude, self.size)

    def mixup(self, positions: Ints) -> npt.NDArray[np.float32] | None:
        """Share of the own image in each mixture, float32 [B]; None without MixUp."""
        return mixup_weights(self.seed, positions, self.mixup_alpha) if self.mixup_alpha else None


def mixup_weights(seed: int, positions: Ints, alpha: float) -> npt.NDArray[np.float32]:
    """Share of the own image in each mixture, float32 [B], from Beta(alpha, alpha); position p mixes with p XOR 1.

    Both partners draw the same weight. Source: Zhang et al., arXiv:1710.09412.
    """
    from scipy.special import betaincinv  # MixUp alone needs it

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
