"""How each image is cropped and augmented: a pure function of (seed, position in the stream, image size).

Every policy describes a view by the same things, so that each loader implements one pipeline: cut `window` out of the
stored image, resize it to `resized`, cut the square of `size` at `offset`, mirror it if `flip`; then, where there are
any, RandAugment's `operations`, unless they are for the whole picture and come first, and last the `warp`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum, unique
from math import ceil, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from data_pipelines.common.counter_rng import integers, uniform
from data_pipelines.loading.randaugment import (
    SPACES,
    Operand,
    Operations,
    Space,
    ildoonet_operations,
    signed_operations,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
PolicyName = Literal[
    "random_resized_crop", "resize_random_crop", "shorter_side_random_crop", "center_crop", "squash", "xray_affine"
]
Border = Literal["black", "reflect"]
MixUpWeight = Literal["pair", "step"]

# The policies that use `resize`.
RESIZE_FIRST: tuple[PolicyName, ...] = ("resize_random_crop", "shorter_side_random_crop", "center_crop")

# Furthest shift of a chest X-ray, as a share of its side: what arXiv:2106.00116 says, and what its program does.
PAPER_TRANSLATION, AUTHORS_TRANSLATION = 0.15, 0.25

_CROP_ATTEMPTS = 10
_CROP_SCALE = (0.08, 1.0)
_CROP_RATIO_RANGE = (3 / 4, 4 / 3)
_LARGEST_ANGLE = 45.0
_LARGEST_SCALING = 0.1
PAIR = 2  # positions that mix with each other


@unique
class Purpose(IntEnum):
    """What a draw is for. Part of the hash: a new purpose takes a new number and leaves other draws as they were."""

    FLIP = 0
    CROP_TOP = 1
    CROP_LEFT = 2
    MIXUP = 3
    CROP_AREA = 4
    CROP_RATIO = 5
    ANGLE = 6
    SCALE = 7
    SHIFT_X = 8
    SHIFT_Y = 9
    OPERATION = 10
    SIGN = 11
    CUTOUT_X = 12
    CUTOUT_Y = 13


@dataclass(frozen=True)
class Views:
    """B views, in pixels.

    window: int64 [B, 4] = top, left, height, width. resized, offset: int64 [B, 2] = height, width and top, left.
    flip: bool [B]. warp: float32 [B, 2, 3], the place (x, y) in the picture that an output place (x, y) shows, where
    (0, 0) is the outer corner of the first pixel and (0.5, 0.5) its centre; bilinear. border: what lies outside the
    picture, 0 or its reflection about the centres of its outermost pixels, which stand once (OpenCV's
    BORDER_REFLECT_101).
    """

    window: Ints
    resized: Ints
    offset: Ints
    flip: npt.NDArray[np.bool_]
    size: int
    warp: npt.NDArray[np.float32] | None = None
    operations: Operations | None = None
    border: Border = "black"


def random_resized_crop(augmentation: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """Random area (8-100%) and aspect ratio (3:4 to 4:3), resized to `size`.

    Source: Szegedy et al., arXiv:1409.4842; rounding and the centred fall-back as in torchvision.
    """
    seed, attempts = augmentation.seed, np.arange(_CROP_ATTEMPTS)[:, None]
    area = uniform(seed, positions, Purpose.CROP_AREA, attempts) * (_CROP_SCALE[1] - _CROP_SCALE[0]) + _CROP_SCALE[0]
    low, high = np.log(_CROP_RATIO_RANGE)
    ratio = np.exp(uniform(seed, positions, Purpose.CROP_RATIO, attempts) * (high - low) + low)
    width = np.rint(np.sqrt(area * heights * widths * ratio)).astype(np.int64)
    height = np.rint(np.sqrt(area * heights * widths / ratio)).astype(np.int64)
    fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
    first, columns = fits.argmax(axis=0), np.arange(len(positions))
    height, width, found = height[first, columns], width[first, columns], fits.any(axis=0)

    # No attempt fitted: the largest centred window within the allowed ratios.
    height = np.where(found, height, np.minimum(heights, np.rint(widths / _CROP_RATIO_RANGE[0]).astype(np.int64)))
    width = np.where(found, width, np.minimum(widths, np.rint(heights * _CROP_RATIO_RANGE[1]).astype(np.int64)))
    top = np.where(found, integers(heights - height + 1, seed, positions, Purpose.CROP_TOP), (heights - height) // 2)
    left = np.where(found, integers(widths - width + 1, seed, positions, Purpose.CROP_LEFT), (widths - width) // 2)
    window = np.stack([top, left, height, width], axis=1)
    resized = _both(np.full(len(positions), augmentation.size))
    return Views(window, resized, np.zeros_like(resized), _flip(seed, positions), augmentation.size)


def resize_random_crop(augmentation: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """Squash to `resize` x `resize`, then a random square of `size`: BiT's transfer training (arXiv:1912.11370)."""
    seed, bound = augmentation.seed, augmentation.resize - augmentation.size + 1
    offset = np.stack(
        [integers(bound, seed, positions, Purpose.CROP_TOP), integers(bound, seed, positions, Purpose.CROP_LEFT)],
        axis=1,
    )
    resized = _both(np.full(len(positions), augmentation.resize))
    return Views(_whole(heights, widths), resized, offset, _flip(seed, positions), augmentation.size)


