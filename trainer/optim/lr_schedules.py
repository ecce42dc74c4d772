"""Learning-rate schedules as pure functions of the step, and the one that a configuration asks for."""

import math
from collections.abc import Callable

from trainer.config import Config, ScheduleConfig, ScheduleKind
from trainer.optim.hyperrule import hyperrule_lr, schedule_for, stretched

RESCALE_IMAGES = 256
_DECAY_AT = (30 / 90, 60 / 90, 80 / 90)  # of the run; the paper's epochs 30, 60 and 80 of 90
_DECAY = 0.1


def rescaled(base_lr: float, global_batch_size: int) -> float:
    """Peak learning rate: `base_lr` for each 256 images of the batch (Goyal et al., arXiv:1706.02677)."""
    return base_lr * global_batch_size / RESCALE_IMAGES


def peak_lr(config: Config) -> float:
    """Peak learning rate of a run."""
    optim = config.optim
    return rescaled(optim.base_lr, config.global_batch_size) if optim.rescale_lr else optim.base_lr


def learning_rate(step: int, peak_lr: float, kind: ScheduleKind, total_steps: int, warmup_steps: int) -> float:
    """Learning rate of the update at `step` (0-based) of `total_steps`.

    Linear from 0 over `warmup_steps`, then "step" (x0.1 after 30, 60 and 80 ninetieths of the run) or "cosine" to 0.
    """
    if kind not in _SHAPES:
        raise ValueError(f"schedule {kind!r} has no shape in _SHAPES")  # BiT-HyperRule's is in hyperrule.py
    if step < warmup_steps:
        return peak_lr * step / warmup_steps
    return peak_lr * _SHAPES[kind](step, total_steps, warmup_steps)


def _step_shape(step: int, total_steps: int, warmup_steps: int) -> float:
    return float(_DECAY ** sum(step >= decay_step for decay_step in decay_steps(total_steps)))


def _cosine_shape(step: int, total_steps: int, warmup_steps: int) -> float:
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


# After warm-up: the share of the peak rate at a step, from it, the number of steps and of those that warm up.
_SHAPES: dict[ScheduleKind, Callable[[int, int, int], float]] = {"step": _step_shape, "cosine": _cosine_shape}


def decay_steps(total_steps: int) -> list[int]:
    """The first step of each x0.1 of the "step" schedule."""
    # Whole numbers, so that step 30 of 90 decays: 30 / 90 * 90 need not be 30 in floating point.
    return [max(1, round(at * total_steps)) for at in _DECAY_AT]


def num_steps(config: Config, images_per_epoch: int) -> int:
    """Optimiser steps of a run; an epoch may be an oversampled one."""
    epochs = config.schedule.epochs or 0
    return config.schedule.steps or math.ceil(epochs * images_per_epoch / config.global_batch_size)


def num_warmup_steps(config: Config, images_per_epoch: int) -> int:
    """Steps of linear warm-up, of "step" and "cosine"; an epoch may be an oversampled one."""
    schedule = config.schedule
    if schedule.warmup_epochs is None:
        return schedule.warmup_steps
    return round(schedule.warmup_epochs * images_per_epoch / config.global_batch_size)


def make_schedule(config: Config, total_steps: int, num_images: int, images_per_epoch: int) -> Callable[[int], float]:
    """Learning rate as a function of the step (0-based).

    num_images: of the training set, which decides the steps of BiT-HyperRule. images_per_epoch: more where it is
    oversampled.
    """
    schedule, peak = config.schedule, peak_lr(config)
    if schedule.kind == "hyperrule":
        boundaries = stretched(schedule_for(num_images), total_steps)
        return lambda step: hyperrule_lr(step, peak, boundaries)
    warmup_steps = min(num_warmup_steps(config, images_per_epoch), total_steps)
    kind = schedule.kind
    return lambda step: learning_rate(step, peak, kind, total_steps, warmup_steps)


def late_warmup(schedule: ScheduleConfig, total_steps: int, warmup_steps: int) -> str | None:
    """What is wrong with a warm-up that does not end before the first decay, or, with "cosine", before the end of the
    run: the learning rate is then never at its peak, or never decays. None for others, and for no warm-up."""
    if schedule.kind == "hyperrule" or not warmup_steps:
        return None
    what, end = "the end of the run", total_steps
    if schedule.kind == "step":
        what, end = "the first decay", decay_steps(total_steps)[0]
    if warmup_steps < end:
        return None
    asked = "" if schedule.warmup_epochs is None else f" ({schedule.warmup_epochs:g} epochs)"
    return f"the warm-up of {warmup_steps} steps{asked} does not end before {what}, at step {end} of {total_steps}"


def shorter_warmup(schedule: ScheduleConfig, total_steps: int) -> str:
    """Options that give a run of so many steps a warm-up of a tenth, which ends before any decay."""
    instead = "" if schedule.warmup_epochs is None else "--schedule.warmup-epochs None "
    return f"{instead}--schedule.warmup-steps {total_steps // 10}"
