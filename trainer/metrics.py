"""What is reported of logits [N, C] and labels, computed once from all of them."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from data_pipelines.index import Index, Task
from trainer.losses import loss_sum

PRIMARY: dict[Task, str] = {"single_label": "top1", "multi_label": "auc"}
PRIMARY_NAME: dict[Task, str] = {"single_label": "top-1 accuracy", "multi_label": "mean AUC"}
_TOP = 5


def compute_metrics(logits: Tensor, index: Index) -> dict[str, float]:
    """Means over the N samples of an index; logits float32 [N, C] in its order. Shares, not percent.

    Single-label: loss, top1, top5 (from six classes on). Multi-label: loss, auc (mean over findings) and auc/<finding>;
    findings that lack positives or negatives have no AUC and are left out of the mean.
    """
    labels = torch.from_numpy(index.labels.copy())
    if index.task == "single_label":
        metrics = {"loss": loss_sum(logits, labels, index.task).item() / len(labels)}
        metrics["top1"] = (logits.argmax(dim=1) == labels).float().mean().item()
        if index.num_classes > _TOP:
            metrics["top5"] = (logits.topk(_TOP).indices == labels[:, None]).any(dim=1).float().mean().item()
        return metrics
    labelled = ~labels.isnan()
    metrics = {"loss": loss_sum(logits, labels, index.task).item() / max(1, int(labelled.sum()))}
    areas = {}
    for i, finding in enumerate(index.classes):
        known = labels[labelled[:, i], i].long()
        if 0 < known.sum() < len(known):
            areas[f"auc/{finding}"] = binary_auroc(_ranks(logits[labelled[:, i], i]), known).item()
    metrics["auc"] = sum(areas.values()) / len(areas) if areas else float("nan")
    return metrics | areas


def _ranks(scores: Tensor) -> Tensor:
    """Each score's place among the different ones, float64 in [0, 1): an order without the ties that a sigmoid makes
    of large logits."""
    places = scores.unique(return_inverse=True)[1]
    return places.double() / len(scores)
