"""Sources, targets and finished runs of a sweep that is planned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data_pipelines.common.files import write_json
from trainer import checkpoint
from trainer.finetuning.finetune import open_target
from trainer.sweep.plan import Plan, PlannedRun
from trainer.training.job import settings_of

CLASSES = ("few", "many")
LABELS = [0] * 2 + [1] * 4
Planned = Callable[..., Plan]


def source_of(folder: Path, *sets: str, seed: int = 0) -> str:
    """A run folder with the weights of a source that was trained on these sets."""
    weights = {"stem.conv.weight": torch.full((2, 2), float(seed))}
    about = {"model": "r14x0.5", "classes": ["a"], "sets": list(sets), "step": 1, "best": None}
    checkpoint.save(checkpoint.path_of(folder, 1), {"model": weights, "momentum": {}, "loss_scaler": {}}, about)
    return str(folder)


def leave_result(run: PlannedRun, **changes: Any) -> Path:
    """What the run would leave in its folder."""
    settings = settings_of(run.config, open_target(run.transfer).train.fingerprint) | changes
    run.run_dir.mkdir(parents=True)
    write_json(run.run_dir / "config.json", settings)
    write_json(run.run_dir / "result.json", {"settings": settings})
    return run.run_dir / "result.json"