def shorter_side_random_crop(augmentation: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """Shorter side to `resize`, keeping the aspect, then a random square of `size`: the transfer training of the
    authors' program of arXiv:2106.00116, where BiT squashes. Rounded and drawn from as torchvision's Resize and
    RandomCrop do it."""
    resized = _shorter_side_to(augmentation.resize, heights, widths)
    top, left = (resized - augmentation.size + 1).T
    seed = augmentation.seed
    offset = np.stack(
        [integers(top, seed, positions, Purpose.CROP_TOP), integers(left, seed, positions, Purpose.CROP_LEFT)], axis=1
    )
    return Views(_whole(heights, widths), resized, offset, _flip(seed, positions), augmentation.size)


def center_crop(augmentation: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """Shorter side to `resize`, then the central square of `size`: the usual ImageNet evaluation. Draws nothing."""
    resized = _shorter_side_to(augmentation.resize, heights, widths)
    no_flip = np.zeros(len(positions), dtype=np.bool_)
    return Views(_whole(heights, widths), resized, (resized - augmentation.size) // 2, no_flip, augmentation.size)


def squash(augmentation: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """Squash to `size` x `size`: BiT's transfer evaluation. Draws nothing."""
    whole, no_flip = _whole(heights, widths), np.zeros(len(positions), dtype=np.bool_)
    resized = _both(np.full(len(positions), augmentation.size))
    return Views(whole, resized, np.zeros_like(resized), no_flip, augmentation.size)


def xray_affine(augmentation: "Augmentation", positions: Ints, heights: Ints, widths: Ints) -> Views:
    """The central square, resized to `size`, then one warp: rotated by up to 45 degrees and scaled by 0.9 to 1.1 about
    the centre, shifted by up to `translation` of the side along each axis. Outside the picture lies `border`.

    Source: the augmentation of chest X-rays in arXiv:2106.00116, sec. 2; its authors' program reflects at the border.
    """
    side = np.minimum(heights, widths)
    window = np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)

    def within_one(purpose: Purpose) -> Floats:
        return 2 * uniform(augmentation.seed, positions, purpose) - 1

    reach = augmentation.translation * augmentation.size
    warp = affine_maps(
        augmentation.size,
        angle=_LARGEST_ANGLE * within_one(Purpose.ANGLE),
        scale=1 + _LARGEST_SCALING * within_one(Purpose.SCALE),
        shift=reach * np.stack([within_one(Purpose.SHIFT_X), within_one(Purpose.SHIFT_Y)], axis=1),
    )
    resized = _both(np.full(len(positions), augmentation.size))
    return Views(window, resized, np.zeros_like(resized), _flip(augmentation.seed, positions), augmentation.size, warp)


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
    "shorter_side_random_crop": shorter_side_random_crop,
    "center_crop": center_crop,
    "squash": squash,
    "xray_affine": xray_affine,
}


@dataclass(frozen=True)
class Augmentation:
    """A crop policy and its parameters, MixUp and RandAugment.

    `size` is the side of what comes out; only RESIZE_FIRST use `resize`, only xray_affine uses `translation`, a share
    of the side, and `border`. `flip` = False switches mirroring off, for images whose mirror image means another thing;
    `mixup_alpha` = 0 switches MixUp off; `mixup_group` positions in a row, an even number, have one weight.
    RandAugment goes with any policy: `randaugment_ops` operations on each image, 0 = off, of strength
    `randaugment_magnitude`, 0 to 30, from `randaugment_space`, on the view or on the whole picture before.
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
    border: Border = "black"
    mixup_group: int = PAIR
    randaugment_space: Space = "torchvision"
    randaugment_on: Operand = "crop"

    def views(self, positions: Ints, heights: Ints, widths: Ints) -> Views:
        """The views of B images of the given sizes (pixels, [B]) at B positions of the stream."""
        views = POLICIES[self.policy](self, positions, heights, widths)
        flip = views.flip if self.flip else np.zeros_like(views.flip)
        return replace(views, flip=flip, operations=self.operations(positions, heights, widths), border=self.border)

    def operations(self, positions: Ints, heights: Ints, widths: Ints) -> Operations | None:
        """RandAugment's operations on B pictures of the given sizes (pixels, [B]); None where it is off."""
        if not self.randaugment_ops:
            return None
        rows, places = positions[:, None], np.arange(self.randaugment_ops)
        op = integers(len(SPACES[self.randaugment_space]), self.seed, rows, Purpose.OPERATION, places)
        negative = uniform(self.seed, rows, Purpose.SIGN, places) < 0.5
        if self.randaugment_space == "ildoonet":
            cutout = [uniform(self.seed, rows, purpose, places) for purpose in (Purpose.CUTOUT_X, Purpose.CUTOUT_Y)]
            drawn = ildoonet_operations(op, negative, self.randaugment_magnitude, np.stack(cutout, axis=2))
        elif self.randaugment_on == "image":
            drawn = signed_operations(op, negative, self.randaugment_magnitude, heights[:, None], widths[:, None])
        else:
            drawn = signed_operations(op, negative, self.randaugment_magnitude, self.size, self.size)
        return replace(drawn, on=self.randaugment_on)

    def mixup(self, positions: Ints) -> npt.NDArray[np.float32] | None:
        """MixUp weight (lambda) of each sample's own image, float32 [B]; None without MixUp."""
        return mixup_weights(self.seed, positions, self.mixup_alpha, self.mixup_group) if self.mixup_alpha else None

    @property
    def reflections(self) -> int:
        """Mirrored copies that must lie on each side of a square for all that a warp of xray_affine shows, with
        `border` "reflect"; neighbours share the pixels of their edge. Otherwise 0."""
        if self.border != "reflect":
            return 0
        # Furthest from the centre along an axis is a corner that is turned by 45 degrees, shrunk and moved.
        from_centre = sqrt(2) * (0.5 + self.translation) * self.size / (1 - _LARGEST_SCALING)
        return ceil((from_centre - self.size / 2 + 1) / (self.size - 1))


def mixup_weights(seed: int, positions: Ints, alpha: float, group: int = PAIR) -> npt.NDArray[np.float32]:
    """Share of the own image in each mixture, float32 [B], from Beta(alpha, alpha); position p mixes with p XOR 1.

    That is a random partner: the order of the images is random. `group` positions in a row draw the same weight: 2, or
    all of a step, as the authors' program of arXiv:2106.00116 does. The means are the same; pairs of their own vary
    less from step to step. Source: Zhang et al., arXiv:1710.09412.
    """
    from scipy.special import betaincinv  # MixUp alone needs it

    weights: npt.NDArray[np.float32] = betaincinv(
        alpha, alpha, uniform(seed, positions // group, Purpose.MIXUP)
    ).astype(np.float32)
    return weights


def _flip(seed: int, positions: Ints) -> npt.NDArray[np.bool_]:
    return uniform(seed, positions, Purpose.FLIP) < 0.5


def _whole(heights: Ints, widths: Ints) -> Ints:
    return np.stack([np.zeros_like(heights), np.zeros_like(widths), heights, widths], axis=1)


def _shorter_side_to(side: int, heights: Ints, widths: Ints) -> Ints:
    """Sizes with the shorter side so long, [B, 2]; the longer one rounded down, as torchvision's Resize does."""
    shorter = np.minimum(heights, widths)
    return np.stack([heights * side // shorter, widths * side // shorter], axis=1)


def _both(side: Ints) -> Ints:
    return np.stack([side, side], axis=1)
