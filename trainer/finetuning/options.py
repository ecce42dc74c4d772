"""What is fine-tuned on what, and where runs go. Without PyTorch, which help does not need."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from data_pipelines.common.errors import InputError
from trainer.config import Mode, RuntimeConfig
from trainer.finetuning.settings import Given

FULL = "full"


@dataclass(frozen=True)
class Options:
    """How to fine-tune, and where runs go."""

    match_authors: bool = False
    """Fine-tune as the authors' program does where BiT or the paper's text says less or something else: see
    docs/fidelity.md. Each setting that is given beats this."""
    out: Path = Path("runs/transfer")
    """Each run goes to OUT/<source>/<target>/<shots>-shot-seed-<seed>, with -probe, -knn or -authors behind it."""
    overlap_excluded: bool = False
    """Vouch that the source was pre-trained without the target's images and patients, where their sets share some."""
    allow_config_change: bool = False
    """Go on although the configuration of a run changed: with more --schedule.steps, say."""
    given: Annotated[Given, tyro.conf.Suppress] = field(default_factory=dict)
    """Settings that are not left to the rule and the protocol."""

    def __post_init__(self) -> None:
        if self.match_authors and self.mode != "finetune":
            raise InputError(f"the authors' program only fine-tunes; leave out --match-authors or --mode {self.mode}")

    @property
    def mode(self) -> Mode:
        """finetune: all layers; probe, knn: on frozen features."""
        mode: Mode = self.given.get("mode", "finetune")
        return mode

    @property
    def runtime(self) -> RuntimeConfig:
        """Where and how runs execute."""
        section = "runtime."
        return RuntimeConfig(
            **{name.removeprefix(section): value for name, value in self.given.items() if name.startswith(section)}
        )

    def with_given(self, **given: Any) -> "Options":
        """A copy with these settings, by name, added or replaced: `with_given(**{"runtime.threads": 2})`."""
        return replace(self, given={**self.given, **given})

    def without(self, *names: str) -> "Options":
        """A copy with these settings left to the rule and the protocol."""
        return replace(self, given={name: value for name, value in self.given.items() if name not in names})


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
