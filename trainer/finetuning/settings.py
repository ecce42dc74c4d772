"""The settings of a fine-tuning as flags: those of any run, under the same names. What is not given is up to the rule,
the paper and --match-authors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from data_pipelines.common.old_flags import negated
from data_pipelines.loading.views import Border, MixUpWeight, PolicyName
from data_pipelines.shards.index import Balance
from trainer.config import (
    AgcHead,
    Config,
    DataConfig,
    FilterInit,
    HeadInit,
    Mode,
    ModelConfig,
    OptimConfig,
    PerChannel,
    Precision,
    ScheduleConfig,
    ScheduleKind,
    TrainOn,
    flag_of,
    given_by,
    setting_kinds,
    values_of,
)

Given = Mapping[str, Any]
"""Settings by their dotted names, which beat the rule, the paper and --match-authors: {"data.image_size": 64}."""

RANDOM_CROPS = ("resize_random_crop", "shorter_side_random_crop")
GLOBAL_BATCH_SIZE = 128
OPTIM = OptimConfig(base_lr=0.001, rescale_lr=False, weight_decay=0.0)
# What a fine-tuning has flags of its own for, and the name of its run.
OWN = {"name", "seed", "data.sets", "data.shots", "model.pretrained"}
# Besides all of optim and schedule.
_OF_TRAINING = {
    *("eval_every", "model.head_init", "model.frozen_stages", "data.train_view", "data.flip", "data.translation"),
    *("data.border", "data.mixup_alpha", "data.mixup_weight", "data.randaugment_ops", "data.randaugment_magnitude"),
    *("data.randaugment_space", "data.randaugment_on"),
}
_BY_RULE = tyro.conf.arg(help_behavior_hint="(default: as the rule says)")
_BY_PROTOCOL = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class _Data(DataConfig):
    """Training data and augmentation."""

    sets: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    shots: Annotated[int | None, tyro.conf.Suppress] = None
    image_size: Annotated[int, _BY_RULE] = 224
    """Side of the square the model sees, pixels."""
    resize: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: in the rule's ratio to image-size)")] = 256
    """Side before the random crop, pixels."""
    train_view: Annotated[PolicyName, _BY_PROTOCOL] = "resize_random_crop"
    """Crop policy of training images. Default: resize_random_crop, which squashes the image to `resize` first; with
    --match-authors shorter_side_random_crop, which keeps its aspect ratio; both are for photographs, and padchest_cl
    keeps xray_affine beside them."""
    eval_view: PolicyName = "squash"
    """Crop policy of evaluation images."""
    translation: Annotated[float, _BY_PROTOCOL] = 0.15
    """Largest shift of X-rays along each axis, as a fraction of the side. Default: 0.15, with --match-authors 0.25."""
    border: Annotated[Border, _BY_PROTOCOL] = "black"
    """What warped X-rays show outside the picture. Default: black, with --match-authors reflect."""
    mixup_alpha: Annotated[float, _BY_RULE] = 0.0
    """MixUp weights come from Beta(alpha, alpha); 0 switches it off."""
    mixup_weight: Annotated[MixUpWeight, _BY_PROTOCOL] = "pair"
    """MixUp draws a weight for each pair, or one per step. Default: pair, with --match-authors step."""
    balance: Annotated[Balance, _BY_PROTOCOL] = "none"
    """class: every class has the same share of an epoch. Default: class for all images of flowers102 and covidx, as in
    the paper, otherwise none."""
    train_on: Annotated[TrainOn, _BY_PROTOCOL] = "train"
    """train+val: on the images of both splits, so that nothing is chosen on val. Default: train+val for fine-tuning on
    cifar10, cifar100, pets and flowers102, as in the paper, with --match-authors on all of its targets; otherwise
    train."""

    def __post_init__(self) -> None:
        """Checked when the rule has chosen what is not given."""


@dataclass(frozen=True)
class _Model(ModelConfig):
    """Model architecture and initial weights."""

    name: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: that of the first pre-trained source)")] = "r50x1"
    """Model of "scratch"; of other sources it is theirs."""
    head_init: Annotated[HeadInit, _BY_PROTOCOL] = "zero"
    """Initial weights of the new head: zeros; fan_in: normal, variance 1/inputs; torch: nn.Linear's own. Default: zero,
    with --match-authors torch."""
    filter_init: Annotated[FilterInit, _BY_PROTOCOL] = "kaiming"
    """Initial weights of the convolutions of "scratch". Default: kaiming, with --match-authors torch."""
    pretrained: Annotated[str | None, tyro.conf.Suppress] = None
    keep_head: bool = False
    """Start from the source's classification head, which must have the target's classes, instead of a new one."""
    mean: Annotated[PerChannel | None, _BY_PROTOCOL] = None
    """Mean of the channels, for pixels in [0, 1]. Default: that of the pre-trained weights; for padchest_cl with
    --match-authors 0.5."""
    std: Annotated[PerChannel | None, _BY_PROTOCOL] = None
    """Standard deviation of the channels, for pixels in [0, 1]. Default: as for the mean."""

    def __post_init__(self) -> None:
        """Checked when the source is known."""


@dataclass(frozen=True)
class _Optim(OptimConfig):
    """SGD with adaptive gradient clipping."""

    base_lr: float = OPTIM.base_lr
    """Peak learning rate, as it is for any batch; with --optim.rescale-lr for each 256 images of the global batch."""
    rescale_lr: bool = OPTIM.rescale_lr
    """Multiply the base learning rate by global batch size / 256."""
    weight_decay: float = OPTIM.weight_decay
    nesterov: Annotated[bool, _BY_PROTOCOL] = False
    """Nesterov momentum. Default: no, with --match-authors yes."""
    agc_head: Annotated[AgcHead, _BY_PROTOCOL] = "name"
    """What gradient clipping leaves out: the head by its name, or what has its shape. Default: name, with
    --match-authors shape."""


@dataclass(frozen=True)
class _Schedule(ScheduleConfig):
    """Length of training and schedule of the learning rate."""

    kind: ScheduleKind = "hyperrule"
    """hyperrule: BiT-HyperRule's steps; step: x0.1 after 30, 60 and 80 ninetieths; cosine: to 0."""
    epochs: float | None = None
    """Passes over the training images, instead of `steps`."""
    steps: Annotated[int | None, _BY_RULE] = None
    """Optimiser steps, fewer or more than the rule's, with its schedule in proportion."""
    warmup_steps: int = 0
    """Steps of linear warm-up of "step" and "cosine"; hyperrule brings its own."""

    def __post_init__(self) -> None:
        """Checked when the rule has chosen what is not given."""


