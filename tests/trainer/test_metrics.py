"""Metrics agree with scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from data_pipelines.common.tasks import METRIC, Metric, Task
from data_pipelines.shards.index import Index
from trainer.metrics import METRIC_NAME, all_metrics, compute_metrics, left_out, metric_of

NAN = math.nan


def index_of(labels: np.ndarray, num_classes: int, metric: Metric | None = None) -> Index:
    nothing = np.zeros(len(labels), dtype=np.int64)
    columns = ("shard", "offset", "length", "height", "width", "group")
    task: Task = "single_label" if labels.ndim == 1 else "multi_label"
    return Index(
        task=task,
        metric=metric or METRIC[task],
        patients="none",
        origins=(),
        classes=tuple(f"class {i}" for i in range(num_classes)),
        channels=1,
        flip=False,
        fingerprint="",
        shards=(),
        labels=labels,
        **dict.fromkeys(columns, nothing),
    )


def column(*logits: float) -> Tensor:
    return torch.tensor(logits)[:, None]


def labels_of(*labels: float) -> np.ndarray:
    return np.array(labels, dtype=np.float32)[:, None]


@pytest.mark.parametrize("num_classes", [3, 5, 6, 20])
def test_single_label(num_classes: int) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(num_classes, size=200)
    logits = generator.normal(size=(200, num_classes)).astype(np.float32)
    logits[np.arange(200), labels] += 0.5
    found = compute_metrics(torch.from_numpy(logits), index_of(labels, num_classes))
    every = range(num_classes)
    shares = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    expected = {
        "loss": sklearn_metrics.log_loss(labels, shares, labels=every),
        "top1": sklearn_metrics.accuracy_score(labels, logits.argmax(axis=1)),
    }
    if num_classes > 5:
        expected["top5"] = sklearn_metrics.top_k_accuracy_score(labels, logits, k=5, labels=every)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_single_label_by_area(num_classes: int) -> None:
    generator = np.random.default_rng(5)
    labels = generator.integers(num_classes, size=150)
    logits = generator.normal(size=(150, num_classes)).astype(np.float32)
    logits[np.arange(150), labels] += 1
    logits *= 2
    logits += 3 * generator.normal(size=(150, 1)).astype(np.float32)  # which softmax takes out, and a logit alone has
    found = compute_metrics(torch.from_numpy(logits), index_of(labels, num_classes, "auc"))
    shares = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    areas = [sklearn_metrics.roc_auc_score(labels == i, shares[:, i]) for i in range(num_classes)]
    for i, area in enumerate(areas):
        assert found[f"auc/class {i}"] == pytest.approx(area, abs=1e-6)
    macro = np.mean(areas)
    if num_classes > 2:
        assert macro == pytest.approx(
            sklearn_metrics.roc_auc_score(labels, shares, multi_class="ovr", average="macro"), abs=1e-12
        )
    assert found["auc"] == pytest.approx(macro, abs=1e-6)
    by_share = compute_metrics(torch.from_numpy(logits), index_of(labels, num_classes))
    assert by_share.items() <= found.items()
    assert "top1" in by_share
    assert not any("auc" in name for name in by_share)
    of_logits = [sklearn_metrics.roc_auc_score(labels == i, logits[:, i]) for i in range(num_classes)]
    assert abs(found["auc"] - np.mean(of_logits)) > 0.01


def test_classes_without_images_have_no_area() -> None:
    labels = np.array([0, 2, 2, 0, 2])
    logits = torch.tensor([[3.0, 9, 1, 0], [0, 0, 2, 0], [1, 0, 1.5, 0], [1, 0, 1.2, 5], [0, 9, 5, 5]])
    found = compute_metrics(logits, index_of(labels, 4, "auc"))
    shares = logits.double().softmax(dim=1).numpy()
    areas = {f"auc/class {i}": sklearn_metrics.roc_auc_score(labels == i, shares[:, i]) for i in (0, 2)}
    assert {name: area for name, area in found.items() if name.startswith("auc/")} == pytest.approx(areas)
    assert found["auc"] == pytest.approx(np.mean(list(areas.values())))
    assert math.isnan(compute_metrics(logits, index_of(np.zeros(5, dtype=np.int64), 4, "auc"))["auc"])


# In fp32 the softmax of the first class is 1 for each of them.
def test_shares_that_would_tie_in_fp32_do_not() -> None:
    logits = torch.tensor([[30.0, 0, 0], [26, 0, 0], [23, 0, 0], [20, 0, 0]])
    found = compute_metrics(logits, index_of(np.array([0, 0, 1, 2]), 3, "auc"))
    assert found["auc/class 0"] == 1


@pytest.mark.parametrize(
    ("result", "metric"),
    [
        ({"task": "single_label"}, "top1"),
        ({"task": "multi_label"}, "auc"),
        ({"task": "single_label", "metric": "auc"}, "auc"),
        ({"task": "multi_label", "metric": "auc"}, "auc"),
    ],
)
def test_metric_of_a_result(result: dict[str, str], metric: Metric) -> None:
    """Results of before sets named their metric have none."""
    assert metric_of(result) == metric
    assert metric in METRIC_NAME


def test_multi_label_over_labelled_entries() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=(300, 4)).astype(np.float32)
    logits = (generator.normal(size=(300, 4)) * 5 + labels * [0, 1, 4, -3]).astype(np.float32)
    logits[:100] = logits[:100].round()  # ties between positives and negatives count half
    labels[generator.random((300, 4)) < 0.3] = NAN
    found = compute_metrics(torch.from_numpy(logits), index_of(labels, 4))
    known = ~np.isnan(labels)
    areas = [sklearn_metrics.roc_auc_score(labels[known[:, i], i], logits[known[:, i], i]) for i in range(4)]
    expected = {f"auc/class {i}": area for i, area in enumerate(areas)} | {"auc": np.mean(areas)}
    expected["loss"] = np.mean(np.logaddexp(0, logits[known].astype(float)) - (logits * labels)[known])
    assert found == pytest.approx(expected, rel=1e-5)


def test_findings_without_positives_or_negatives_have_no_auc() -> None:
    labels = np.array([[1, 0, 1, NAN], [1, 0, 0, NAN], [NAN, 0, 1, NAN], [1, NAN, NAN, NAN]], dtype=np.float32)
    found = compute_metrics(
        torch.tensor([[0.0, 1, 2, 0], [1, 0, 1, 1], [2, 3, 3, 0], [0, 0, 0, 0]]), index_of(labels, 4)
    )
    assert found.keys() == {"loss", "auc", "auc/class 2"}
    assert found["auc"] == found["auc/class 2"] == 1


def test_nothing_to_separate_is_no_number() -> None:
    found = compute_metrics(torch.zeros(3, 2), index_of(np.full((3, 2), NAN, dtype=np.float32), 2))
    assert math.isnan(found["auc"])
    assert found["loss"] == 0


@pytest.mark.parametrize(
    ("logits", "area"),
    [
        ((40, 50, 40, 50), 1),
        ((50, 40, 50, 40), 0),
        ((40, 40, 40, 40), 0.5),
        ((0, 0, 0, 0), 0.5),
        ((40, 50, 50, 50), 0.75),
    ],
)
def test_area_under_few_points(logits: tuple[float, ...], area: float) -> None:
    assert compute_metrics(column(*logits), index_of(labels_of(0, 1, 0, 1), 1))["auc"] == area


# In fp32 the sigmoid is 1 from a logit of 17 on.
@pytest.mark.parametrize("logit", [-60.0, -50.0, -18.0, 18.0, 30.0])
def test_logits_whose_fp32_probabilities_would_tie_do_not(logit: float) -> None:
    logits = column(logit, logit + 1, logit, logit + 1)
    assert compute_metrics(logits, index_of(labels_of(0, 1, 0, 1), 1))["auc"] == 1
    assert compute_metrics(logits, index_of(labels_of(1, 0, 1, 0), 1))["auc"] == 0


def test_certain_classes_do_not_tie() -> None:
    logits = torch.tensor([[60.0, 0], [50, 0], [45, 0], [40, 0]])
    index = index_of(np.array([0, 0, 1, 1]), 2, "auc")
    assert compute_metrics(logits, index)["auc/class 0"] == 1.0


def names(num_classes: int) -> list[str]:
    return [f"c{i}" for i in range(num_classes)]


def by_scikit_learn(shares: np.ndarray, called: np.ndarray, hot: np.ndarray) -> dict[str, float]:
    """Of each class or finding auc, ap, f1 and recall over its labelled entries, and their means; hot may hold NaN."""
    each: dict[str, float] = {}
    for i in range(hot.shape[1]):
        known = ~np.isnan(hot[:, i])
        truth, share, predicted = hot[known, i], shares[known, i], called[known, i]
        if 0 < truth.sum() < len(truth):
            each[f"auc/c{i}"] = sklearn_metrics.roc_auc_score(truth, share)
            each[f"ap/c{i}"] = sklearn_metrics.average_precision_score(truth, share)
        if truth.sum():
            each[f"f1/c{i}"] = sklearn_metrics.f1_score(truth, predicted)
            each[f"recall/c{i}"] = sklearn_metrics.recall_score(truth, predicted)
    macro = {kind: np.mean([v for k, v in each.items() if k.startswith(kind)]) for kind in ("auc", "ap", "f1")}
    return each | macro


@pytest.mark.parametrize(("num_images", "num_classes"), [(2, 2), (5, 2), (60, 3), (300, 7), (300, 20)])
@pytest.mark.parametrize("decimals", [0, 1, 7])
def test_all_metrics_of_single_labels(num_images: int, num_classes: int, decimals: int) -> None:
    """With few decimals many scores are equal."""
    generator = np.random.default_rng(num_images + num_classes)
    labels = generator.integers(num_classes, size=num_images)
    labels[:2] = 0, num_classes - 1
    logits = generator.normal(size=(num_images, num_classes)).round(decimals).astype(np.float32)
    found = all_metrics(torch.from_numpy(logits), torch.from_numpy(labels), names(num_classes))
    # Shares that differ by rounding alone are equal to people, and to the order of log odds.
    shares = torch.from_numpy(logits).double().softmax(dim=1).numpy().round(13)
    hot = labels[:, None] == np.arange(num_classes)
    called = logits.argmax(axis=1)[:, None] == np.arange(num_classes)
    expected = by_scikit_learn(shares, called, hot.astype(float))
    expected["top1"] = sklearn_metrics.accuracy_score(labels, logits.argmax(axis=1))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    extra = {"loss"} | ({"top5"} if num_classes > 5 else set())
    assert found.keys() == expected.keys() | extra
    if len(set(labels)) == num_classes:
        f1 = sklearn_metrics.f1_score(labels, logits.argmax(axis=1), average="macro")
        assert found["f1"] == pytest.approx(f1, abs=1e-9)


@pytest.mark.parametrize("decimals", [0, 7])
def test_all_metrics_of_findings(decimals: int) -> None:
    generator = np.random.default_rng(3)
    labels = (generator.random((400, 5)) < [0.5, 0.1, 0.9, 0.3, 0.02]).astype(np.float32)
    logits = (generator.normal(size=(400, 5)) * 2 + labels).round(decimals).astype(np.float32)
    labels[generator.random((400, 5)) < 0.4] = NAN
    found = all_metrics(torch.from_numpy(logits), torch.from_numpy(labels), names(5))
    expected = by_scikit_learn(logits, logits > 0, labels)
    expected = {name: value for name, value in expected.items() if not name.startswith("recall")}
    assert {name: value for name, value in found.items() if name != "loss"} == pytest.approx(expected, abs=1e-9)


def test_what_is_left_out_is_named() -> None:
    labels = torch.tensor([[1, 0, 1, NAN, 1], [1, 0, 0, NAN, NAN], [NAN, 0, 1, NAN, 0]])
    assert left_out(labels, names(5)) == ["c0", "c1", "c3"]
    found = all_metrics(torch.tensor([[1.0, 1, 2, 3, -1], [1, -1, -1, 1, -2], [0, 0, 0, 0, 1]]), labels, names(5))
    assert {name for name in found if "/" in name} == {"auc/c2", "ap/c2", "f1/c2", "auc/c4", "ap/c4", "f1/c4", "f1/c0"}
    assert (found["f1/c0"], found["f1/c2"], found["f1/c4"]) == (1, 2 / 3, 0)
    assert left_out(torch.tensor([0, 2, 2]), names(4)) == ["c1", "c3"]
    assert left_out(torch.tensor([1, 1]), names(2)) == ["c0", "c1"]


def test_log_odds_of_many_rows_are_those_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(4)
    logits, labels = (
        torch.from_numpy(generator.normal(size=(50, 7)) * 30),
        torch.from_numpy(generator.integers(7, size=50)),
    )
    whole = all_metrics(logits.float(), labels, names(7))
    monkeypatch.setattr("trainer.metrics.CHUNK_ELEMENTS", 21)
    assert all_metrics(logits.float(), labels, names(7)) == whole
