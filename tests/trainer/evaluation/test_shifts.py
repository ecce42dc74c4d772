"""Comparisons of groups: the formulas they stand for, the promised error rate, and that they find what moved."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.shift_errors import DESIGNS, Design, ShiftErrors, count_warnings
from trainer.evaluation.assessment.shifts import MOST_CLASSES, Comparison, compare
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.statistics.predictions import Predictions

SMALL = Design(6, 150, 2, -1.0)


def compared(design: Design, seed: int = 0, count: int = 200) -> list[Comparison]:
    predictions, group = design.draw(np.random.default_rng(seed))
    names = [str(number) for number in range(design.groups)]
    return compare(predictions, OperatingPoints(), group, names, range(design.groups), count)


def test_prevalence_of_single_images_is_the_score_test() -> None:
    """The usual z of two shares, with the variance of the pooled one."""
    design = Design(2, 300, 1, -1.0, most_images=1)
    predictions, group = design.draw(np.random.default_rng(1))
    positive = predictions.labels[:, 0] == 1
    found = next(each for each in compared(design, seed=1) if each.measure == "prevalence")
    shares = [positive[group == number].mean() for number in range(2)]
    pooled, sizes = positive.mean(), np.bincount(group)
    z = (shares[0] - shares[1]) / np.sqrt(pooled * (1 - pooled) * (1 / sizes).sum())
    assert (found.group, found.value, found.others) == ("0", pytest.approx(shares[0]), pytest.approx(shares[1]))
    assert found.z == pytest.approx(z)


def test_the_trend_is_that_of_cochran_and_armitage() -> None:
    design = Design(5, 400, 1, -1.0, most_images=1)
    predictions, group = design.draw(np.random.default_rng(2))
    found = next(each for each in compared(design, seed=2) if (each.group, each.measure) == (None, "prevalence"))
    z = np.corrcoef(group, predictions.labels[:, 0])[0, 1] * np.sqrt(len(group))
    assert found.z == pytest.approx(z)
    assert np.isnan(found.value)


def test_calibration_is_the_mean_excess_and_the_slope_one_step() -> None:
    predictions, group = SMALL.draw(np.random.default_rng(3))
    odds, positive = predictions.logits.astype(np.float64)[:, 1], predictions.labels[:, 1]
    p = 1 / (1 + np.exp(-odds))
    found = {(each.measure, each.finding, each.group): each for each in compared(SMALL, seed=3)}
    rows, centred = group == 4, odds - odds.mean()
    calibration, slope = (found[measure, "finding 1", "4"] for measure in ("calibration", "slope"))
    assert calibration.value == pytest.approx((positive - p)[rows].mean())
    assert calibration.others == pytest.approx((positive - p)[~rows].mean())
    step = (centred * (positive - p))[rows].sum() / (np.square(centred) * p * (1 - p))[rows].sum()
    assert slope.value == pytest.approx(1 + step)


@pytest.mark.parametrize("design", [SMALL, replace(SMALL, most_images=5, return_later=True), replace(SMALL, odds=-4.0)])
def test_few_warnings_where_nothing_moved(design: Design) -> None:
    """The promised 5%, which 60 sets exceed 15% of by chance once in 1,000."""
    warned = count_warnings(design, ShiftErrors(sets=60, resamples=100))["warned"]
    assert stats.binom.sf(9, 60, 0.05) < 0.001
    assert warned <= 9 / 60


@pytest.mark.parametrize("design", [design for design in DESIGNS if design.moved != "nothing"], ids=lambda d: d.moved)
def test_what_moved_is_named(design: Design) -> None:
    assert (
        count_warnings(replace(design, groups=6, by=2 * design.by), ShiftErrors(sets=32, resamples=100))["named"] >= 0.8
    )


def test_one_finding_that_moved_leaves_the_others() -> None:
    predictions, group = Design(6, 600, 2, -1.0).draw(np.random.default_rng(4))
    labels = predictions.labels.copy()
    labels[group == 2, 0] = 1
    moved = replace(predictions, labels=labels)
    found = compare(moved, OperatingPoints(), group, list("abcdef"), None, 200)
    sure = {(each.finding, each.measure) for each in found if each.p <= 0.05}
    assert {("finding 0", "prevalence"), ("finding 0", "calibration")} <= sure
    assert {finding for finding, _ in sure} == {"finding 0"}
    assert next(each for each in found if each.group == "c" and each.measure == "prevalence").value == 1
    assert all(each.group is not None for each in found)  # without places there is no trend


def test_patients_with_many_images_are_no_evidence_of_their_own() -> None:
    """One patient with a hundred positive images moves no month."""
    rng = np.random.default_rng(5)
    owner = np.concatenate([np.arange(300), np.full(100, 0)])
    group = np.concatenate([np.arange(300) % 3, np.zeros(100, dtype=np.int64)])
    labels = np.concatenate([rng.random(300) < 0.3, np.ones(100, dtype=bool)]).astype(np.float32)[:, None]
    logits = np.full((400, 1), -0.85, dtype=np.float32)

    def least(patients: np.ndarray) -> float:
        made = Predictions(("x",), tuple(map(str, range(400))), logits, labels, patients)
        found = compare(made, OperatingPoints(), group, list("abc"), None, 200)
        return min(each.p for each in found if each.measure == "prevalence")

    assert least(owner) > 0.05
    assert least(np.arange(400)) < 0.01


def test_what_has_too_few_is_not_compared() -> None:
    predictions, group = SMALL.draw(np.random.default_rng(6))
    few = np.flatnonzero((group != 0) | (np.cumsum(group == 0) <= 9))
    names = list("abcdef")
    found = compare(predictions.take(few), OperatingPoints(), group[few], names, range(6), 100)
    assert {each.group for each in found} == {"b", "c", "d", "e", "f", None}
    two = np.flatnonzero((group == 0) | ((group == 1) & (np.cumsum(group == 1) <= 9)))
    assert compare(predictions.take(two), OperatingPoints(), group[two], names[:2], None, 100) == []
    rare = predictions.labels.copy()
    rare[np.flatnonzero(rare[:, 0] == 1)[9:], 0] = 0
    found = compare(replace(predictions, labels=rare), OperatingPoints(), group, names, None, 100)
    assert {each.finding for each in found} == {"finding 1"}
    assert compare(predictions, OperatingPoints(), np.zeros(len(group), dtype=np.int64), ["a"], None, 100) == []
    many = Design(2, 60, MOST_CLASSES + 1, 0.0)
    assert compared(many) == []


@pytest.mark.filterwarnings("error")
def test_logits_without_sense_are_left_out() -> None:
    predictions, group = SMALL.draw(np.random.default_rng(7))
    broken, constant = predictions.logits.copy(), predictions.logits.copy()
    broken[:5] = np.nan
    broken[5:9] = np.inf
    constant[:] = 0.5
    for logits in (broken, constant, np.full_like(broken, 500.0)):
        found = compare(replace(predictions, logits=logits), OperatingPoints(), group, list("abcdef"), range(6), 100)
        assert all(np.isfinite(each.z) for each in found)
    classes = replace(predictions, labels=predictions.labels[:, 0].astype(np.int64))
    assert compare(classes, OperatingPoints(), group, list("abcdef"), range(6), 100)


def test_the_same_seed_gives_the_same() -> None:
    assert repr(compared(SMALL)) == repr(compared(SMALL))  # NaN is not equal to itself
