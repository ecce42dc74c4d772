"""BiT-HyperRule: fine-tuning settings from the training set's size and image size alone.

Source: Kolesnikov et al., "Big Transfer", arXiv:1912.11370, sec. 3.3, with the edges of its published code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_SMALL_IMAGES, _MEDIUM_IMAGES = 20_000, 500_000
_SMALL_AREA = 96 * 96
_MIXUP_ALPHA = 0.1


@dataclass(frozen=True)
class HyperRule:
    """The rule's choices. Steps: the end of the warm-up, each x0.1 decay, and the end of training. Pixels: images are
    squashed to `resize` and cropped to `size`."""

    schedule: tuple[int, ...]
    mixup_alpha: float
    resize: int
    size: int


def schedule_for(num_images: int) -> tuple[int, ...]:
    """The rule's schedule for `num_images` training images, steps."""
    if num_images < _SMALL_IMAGES:
        return 100, 200, 300, 400, 500
    if num_images < _MEDIUM_IMAGES:
        return 500, 3000, 6000, 9000, 10_000
    return 500, 6000, 12_000, 18_000, 20_000


def hyperrule(num_images: int, height: int, width: int) -> HyperRule:
    """The rule for `num_images` training images of `height` x `width` pixels."""
    resize, size = (160, 128) if height * width < _SMALL_AREA else (512, 480)
    return HyperRule(schedule_for(num_images), 0.0 if num_images < _SMALL_IMAGES else _MIXUP_ALPHA, resize, size)


def stretched(schedule: Sequence[int], total_steps: int) -> tuple[int, ...]:
    """The same schedule in proportion, ending at `total_steps`."""
    return tuple(round(step * total_steps / schedule[-1]) for step in schedule)


def hyperrule_lr(step: int, base_lr: float, schedule: Sequence[int]) -> float:
    """Learning rate of the update at `step` (0-based): linear from 0 over the warm-up, then x0.1 after each of the
    middle steps of the schedule. A decay at 200 means that step 200 is the last one before it."""
    warmup, *decays, _ = schedule
    if step < warmup:
        return base_lr * step / warmup
    return base_lr * 0.1 ** sum(step > decay for decay in decays)
