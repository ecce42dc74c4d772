"""Configurations that runs of any version saved, and how two of them differ."""

from dataclasses import MISSING, fields
from typing import Any

from data_pipelines.common.message_parts import as_typed
from data_pipelines.loading.views import AUTHORS_TRANSLATION, PAPER_TRANSLATION
from trainer.config.config import Config
from trainer.normalisation import BIT_MEAN, BIT_STD

RENAMED = {"runtime.stage": "runtime.cache_dir"}
"""Settings that earlier versions called otherwise."""


def translated(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a run of any version saved, in the words of this one: `optim.paper_code` stood for three."""
    runtime, optim = settings.get("runtime"), settings.get("optim")
    if isinstance(runtime, dict):
        settings = settings | {"runtime": {_renamed(name): value for name, value in runtime.items()}}
    if not isinstance(optim, dict) or "paper_code" not in optim:
        return settings
    rest = {name: value for name, value in optim.items() if name != "paper_code"}
    if not optim["paper_code"]:
        return settings | {"optim": rest}
    data = {"translation": AUTHORS_TRANSLATION} | settings.get("data", {})
    return settings | {"optim": {"nesterov": True, "agc_head": "shape"} | rest, "data": data}


def _renamed(name: str) -> str:
    return RENAMED.get(f"runtime.{name}", name).removeprefix("runtime.")


def as_it_was(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a run of any version saved, with what that version did where it had no such setting yet."""
    settings = translated(settings)
    for name, value in _ADDED.items():
        section, _, inside = name.rpartition(".")
        part = settings.get(section, {}) if section else settings
        if isinstance(part, dict) and inside not in part:
            settings = settings | ({section: part | {inside: value}} if section else {inside: value})
    return settings


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
    "data.images": None,
    "data.images_per_set": "proportional",
    "data.scaled_decode": False,
    "data.train_on": "train",
    "data.translation": PAPER_TRANSLATION,
    "data.border": "black",
    "data.randaugment_space": "torchvision",
    "data.randaugment_on": "crop",
    "data.mixup_weight": "pair",
    "model.keep_head": False,
    "model.frozen_stages": 0,
    "model.filter_init": "kaiming",
    "model.mean": list(BIT_MEAN),
    "model.std": list(BIT_STD),
    "schedule.warmup_epochs": None,
    "optim.nesterov": False,
    "optim.agc_head": "name",
}
MAY_CHANGE = frozenset({"runtime", "data.on_bad_shard", "data.max_bad", "schedule.allow_no_decay"})
"""Between two starts: how the run executes, what to do about faults that may come, and what is refused."""


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
            or prefix + name in MAY_CHANGE
            or before == after
            or (name not in old and _ADDED.get(prefix + name) == after)
        ):
            continue
        if prefix + name == "model.pretrained" and same_weights:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            lines += _differences(before, after, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name}: {as_typed(before)} -> {as_typed(after)}")
    return lines
