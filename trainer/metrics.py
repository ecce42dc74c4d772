"""What is reported of logits [N, C] and labels, computed once from all of them."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from data_pipelines.index import METRIC, Index, Metric
from trainer.losses import loss_sum

METRIC_NAME: dict[Metric, str] = {"top1": "top-1 accuracy", "auc": "mean AUC"}
_TOP = 5


def metric_of(result: dict[str, Any]) -> Metric:
    """What is reported first of a result."""
    metric: Metric = result.get("metric", METRIC[result["task"]])
    return metric


def compute_metrics(logits: Tensor, index: Index) -> dict[str, float]:
    """Means over the N samples of an index; logits float32 [N, C] in its order. Shares, not percent.

    Single-label: loss, top1, top5 (from six classes on), and where the set reports AUC that of each class against the
    rest, by its softmax. Multi-label: loss, and AUC by finding. AUC: auc (mean over classes or findings), auc/<name>;
    those that lack positives or negatives have none and are left out of the mean.
    """
    labels = torch.from_numpy(index.labels.copy())
    if index.task == "single_label":
        metrics = {"loss": loss_sum(logits, labels, index.task).item() / len(labels)}
        metrics["top1"] = (logits.argmax(dim=1) == labels).float().mean().item()
        if index.num_classes > _TOP:
            metrics["top5"] = (logits.topk(_TOP).indices == labels[:, None]).any(dim=1).float().mean().item()
        if index.metric != "auc":
            return metrics
        one_hot = torch.nn.functional.one_hot(labels, index.num_classes).float()
        return metrics | _areas(_log_odds(logits.double()), one_hot, index.classes)
    num_labels = int((~labels.isnan()).sum())
    loss = loss_sum(logits, labels, index.task).item() / max(1, num_labels)
    return {"loss": loss} | _areas(logits, labels, index.classes)


def _log_odds(logits: Tensor) -> Tensor:
    """log(p / (1 - p)) of the softmax p, [N, C]: in its order, without the ties where p comes to 1."""
    others = [logits[:, [j for j in range(logits.shape[1]) if j != i]] for i in range(logits.shape[1])]
    return logits - torch.stack([of.logsumexp(dim=1) for of in others], dim=1)


def _areas(scores: Tensor, labels: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """AUC of each column and their mean; labels 0, 1 or NaN."""
    areas = {}
    for i, name in enumerate(names):
        labelled = ~labels[:, i].isnan()
        known = labels[labelled, i].long()
        if 0 < known.sum() < len(known):
            areas[f"auc/{name}"] = binary_auroc(_ranks(scores[labelled, i]), known).item()
    return {"auc": sum(areas.values()) / len(areas) if areas else float("nan")} | areas


def _ranks(scores: Tensor) -> Tensor:
    """Each score's place among the different ones, float64 in [0, 1): an order without the ties that a sigmoid makes
    of large logits."""
    places = scores.unique(return_inverse=True)[1]
    return places.double() / len(scores)
