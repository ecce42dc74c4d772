"""The flags of evaluate. Without PyTorch, which their help does not need."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipelines.common.errors import InputError
from trainer.config import Precision
from trainer.evaluation.calibration.coverages import require_coverage
from trainer.evaluation.calibration.threshold_settings import ThresholdChoice
from trainer.evaluation.statistics.bootstrap import RESAMPLES

AnySplit = Literal["train", "val", "test", "all"]
_MOST_RESAMPLES = 1_000_000


@dataclass(frozen=True)
class Evaluate:
    """How good a run is, and how sure one may be."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    data: str | None = None
    """Prepared set of another site; None: the run's own."""
    split: AnySplit = "test"
    """Of those; all: every split of --data."""
    against: Path | None = None
    """Another run, to be compared on the same images."""
    by: str | None = None
    """Also show each group of images, and what differs between them: a fact that the set keeps, such as site, or month,
    quarter or year of its dates."""
    out: Path | None = None
    """Folder to write; None: in the run folder, evaluation-<set>-<split>."""
    force: bool = False
    """Replace an earlier evaluation of the same images."""
    images: bool = True
    """Show the images of the most confident errors, and maps; --no-images does not."""
    explain: bool = False
    """Show where the network looked: maps of the most confident errors and the most certain hits, and what was measured
    of them. With --no-images only this."""
    coverage: float | None = None
    """Of the prediction sets that are judged. None: 0.9, where val is large enough for it."""
    resamples: int = RESAMPLES
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision | None = None
    """None: that of the run."""
    eval_batch_size: int = 256
    """Images in one forward pass."""
    threads: int | None = None
    """CPU threads; None: all cores this process may use."""
    head: str | None = None
    """Of a run with a head for each of its sets: the set whose findings are tested, by default on its own images."""
    choice: Annotated[ThresholdChoice, tyro.conf.arg(name="")] = field(default_factory=ThresholdChoice)

    def __post_init__(self) -> None:
        require_coverage(self.coverage)
        if self.resamples < 100:
            raise InputError(f"--resamples is {self.resamples}; below 100 there is no interval worth the name")
        if self.resamples > _MOST_RESAMPLES:
            raise InputError(f"--resamples is {self.resamples}; more than {_MOST_RESAMPLES:,} do not fit into memory")
        if self.eval_batch_size < 1 or self.seed < 0:
            raise InputError("--eval-batch-size must be at least 1, --seed must not be negative")
