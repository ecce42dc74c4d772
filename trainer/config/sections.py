"""The sections of a configuration that decide what is learnt: data, model, optimiser and schedule."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from data_pipelines.common.advice import flag
from data_pipelines.common.message_parts import as_typed, nearest
from data_pipelines.image_files.shrink import SMALLEST_SIDE
from data_pipelines.loading.randaugment import Operand, Space
from data_pipelines.loading.sampler import Shuffle
from data_pipelines.loading.views import PAPER_TRANSLATION, RESIZE_FIRST, Border, MixUpWeight, PolicyName
from data_pipelines.shards.image_cap import ImagesPerSet
from data_pipelines.shards.index import Balance
from trainer.config.checks import require, require_known_choices
from trainer.models.architectures import MODELS, NUM_STAGES, FilterInit, HeadInit
from trainer.normalisation import PerChannel, require_mean, require_std

ScheduleKind = Literal["step", "cosine", "hyperrule"]
AgcHead = Literal["name", "shape"]
TrainOn = Literal["train", "train+val"]

LARGEST_SIDE = 65_535  # pixels; of a JPEG file


@dataclass(frozen=True)
class DataConfig:
    """Training data and augmentation."""

    sets: tuple[str, ...] = ()
    """Prepared data sets: names below the data root, names of embedded sets, or folders."""
    join: Literal["intersection", "union", "heads"] = "intersection"
    """Findings of joined sets: those that all sets have; those that any has, unlabelled where a set lacks one; heads:
    those of each set for itself, a head for each, whatever the others call theirs."""
    image_size: int = 224
    """Side of the square the model sees, pixels."""
    resize: int = 256
    """Side before the crop, for the views that resize first, pixels."""
    train_view: PolicyName = "random_resized_crop"
    """Crop policy of training images. resize_random_crop squashes the image to `resize` first, as BiT's transfer does;
    shorter_side_random_crop keeps its aspect ratio, as the program of the paper's authors does."""
    eval_view: PolicyName = "center_crop"
    """Crop policy of evaluation images."""
    flip: bool = True
    """Mirror half of the training images; never done for sets whose images change meaning when mirrored."""
    translation: float = PAPER_TRANSLATION
    """Furthest shift of xray_affine along each axis, as a share of the side; other views have none. The paper says
    0.15, its authors' program does 0.25."""
    border: Border = "black"
    """What xray_affine shows outside the picture: black, or reflect, its reflection, as in the authors' program; other
    views show nothing of it."""
    randaugment_ops: int = 0
    """RandAugment: operations on each training image; 0 switches it off."""
    randaugment_magnitude: int = 9
    """RandAugment: their strength, 0 to 30."""
    randaugment_space: Space = "torchvision"
    """RandAugment: which operations, and how strong. ildoonet: those of the package that the authors' program uses,
    with cutouts, inversion and stronger posterization and solarization. Torch loader only."""
    randaugment_on: Operand = "crop"
    """RandAugment: on the view that was cut out, or on the whole picture before, as the authors' program does: there
    it costs more the larger the images are. image: torch loader only."""
    mixup_alpha: float = 0.0
    """MixUp weights come from Beta(alpha, alpha); 0 switches it off."""
    mixup_weight: MixUpWeight = "pair"
    """MixUp: each pair of images draws a weight, or the whole step draws one, as in the authors' program."""
    scaled_decode: bool = False
    """Decode JPEG files at 1/2, 1/4 or 1/8 of their size where the window is so many times what is needed: faster for
    large photographs, with slightly different pixel values. Torch loader only."""
    shuffle: Shuffle = "full"
    """full: any image may follow any other; blocks: neighbours in the shards are shown at about the same time, for
    file systems that are slow at random reads."""
    balance: Balance = "none"
    """class: every class has the same share of an epoch; set: every joined set has."""
    classes: tuple[str, ...] = ()
    """Only the images of these classes, or only these findings; empty for all."""
    one_label: bool = False
    """Of a multi-label set only the images with exactly one positive finding, as a single-label task."""
    images: int | None = None
    """Most training images, drawn by the seed; None for all."""
    images_per_set: ImagesPerSet = "proportional"
    """How joined sets share them: by how many each has, or even, as many of each."""
    shots: int | None = None
    """Training images per class, drawn by the seed; None for all."""
    shots_at_most: bool = False
    """Take what there is of classes with fewer images than shots, or with none, instead of refusing."""
    train_on: TrainOn = "train"
    """train+val: on the images of both splits. Nothing is chosen on val then: the last checkpoint counts, and no
    thresholds and no temperature are fitted."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """On a shard that is missing, truncated or modified: stop the run, or show other images in place of its own, which
    unseen.csv lists."""
    max_bad: int = 100
    """Most undecodable images in a run; others are shown in their place."""

    def __post_init__(self) -> None:
        require_known_choices(self)
        require(
            self.image_size >= SMALLEST_SIDE, f"--data.image-size is {self.image_size}; the smallest is {SMALLEST_SIDE}"
        )
        require(
            max(self.image_size, self.resize) <= LARGEST_SIDE,
            f"--data.image-size is {self.image_size} and --data.resize {self.resize}; the largest is {LARGEST_SIDE}",
        )
        crops = {self.train_view, self.eval_view} & set(RESIZE_FIRST)
        require(
            self.resize >= self.image_size or not crops,
            f"--data.resize is {self.resize}, below --data.image-size {self.image_size}; raise it to that at least",
        )
        require(self.randaugment_ops >= 0, f"--data.randaugment-ops is {self.randaugment_ops}; it must not be negative")
        require(
            0 <= self.randaugment_magnitude <= 30,
            f"--data.randaugment-magnitude is {self.randaugment_magnitude}; it must lie in 0 to 30",
        )
        require(
            not (self.scaled_decode and self.randaugment_ops and self.randaugment_on == "image"),
            "--data.randaugment-on image needs the whole picture at its full size; leave out --data.scaled-decode, or "
            "take --data.randaugment-on crop",
        )
        require(0 <= self.translation < 1, f"--data.translation is {as_typed(self.translation)}; it must lie in [0, 1)")
        require(self.mixup_alpha >= 0, f"--data.mixup-alpha is {as_typed(self.mixup_alpha)}; it must not be negative")
        require(self.max_bad >= 0, f"--data.max-bad is {as_typed(self.max_bad)}; it must not be negative")
        require(self.shots is None or self.shots > 0, f"--data.shots is {self.shots}; it must be at least 1")
        self._check_number_of_images()
        if self.join == "heads":
            self._check_heads()

    def _check_number_of_images(self) -> None:
        require(self.images is None or self.images > 0, f"--data.images is {self.images}; it must be at least 1")
        require(
            self.images is None or self.shots is None,
            f"--data.shots {self.shots} and --data.images {self.images} both choose training images; leave out one",
        )
        require(
            self.images is not None or self.images_per_set == "proportional",
            f"--data.images-per-set {self.images_per_set} shares out --data.images; give that, too",
        )

    def _check_heads(self) -> None:
        """What would join the findings of several heads, or choose by them."""
        require(
            len(self.sets) != 1,
            f"--data.join heads gives each of several sets a head of its own, and {''.join(self.sets)} is one; "
            "leave out --data.join",
        )
        for given, named in (
            (self.classes, flag("--data.classes")),
            (self.one_label, flag("--data.one-label")),
            (self.shots, flag("--data.shots")),
            (self.mixup_alpha, flag("--data.mixup-alpha")),
            (self.balance == "class", f"{flag('--data.balance')} class"),
        ):
            require(
                not given,
                f"--data.join heads keeps all findings of each set apart, and {named} does not go with it; leave out "
                "one of them",
            )


@dataclass(frozen=True)
class ModelConfig:
    """Model architecture and initial weights."""

    name: str = "r50x1"
    """Depth and width, as in the BiT paper."""
    head_init: HeadInit = "zero"
    """Initial weights of the classification head: zeros; fan_in: normal, variance 1/inputs; torch: nn.Linear's own."""
    filter_init: FilterInit = "kaiming"
    """Initial weights of the convolutions: kaiming: normal, variance 2/inputs; torch: nn.Conv2d's own."""
    pretrained: str | None = None
    """Weights to start from: a run folder, a file, or a published name; the head is new unless --model.keep-head."""
    keep_head: bool = False
    """Start from the pre-trained head, too: the classes must be its own."""
    frozen_stages: int = 0
    """Leave the stem and the first so many of the 4 stages as the pre-trained weights have them. 0: all is trained; 4:
    the last norm and the head alone are."""
    mean: PerChannel | None = None
    """Of the inputs, red, green and blue, for pixels in [0, 1]. None: that of the pre-trained weights, else 0.5."""
    std: PerChannel | None = None
    """Their standard deviation, likewise."""

    def __post_init__(self) -> None:
        require_known_choices(self)
        if self.mean is not None:
            require_mean(self.mean, f"{flag('--model.mean')}:")
        if self.std is not None:
            require_std(self.std, f"{flag('--model.std')}:")
        require(self.name in MODELS, f"unknown model {self.name!r}{nearest(self.name, list(MODELS))}")
        require(
            self.pretrained is not None or not self.keep_head,
            "--model.keep-head needs pre-trained weights: there is no head yet",
        )
        require(
            0 <= self.frozen_stages <= NUM_STAGES,
            f"--model.frozen-stages is {self.frozen_stages}; it must lie in 0 to {NUM_STAGES}, the number of stages",
        )
        require(
            self.pretrained is not None or not self.frozen_stages,
            f"--model.frozen-stages {self.frozen_stages} would keep random filters: there are no pre-trained weights; "
            "leave it out, or name weights with --model.pretrained",
        )


