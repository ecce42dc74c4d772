"""Learning rates of pre-training, as pure functions of the step."""

import math
from typing import Literal

ScheduleName = Literal["step", "cosine"]
RESCALE_IMAGES = 256
_DECAY_AT = (30 / 90, 60 / 90, 80 / 90)  # of the run; the paper's epochs 30, 60 and 80 of 90
_DECAY = 0.1


def rescaled(base_lr: float, global_batch_size: int) -> float:
    """Peak learning rate: `base_lr` for each 256 images of the batch (Goyal et al., arXiv:1706.02677)."""
    return base_lr * global_batch_size / RESCALE_IMAGES


def learning_rate(step: int, peak_lr: float, schedule: ScheduleName, total_steps: int, warmup_steps: int) -> float:
    """Learning rate of the update at `step` (0-based) of `total_steps`.

    Linear from 0 over `warmup_steps`, then "step" (x0.1 after 30, 60 and 80 ninetieths of the run) or "cosine" to 0.
    """
    if step < warmup_steps:
        return peak_lr * step / warmup_steps
    if schedule == "cosine":
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return peak_lr * 0.5 * (1 + math.cos(math.pi * progress))
    return peak_lr * _DECAY ** sum(step >= decay_step for decay_step in decay_steps(total_steps))


def decay_steps(total_steps: int) -> list[int]:
    """The first step of each x0.1 of the "step" schedule."""
    # Whole numbers, so that step 30 of 90 decays: 30 / 90 * 90 need not be 30 in floating point.
    return [max(1, round(at * total_steps)) for at in _DECAY_AT]
