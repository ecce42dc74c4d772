"""Configurations of fine-tunings beside those of their protocol."""

from pathlib import Path
from typing import Any

from options_with import options_with
from tiny_sets import tiny_set

from trainer.config import Config
from trainer.finetuning.finetune import (
    SCRATCH,
    Options,
    Transfer,
    by_protocol,
    make_config,
    open_target,
)

EVERYWHERE = {
    "optim.nesterov": True,
    "optim.agc_head": "shape",
    "model.head_init": "torch",
    "model.filter_init": "torch",
}


ON_XRAYS = {"data.border": "reflect", "data.translation": 0.25}


FINE_TUNING = EVERYWHERE | {"precision": "fp32", "data.mixup_weight": "step"}


def configured(folder: Path, options: Options | None = None, **single: Any) -> tuple[Config, Config]:
    """The configuration of a fine-tuning with these options, or single ones, and the one of its protocol."""
    given = Transfer(SCRATCH, str(folder), options=options or options_with(device="cpu", **single))
    target = open_target(given)
    return make_config(given, "r14x0.5", target)[0], by_protocol(given, "r14x0.5", target)


def target_of(folder: Path, name: str) -> Path:
    return tiny_set(folder, [0, 0, 1, 1], ("a", "b"), name=name, splits=("train", "val", "test"))
