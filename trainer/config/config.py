"""One run: its sections, what belongs to none of them, and checks across them."""

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import tyro

from trainer.config.checks import require, require_known_choices
from trainer.config.runtime import RuntimeConfig
from trainer.config.sections import DataConfig, ModelConfig, OptimConfig, ScheduleConfig

Precision = Literal["fp32", "bf16", "fp16"]
Mode = Literal["finetune", "probe", "knn"]


@dataclass(frozen=True)
class Config:
    """One run of pre-training or fine-tuning."""

    name: str = "run"
    """Name of the run; its folder is runs/<name> unless --out says otherwise."""
    seed: int = 0
    """Decides initial weights, order, augmentation and few-shot selection."""
    global_batch_size: int = 4096
    """Images of one optimiser step, over all ranks and micro-batches."""
    precision: Precision = "bf16"
    """Of the forward and backward pass; weights and their update are fp32."""
    eval_every: int | None = None
    """Steps between two evaluations on the val split; the best of them is kept. None: at the end only."""
    mode: Annotated[Mode, tyro.conf.Suppress] = "finetune"
    """All layers are trained; or a linear probe, or nearest neighbours, on the features of the frozen backbone."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: Annotated[RuntimeConfig, tyro.conf.arg(name="")] = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        require_known_choices(self)
        require(self.seed >= 0, f"--seed is {self.seed}; it must not be negative")
        require(self.global_batch_size > 0, f"--global-batch-size is {self.global_batch_size}; it must be at least 1")
        require(
            self.eval_every is None or self.eval_every > 0, f"--eval-every is {self.eval_every}; it must be at least 1"
        )
        require(bool(self.data.sets), "no data set; name one with --data.sets")
        require(
            self.mode == "finetune" or not self.runtime.elastic,
            f"--elastic is for training, and --mode {self.mode} has none; leave out one of them",
        )
        require(
            self.mode == "finetune" or self.runtime.profile is None,
            f"--profile records training steps, and --mode {self.mode} has none; leave out one of them",
        )
        if self.data.train_on == "train+val":
            require(
                self.eval_every is None,
                f"--eval-every {self.eval_every} chooses the best checkpoint on val, which --data.train-on train+val "
                "trains on; take --eval-every None, or --data.train-on train",
            )
            require(
                self.mode != "probe",
                "a linear probe chooses its L2 on val, which train+val trains on; take --data.train-on train",
            )
        if self.data.mixup_alpha:
            sizes = {
                "--global-batch-size": self.global_batch_size,
                "--micro-batch-size": self.runtime.micro_batch_size,
            }
            for named, size in sizes.items():
                even = not isinstance(size, int) or size % 2 == 0
                require(even, f"MixUp mixes neighbours in pairs: {named} {size} must be even")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain
