"""Runs of a few steps of the shipped loop on one device."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, Precision, RuntimeConfig, ScheduleConfig
from trainer.engine import Engine
from trainer.engines import ENGINES
from trainer.training.run import LaunchOptions, run

STEPS, SAVE_EVERY = 6, 2


def config_of(data: Path, device: torch.device, precision: Precision = "fp32", **runtime: Any) -> Config:
    """Two micro-batches a step, with AGC, MixUp and MultiStep schedule as in the paper's recipes."""
    settings = {"compile": False, "loader": "torch", "log_every": 1, "save_every": SAVE_EVERY} | runtime
    return Config(
        name="small",
        global_batch_size=16,
        precision=precision,
        data=DataConfig(sets=(str(data),), image_size=32, resize=32, mixup_alpha=0.1),
        model=ModelConfig("r14x0.5", head_init="fan_in"),
        optim=OptimConfig(base_lr=0.05, rescale_lr=False),
        schedule=ScheduleConfig("step", epochs=None, steps=STEPS, warmup_steps=1),
        runtime=RuntimeConfig(device=device.type, threads=1, micro_batch_size=8, keep_checkpoints=10, **settings),
    )


def train(config: Config, run_dir: Path, engine: Engine | None = None) -> dict[str, Tensor]:
    """Train to the end, going on with what is in the folder; returns the last checkpoint's weights and momentum."""
    own = ENGINES["ddp"](config.runtime, config.precision) if engine is None else engine
    try:
        run(config, LaunchOptions(run_dir), own, {"kind": "test"})
    finally:
        if engine is None:
            own.close()
    state = checkpoint.load(checkpoint.path_of(run_dir, STEPS)).state
    return {f"{part}.{name}": t for part in ("model", "momentum") for name, t in state[part].items()}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of all weights as a share of their norm."""
    names = [name for name in expected if name.startswith("model.")]
    one, other = (torch.cat([part[name].flatten().double().cpu() for name in names]) for part in (found, expected))
    return float((one - other).norm() / other.norm())
