"""The paper's protocol beyond BiT-HyperRule: its seven targets, and how the authors' program differs from or completes
their text, as settings of a run.

Source: SLAMPAI/large-scale-pretraining-transfer at commit fe6232b; docs/fidelity.md compares it row by row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from data_pipelines.common.advice import quoted
from data_pipelines.loading.views import AUTHORS_TRANSLATION
from trainer.config import Config, DataConfig
from trainer.normalisation import BIT_MEAN, BIT_STD, IMAGENET_MEAN, IMAGENET_STD

Protocol = Literal["default", "authors"]

# What reports call the settings that a protocol decides.
SETTINGS = {
    "precision": "precision",
    "global_batch_size": "batch size",
    "schedule.kind": "schedule",
    "schedule.steps": "optimiser steps",
    "schedule.epochs": "epochs",
    "schedule.warmup_epochs": "epochs of warm-up",
    "schedule.warmup_steps": "steps of warm-up",
    "optim.base_lr": "base learning rate",
    "optim.rescale_lr": "learning rate rescaled by the batch size",
    "optim.momentum": "momentum",
    "optim.weight_decay": "weight decay",
    "optim.agc_clipping": "clipping",
    "optim.agc_head": "AGC excludes the head by",
    "optim.nesterov": "Nesterov momentum",
    "model.head_init": "initial head",
    "model.filter_init": "initial filters",
    "model.keep_head": "head of the source kept",
    "model.frozen_stages": "frozen stages",
    "model.mean": "mean of the normalisation",
    "model.std": "standard deviation of the normalisation",
    "data.train_on": "trained on",
    "data.join": "findings of several sets",
    "data.classes": "classes",
    "data.one_label": "images with one finding alone",
    "data.images": "most training images",
    "data.images_per_set": "shares of the sets",
    "data.shots_at_most": "classes with fewer images than shots",
    "data.image_size": "pixels",
    "data.resize": "pixels before the random crop",
    "data.train_view": "training view",
    "data.eval_view": "evaluation view",
    "data.scaled_decode": "JPEG files decoded at a smaller size",
    "data.shuffle": "shuffling",
    "data.flip": "mirroring",
    "data.balance": "balance",
    "data.border": "border of X-rays",
    "data.translation": "largest shift of X-rays",
    "data.mixup_alpha": "MixUp alpha",
    "data.mixup_weight": "MixUp weight per",
    "data.randaugment_ops": "RandAugment operations",
    "data.randaugment_magnitude": "RandAugment magnitude",
    "data.randaugment_space": "RandAugment operation set",
    "data.randaugment_on": "RandAugment applied to",
}
# What a run is of, how it executes, and what only decides whether it goes on: of no protocol.
NO_PROTOCOL = {
    "name",
    "seed",
    "mode",
    "eval_every",
    "runtime",
    "data.sets",
    "data.shots",
    "data.on_bad_shard",
    "data.max_bad",
    "model.name",
    "model.pretrained",
    "schedule.allow_no_decay",
}

_WARMUP_EPOCHS = {"imagenet1k": 15, "imagenet21k": 2}
_EPOCHS = {("imagenet1k", "r50x1"): 120}


@dataclass(frozen=True)
class PaperTarget:
    """One target. trained_whole: the paper holds nothing out for val; of the others val is kept for thresholds and
    temperature. oversampled: small in some classes, so the full set is sampled by class. xray_size: trained and tested
    as in the pre-training on X-rays, at this size in pixels; None: by BiT-HyperRule.

    Of the authors' program alone: bit_normalised: BiT's mean and standard deviation whatever the source has;
    fewer_than_shots: takes what there is of classes with fewer images; prepared: what the manifest of its data says,
    where `prepare` can do otherwise. It holds nothing out for val of any of the seven.
    """

    trained_whole: bool = False
    oversampled: bool = False
    xray_size: int | None = None
    bit_normalised: bool = False
    fewer_than_shots: bool = False
    prepared: Mapping[str, str] = field(default_factory=dict)


# By the names in their manifests. Source: arXiv:2106.00116, and its authors' program at commit fe6232b.
PAPER_TARGETS = {
    "cifar10": PaperTarget(trained_whole=True),
    "cifar100": PaperTarget(trained_whole=True),
    "pets": PaperTarget(trained_whole=True),
    "flowers102": PaperTarget(trained_whole=True, oversampled=True, prepared={"split": "authors"}),
    "covidx": PaperTarget(oversampled=True, prepared={"xray_cut": "whole"}),
    "tuberculosis": PaperTarget(prepared={"xray_cut": "whole", "split_by": "image"}),
    "padchest_cl": PaperTarget(
        xray_size=224, bit_normalised=True, fewer_than_shots=True, prepared={"split_by": "image"}
    ),
}
_OTHER = PaperTarget()
# What reports call what `prepare` decides.
PREPARED = {
    "prepared.split": "split of the data",
    "prepared.xray_cut": "part of the X-rays",
    "prepared.split_by": "test images drawn by",
}
# What manifests do not say.
_UNSAID = {"split": "official", "xray_cut": "square", "split_by": "patient"}


def paper_target(name: str) -> PaperTarget:
    """The target of that name; for other sets, one with no special rules."""
    return PAPER_TARGETS.get(name, _OTHER)


def data_departures(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Differences of a prepared set from the authors' data, as `departures` of settings: {"prepared.split": {"used":
    "official", "protocol": "authors"}}."""
    pairs = {
        name: {"used": manifest.get(name) or _UNSAID[name], "protocol": value}
        for name, value in paper_target(manifest["name"]).prepared.items()
    }
    return {f"prepared.{name}": pair for name, pair in pairs.items() if pair["used"] != pair["protocol"]}


def data_warning(name: str, folder: Path, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Warning that the target in `folder` has these `data_departures`, with the command that prepares the authors' data
    beside it."""
    differences = [f"{PREPARED[key]}: {pair['used']} instead of {pair['protocol']}" for key, pair in found.items()]
    wanted = paper_target(name).prepared.items()
    options = [f"--{key.replace('_', '-')} {value}" for key, value in wanted if key != "xray_cut"]  # whole by default
    out = Path(f"{folder.resolve().parent}-authors", folder.name)
    given = " ".join(["--root DIR", *options, f"--out {quoted(out)}"])
    return (
        f"the authors' program has other data than {folder} ({'; '.join(differences)}); for theirs: "
        f"bitscale prepare {name} {given}"
    )


def match_authors(config: Config, target: str | None = None) -> Config:
    """The configuration with everything that the authors' program sets. For a fine-tuning (schedule hyperrule) `target`
    is the set's name in its manifest; None: its folder's name. The training images of a fine-tuning (data.train_on) are
    up to `finetune.train_on_of`."""
    config = replace(
        config,
        optim=replace(config.optim, nesterov=True, agc_head="shape"),
        model=replace(config.model, head_init="torch", filter_init="torch"),
        data=_data(config.data),
    )
    names = [Path(name).name for name in config.data.sets]
    if config.schedule.kind == "hyperrule":
        return _fine_tuning(config, target or names[0])
    return _pretraining(config, names[0] if len(names) == 1 else "")


def _data(data: DataConfig) -> DataConfig:
    if data.train_view == "xray_affine":
        return replace(data, border="reflect", translation=AUTHORS_TRANSLATION)
    if data.randaugment_ops:
        return replace(data, randaugment_space="ildoonet", randaugment_on="image")
    return data


def _fine_tuning(config: Config, target: str) -> Config:
    data, model = replace(config.data, mixup_weight="step"), config.model
    if data.train_view == "resize_random_crop":
        data = replace(data, train_view="shorter_side_random_crop")
    if paper_target(target).bit_normalised:
        model = replace(model, mean=BIT_MEAN, std=BIT_STD)
    return replace(config, precision="fp32", data=data, model=model)


def _pretraining(config: Config, name: str) -> Config:
    if config.precision == "bf16":  # PyTorch's mixed precision had fp16 alone, behind a loss scaler
        config = replace(config, precision="fp16")
    if name not in _WARMUP_EPOCHS:
        return config
    epochs = _EPOCHS.get((name, config.model.name), config.schedule.epochs)
    return replace(
        config,
        model=replace(config.model, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        schedule=replace(config.schedule, epochs=epochs, warmup_epochs=_WARMUP_EPOCHS[name], warmup_steps=0),
    )


def match_paper_code(config: Config) -> Config:
    """The configuration as set by `--optim.paper-code` of earlier versions, for runs that began with it."""
    return replace(
        config,
        optim=replace(config.optim, nesterov=True, agc_head="shape"),
        data=replace(config.data, translation=AUTHORS_TRANSLATION),
    )


def departures(config: Config, by_protocol: Config) -> dict[str, dict[str, Any]]:
    """The settings of a run that differ from its protocol: {"optim.nesterov": {"used": False, "protocol": True}}."""
    used, planned = flat(config), flat(by_protocol)
    return {
        name: {"used": value, "protocol": planned[name]}
        for name, value in used.items()
        if name not in NO_PROTOCOL and value != planned[name]
    }


def flat(config: Config) -> dict[str, Any]:
    """All settings outside `runtime` by name, such as "optim.nesterov"; `runtime` as one entry."""
    found: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        is_section = isinstance(value, dict) and name != "runtime"
        found |= {f"{name}.{inside}": of_it for inside, of_it in value.items()} if is_section else {name: value}
    return found


def setting(settings: Mapping[str, Any], name: str) -> Any:
    """A plain setting by a name such as "optim.nesterov"; None if there is none."""
    section, _, inside = name.rpartition(".")
    return (settings.get(section, {}) if section else settings).get(inside)
