"""Intervals cover what they say, and say why where there is none."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.stats import norm

from trainer.evaluation.assessment.assess import assess
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.statistics.intervals import (
    auc_interval,
    difference_interval,
    percentile_interval,
    share_interval,
)
from trainer.evaluation.statistics.paired import paired
from trainer.evaluation.statistics.predictions import Predictions

SEPARATION, WITHIN_PATIENT = 1.2, 0.5


def draw(draws: np.random.Generator, patients: int) -> Predictions:
    """One finding of patients with one to three images, alike in score and label; a quarter is positive."""
    of_image = np.repeat(np.arange(patients), draws.integers(1, 4, patients))

    def normal() -> np.ndarray:
        shared = draws.normal(size=patients)[of_image] * np.sqrt(WITHIN_PATIENT)
        return shared + draws.normal(size=len(of_image)) * np.sqrt(1 - WITHIN_PATIENT)

    positive = normal() > norm.isf(0.25)
    scores = SEPARATION * positive + normal()
    labels = positive[:, None].astype(np.float32)
    return Predictions(
        ("x",), tuple(map(str, range(len(of_image)))), scores[:, None].astype(np.float32), labels, of_image
    )


def test_intervals_cover_the_truth() -> None:
    """Of 120 sets of 60 patients; the true AUC of two normal distributions so far apart is known."""
    points = OperatingPoints(thresholds={"x": SEPARATION / 2})
    truth = {"auc": norm.cdf(SEPARATION / math.sqrt(2)), "sensitivity": norm.cdf(0.6), "specificity": norm.cdf(0.6)}
    covered = dict.fromkeys(truth, 0)
    draws = np.random.default_rng(5)
    for number in range(120):
        finding = assess(draw(draws, 60), points, count=200, seed=number).findings[0]
        for name, estimate in {"auc": finding.auc, **finding.shares}.items():
            if name in truth:
                covered[name] += estimate.low <= truth[name] <= estimate.high
    assert all(108 <= count <= 119 for count in covered.values()), covered


def test_images_of_one_patient_do_not_count_as_many() -> None:
    once = draw(np.random.default_rng(2), 80)
    copies = np.repeat(np.arange(len(once)), 4)
    four = once.take(copies)
    alone = Predictions(four.classes, four.keys, four.logits, four.labels, np.full(len(four), -1))
    points = OperatingPoints()
    narrow, same, wide = (assess(part, points, 400).findings[0] for part in (alone, four, once))
    assert same.auc.high - same.auc.low == pytest.approx(wide.auc.high - wide.auc.low, rel=1e-6)
    assert narrow.auc.high - narrow.auc.low < 0.7 * (wide.auc.high - wide.auc.low)
    assert same.auc.value == pytest.approx(narrow.auc.value)


def test_perfect_scores_have_no_interval() -> None:
    estimate = auc_interval(1.0, np.ones(100), 30, 900)
    assert not estimate.has_interval
    assert "every positive scores " in estimate.reason
    assert estimate.text() == "1.000"


def test_auc_interval_lies_inside_and_is_skewed_towards_a_half() -> None:
    estimate = auc_interval(0.96, 0.96 + 0.01 * np.random.default_rng(0).normal(size=2000), 20, 400)
    assert estimate.value - estimate.low > estimate.high - estimate.value > 0
    assert estimate.high < 1


def test_percentiles_reach_further_out_for_few_patients() -> None:
    resampled = np.linspace(0, 1, 2001)
    few, many = percentile_interval(0.5, resampled, 10), percentile_interval(0.5, resampled, 10_000)
    assert (many.low, many.high) == pytest.approx((0.025, 0.975), abs=2e-3)
    assert few.low < many.low
    assert few.high > many.high


def test_a_mean_of_one_finding_has_its_interval() -> None:
    one = draw(np.random.default_rng(3), 60)
    rare = np.where(np.arange(len(one)) < 9, 1.0, 0.0)[:, None].astype(np.float32)  # too few positives for a mean
    with_rare = replace(
        one, classes=("x", "y"), logits=np.hstack([one.logits] * 2), labels=np.hstack([one.labels, rare])
    )
    zeros = np.zeros_like(one.logits)
    classes = replace(
        one,
        classes=("no", "yes"),
        logits=np.hstack([zeros, one.logits]),
        labels=one.labels[:, 0].astype(np.int64),
    )
    for predictions in (one, with_rare, classes):
        assessment = assess(predictions, OperatingPoints(), 200)
        assert assessment.mean_auc.has_interval
        assert assessment.mean_auc == assessment.findings[0].auc
        if predictions is not classes:  # whose average precisions differ
            assert assessment.mean_ap == assessment.findings[0].ap


def test_share_of_independent_images_is_wilsons() -> None:
    draws = np.random.default_rng(0).binomial(80, 0.7, 200_000) / 80
    estimate = share_interval(0.7, draws, images=80, clusters=80)
    expected = stats.binomtest(56, 80).proportion_ci(0.95, "wilson")
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-3)
    # A share that does not spread goes by the patients, not by the images.
    whole = share_interval(1.0, np.ones(100), images=80, clusters=20)
    expected = stats.binomtest(20, 20).proportion_ci(0.95, "wilson")
    assert (whole.low, whole.high) == pytest.approx((expected.low, expected.high))


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    one = draw(np.random.default_rng(3), 150)
    worse = one.logits + np.random.default_rng(4).normal(0, 0.3, one.logits.shape).astype(np.float32)
    other = Predictions(one.classes, one.keys, worse, one.labels, one.patients)
    (found,) = paired(one, other, 500)
    assert found.difference.value == pytest.approx(found.one - found.other)
    single = assess(one, OperatingPoints(), 500).findings[0].auc
    assert found.difference.high - found.difference.low < 0.7 * (single.high - single.low)
    (same,) = paired(one, one, 200)
    assert (same.difference.value, same.difference.has_interval) == (0, False)
    assert difference_interval(0.1, np.linspace(0, 0.2, 100), 50).low < 0.1


@pytest.mark.parametrize(
    ("positives", "patients", "reason"),
    [
        (0, 60, "no positives"),
        (9, 60, "9 positives, fewer than 10"),
        (1, 60, "1 positive, fewer than 10"),
        (60, 60, "no negatives"),
        (30, 6, "of 3 patients, fewer than 10"),
        (30, 2, "positives of 1 patient, fewer than 10"),
    ],
)
def test_too_few_have_no_interval_and_the_reason(positives: int, patients: int, reason: str) -> None:
    positive = np.arange(60) < positives
    scores = np.random.default_rng(0).normal(size=(60, 1)).astype(np.float32)
    of_image = np.arange(60) * patients // 60
    predictions = Predictions(
        ("x",), tuple(map(str, range(60))), scores, positive[:, None].astype(np.float32), of_image
    )
    assessment = assess(predictions, OperatingPoints(), 200)
    (finding,) = assessment.findings
    assert reason in finding.auc.reason
    assert not finding.auc.has_interval
    assert math.isnan(finding.auc.value) == (positives in (0, 60))
    assert math.isnan(assessment.mean_auc.value)
