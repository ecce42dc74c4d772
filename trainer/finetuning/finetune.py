"""One fine-tuning run: its configuration, by BiT-HyperRule unless overridden, and running it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import content_digest, read_manifest, splits_of
from data_pipelines.common.splits import Split
from data_pipelines.datasets import catalog
from data_pipelines.datasets.overlap import namesake_note, shares_images
from data_pipelines.shards.index import Balance, Index
from trainer.config import Config, DataConfig, Mode, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig, TrainOn
from trainer.finetuning.paper_protocol import (
    PAPER_TARGETS,
    data_departures,
    data_warning,
    departures,
    match_authors,
    paper_target,
)
from trainer.finetuning.protocol_options import ProtocolOptions
from trainer.models.sources import absolute, name_of
from trainer.models.weights import describe_weights
from trainer.optim.hyperrule import HyperRule, hyperrule
from trainer.splits import lacks_val, open_split
from trainer.training.run import Start
from trainer.training.start import start_run

SCRATCH = "scratch"
FULL = "full"
# Of the options those that say what is fine-tuned by which protocol, not how.
_NO_PROTOCOL = ("mode", "match_authors", "model", "runtime")


@dataclass(frozen=True)
class Options:
    """How to fine-tune, and where runs go."""

    mode: Mode = "finetune"
    """finetune: all layers; probe: a linear classifier on frozen features; knn: nearest neighbours among them."""
    match_authors: bool = False
    """Fine-tune as the authors' program does where BiT or the paper's text says less or something else: see
    docs/fidelity.md, and the protocol options below, each of which beats this."""
    model: str | None = None
    """Model of "scratch"; None: that of the first pre-trained source."""
    out: Path = Path("runs/transfer")
    """Each run goes to OUT/<source>/<target>/<shots>-shot-seed-<seed>, with -probe, -knn or -authors behind it."""
    classes: tuple[str, ...] = ()
    """Only the images of these classes; empty for all."""
    one_label: bool = False
    """Of a set with several findings per image only the images with exactly one, as classes."""
    train_on: TrainOn | None = None
    """train+val: on the images of both splits, so that nothing is chosen on val; None: train+val for fine-tuning on
    cifar10, cifar100, pets and flowers102, as in the paper, with --match-authors on all of its targets; otherwise
    train."""
    shots_at_most: bool = False
    """Take what there is of classes with fewer images than shots, instead of refusing."""
    keep_head: bool = False
    """Start from the source's classification head, which must have the target's classes, instead of a new one."""
    batch_size: int = 128
    base_lr: float = 0.001
    """Peak learning rate; not rescaled by the batch size."""
    steps: int | None = None
    """Optimiser steps, fewer or more than the rule's, with its schedule in proportion; None: as the rule says."""
    image_size: int | None = None
    """Side of the square the model sees, pixels; None: as the rule says."""
    resize: int | None = None
    """Side before the random crop, pixels; None: the rule's ratio to the image size."""
    mixup_alpha: float | None = None
    """None: as the rule says."""
    balance: Balance | None = None
    """class: every class has the same share of an epoch; None: class for all images of flowers102 and covidx, as in the
    paper, otherwise none."""
    overlap_excluded: bool = False
    """Vouch that the source was pre-trained without the target's images and patients, where their sets share some."""
    allow_config_change: bool = False
    """Go on although the configuration of a run changed: with more --steps, say."""
    protocol: Annotated[ProtocolOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ProtocolOptions)
    runtime: Annotated[RuntimeConfig, tyro.conf.arg(name="")] = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        if self.match_authors and self.mode != "finetune":
            raise InputError(f"the authors' program only fine-tunes; leave out --match-authors or --mode {self.mode}")
        for name in ("batch_size", "base_lr", "steps", "image_size", "resize"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be above 0")
        if self.image_size is None and self.resize is not None:
            raise InputError("--resize needs --image-size")


@dataclass(frozen=True)
class Transfer:
    """Fine-tuning of a pre-trained model on a target, all layers, with a new head."""

    pretrained: str
    """Run folder or weights to start from; "scratch" starts from random weights instead."""
    target: str
    """The prepared data set to fine-tune on."""
    shots: str = FULL
    """Training images per class, or "full"."""
    seed: int = 0
    """Decides the few-shot subset, the order, the augmentation, and the weights of "scratch"."""
    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)

    def __post_init__(self) -> None:
        if self.shots != FULL and not (self.shots.isdecimal() and int(self.shots) > 0):
            raise InputError(f"--shots {self.shots} is neither a number of at least 1 nor {FULL!r}")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}; it must not be negative")

    @property
    def config_shots(self) -> int | None:
        """Training images per class; None for all."""
        return None if self.shots == FULL else int(self.shots)


