"""The tasks, single-label and multi-label, and the primary metric of each."""

from typing import Literal

Task = Literal["single_label", "multi_label"]
Metric = Literal["top1", "auc"]
METRIC: dict[Task, Metric] = {"single_label": "top1", "multi_label": "auc"}
