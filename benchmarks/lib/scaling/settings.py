"""The flags of the scaling study. Without PyTorch, which their help does not need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from data_pipelines.common.errors import InputError

EngineName = Literal["ddp", "horovod", "deepspeed"]


@dataclass(frozen=True)
class Scaling:
    """Which counts of GPUs, of what, where."""

    gpus: str = "1,4,...,1024"
    """Ascending counts; dots go on by the last ratio."""
    strong: bool = False
    """Strong scaling: --batch-size is the global batch, the same at every count; without it that of each GPU."""
    model: str | None = None
    """None: r152x4, as in the paper; what is measured on a CPU: r14x0.5."""
    batch_size: int | None = None
    """Images per GPU, or of all with --strong. None: 16, as in the paper; measured on a CPU 32; 4096 with --strong."""
    image_size: int | None = None
    """Pixels. None: 224; measured on a CPU 32."""
    data: str | None = None
    """Prepared set to train on. None: generated photographs (synthetic) on GPUs, embedded fashion_mnist on a CPU."""
    engines: tuple[EngineName, ...] = ("ddp",)
    """Engines to compare."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where counts that fit this machine are measured; with cpu the plan's jobs run on CPUs, too."""
    windows: int = 3
    """Measured windows of each point, at least 3."""
    window_steps: int = 10
    """Steps of a window."""
    measure: bool = True
    """Measure what fits this machine; without, all counts are planned."""
    collect: tuple[Path, ...] = ()
    """Take measured points from these folders instead of measuring."""
    allow_mixed: bool = False
    """Take points of different commits, marked as mixed."""
    profile: str = "juwels-booster"
    """Machine to predict: the name of a profile, or a TOML file."""
    predict: bool = True
    """Predict all counts."""
    what_if: str = ""
    """Predict once more with changes: bucket_mb=100,compression=bf16,net_gb_s=50."""
    advise: bool = False
    """Predict bucket sizes and compression at the largest count."""
    paper: bool = False
    """Draw the paper's points, too."""
    check_accuracy: bool = False
    """Train a short recipe to its end on each count and compare accuracies."""
    accuracy_steps: int = 300
    """Steps of it."""
    dry_world: int | None = None
    """Instead of all this: drive the loop as one of so many ranks, without the others, and as one of 1 and 64."""
    out: Path = Path("scaling")
    """Folder for scaling.csv, .json, .md, figures, runs and plan."""

    def __post_init__(self) -> None:
        for name, least in (("windows", 3), ("window_steps", 1), ("accuracy_steps", 10), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")
        if not self.engines:
            raise InputError(f"--engines names none; there are {', '.join(get_args(EngineName))}")
