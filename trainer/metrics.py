"""Metrics of logits [N, C] and labels, computed from all samples at once. Fractions, not percent."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data_pipelines.common.tasks import METRIC, Metric
from data_pipelines.shards.index import Index
from trainer.losses import loss_sum

METRIC_NAME: dict[Metric, str] = {"top1": "top-1 accuracy", "auc": "mean AUC"}
_TOP = 5
CHUNK_ELEMENTS = 1 << 22
_DECIMALS = 9  # of log odds: equal ones stay equal in whatever order they were summed
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def metric_of(result: dict[str, Any]) -> Metric:
    """The primary metric of a result."""
    metric: Metric = result.get("metric", METRIC[result["task"]])
    return metric


def compute_metrics(logits: Tensor, index: Index) -> dict[str, float]:
    """What a run watches while it trains; logits float32 [N, C] in the order of the index.

    Single-label: loss, top1, top5 (from six classes on), and where the set reports AUC, that. Multi-label: loss, AUC.
    AUC: auc (mean over classes or findings) and auc/<name>, see `all_metrics`; of sets with a head each also
    auc_of_head/<set>, the mean over its findings.
    """
    labels = torch.from_numpy(np.array(index.labels))
    metrics = _loss_and_accuracy(logits, labels)
    if index.metric != "auc" and labels.ndim == 1:
        return metrics
    areas = {f"auc/{curve.name}": curve.auc for curve in _curves(logits, labels, index.classes)}
    of_heads = {
        f"auc_of_head/{head.name}": _mean(areas[f"auc/{name}"] for name in head.outputs if f"auc/{name}" in areas)
        for head in index.heads
    }
    return metrics | {"auc": _mean(areas.values())} | of_heads | areas


def all_metrics(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """What a run reports at its end; logits float32 [N, C], labels int64 [N], or [N, C] with NaN = unlabelled.

    Single-label: loss, top1, top5 (from six classes on), and each class against the rest: auc and ap by the softmax,
    f1 and recall by the argmax. Multi-label: loss, and of each finding auc, ap, and f1 of what is above 0.5.
    auc, ap and f1 are means over classes; auc/<name> and so on are of one. `left_out` says which classes have no auc
    and ap; those without positives have neither f1 nor recall. Means over no class are NaN. As in scikit-learn.
    """
    metrics = _loss_and_accuracy(logits, labels)
    each: dict[str, dict[str, float]] = {"auc": {}, "ap": {}, "f1": {}, "recall": {}}
    for curve in _curves(logits, labels, classes):
        each["auc"][curve.name], each["ap"][curve.name] = curve.auc, curve.ap
    single = labels.ndim == 1
    chosen = _one_hot(logits.argmax(dim=1), len(classes)) if single else (logits > 0).numpy()
    for i, (name, positive, negative) in enumerate(known_labels(labels, classes)):
        if positive.any():
            num_positive, hits = int(positive.sum()), int(chosen[positive, i].sum())
            each["f1"][name] = 2 * hits / (num_positive + int(chosen[positive | negative, i].sum()))
            if single:
                each["recall"][name] = hits / num_positive
    for kind, values in each.items():
        if kind != "recall":
            metrics[kind] = _mean(values.values())
        metrics |= {f"{kind}/{name}": value for name, value in values.items()}
    return metrics


def left_out(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Classes or findings without positives or without negatives, which have no AUC and no average precision."""
    known = known_labels(labels, classes)
    return [name for name, positive, negative in known if not (positive.any() and negative.any())]


class _Curve(NamedTuple):
    name: str
    auc: float
    ap: float


def _loss_and_accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    if labels.ndim > 1:
        num_labels = int((~labels.isnan()).sum())
        return {"loss": loss_sum(logits.double(), labels, "multi_label").item() / max(1, num_labels)}
    metrics = {"loss": loss_sum(logits.double(), labels, "single_label").item() / len(labels)}
    metrics["top1"] = (logits.argmax(dim=1) == labels).double().mean().item()
    if logits.shape[1] > _TOP:
        metrics["top5"] = (logits.topk(_TOP).indices == labels[:, None]).any(dim=1).double().mean().item()
    return metrics


def _mean(values: Any) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else float("nan")


def _one_hot(labels: Tensor, num_classes: int) -> Bools:
    hot: Bools = labels.numpy()[:, None] == np.arange(num_classes)
    return hot


def known_labels(labels: Tensor, classes: Sequence[str]) -> Iterator[tuple[str, Bools, Bools]]:
    """The name of each class or finding, and which samples are known to have it and not to have it, bool [N]."""
    array = labels.numpy()
    for i, name in enumerate(classes):
        column = array[:, i] if array.ndim > 1 else array == i
        yield name, column == 1, column == 0


def _curves(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Iterator[_Curve]:
    """AUC and average precision of the classes or findings that have positives and negatives."""
    scores = log_odds(logits) if labels.ndim == 1 else logits.T.contiguous().numpy()
    for column, (name, positive, negative) in zip(scores, known_labels(labels, classes), strict=True):
        if positive.any() and negative.any():
            yield _Curve(name, *_areas(column, positive, negative))


def _areas(scores: npt.NDArray[Any], positive: Bools, negative: Bools) -> tuple[float, float]:
    """Areas under the ROC curve and the step curve of precision over recall; equal scores are one threshold.

    Not by scikit-learn, whose two functions take ten times as long for 50,000 images (41 ms a class instead of 5) while
    all GPUs wait, and which a machine that only trains may lack; the tests hold the two together.
    """
    order = np.argsort(-scores)
    last = np.append(np.diff(scores[order]) != 0, True)  # of the samples with this score
    hits = np.cumsum(positive[order])[last]
    alarms = np.cumsum(negative[order])[last]
    new_hits, new_alarms = np.diff(hits, prepend=0), np.diff(alarms, prepend=0)
    auc = np.sum(new_alarms * (hits - new_hits / 2)) / (hits[-1] * alarms[-1])
    called = np.maximum(hits + alarms, 1)  # 0 while only unlabelled samples are above the threshold
    return float(auc), float(np.sum(new_hits * (hits / called)) / hits[-1])


def log_odds(logits: Tensor) -> Float64s:
    """log(p / (1 - p)) of the softmax p, float64 [C, N]: in its order, without the ties where p comes to 1."""
    odds = np.empty((logits.shape[1], len(logits)))
    rows = max(1, CHUNK_ELEMENTS // logits.shape[1])
    for start in range(0, len(logits), rows):
        part = logits[start : start + rows].double()
        largest = part.argmax(dim=1, keepdim=True)
        others = part.logsumexp(dim=1, keepdim=True) + torch.log1p(-part.softmax(dim=1))
        # Of the largest, 1 - p would lose its digits.
        without = part.scatter(1, largest, -torch.inf).logsumexp(dim=1, keepdim=True)
        odds[:, start : start + rows] = (part - others.scatter(1, largest, without)).T.numpy()
    return odds.round(_DECIMALS, out=odds)
