"""One fine-tuning run: its configuration, by BiT-HyperRule unless overridden, and running it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import read_json
from data_pipelines.common.manifest import content_digest, read_manifest, splits_of
from data_pipelines.common.splits import Split
from data_pipelines.datasets import catalog
from data_pipelines.datasets.overlap import namesake_note, shares_images
from data_pipelines.loading.views import RESIZE_FIRST
from data_pipelines.shards.index import Index
from trainer.config import (
    Config,
    DataConfig,
    Mode,
    ModelConfig,
    Precision,
    ScheduleConfig,
    TrainOn,
    with_settings,
)
from trainer.finetuning.options import FULL, Options, Transfer
from trainer.finetuning.paper_protocol import (
    NO_PROTOCOL,
    PAPER_TARGETS,
    data_departures,
    data_warning,
    departures,
    match_authors,
    paper_target,
)
from trainer.finetuning.settings import GLOBAL_BATCH_SIZE, OPTIM, RANDOM_CROPS, Given, without_effect
from trainer.models.sources import SCRATCH, absolute, name_of
from trainer.models.weights import describe_weights
from trainer.optim.hyperrule import HyperRule, hyperrule
from trainer.run_files import CONFIG
from trainer.splits import few_test_images, lacks_val, open_split, require_several_classes
from trainer.training.start import LaunchOptions, start_run

# Of a target's settings those that say which of its images a run uses.
IMAGE_SELECTION = (
    *("data.classes", "data.one_label", "data.images", "data.shots_at_most", "data.train_on", "data.on_bad_shard"),
)


@dataclass(frozen=True, eq=False)
class Target:
    """The images of a target."""

    name: str
    """From its manifest."""
    digest: str
    """Of its contents."""
    folder: Path
    train: Index
    """The run's training images."""
    held_out: dict[Split, int]
    """Number of images of each other split."""
    height: int
    """Median over all training images as stored, pixels; so is `width`."""
    width: int
    xray_side: int | None
    """Pixels of the shorter side to which `prepare` shrank its X-rays; None for photographs."""
    authors_data_departures: dict[str, dict[str, Any]]
    """See `data_departures`."""

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
    require_several_classes(data)
    splits = splits_of(manifest)
    if "train" not in splits:
        raise InputError(f"{folder} has no train split")
    if "test" not in splits:
        raise InputError(
            f"{folder} has no test split, so there is no number to report; prepare it again with one, for your own "
            "images with --test-fraction 0.3"
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
        authors_data_departures=data_departures(manifest),
    )


def train_on_of(name: str, mode: Mode, match_authors: bool = False) -> TrainOn:
    """The default splits to train on for a target: all training images where the paper uses them, or for any of its
    targets under `match_authors`. With frozen features val is held out, to choose the probe's L2."""
    is_whole = name in PAPER_TARGETS if match_authors else paper_target(name).trained_whole
    return "train+val" if mode == "finetune" and is_whole else "train"


def _data(transfer: Transfer, name: str) -> DataConfig:
    options = transfer.options
    data = DataConfig(
        sets=(transfer.target,),
        shots=transfer.config_shots,
        train_on=train_on_of(name, options.mode, options.match_authors),
        train_view="resize_random_crop",
        eval_view="squash",
    )
    chosen = {name: value for name, value in options.given.items() if name in IMAGE_SELECTION}
    return replace(data, **{name.removeprefix("data."): value for name, value in chosen.items()})


def make_config(transfer: Transfer, model: str, target: Target) -> tuple[Config, HyperRule]:
    """The configuration of one fine-tuning, with BiT-HyperRule's choices for the number and size of the target's
    images, or the authors' choices for X-rays that they fine-tune in another way.

    Raises InputError where X-rays would be enlarged. Source: arXiv:1912.11370, sec. 3.3; batch size, learning rate and
    weight decay of arXiv:2106.00116.
    """
    config, rule = _config(transfer, model, target, _precision(transfer))
    size = config.data.image_size
    needed = config.data.resize if config.data.train_view in RESIZE_FIRST else size
    _require_stored_pixels(transfer, target, needed, size)
    return config, rule


def by_protocol(transfer: Transfer, model: str, target: Target) -> Config:
    """The configuration from `make_config` when only protocol and images are given."""
    options = transfer.options
    kept = {name: value for name, value in options.given.items() if name in NO_PROTOCOL or name.startswith("runtime.")}
    if options.match_authors and paper_target(target.name).fewer_than_shots and "data.shots_at_most" in options.given:
        # The authors' program takes what there is, so this belongs to their protocol.
        kept["data.shots_at_most"] = options.given["data.shots_at_most"]
    planned = Options(match_authors=options.match_authors, given=kept)
    return _config(replace(transfer, options=planned), model, target, _precision(transfer))[0]


