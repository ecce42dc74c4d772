"""The flags of a sweep. Without PyTorch, which their help does not need."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from data_pipelines.common.errors import InputError
from trainer.finetuning.options import FULL, Options
from trainer.finetuning.settings import Settings, given_settings


@dataclass(frozen=True)
class Sweep:
    """Fine-tuning of every source on every target. Lists may be written with spaces or with commas."""

    sources: tuple[str, ...]
    """Run folders or weights to start from; "scratch" starts from random weights instead."""
    targets: tuple[str, ...]
    """Prepared data sets to fine-tune on."""
    shots: tuple[str, ...] = (FULL,)
    """Training images per class, or "full"."""
    seeds: int = 5
    """How many seeds, from 0."""
    vary: tuple[str, ...] = ()
    """Settings and the values to try of each: optim.base-lr=0.003,0.03. Each value has a folder of its own below OUT,
    such as base-lr-0.003; of several settings all combinations are tried."""
    jobs: int | None = None
    """Runs at a time; None: one per GPU, or one on a CPU. They share the CPU cores."""
    skip_impossible: bool = False
    """List the cells that need more images than a target has, and run the others, instead of refusing all."""
    dry_run: bool = False
    """Print the plan with estimated hours, and stop."""
    plan: Path | None = None
    """Write the plan to this file for `bitscale submit`, and stop."""
    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"--jobs is {self.jobs}; it must be at least 1")
        for name in ("sources", "targets", "shots"):
            object.__setattr__(self, name, _listed(getattr(self, name)))
            if not getattr(self, name):
                raise InputError(f"--{name} names none")

    def sweep(self, arguments: Sequence[str]) -> "Sweep":
        """What these arguments, which it was parsed from, say. Raises InputError for what does not go together."""
        return replace(self, options=replace(self.options, given=given_settings(self.settings, arguments)))


def _listed(words: tuple[str, ...]) -> tuple[str, ...]:
    """Words split at commas, except those that are existing paths."""
    return tuple(
        part for word in words for part in ([word] if Path(word).exists() else word.split(",")) if part.strip()
    )