@dataclass(frozen=True)
class Settings(Config):
    """What is fine-tuned how; see `pretrain --help` for more words on each."""

    name: Annotated[str, tyro.conf.Suppress] = ""
    seed: Annotated[int, tyro.conf.Suppress] = 0
    global_batch_size: int = GLOBAL_BATCH_SIZE
    """Images of one optimiser step, over all ranks and micro-batches."""
    precision: Annotated[Precision, _BY_PROTOCOL] = "bf16"
    """Of the forward and backward pass. Default: bf16, on a CPU and with --match-authors fp32; a begun run keeps its
    own."""
    mode: Mode = "finetune"
    """finetune: all layers; probe: a linear classifier on frozen features; knn: nearest neighbours among them."""
    data: _Data = field(default_factory=_Data)
    model: _Model = field(default_factory=_Model)
    optim: _Optim = field(default_factory=_Optim)
    schedule: _Schedule = field(default_factory=_Schedule)

    def __post_init__(self) -> None:
        """Checked when the rule has chosen what is not given."""


def given_settings(settings: Settings, arguments: Iterable[str]) -> dict[str, Any]:
    """The settings that a command line gives, with their values as parsed."""
    return values_of(settings, (name for name in given_by(arguments) if name not in OWN))


def words_of(given: Given) -> list[str]:
    """The command line of given settings."""
    words: list[str] = []
    for name, value in given.items():
        flag = flag_of(name)
        if setting_kinds()[name] is bool:
            words.append(flag if value else negated(flag))
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:  # also True and False where another word is a value, such as auto
            words += [flag, str(value)]
    return words


def without_effect(given: Given, config: Config) -> list[str]:
    """A line for each setting that is given but changes nothing in a run of this configuration."""
    idle = idle_settings(given, config)
    return [f"{flag_of(name)} has no effect: {reason}" for name, reason in idle.items()]


def idle_settings(given: Given, config: Config) -> dict[str, str]:
    """Settings that are given but change nothing in a run of this configuration, by name, with the reason."""
    is_xray = config.data.train_view == "xray_affine"
    seen = f"training images are seen by {config.data.train_view}"
    reasons = {
        "data.border": "" if is_xray else seen,
        "data.translation": "" if is_xray else seen,
        "data.train_view": "" if given.get("data.train_view") == config.data.train_view else seen,
        "data.mixup_weight": "" if config.data.mixup_alpha else "there is no MixUp",
        "model.name": f"the weights are of {config.model.name}" if config.model.pretrained else "",
        "model.head_init": "the head is kept" if config.model.keep_head else "",
        "model.filter_init": "" if config.model.pretrained is None else "the convolutions are pre-trained",
    }
    if config.mode != "finetune":
        trained = [name for name in given if name.startswith(("optim.", "schedule.")) or name in _OF_TRAINING]
        reasons |= dict.fromkeys(trained, f"--mode {config.mode} trains no model")
    return {name: reason for name, reason in reasons.items() if reason and name in given}