@dataclass(frozen=True, eq=False)
class Target:
    """The images of a target. name: from its manifest. digest: of its contents. train: the run's training images.
    held_out: number of images of each other split. height, width: medians over all training images as stored, pixels.
    xray_side: pixels of the shorter side to which `prepare` shrank its X-rays; None for photographs. unlike_authors:
    see `data_departures`."""

    name: str
    digest: str
    folder: Path
    train: Index
    held_out: dict[Split, int]
    height: int
    width: int
    xray_side: int | None
    unlike_authors: dict[str, dict[str, Any]]

    def metadata(self) -> dict[str, Any]:
        """Metadata of the target for the checkpoints of a run."""
        return {
            "task": self.train.task,
            "classes": list(self.train.classes),
            "channels": self.train.channels,
            "set_digests": {self.name: self.digest},
        }


def open_target(transfer: Transfer) -> Target:
    """Open the target of a run. Raises InputError for an unknown set, one without train or test split, or too few
    images."""
    folder = catalog.find(transfer.target)
    manifest = read_manifest(folder)
    data = _data(transfer, manifest["name"])
    splits = splits_of(manifest)
    if "train" not in splits:
        raise InputError(f"{folder} has no train split")
    if "test" not in splits:
        raise InputError(
            f"{folder} has no test split, so there is no number to report; prepare it again with one, for your own "
            "images with --test-fraction 0.1"
        )
    whole = open_split(replace(data, shots=None), [folder], "train", transfer.seed)
    train = whole if data.shots is None else open_split(data, [folder], "train", transfer.seed)
    assert whole is not None
    assert train is not None
    held_out: list[Split] = ["test"] if data.train_on == "train+val" else ["val", "test"]
    return Target(
        name=manifest["name"],
        digest=content_digest(manifest),
        folder=folder,
        train=train,
        held_out={split: manifest["splits"][split]["images"] for split in held_out if split in splits},
        height=int(np.median(whole.height)),
        width=int(np.median(whole.width)),
        xray_side=whole.xray_side,
        unlike_authors=data_departures(manifest),
    )


def train_on_of(name: str, mode: Mode, match_authors: bool = False) -> TrainOn:
    """The default splits to train on for a target: all training images where the paper uses them, or for any of its
    targets under `match_authors`. With frozen features val is held out, to choose the probe's L2."""
    is_whole = name in PAPER_TARGETS if match_authors else paper_target(name).trained_whole
    return "train+val" if mode == "finetune" and is_whole else "train"


def _data(transfer: Transfer, name: str) -> DataConfig:
    return DataConfig(
        sets=(transfer.target,),
        classes=transfer.options.classes,
        one_label=transfer.options.one_label,
        shots=transfer.config_shots,
        shots_at_most=transfer.options.shots_at_most,
        train_on=transfer.options.train_on or train_on_of(name, transfer.options.mode, transfer.options.match_authors),
        train_view="resize_random_crop",
        eval_view="squash",
    )


def make_config(transfer: Transfer, model: str, target: Target) -> tuple[Config, HyperRule]:
    """The configuration of one fine-tuning, with BiT-HyperRule's choices for the number and size of the target's
    images, or the authors' choices for X-rays that they fine-tune in another way.

    Raises InputError where X-rays would be enlarged. Source: arXiv:1912.11370, sec. 3.3; batch size, learning rate and
    weight decay of arXiv:2106.00116.
    """
    config, rule = _config(transfer, model, target)
    size = config.data.image_size
    is_whole = config.data.train_view == "xray_affine"
    _require_stored_pixels(transfer, target, size if is_whole else config.data.resize, size)
    return config, rule


def by_protocol(transfer: Transfer, model: str, target: Target) -> Config:
    """The configuration from `make_config` when only protocol and images are given."""
    options = transfer.options
    kept = {name: getattr(options, name) for name in _NO_PROTOCOL}
    if options.match_authors and paper_target(target.name).fewer_than_shots:
        kept["shots_at_most"] = options.shots_at_most  # which is needed where the authors' program takes what there is
    return _config(replace(transfer, options=Options(**kept)), model, target)[0]


def departures_of(config: Config, transfer: Transfer, target: Target) -> dict[str, dict[str, Any]]:
    """Departures of this configuration from its protocol: in its settings, and for the authors' protocol in its
    data."""
    found = departures(config, by_protocol(transfer, config.model.name, target))
    return found | target.unlike_authors if transfer.options.match_authors else found


