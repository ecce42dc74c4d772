"""What a finished run is judged by: metrics of its predictions, and the predictions, so that any other can be computed.

`predictions.npz` holds no pickles: `classes`, and for val and test `<split>_keys` (as in the shards), `<split>_logits`
float32 [N, C], `<split>_labels`, int64 [N] or float32 [N, C] with NaN = unlabelled, `<split>_patients`, int64 [N], -1
for unknown and equal for one patient, and `<split>_fact_<name>`, a text for each image, where the set has such facts.
"""

import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from data_pipelines.common.files import write_atomically
from data_pipelines.common.printable import printable
from data_pipelines.shards.index import Index, Split
from trainer.metrics import all_metrics, compute_metrics, left_out

PREDICTIONS = "predictions.npz"
SUBSET = "subset.csv"
MOST_LOGITS = 100_000_000  # beyond, tables of all classes serve nobody and the file would take gigabytes
Predicted = Mapping[Split, tuple[Index, Tensor]]


@dataclass(frozen=True)
class Outcome:
    """What the work of a run leaves: the seconds of learning, the predictions, and what else its result is to say."""

    seconds: float
    predicted: Predicted
    details: dict[str, Any]


def final_metrics(predicted: Predicted) -> dict[str, Any]:
    """For each split the metrics of its logits and the number of its images; under "left_out", the classes that have no
    AUC and no average precision there."""
    metrics: dict[str, Any] = {"left_out": {}}
    for split, (index, logits) in predicted.items():
        labels = _labels(index)
        detailed = logits.numel() <= MOST_LOGITS
        found = all_metrics(logits, labels, index.classes) if detailed else compute_metrics(logits, index)
        metrics[split] = found | {"images": len(index)}
        metrics["left_out"][split] = left_out(labels, index.classes)
    return metrics


def save_predictions(run_dir: Path, predicted: Predicted) -> None:
    """Write `predictions.npz` so that it is either absent or whole. Splits of very many logits are left out, which is
    said."""
    arrays: dict[str, Any] = {}
    for split, (index, logits) in predicted.items():
        arrays["classes"] = np.array(index.classes, dtype=str)
        if logits.numel() > MOST_LOGITS:
            print(f"{run_dir}: {split} has {logits.numel():,} logits; they are not kept", file=sys.stderr)
            continue
        arrays |= {
            f"{split}_logits": logits.numpy(),
            **{f"{split}_{name}": values for name, values in columns_of(index).items()},
        }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, numpy would append .npz to it
            np.savez(file, **arrays)

    write_atomically(run_dir / PREDICTIONS, write)


def columns_of(index: Index) -> dict[str, Any]:
    """Of each sample: `keys`, `labels`, `patients` and `fact_<name>`, as `predictions.npz` has them."""
    # Numbers in place of the hashes in the index: those could be found again by whoever can list all patients.
    known = np.asarray(index.group) >= 0
    patients = np.full(len(index), -1, dtype=np.int64)
    patients[known] = np.unique(np.asarray(index.group)[known], return_inverse=True)[1]
    columns: dict[str, Any] = {
        "keys": np.array(index.keys(np.arange(len(index))), dtype=str),
        "labels": np.asarray(index.labels),
        "patients": patients,
    }
    facts = index.facts()
    for name in dict.fromkeys(name for known_facts in facts for name in known_facts):
        columns[f"fact_{printable(name)}"] = np.array([known_facts.get(name, "") for known_facts in facts], dtype=str)
    if len(set(index.origins)) > 1:
        columns["fact_set"] = np.array(index.origins, dtype=str)[index.shard]
    return columns


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


def write_subset(run_dir: Path, index: Index) -> None:
    """Write `subset.csv`: key and class of every training image of a few-shot run."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            rows = csv.writer(file)
            rows.writerow(("key", "class"))
            rows.writerows(zip(index.keys(np.arange(len(index))), _names(index), strict=True))

    write_atomically(run_dir / SUBSET, write)


def _labels(index: Index) -> Tensor:
    return torch.from_numpy(np.array(index.labels))


def _names(index: Index) -> list[str]:
    return [index.classes[label] for label in index.labels]
