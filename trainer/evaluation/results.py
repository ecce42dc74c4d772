"""Metrics of a finished run, from its predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from data_pipelines.common.files import write_atomically
from data_pipelines.common.messages import logger
from data_pipelines.common.splits import Split
from data_pipelines.shards.index import Index
from trainer.evaluation.calibration.novelty import MOST_IMAGES, fit_novelty
from trainer.evaluation.calibration.operating import HEADS_KEY, KEY, fit_operating_points
from trainer.evaluation.statistics.predictions import columns_of, of_index
from trainer.metrics import all_metrics, compute_metrics, left_out
from trainer.run_files import PREDICTIONS

MOST_LOGITS = 100_000_000  # beyond, tables of all classes serve nobody and the file would take gigabytes
Predicted = Mapping[Split, tuple[Index, Tensor]]
Described = tuple[Index, Tensor]


def final_metrics(predicted: Predicted) -> dict[str, Any]:
    """For each split the metrics of its logits and the number of its images; under "left_out", the classes that have no
    AUC and no average precision there; under "heads", where sets have one each, the same of each on its own set."""
    metrics: dict[str, Any] = {"left_out": {}}
    for split, (index, logits) in predicted.items():
        labels = _labels(index)
        detailed = logits.numel() <= MOST_LOGITS
        found = all_metrics(logits, labels, index.classes) if detailed else compute_metrics(logits, index)
        metrics[split] = found | {"images": len(index)}
        metrics["left_out"][split] = left_out(labels, index.classes)
    return metrics | _of_heads(predicted)


def _of_heads(predicted: Predicted) -> dict[str, Any]:
    """The metrics of each head, by its name, on the images of its own set; empty where there is one head."""
    found: dict[str, dict[str, Any]] = {}
    for split, (index, logits) in predicted.items():
        for head in index.heads:
            rows = index.rows_of(head)
            labels = _labels(index)[rows][:, head.columns]
            metrics = all_metrics(logits[rows][:, head.columns], labels, head.classes) | {"images": len(rows)}
            found.setdefault(head.name, {})[split] = metrics
    return {"heads": found} if found else {}


def save_predictions(run_dir: Path, predicted: Predicted) -> None:
    """Write `predictions.npz` so that it is either absent or whole. Splits of very many logits are left out, which is
    said."""
    arrays: dict[str, Any] = {}
    for split, (index, logits) in predicted.items():
        arrays["classes"] = np.array(index.classes, dtype=str)
        if logits.numel() > MOST_LOGITS:
            logger.info(f"{run_dir}: {split} has {logits.numel():,} logits; they are not kept")
            continue
        arrays |= {
            f"{split}_logits": logits.numpy(),
            **{f"{split}_{name}": values for name, values in columns_of(index).items()},
        }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, numpy would append .npz to it
            np.savez(file, **arrays)

    write_atomically(run_dir / PREDICTIONS, write)


def operating_points(index: Index, logits: Tensor) -> dict[str, Any]:
    """What val decides for later predictions, as a checkpoint's description holds it: thresholds and temperature, of
    each head for itself, too."""
    predictions = of_index(index, logits.numpy())
    points = {KEY: fit_operating_points(predictions).to_dict()}
    if not index.heads:
        return points
    of_heads = {head.name: fit_operating_points(predictions.of_head(head)).to_dict() for head in index.heads}
    return points | {HEADS_KEY: of_heads}


def sample_of(index: Index) -> Index:
    """At most 1,000 images, evenly spread over an index, that novelty is told by."""
    rows = np.linspace(0, len(index) - 1, min(len(index), MOST_IMAGES)).round().astype(np.int64)
    return index.take(rows)


def novelty(train: Described, val: Described) -> dict[str, Any]:
    """What later predictions need to tell images that are unlike the training images, as a checkpoint's description
    holds it. train, val: samples with their descriptions."""
    group = np.asarray(val[0].group)
    patients = np.where(group < 0, -1, np.unique(group, return_inverse=True)[1])
    return fit_novelty(train[1], val[1], patients)


def recompute(run_dir: Path) -> dict[str, dict[str, float]]:
    """The metrics of each split in a run's `predictions.npz`, as `result.json` has them. Raises OSError or ValueError
    for a file that is not there or not whole."""
    with np.load(run_dir / PREDICTIONS, allow_pickle=False) as file:
        splits = [split for split in get_args(Split) if f"{split}_logits" in file.files]
        return {
            split: all_metrics(
                torch.from_numpy(file[f"{split}_logits"]),
                torch.from_numpy(file[f"{split}_labels"]),
                file["classes"].tolist(),
            )
            for split in splits
        }


def _labels(index: Index) -> Tensor:
    return torch.from_numpy(np.array(index.labels))
