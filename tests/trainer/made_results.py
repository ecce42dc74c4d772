"""Results as runs leave them, made up: for the tests of reports."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from trainer.reporting.rows import frame_of, row_of
from trainer.reporting.tables import with_titles
from trainer.run_files import RESULT

RULE = {"schedule": [100, 200, 300, 400, 500], "mixup_alpha": 0.0, "resize": 160, "size": 128}
ENVIRONMENT = {
    "commit": "c0ffee",
    "world_size": 4,
    "device": "some GPU",
    "threads_per_rank": 16,
    "packages": {"torch": "2.11.0", "bitscale": "0.1.0"},
}


def settings_of(seed: int, model: str = "r50x1", **data: Any) -> dict[str, Any]:
    return {
        "seed": seed,
        "global_batch_size": 128,
        "data": {"sets": ["pets"], "image_size": 128, "resize": 160, "mixup_alpha": 0.0, **data},
        "model": {"name": model},
        "optim": {"base_lr": 0.001},
    }


def transfer_result(
    source: str, shots: str, seed: int, top1: float | None, target: str = "pets", model: str = "r50x1", **changes: Any
) -> dict[str, Any]:
    """What `transfer` leaves of one run; without a test split if `top1` is None."""
    mode = changes.get("mode", "finetune")
    return {
        "kind": "transfer",
        "source": source,
        "target": target,
        "model": model,
        "shots": shots,
        "seed": seed,
        "rule": RULE,
        "run": f"{source}-{model}/{target}/{shots}-shot-seed-{seed}-{mode}",
        "task": "single_label",
        "settings": settings_of(seed, model, sets=[target]),
        "total_steps": 500,
        "train_images": 37,
        "loader": "torch",
        "environment": ENVIRONMENT,
        "seconds": 12.345,
        "checkpoint": "best.safetensors",
        "checkpoint_step": 500,
        **({} if top1 is None else {"test": {"loss": 1.0, "top1": top1, "images": 100}}),
        **changes,
    }


def pretrain_result(name: str, **changes: Any) -> dict[str, Any]:
    """What `pretrain` leaves; its test metric is NaN."""
    return {
        "kind": "pretrain",
        "run": name,
        "task": "multi_label",
        "settings": settings_of(0, sets=["chexpert", "mimic_cxr"], image_size=224),
        "total_steps": 9000,
        "train_images": 600_000,
        "loader": "dali",
        "environment": ENVIRONMENT,
        "seconds": 7200.0,
        "val": {"loss": 0.5, "auc": 0.8125, "images": 10},
        "test": {"loss": 0.5, "auc": math.nan, "images": 10},
        **changes,
    }


def seeds(source: str, tops: tuple[float, ...], shots: str = "full", **options: Any) -> list[dict[str, Any]]:
    """One setting over its seeds."""
    return [transfer_result(source, shots, seed, top1, **options) for seed, top1 in enumerate(tops)]


def frame(results: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows of some results, as the tables take them."""
    return with_titles(frame_of([row_of(result) for result in results]))


def write_results(folder: Path, results: list[dict[str, Any]]) -> Path:
    for i, result in enumerate(results):
        path = folder / f"run {i}" / RESULT
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(result))
    return folder


def authors_row(source: str, shots: str, seed: int, value: float, dataset: str = "cifar100", **changes: Any) -> str:
    """A line of a CSV file in the column layout that the paper's authors publish."""
    metric = changes.get("metric", "test/acc")
    path = f"finetuning_results/{dataset}/{source}/{shots}_shot/seed_{seed}"
    return f"{value!r},{metric},{path},{seed},{shots}_shot,{source},{dataset},500"


def write_authors(path: Path, rows: list[str]) -> Path:
    """Such a file; each row twice, as theirs mostly are."""
    header = "metric_value,metric,path,seed,shot,pretrained_model,dataset,last_step"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(row for row in rows for _ in range(2))]) + "\n")
    return path
