"""The flags of predict. Without PyTorch, which their help does not need."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipelines.common.errors import InputError
from data_pipelines.common.xray_storage import LEAST_BITS, MOST_BITS
from trainer.config import Precision
from trainer.evaluation.calibration.coverages import require_coverage
from trainer.evaluation.calibration.threshold_settings import ThresholdChoice


def require_inputs(sources: Sequence[Path]) -> None:
    """Raise InputError for a source of images that is not there."""
    for source in sources:
        if not source.is_dir() and not source.is_file():
            raise InputError(f"{source} is neither a file nor a folder")


@dataclass(frozen=True)
class Predict:
    """Predictions for new images."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or a checkpoint of one."""
    input: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Images, folders, DICOM, shards, or CSV files, any number."""
    out: Path = Path("predictions.csv")
    """CSV file to write. The same command again computes only what is new or changed since, by what it keeps in
    OUT.kept.jsonl, also after a stop; rows of images that are gone stay, with the remark "gone"."""
    force: bool = False
    """Replace any file that is there, compute all anew, and leave out images that are gone."""
    path_column: str = "path"
    """Of an INPUT that is a CSV file: the column of paths, relative to that file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision | None = None
    """None: that of the run, with which its evaluation was made."""
    eval_batch_size: int = 256
    """Images in one forward pass."""
    threads: int | None = None
    """CPU threads; None: all cores this process may use."""
    loader: Literal["auto", "dali", "torch"] = "auto"
    coverage: float | None = None
    """Of the prediction sets: how often they hold the true class, or say rightly whether a finding is there, in new
    patients like those of val. None: 0.9, where val is large enough for it."""
    xray_size: int | None = None
    """Side to which X-rays are shrunk, for a run that does not say it."""
    bits: int | None = None
    """Of the pixels of X-rays in files that hold more than 8: 2^bits - 1 is white, whatever the files say. None: as the
    run's set was prepared: by --bits if it was given there, else as each file says (DICOM always does), else as is
    known of the set; files that do not say it are not read where that is not known either."""
    head: str | None = None
    """Of a run with a head for each of its sets: the set whose findings are predicted."""
    choice: Annotated[ThresholdChoice, tyro.conf.arg(name="")] = field(default_factory=ThresholdChoice)
    explain: Path | None = None
    """Folder for maps of where the network looked, of the predicted class or the findings above their thresholds."""
    explain_images: int | None = None
    """Maps of so many of the first images; None: of all, if they are at most 100."""

    def __post_init__(self) -> None:
        require_coverage(self.coverage)
        if self.bits is not None and not LEAST_BITS <= self.bits <= MOST_BITS:
            raise InputError(f"--bits is {self.bits}; it must lie in {LEAST_BITS} to {MOST_BITS}")
        for name in ("eval_batch_size", "threads", "xray_size", "explain_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        if self.explain_images is not None and self.explain is None:
            raise InputError("--explain-images is for maps; say their folder with --explain, or leave it out")
        if not self.input:
            raise InputError("INPUT must be given; bitscale predict --help tells more")
        twice = sorted({str(path) for path in self.input if self.input.count(path) > 1})
        if twice:
            raise InputError(f"INPUT names {', '.join(twice)} twice; name each once")
