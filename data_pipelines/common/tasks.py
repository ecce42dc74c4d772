"""What images are labelled with, and the metric that is reported of it."""

from typing import Literal

Task = Literal["single_label", "multi_label"]
Metric = Literal["top1", "auc"]
METRIC: dict[Task, Metric] = {"single_label": "top1", "multi_label": "auc"}
