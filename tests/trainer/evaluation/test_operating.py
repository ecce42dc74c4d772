"""Thresholds, temperature and calibration, against their definitions."""

import numpy as np
import pytest
from scipy.special import expit

from trainer.evaluation.operating import OperatingPoints, choose, probabilities, reliability, youden
from trainer.evaluation.predictions import Predictions


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


def test_temperature_is_found_again() -> None:
    draws = np.random.default_rng(1)
    logits = draws.normal(0, 2, (20_000, 1))
    labels = (draws.random((20_000, 1)) < expit(logits)).astype(np.float32)
    assert choose(of(3 * logits, labels, "x")).temperature == pytest.approx(3, rel=0.05)
    labels[::2] = np.nan
    assert choose(of(0.5 * logits, labels, "x")).temperature == pytest.approx(0.5, rel=0.05)
    scores = draws.normal(0, 2, (20_000, 3))
    shares = probabilities(scores, "single_label", 1)
    classes = (draws.random(20_000)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    assert choose(of(2 * scores, classes, "a", "b", "c")).temperature == pytest.approx(2, rel=0.05)


def test_val_without_an_error_fits_no_temperature() -> None:
    labels = np.array([[1.0], [0.0], [1.0]], dtype=np.float32)
    assert choose(of(np.array([[2.0], [-1.0], [3.0]]), labels, "x")).temperature == 1
    assert choose(of(np.zeros((3, 1)), labels, "x")).temperature == 1


def test_what_val_cannot_choose_has_a_reason() -> None:
    nan = np.nan
    labels = np.array([[1, 0, nan, 1], [1, 1, nan, 0]], dtype=np.float32)
    points = choose(of(np.array([[1.0, -1, 0, 2], [2, 3, 1, 1]]), labels, "all", "both", "none", "other"))
    assert list(points.thresholds) == ["both", "other"]
    assert points.why_unfitted("all") == "val has no negatives of it"
    assert points.why_unfitted("none") == "val has no labels of it"
    assert (points.threshold("all"), points.why_unfitted("both")) == (0.0, "")
    assert "no val split" in OperatingPoints().why_unfitted("both")
    assert OperatingPoints(**points.to_dict()) == points


def test_calibration_error_is_the_mean_gap_by_count() -> None:
    predicted = np.array([0.02, 0.04, 0.9, 0.9, 0.9, 1.0])
    positive = np.array([False, True, True, True, False, True])
    found = reliability(predicted, positive)
    gaps = [2 * abs(0.03 - 1 / 2), 3 * abs(0.9 - 2 / 3), 0]
    assert found.error == pytest.approx(sum(gaps) / 6)
    assert found.count.tolist() == [2, *[0] * 12, 3, 1]
    assert np.isnan(reliability(np.empty(0), np.empty(0, dtype=bool)).error)