def _config(transfer: Transfer, model: str, target: Target) -> tuple[Config, HyperRule]:
    options, source = transfer.options, transfer.pretrained
    rule = hyperrule(len(target.train), target.height, target.width)
    special = paper_target(target.name)
    if special.xray_size:
        rule = replace(rule, size=special.xray_size, resize=special.xray_size)
    size = options.image_size or rule.size
    by_class = transfer.shots == FULL and special.oversampled
    config = Config(
        name=run_name(transfer),
        seed=transfer.seed,
        global_batch_size=options.batch_size,
        precision="bf16",
        mode=options.mode,
        data=replace(
            _data(transfer, target.name),
            image_size=size,
            resize=options.resize or round(size * rule.resize / rule.size),
            train_view="xray_affine" if special.xray_size else "resize_random_crop",
            balance=options.balance or ("class" if by_class else "none"),
            mixup_alpha=rule.mixup_alpha if options.mixup_alpha is None else options.mixup_alpha,
        ),
        model=ModelConfig(
            model,
            head_init="zero",
            pretrained=None if source == SCRATCH else absolute(source),
            keep_head=options.keep_head,
        ),
        optim=OptimConfig(base_lr=options.base_lr, rescale_lr=False, weight_decay=0.0),
        schedule=ScheduleConfig(
            kind="hyperrule", epochs=None, steps=options.steps or rule.schedule[-1], warmup_steps=0
        ),
        runtime=options.runtime,
    )
    if options.match_authors:
        config = match_authors(config, target.name)
    return options.protocol.applied(config), rule


def _require_stored_pixels(transfer: Transfer, target: Target, needed: int, size: int) -> None:
    if target.xray_side and needed > target.xray_side:
        raise InputError(
            f"the X-rays of {transfer.target} are stored at {target.xray_side} pixels, smaller than {needed}: "
            f"prepare them again with --size {needed} (your own sets: --xray-size), or train on smaller ones with "
            f"--image-size {size * target.xray_side // needed}"
        )


def run_name(transfer: Transfer) -> str:
    """Name of a run, which is also its folder below OUT."""
    options = transfer.options
    behind = f"-{options.mode}" if options.mode != "finetune" else "-authors" if options.match_authors else ""
    source, target = source_name(transfer.pretrained), target_name(transfer.target)
    return f"{source}/{target}/{transfer.shots}-shot-seed-{transfer.seed}{behind}"


def source_name(source: str) -> str:
    """A source's name in reports: its run folder, its file, or its published name."""
    return source if source == SCRATCH else name_of(source)


def target_name(target: str) -> str:
    """A target's name in reports: that of its folder."""
    return Path(os.path.abspath(target)).name


def models_of(sources: Sequence[str], model: str | None) -> dict[str, str]:
    """The model of each source. Raises InputError where "scratch" has no model to copy."""
    models = {source: describe_weights(source).model_name for source in sources if source != SCRATCH}
    if SCRATCH in sources:
        scratch = model or next(iter(models.values()), None)
        if scratch is None:
            raise InputError("from scratch alone there is no model to go by; name one with --model")
        models[SCRATCH] = scratch
    return {source: models[source] for source in sources}


def sets_of(source: str) -> list[str]:
    """Names of the sets that a source was pre-trained on; empty if unknown."""
    return [] if source == SCRATCH else list(describe_weights(source).sets)


def set_digests_of(source: str) -> dict[str, str]:
    """Content digests of these sets, by name; without unknown ones."""
    return {} if source == SCRATCH else dict(describe_weights(source).set_digests)


def warnings_of(
    transfer: Transfer, config: Config, target: Target, sets: Sequence[str], digests: Mapping[str, str] | None = None
) -> list[str]:
    """Warnings to print before a run begins. sets: those that its source was pre-trained on. digests: of their
    contents."""
    options = transfer.options
    lines = options.protocol.without_effect(config)
    lines += lacks_val(config.data) if options.train_on else []
    if options.match_authors and target.unlike_authors:
        lines.append(data_warning(target.name, target.folder, target.unlike_authors))
    overlap = shares_images(sets, target.name, digests, target.digest)
    if overlap and not options.overlap_excluded:
        lines.append(f"{overlap}; reports leave this run out without --overlap-excluded")
    note = namesake_note(sets, target.name, digests or {}, target.digest)
    return [*lines, note] if note else lines


def fine_tune(transfer: Transfer) -> None:
    """Run one fine-tuning to its end, on all ranks of the job, and print its result."""
    options = transfer.options
    model = models_of([transfer.pretrained], options.model)[transfer.pretrained]
    target = open_target(transfer)
    config, rule = make_config(transfer, model, target)
    sets, digests = sets_of(transfer.pretrained), set_digests_of(transfer.pretrained)
    result_fields: dict[str, Any] = {
        "kind": "transfer",
        "mode": options.mode,
        "source": source_name(transfer.pretrained),
        "source_sets": sets,
        "source_set_digests": digests,
        "target": target_name(transfer.target),
        "target_set": target.name,
        "overlap_excluded": options.overlap_excluded,
        "model": model,
        "shots": transfer.shots,
        "seed": transfer.seed,
        "rule": asdict(rule),
        "protocol": "authors" if options.match_authors else "default",
        "departures": departures_of(config, transfer, target),
    }
    start = Start(options.out / config.name, allow_config_change=options.allow_config_change)
    start_run(config, start, result_fields, warnings_of(transfer, config, target, sets, digests))
