"""Thresholds, temperature and calibration, against their definitions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from data_pipelines.common.tasks import Task
from trainer.evaluation.calibration.operating import (
    OperatingPoints,
    above_thresholds,
    calibrated_thresholds,
    fit_operating_points,
    probabilities,
    reliability,
    youden,
)
from trainer.evaluation.statistics.predictions import Predictions, scores_of


def of(logits: np.ndarray, labels: np.ndarray, *classes: str) -> Predictions:
    count = len(logits)
    keys = tuple(map(str, range(count)))
    return Predictions(classes, keys, logits.astype(np.float32), labels, np.full(count, -1))


@pytest.mark.parametrize("seed", range(12))
def test_youden_is_the_best_of_all_thresholds(seed: int) -> None:
    draws = np.random.default_rng(seed)
    positive = draws.random(60) < 0.4
    unlabelled = draws.random(60) < 0.1
    scores = np.round(draws.normal(size=60) + positive)  # with many ties
    threshold = youden(scores, positive & ~unlabelled, ~positive & ~unlabelled)

    def gain(limit: float) -> float:
        known = ~unlabelled
        return (scores[known & positive] >= limit).mean() - (scores[known & ~positive] >= limit).mean()

    assert gain(threshold) == pytest.approx(max(gain(limit) for limit in np.unique(scores)))
    assert threshold not in scores


def test_of_two_classes_each_image_is_above_one_threshold() -> None:
    """Where two thresholds are equally good, 0.05 and 0.7 here, each class would take the higher one of its own."""
    scores = np.array([-2, -1, 0, 0.1, 0.4, 1, 2, 3])
    val = of(np.stack([0 * scores, scores], axis=1), np.array([0, 0, 0, 1, 0, 1, 1, 1]), "no", "yes")
    points = fit_operating_points(val)
    assert points.threshold("no") == -points.threshold("yes")
    above = above_thresholds(val.logits, val.task, points, val.classes)
    assert (above.sum(axis=1) == 1).all()


def test_temperature_is_found_again() -> None:
    draws = np.random.default_rng(1)
    logits = draws.normal(0, 2, (20_000, 1))
    labels = (draws.random((20_000, 1)) < expit(logits)).astype(np.float32)
    assert fit_operating_points(of(3 * logits, labels, "x")).temperature == pytest.approx(3, rel=0.05)
    labels[::2] = np.nan
    assert fit_operating_points(of(0.5 * logits, labels, "x")).temperature == pytest.approx(0.5, rel=0.05)
    scores = draws.normal(0, 2, (20_000, 3))
    shares = probabilities(scores, "single_label", 1)
    classes = (draws.random(20_000)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    assert fit_operating_points(of(2 * scores, classes, "a", "b", "c")).temperature == pytest.approx(2, rel=0.05)


@pytest.fixture(scope="module")
def calibrated() -> dict[str, Predictions]:
    """Logits that are right as they are, by task."""
    draws = np.random.default_rng(2)
    logits = draws.normal(0, 2, (8000, 3))
    findings = (draws.random(logits.shape) < expit(logits)).astype(np.float32)
    findings[draws.random(logits.shape) < 0.2] = np.nan
    shares = probabilities(logits, "single_label", 1)
    classes = (draws.random(len(logits))[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    offsets = draws.normal(0, 50, (len(logits), 1))  # which a softmax does not see
    return {
        "multi_label": of(logits, findings, "a", "b", "c"),
        "single_label": of(logits + offsets, classes, "a", "b", "c"),
    }


@pytest.mark.parametrize("true", [0.003, 0.01, 0.03, 0.3, 1, 7, 60, 300])
@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_temperature_is_found_however_large_the_logits_are(
    task: str, true: float, calibrated: dict[str, Predictions]
) -> None:
    right = calibrated[task]
    assert right.task == task
    points = fit_operating_points(replace(right, logits=(right.logits * true).astype(np.float32)))
    assert points.temperature == pytest.approx(true, rel=0.06)
    assert points.why_temperature_unfitted() == ""
    least = loss_of(right, points.temperature / true)
    assert all(least < loss_of(right, points.temperature / true * factor) for factor in (0.95, 1.05))


def loss_of(predictions: Predictions, temperature: float) -> float:
    predicted = probabilities(predictions.logits, predictions.task, temperature)
    if predictions.task == "single_label":
        return float(-np.log(predicted[np.arange(len(predicted)), predictions.labels]).mean())
    known = ~np.isnan(predictions.labels)
    hit = predictions.labels[known] == 1
    return float(-np.log(np.where(hit, predicted[known], 1 - predicted[known])).mean())


RIGHT, CHANCE, NOTHING = (
    "every prediction for val is right",
    "no better than by chance",
    "the logits for val are constant",
)


@pytest.mark.parametrize(
    ("logits", "labels", "reason"),
    [
        ([[2.0], [-1.0], [3.0]], [[1.0], [0.0], [1.0]], RIGHT),
        ([[0.0], [-1.0], [3.0]], [[1.0], [0.0], [1.0]], RIGHT),  # undecided is no error: colder is still better
        ([[-2.0], [1.0], [3.0]], [[1.0], [0.0], [1.0]], CHANCE),
        ([[-2.0], [2.0]], [[1.0], [1.0]], CHANCE),
        ([[0.0], [0.0]], [[1.0], [0.0]], NOTHING),
        ([[2.0], [2.0]], [[1.0], [0.0]], NOTHING),
        ([[2.0], [1.0]], [[np.nan], [np.nan]], "val has no labels"),
        ([[0.0, 1e-6, 0.0], [5.0, 0.0, 0.0]], [1, 0], RIGHT),
        ([[0.0, 1.0, 0.0], [5.0, 0.0, 0.0]], [0, 1], CHANCE),
        ([[1.0, 1.0, 1.0], [5.0, 5.0, 5.0]], [0, 1], NOTHING),
    ],
)
def test_where_no_temperature_helps_the_reason_is_said(logits: list, labels: list, reason: str) -> None:
    kind = np.int64 if isinstance(labels[0], int) else np.float32
    points = fit_operating_points(of(np.array(logits), np.array(labels, dtype=kind), *"abc"[: len(logits[0])]))
    assert points.temperature == 1
    assert reason in points.why_temperature_unfitted()
    assert OperatingPoints.from_dict(points.to_dict()) == points


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_logits_that_are_not_finite_end_no_run(task: str, broken: float, calibrated: dict[str, Predictions]) -> None:
    right = calibrated[task].take(np.arange(200))
    logits = right.logits.copy()
    row = int(np.flatnonzero(~np.isnan(right.labels.reshape(200, -1)[:, 0]))[0])
    logits[row, 0] = broken
    points = fit_operating_points(replace(right, logits=logits))
    assert (points.temperature, points.why_temperature_unfitted()) == (1.0, "some logits for val are not finite")
    assert points.why_unfitted("a") == "some logits for val are not finite"
    assert points.threshold("a") == 0
    # Each finding has logits of its own; classes share a softmax, in which -inf alone is a probability, of 0.
    others_are_known = task == "multi_label" or broken == -np.inf
    assert set(points.thresholds) == ({"b", "c"} if others_are_known else set())
    json.dumps(points.to_dict(), allow_nan=False)


def test_one_error_suffices_for_a_temperature() -> None:
    points = fit_operating_points(
        of(np.array([[2.0], [-1.0], [3.0], [0.5]]), np.array([[1.0], [0], [1], [0]], np.float32), "x")
    )
    assert 0 < points.temperature != 1
    assert points.why_temperature_unfitted() == ""
    assert "no val split" in OperatingPoints().why_temperature_unfitted()


@pytest.mark.parametrize("number", [50, 100])
def test_a_temperature_of_few_images_is_doubted(number: int) -> None:
    """And rightly: where 1 is right, of 50 images more than 5% lie outside 0.6 to 1.5, of 100 images fewer."""
    draws = np.random.default_rng(4)
    logits = draws.normal(0, 2, (100, number, 1))
    labels = (draws.random(logits.shape) < expit(logits)).astype(np.float32)
    fitted = [fit_operating_points(of(*each, "x")) for each in zip(logits, labels, strict=True)]
    far_off = np.mean([not 0.6 < points.temperature < 1.5 for points in fitted])
    assert (far_off > 0.05) == (number < 100)
    expected = "the temperature was fitted on 50 images of val; with fewer than 100" if number < 100 else ""
    assert all(points.temperature_doubt().startswith(expected) for points in fitted)
    assert all(bool(points.temperature_doubt()) == bool(expected) for points in fitted)


def test_what_was_not_fitted_is_not_doubted() -> None:
    assert OperatingPoints().temperature_doubt() == ""
    assert OperatingPoints(images=5, temperature_unfitted="val has no labels").temperature_doubt() == ""
    assert "1 image of val" in OperatingPoints(temperature=1.2, images=1).temperature_doubt()


def test_what_val_cannot_choose_has_a_reason() -> None:
    nan = np.nan
    labels = np.array([[1, 0, nan, 1], [1, 1, nan, 0]], dtype=np.float32)
    points = fit_operating_points(of(np.array([[1.0, -1, 0, 2], [2, 3, 1, 1]]), labels, "all", "both", "none", "other"))
    assert list(points.thresholds) == ["both", "other"]
    assert points.why_unfitted("all") == "val has no negatives of it"
    assert points.why_unfitted("none") == "val has no labels of it"
    assert (points.threshold("all"), points.why_unfitted("both")) == (0.0, "")
    assert "no val split" in OperatingPoints().why_unfitted("both")
    assert OperatingPoints.from_dict(points.to_dict()) == points


def test_calibration_error_is_the_mean_gap_by_count() -> None:
    predicted = np.array([0.02, 0.04, 0.9, 0.9, 0.9, 1.0])
    positive = np.array([False, True, True, True, False, True])
    found = reliability(predicted, positive)
    gaps = [2 * abs(0.03 - 1 / 2), 3 * abs(0.9 - 2 / 3), 0]
    assert found.error == pytest.approx(sum(gaps) / 6)
    assert found.count.tolist() == [2, *[0] * 12, 3, 1]
    assert np.isnan(reliability(np.empty(0), np.empty(0, dtype=bool)).error)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("classes", ["a", "ab", "abc"])
@pytest.mark.parametrize("task", ["single_label", "multi_label"])
@pytest.mark.filterwarnings("error")
def test_thresholds_decide_the_same_by_probability(task: Task, classes: str, temperature: float) -> None:
    logits = np.random.default_rng(3).normal(0, 2, (500, len(classes)))
    points = OperatingPoints(temperature, {"a": -1.1, "b": 0.3, "c": 2.0})
    scores = scores_of(logits, task).T
    above = scores >= np.array([points.threshold(name) for name in classes])
    thresholds = calibrated_thresholds(logits, task, points, classes)
    np.testing.assert_array_equal(probabilities(logits, task, temperature) >= thresholds, above)
    one_each = len(np.unique(thresholds.round(9), axis=0)) == 1
    assert one_each == (task == "multi_label" or len(classes) <= 2 or temperature == 1)
