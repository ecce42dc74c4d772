"""Short runs, what they saved, and disks that fail."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, OptimConfig, RuntimeConfig, ScheduleConfig
from trainer.engines import ENGINES
from trainer.run_files import STATUS
from trainer.training.run import LaunchOptions, run

STEPS = 8
Save = Callable[[Path, dict[str, Any], dict[str, Any]], None]


def trained(data: Path | str, run_dir: Path, **runtime: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"save_every": 2, "log_every": 2, "keep_checkpoints": 2} | runtime
    config = Config(
        name="small",
        global_batch_size=4,
        precision="fp32",
        data=DataConfig(sets=(str(data),), image_size=32, resize=32),
        model=ModelConfig("r14x0.5"),
        optim=OptimConfig(base_lr=0.1, rescale_lr=False),
        schedule=ScheduleConfig("cosine", epochs=None, steps=STEPS, warmup_steps=2),
        runtime=RuntimeConfig(device="cpu", threads=1, **settings),
        eval_every=4,
    )
    engine = ENGINES["ddp"](config.runtime, "fp32")
    try:
        return run(config, LaunchOptions(run_dir), engine, {"kind": "test"})
    finally:
        engine.close()


def state(run_dir: Path) -> str:
    recorded: str = json.loads((run_dir / STATUS).read_text())["state"]
    return recorded


def steps(run_dir: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.numbered(run_dir)]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = checkpoint.load(checkpoint.path_of(run_dir, STEPS)).state["model"]
    return loaded


def equal(one: Path, other: Path) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def failing(fails: Callable[[Path, int], bool], code: int = errno.ENOSPC) -> Save:
    """checkpoint.save on a disk that refuses some of them, by path and how many writes there were before."""
    save, before = checkpoint.save, 0

    def wrapped(path: Path, *rest: Any) -> None:
        nonlocal before
        before += 1
        if fails(path, before - 1):
            raise OSError(code, os.strerror(code))
        save(path, *rest)

    return wrapped
