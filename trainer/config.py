"""Run configuration: frozen dataclasses, validated on construction and saved with every run.

Everything outside `runtime` decides what is learnt and may not change when a run is resumed.
"""

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from math import isfinite
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from data_pipelines.common.advice import flag, with_own_flags
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest
from data_pipelines.image_files.shrink import SMALLEST_SIDE
from data_pipelines.loading.randaugment import Operand, Space
from data_pipelines.loading.sampler import Shuffle
from data_pipelines.loading.views import (
    AUTHORS_TRANSLATION,
    PAPER_TRANSLATION,
    RESIZE_FIRST,
    Border,
    MixUpWeight,
    PolicyName,
)
from data_pipelines.shards.index import Balance
from trainer.models.bit import MODELS, FilterInit, HeadInit
from trainer.normalisation import BIT_MEAN, BIT_STD, PerChannel, require_mean, require_std

Precision = Literal["fp32", "bf16", "fp16"]
ScheduleKind = Literal["step", "cosine", "hyperrule"]
Mode = Literal["finetune", "probe", "knn"]
AgcHead = Literal["name", "shape"]
TrainOn = Literal["train", "train+val"]


def _require(condition: bool, message: str) -> None:
    """Raise InputError with the message, which names flags of pretrain.py, unless the condition holds."""
    if not condition:
        raise InputError(with_own_flags(message))


def _require_known_choices(config: Any) -> None:
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise InputError(f"{name} is {value!r}{nearest(str(value), get_args(kind))}")


_MOST_READ_AHEAD = 1024
_LARGEST_SIDE = 65_535  # pixels; of a JPEG file
_MOST_PROFILED_STEPS = 100  # each is some megabytes of trace


@dataclass(frozen=True)
class DataConfig:
    """Training data and augmentation."""

    sets: tuple[str, ...] = ()
    """Prepared data sets: names below the data root, names of embedded sets, or folders."""
    join: Literal["intersection", "union"] = "intersection"
    """Findings of joined sets: those that all sets have, or those that any has, unlabelled where a set lacks one."""
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
        _require_known_choices(self)
        _require(
            self.image_size >= SMALLEST_SIDE, f"--data.image-size is {self.image_size}; the smallest is {SMALLEST_SIDE}"
        )
        _require(
            max(self.image_size, self.resize) <= _LARGEST_SIDE,
            f"--data.image-size is {self.image_size} and --data.resize {self.resize}; the largest is {_LARGEST_SIDE}",
        )
        crops = {self.train_view, self.eval_view} & set(RESIZE_FIRST)
        _require(
            self.resize >= self.image_size or not crops,
            f"--data.resize is {self.resize}, below --data.image-size {self.image_size}; raise it to that at least",
        )
        _require(
            self.randaugment_ops >= 0, f"--data.randaugment-ops is {self.randaugment_ops}; it must not be negative"
        )
        _require(
            0 <= self.randaugment_magnitude <= 30,
            f"--data.randaugment-magnitude is {self.randaugment_magnitude}; it must lie in 0 to 30",
        )
        _require(
            not (self.scaled_decode and self.randaugment_ops and self.randaugment_on == "image"),
            "--data.randaugment-on image needs the whole picture at its full size; leave out --data.scaled-decode, or "
            "take --data.randaugment-on crop",
        )
        _require(0 <= self.translation < 1, f"--data.translation is {self.translation}; it must lie in [0, 1)")
        _require(self.mixup_alpha >= 0, f"--data.mixup-alpha is {self.mixup_alpha}; it must not be negative")
        _require(self.max_bad >= 0, f"--data.max-bad is {self.max_bad}; it must not be negative")
        _require(self.shots is None or self.shots > 0, f"--data.shots is {self.shots}; it must be at least 1")


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
    mean: PerChannel | None = None
    """Of the inputs, red, green and blue, for pixels in [0, 1]. None: that of the pre-trained weights, else 0.5."""
    std: PerChannel | None = None
    """Their standard deviation, likewise."""

    def __post_init__(self) -> None:
        _require_known_choices(self)
        if self.mean is not None:
            require_mean(self.mean, f"{flag('--model.mean')}:")
        if self.std is not None:
            require_std(self.std, f"{flag('--model.std')}:")
        _require(self.name in MODELS, f"unknown model {self.name!r}{nearest(self.name, list(MODELS))}")
        _require(
            self.pretrained is not None or not self.keep_head,
            "--model.keep-head needs pre-trained weights: there is no head yet",
        )


@dataclass(frozen=True)
class OptimConfig:
    """SGD with adaptive gradient clipping."""

    base_lr: float = 0.03
    """Learning rate for each 256 images of the global batch, or of the batch as it is without rescaling."""
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
        _require_known_choices(self)
        _require(self.base_lr > 0, f"--optim.base-lr is {self.base_lr}; it must be above 0")
        _require(0 <= self.momentum < 1, f"--optim.momentum is {self.momentum}; it must lie in [0, 1)")
        _require(self.weight_decay >= 0, f"--optim.weight-decay is {self.weight_decay}; it must not be negative")
        _require(self.agc_clipping >= 0, f"--optim.agc-clipping is {self.agc_clipping}; it must not be negative")
        _require(
            self.momentum > 0 or not self.nesterov,
            "--optim.nesterov needs momentum; give --optim.momentum above 0, or --optim.no-nesterov",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of training and schedule of the learning rate."""

    kind: ScheduleKind = "step"
    """x0.1 after 30, 60 and 80 ninetieths; cosine to 0; or BiT-HyperRule's steps."""
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
        _require_known_choices(self)
        _require(self.steps is None or self.steps > 0, f"--schedule.steps is {self.steps}; it must be at least 1")
        _require(
            self.epochs is None or (isfinite(self.epochs) and self.epochs > 0),
            f"--schedule.epochs is {self.epochs}; it must be above 0",
        )
        _require(self.steps is not None or self.epochs is not None, "give --schedule.epochs or --schedule.steps")
        _require(self.warmup_steps >= 0, f"--schedule.warmup-steps is {self.warmup_steps}; it must not be negative")
        if self.warmup_epochs is not None:
            _require(
                isfinite(self.warmup_epochs) and self.warmup_epochs >= 0,
                f"--schedule.warmup-epochs is {self.warmup_epochs}; it must be 0 or more",
            )
            _require(
                not self.warmup_steps,
                f"--schedule.warmup-epochs {self.warmup_epochs:g} and --schedule.warmup-steps {self.warmup_steps} both "
                "say how long the warm-up is; add --schedule.warmup-epochs None for the steps, or "
                "--schedule.warmup-steps 0 for the epochs",
            )


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how the run executes. May change between two starts of the same run: nothing here changes a number by
    more than rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["ddp", "horovod", "deepspeed"] = "ddp"
    """What moves gradients between ranks; all of them give the same weights."""
    zero_stage: int = 0
    """ddp and deepspeed: 1 shards momentum across ranks, 2 (deepspeed) gradients too."""
    bucket_mb: int = 25
    """Gradients that travel together, megabytes; 0 (horovod): each by itself."""
    gradient_compression: Literal["none", "bf16", "fp16"] = "none"
    """What gradients are rounded to while they travel."""
    connect_timeout_s: int = 60
    """Seconds to wait at the start until all ranks are there."""
    timeout_s: int = 600
    """Seconds without an answer after which another rank counts as lost; and without a sign of life, after which a
    start of another job, on another host, has lost its claim to the run folder."""
    hang_timeout_s: int = 300
    """Seconds without progress of a rank after which it is named, with its host and phase, and the run ends, to be
    resumed; at most 0.8 of timeout_s, more for the first step, evaluation and saving. 0: never."""
    micro_batch_size: int | Literal["auto"] | None = None
    """Most images per rank in one forward pass; a rank's share of the batch is accumulated from these. None: all; auto:
    all, halved as often as memory demands."""
    eval_batch_size: int = 256
    """Images per rank in one evaluation forward pass."""
    loader: Literal["auto", "dali", "torch"] = "auto"
    """auto: DALI on a GPU, or torch with a warning where DALI cannot be had; torch on a CPU, where it is faster. dali
    and torch: that one or an error."""
    read_ahead: int = 4
    """Batches whose bytes are asked for before they are decoded, besides those in the loader; 0 switches it off."""
    stage: str | None = None
    """Copy the sets to this storage of the node first, such as /dev/shm: once per node, checked, and kept there."""
    threads: int | None = None
    """CPU threads of each rank; None: the cores this process may use, shared by the ranks of the node."""
    compile: bool | Literal["auto", "graphs"] = "auto"
    """Compile the residual units with torch.compile. auto: no, as a compiled unit runs the same convolutions and norms
    with nothing fused between them, and has to be compiled first. graphs: and replay them as CUDA graphs, which pays
    where batches are small and all of one size."""
    checkpoint_stages: int = 0
    """The first so many stages keep only what enters their residual units and compute the rest again in the backward
    pass: less memory, more time. 4: all of them."""
    tf32: bool = False
    """Let fp32 matrix products and convolutions use TF32 on GPUs that have it: faster, with 10 bits of mantissa."""
    cudnn_benchmark: bool | Literal["auto"] = "auto"
    """Let cuDNN time its convolution algorithms on each new shape and keep the fastest. It may take others at the next
    start, so that a resumed run is no longer bit-equal. auto: no, as nobody has measured on a GPU what it gains."""
    log_every: int = 50
    """Steps between two rows of metrics."""
    profile: int | None = None
    """Record so many steps, at most 100, after 4 that warm up, with torch.profiler: a trace, and a table of where their
    time goes, in RUN/profile. None: none."""
    save_every: int | None = None
    """Steps between two checkpoints. None: a tenth of the run, at most 1,000; sooner when the last one is 30 minutes
    old, or in fine-tuning 5 minutes."""
    keep_checkpoints: int = 3
    """Newest checkpoints to keep; the best one is kept beside them."""
    max_failed_saves: int = 3
    """Saves in a row that may fail, with all that is tried until the next one is due, before the run ends."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does: stop the run, or leave this one update out, on all ranks."""
    max_skipped_steps: int = 10
    """With --non-finite skip: most updates that a run may leave out."""

    def __post_init__(self) -> None:
        _require_known_choices(self)
        counts = ("micro_batch_size", "eval_batch_size", "threads", "log_every", "save_every", "keep_checkpoints")
        for name in (*counts, "profile", "max_failed_saves", "connect_timeout_s", "timeout_s", "max_skipped_steps"):
            value = getattr(self, name)
            named = f"--{name.replace('_', '-')}"
            if isinstance(value, str):
                is_auto = (name, value) == ("micro_batch_size", "auto")
                _require(is_auto, f"{named} is {value!r}, neither a number nor 'auto'")
                continue
            _require(value is None or value > 0, f"{named} is {value}; it must be at least 1")
        _require(
            0 <= self.checkpoint_stages <= 4,
            f"--checkpoint-stages is {self.checkpoint_stages}; it must lie in 0 to 4, the number of stages",
        )
        _require(
            isinstance(self.cudnn_benchmark, bool) or self.cudnn_benchmark == "auto",
            f"--cudnn-benchmark is {self.cudnn_benchmark!r}; it must be True, False or auto",
        )
        _require(
            self.compile != "graphs" or self.checkpoint_stages == 0,
            "--compile graphs has no place for --checkpoint-stages; leave out one of them",
        )
        _require(
            self.profile is None or self.profile <= _MOST_PROFILED_STEPS,
            f"--profile is {self.profile}; a trace of more than {_MOST_PROFILED_STEPS} steps is too large to look at",
        )
        _require(self.hang_timeout_s >= 0, f"--hang-timeout-s is {self.hang_timeout_s}; it must not be negative")
        _require(
            0 <= self.read_ahead <= _MOST_READ_AHEAD,
            f"--read-ahead is {self.read_ahead}; it must lie in 0 to {_MOST_READ_AHEAD}",
        )
        _require(self.bucket_mb >= 0, f"--bucket-mb is {self.bucket_mb}; it must not be negative")
        self._check_engine()

    def _check_engine(self) -> None:
        _require(
            self.zero_stage != 3,
            "--zero-stage 3 parts the weights too and gathers them layer by layer, twice a step; the weights of the "
            "largest model (r152x4) take 3.7 GB of each GPU, so that would cost time and gain nothing. Take 2",
        )
        stages = {"ddp": (0, 1), "horovod": (0,), "deepspeed": (0, 1, 2)}[self.engine]
        _require(
            self.zero_stage in stages,
            f"--engine {self.engine} has no --zero-stage {self.zero_stage}; it has {', '.join(map(str, stages))}",
        )
        _require(
            (self.zero_stage, self.micro_batch_size) != (2, "auto"),
            "--zero-stage 2 sends gradients after every micro-batch, so ranks cannot try sizes by themselves; give "
            "--micro-batch-size as a number, or take --zero-stage 1",
        )
        _require(
            self.bucket_mb > 0 or self.engine == "horovod",
            f"--bucket-mb 0 is for horovod; with --engine {self.engine} it must be at least 1",
        )
        _require(
            (self.engine, self.gradient_compression) != ("horovod", "bf16"),
            "Horovod cannot add up bf16; take --gradient-compression fp16 or none",
        )


@dataclass(frozen=True)
class Config:
    """One run of pre-training or fine-tuning."""

    name: str = "run"
    """Name of the run; its folder is runs/<name> unless --run-dir says otherwise."""
    seed: int = 0
    """Decides initial weights, order, augmentation and few-shot selection."""
    global_batch_size: int = 4096
    """Images of one optimiser step, over all ranks and micro-batches."""
    precision: Precision = "bf16"
    """Of the forward and backward pass; weights and their update are fp32."""
    eval_every: int | None = None
    """Steps between two evaluations on the val split; the best of them is kept. None: at the end only."""
    mode: Annotated[Mode, tyro.conf.Suppress] = "finetune"
    """All layers are trained; or a linear probe, or nearest neighbours, on the features of the frozen backbone."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: Annotated[RuntimeConfig, tyro.conf.arg(name="")] = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        _require_known_choices(self)
        _require(self.seed >= 0, f"--seed is {self.seed}; it must not be negative")
        _require(self.global_batch_size > 0, f"--global-batch-size is {self.global_batch_size}; it must be at least 1")
        _require(
            self.eval_every is None or self.eval_every > 0, f"--eval-every is {self.eval_every}; it must be at least 1"
        )
        _require(bool(self.data.sets), "no data set; name one with --data.sets")
        _require(
            self.mode == "finetune" or self.runtime.profile is None,
            f"--profile records training steps, and --mode {self.mode} has none; leave out one of them",
        )
        if self.data.train_on == "train+val":
            _require(
                self.eval_every is None,
                f"--eval-every {self.eval_every} chooses the best checkpoint on val, which --data.train-on train+val "
                "trains on; take --eval-every None, or --data.train-on train",
            )
            _require(
                self.mode != "probe",
                "a linear probe chooses its L2 on val, which train+val trains on; take --data.train-on train",
            )
        if self.data.mixup_alpha:
            sizes = {
                "--global-batch-size": self.global_batch_size,
                "--micro-batch-size": self.runtime.micro_batch_size,
            }
            for named, size in sizes.items():
                even = not isinstance(size, int) or size % 2 == 0
                _require(even, f"MixUp mixes neighbours in pairs: {named} {size} must be even")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def translated(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a run of any version saved, in the words of this one: `optim.paper_code` stood for three."""
    optim = settings.get("optim")
    if not isinstance(optim, dict) or "paper_code" not in optim:
        return settings
    rest = {name: value for name, value in optim.items() if name != "paper_code"}
    if not optim["paper_code"]:
        return settings | {"optim": rest}
    data = {"translation": AUTHORS_TRANSLATION} | settings.get("data", {})
    return settings | {"optim": {"nesterov": True, "agc_head": "shape"} | rest, "data": data}


def config_of(settings: dict[str, Any]) -> Config:
    """The configuration that a run of any version saved. What it did not know yet has its default; what this version
    does not know is left out."""
    settings = translated(settings)
    sections = {entry.name: entry.default_factory for entry in fields(Config) if entry.default_factory is not MISSING}
    parts = {name: section(**_known(section, settings.get(name, {}))) for name, section in sections.items()}  # type: ignore[operator]
    return Config(**_known(Config, settings) | parts)


def _known(section: Any, values: dict[str, Any]) -> dict[str, Any]:
    known = {entry.name for entry in fields(section)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known}


# Settings that configurations of earlier versions do not have, and what these versions did.
_ADDED: dict[str, Any] = {
    "mode": "finetune",
    "data.one_label": False,
    "data.scaled_decode": False,
    "data.train_on": "train",
    "data.translation": PAPER_TRANSLATION,
    "data.border": "black",
    "data.randaugment_space": "torchvision",
    "data.randaugment_on": "crop",
    "data.mixup_weight": "pair",
    "model.keep_head": False,
    "model.filter_init": "kaiming",
    "model.mean": list(BIT_MEAN),
    "model.std": list(BIT_STD),
    "schedule.warmup_epochs": None,
    "optim.nesterov": False,
    "optim.agc_head": "name",
}
# Between two starts: how the run executes, what to do about faults that may come, and what is refused.
_MAY_CHANGE = {"runtime", "data.on_bad_shard", "data.max_bad", "schedule.allow_no_decay"}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line per setting that differs between two configurations, `runtime` aside. A setting that an older program
    did not know yet had its default; where weights were read from does not count, but which they are."""
    return _differences(translated(old), translated(new), "")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str) -> list[str]:
    lines = []
    weights = old.get("pretrained_weights")
    same_weights = weights is not None and weights == new.get("pretrained_weights")
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, "absent"), new.get(name, "absent")
        if (
            prefix + name == "runtime"
            or prefix + name in _MAY_CHANGE
            or before == after
            or (name not in old and _ADDED.get(prefix + name) == after)
        ):
            continue
        if prefix + name == "model.pretrained" and same_weights:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            lines += _differences(before, after, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name}: {before} -> {after}")
    return lines