@dataclass(frozen=True)
class OptimConfig:
    """SGD with adaptive gradient clipping."""

    base_lr: float = 0.03
    """Peak learning rate for each 256 images of the global batch; without rescaling, as it is for any batch."""
    rescale_lr: bool = True
    """Multiply the base learning rate by global batch size / 256."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    agc_clipping: float = 0.01
    """Largest ratio of a unit's gradient norm to its weight norm; 0 switches clipping off."""
    nesterov: bool = False
    """Nesterov momentum."""
    agc_head: AgcHead = "name"
    """What clipping leaves out. name: the head; shape: every weight whose first dimension equals the number of classes,
    but not the head's bias, as the authors' program does."""

    def __post_init__(self) -> None:
        require_known_choices(self)
        require(self.base_lr > 0, f"--optim.base-lr is {as_typed(self.base_lr)}; it must be above 0")
        require(0 <= self.momentum < 1, f"--optim.momentum is {as_typed(self.momentum)}; it must lie in [0, 1)")
        require(
            self.weight_decay >= 0, f"--optim.weight-decay is {as_typed(self.weight_decay)}; it must not be negative"
        )
        require(
            self.agc_clipping >= 0, f"--optim.agc-clipping is {as_typed(self.agc_clipping)}; it must not be negative"
        )
        require(
            self.momentum > 0 or not self.nesterov,
            "--optim.nesterov needs momentum; give --optim.momentum above 0, or --optim.no-nesterov",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of training and schedule of the learning rate."""

    kind: ScheduleKind = "step"
    """step: x0.1 after 30, 60 and 80 ninetieths; cosine: to 0; hyperrule: BiT-HyperRule's steps."""
    epochs: float | None = 90
    """Passes over the training images; None if `steps` is set."""
    steps: int | None = None
    """Optimiser steps; overrides `epochs`."""
    warmup_epochs: float | None = None
    """Passes over the training images in which the learning rate rises linearly; None to use `warmup_steps`."""
    warmup_steps: int = 5000
    """Steps of linear warm-up; 0 beside `warmup_epochs`. Neither is used by hyperrule, which brings its own."""
    allow_no_decay: bool = False
    """Run a schedule whose warm-up does not end before its first decay, or before the end of the run."""

    def __post_init__(self) -> None:
        require_known_choices(self)
        require(self.steps is None or self.steps > 0, f"--schedule.steps is {self.steps}; it must be at least 1")
        require(
            self.epochs is None or (isfinite(self.epochs) and self.epochs > 0),
            f"--schedule.epochs is {as_typed(self.epochs)}; it must be above 0",
        )
        require(self.steps is not None or self.epochs is not None, "give --schedule.epochs or --schedule.steps")
        require(self.warmup_steps >= 0, f"--schedule.warmup-steps is {self.warmup_steps}; it must not be negative")
        if self.warmup_epochs is not None:
            require(
                isfinite(self.warmup_epochs) and self.warmup_epochs >= 0,
                f"--schedule.warmup-epochs is {as_typed(self.warmup_epochs)}; it must be 0 or more",
            )
            require(
                not self.warmup_steps,
                f"--schedule.warmup-epochs {self.warmup_epochs:g} and --schedule.warmup-steps {self.warmup_steps} both "
                "say how long the warm-up is; add --schedule.warmup-epochs None for the steps, or "
                "--schedule.warmup-steps 0 for the epochs",
            )


def frozen_words(stages: int) -> str:
    """What follows a model's name: " (stem and stages 1 to 2 frozen)"; nothing where all is trained."""
    return f" (stem and stage{f's 1 to {stages}' if stages > 1 else ' 1'} frozen)" if stages else ""