def departures_of(config: Config, transfer: Transfer, target: Target) -> dict[str, dict[str, Any]]:
    """Departures of this configuration from its protocol: in its settings, and for the authors' protocol in its
    data."""
    found = departures(config, by_protocol(transfer, config.model.name, target))
    return found | target.authors_data_departures if transfer.options.match_authors else found


def _precision(transfer: Transfer) -> Precision:
    """The precision that is not given: that of the run in the folder, else by the device, as bf16 is slow on CPUs."""
    options = transfer.options
    begun = None if "precision" in options.given else read_json(options.out / run_name(transfer) / CONFIG)
    if isinstance(begun, dict) and begun.get("precision") in ("fp32", "bf16"):
        return "fp32" if begun["precision"] == "fp32" else "bf16"
    on_gpu = options.runtime.device != "cpu" and torch.cuda.is_available()
    return "bf16" if on_gpu else "fp32"


def _config(transfer: Transfer, model: str, target: Target, precision: Precision) -> tuple[Config, HyperRule]:
    options, source = transfer.options, transfer.pretrained
    rule = hyperrule(len(target.train), target.height, target.width)
    special = paper_target(target.name)
    if special.xray_size:
        rule = replace(rule, size=special.xray_size, resize=special.xray_size)
    is_balanced = transfer.shots == FULL and special.oversampled
    config = Config(
        name=run_name(transfer),
        seed=transfer.seed,
        global_batch_size=GLOBAL_BATCH_SIZE,
        precision=precision,
        mode=options.mode,
        data=replace(
            _data(transfer, target.name),
            image_size=rule.size,
            resize=rule.resize,
            train_view="xray_affine" if special.xray_size else "resize_random_crop",
            balance="class" if is_balanced else "none",
            mixup_alpha=rule.mixup_alpha,
        ),
        model=ModelConfig(model, head_init="zero", pretrained=None if source == SCRATCH else absolute(source)),
        optim=OPTIM,
        schedule=ScheduleConfig(kind="hyperrule", epochs=None, steps=rule.schedule[-1], warmup_steps=0),
    )
    if options.match_authors:
        config = match_authors(config, target.name)
    return with_settings(config, _applicable(options.given, config)), rule


def _applicable(given: Given, config: Config) -> Given:
    """The given settings without those that do not apply: weights bring their own model, and the random crops of
    photographs do not replace the view of the paper's X-rays."""
    left_out = {"model.name"}
    if config.data.train_view == "xray_affine" and given.get("data.train_view") in RANDOM_CROPS:
        left_out.add("data.train_view")
    return {name: value for name, value in given.items() if name not in left_out}


def _require_stored_pixels(transfer: Transfer, target: Target, needed: int, size: int) -> None:
    if target.xray_side and needed > target.xray_side:
        raise InputError(
            f"the X-rays of {transfer.target} are stored at {target.xray_side} pixels, smaller than {needed}: "
            f"prepare them again with --size {needed} (your own sets: --xray-size), or train on smaller ones with "
            f"--data.image-size {size * target.xray_side // needed}"
        )


def run_name(transfer: Transfer) -> str:
    """Name of a run, which is also its folder below OUT."""
    options = transfer.options
    suffix = f"-{options.mode}" if options.mode != "finetune" else "-authors" if options.match_authors else ""
    source, target = source_name(transfer.pretrained), target_name(transfer.target)
    return f"{source}/{target}/{transfer.shots}-shot-seed-{transfer.seed}{suffix}"


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
            raise InputError(
                "with scratch as the only source the model is unknown; name one with --model.name, "
                "such as --model.name r50x1 (bitscale pretrain --help lists the sizes)"
            )
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
    lines = without_effect(options.given, config)
    lines += lacks_val(config.data) if "data.train_on" in options.given else []
    if options.match_authors and target.authors_data_departures:
        lines.append(data_warning(target.name, target.folder, target.authors_data_departures))
    overlap = shares_images(sets, target.name, digests, target.digest)
    if overlap and not options.overlap_excluded:
        lines.append(f"{overlap}; reports leave this run out without --overlap-excluded")
    note = namesake_note(sets, target.name, digests or {}, target.digest)
    return [*lines, note] if note else lines


def fine_tune(transfer: Transfer) -> None:
    """Run one fine-tuning to its end, on all ranks of the job, and print its result."""
    options = transfer.options
    model = models_of([transfer.pretrained], options.given.get("model.name"))[transfer.pretrained]
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
    launch = LaunchOptions(options.out / config.name, allow_config_change=options.allow_config_change)
    warnings = [*warnings_of(transfer, config, target, sets, digests), *few_test_images(config.data)]
    start_run(config, launch, result_fields, warnings)
