"""The trials of a sweep: the runs of a cell with different values of the settings that are varied."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from data_pipelines.common.errors import InputError
from trainer.config import flag_of
from trainer.finetuning.finetune import (
    IMAGE_SELECTION,
    SCRATCH,
    Options,
    Target,
    Transfer,
    make_config,
    source_name,
    target_name,
)
from trainer.finetuning.settings import idle_settings
from trainer.sweep.variations import FLAG, Varied, folder_of, name_of_flag, variants_of

Variant = Mapping[str, Any]
"""One value of each setting that is varied."""

_OF_WEIGHTS = {
    "model.keep_head": "from scratch there is no head to keep",
    "model.frozen_stages": "from scratch there are no weights to keep",
}


class Trial(NamedTuple):
    """transfer: whose options have the trial's values, and its folder. folder: below that of the sweep; "" without."""

    transfer: Transfer
    folder: str


class Trials:
    """All trials of a sweep. A value that changes nothing in a cell makes no second run there."""

    def __init__(self, varied: Varied) -> None:
        self._varied = varied
        self._made: set[tuple[str, str, str, int, str]] = set()
        self._counting: set[str] = set()  # settings that change some run
        self._idle: dict[str, dict[str, str]] = {}  # reasons, by setting and cell

    def by_images(self) -> list[list[Variant]]:
        """The variants, those together that see the same images of a target."""
        groups: dict[tuple[Any, ...], list[Variant]] = {}
        for variant in variants_of(self._varied):
            groups.setdefault(tuple(variant.get(name) for name in (*IMAGE_SELECTION, "mode")), []).append(variant)
        return list(groups.values())

    def of(self, transfer: Transfer, variants: Sequence[Variant], model: str, target: Target) -> Iterator[Trial]:
        """The trials of one source on the images that `target` has of these variants. Raises as `make_config`."""
        for variant in variants:
            counting = self._counting_ones(transfer, variant, model, target)
            folder = folder_of(counting)
            key = (transfer.pretrained, transfer.target, transfer.shots, transfer.seed, folder)
            if key not in self._made:
                self._made.add(key)
                self._counting |= counting.keys()
                options = with_variant(transfer.options, counting)
                yield Trial(replace(transfer, options=replace(options, out=options.out / folder)), folder)

    def _counting_ones(self, transfer: Transfer, variant: Variant, model: str, target: Target) -> dict[str, Any]:
        """The values that change something in this run."""
        idle = without_weights(variant) if transfer.pretrained == SCRATCH else {}
        counting = {name: value for name, value in variant.items() if name not in idle}
        if counting:
            config, _ = make_config(replace(transfer, options=with_variant(transfer.options, counting)), model, target)
            idle |= idle_settings(counting, config)
        cell = f"{source_name(transfer.pretrained)} to {target_name(transfer.target)}"
        for name, reason in idle.items():
            self._idle.setdefault(name, {})[cell] = reason
        return {name: value for name, value in counting.items() if name not in idle}

    def notes(self) -> list[str]:
        """Notes on cells where some values change nothing. Raises InputError for a setting that changes no run."""
        for name, cells in self._idle.items():
            if name not in self._counting:
                reasons = "; ".join(dict.fromkeys(cells.values()))
                raise InputError(f"{FLAG} {name_of_flag(name)} changes no run: {reasons}")
        return [
            f"{cell}: {flag_of(name)} has no effect in some trials, which are made once: {reason}"
            for name, cells in self._idle.items()
            for cell, reason in cells.items()
        ]


def with_variant(options: Options, variant: Variant) -> Options:
    """The options with these values."""
    return options.with_given(**variant) if variant else options


def without_weights(given: Mapping[str, Any]) -> dict[str, str]:
    """The settings among these that need pre-trained weights, with what is said from scratch."""
    return {name: reason for name, reason in _OF_WEIGHTS.items() if name in given}
