"""Prediction sets hold the truth as often as promised, by patient and by label, and say how many patients they need."""

import math
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
from scipy import stats

from data_pipelines.common.errors import InputError
from trainer.document.markdown import as_markdown
from trainer.evaluation.assessment.assess import assess
from trainer.evaluation.assessment.set_coverage import SetCoverage, likely_coverage, set_coverage
from trainer.evaluation.calibration.conformal import (
    Calibrated,
    SetRule,
    calibrate,
    labels_of,
    set_rule,
    thresholds_of,
    true_labels,
)
from trainer.evaluation.calibration.coverages import LEVELS, fewest_units, most_covered, require_coverage
from trainer.evaluation.calibration.operating import OperatingPoints, fit_operating_points
from trainer.evaluation.pages.page import missed_promise, set_blocks
from trainer.evaluation.statistics.predictions import Predictions


def draw(rng: np.random.Generator, patients: int, findings: int = 0, most_images: int = 4) -> Predictions:
    """Patients whose images are alike in label and logits: of three classes, the first half of all, or of findings of a
    prevalence of a quarter."""
    owner = np.repeat(np.arange(patients), rng.integers(1, most_images + 1, patients))

    def normal(columns: int) -> np.ndarray:
        shared = rng.normal(size=(patients, columns))[owner]
        return 0.8 * shared + 0.6 * rng.normal(size=(len(owner), columns))

    keys = tuple(map(str, range(len(owner))))
    if findings:
        labels = (normal(findings) > stats.norm.isf(0.25)).astype(np.float32)
        logits = 1.2 * labels + normal(findings)
        return Predictions(tuple("abc"[:findings]), keys, logits.astype(np.float32), labels, owner)
    classes = (normal(3) + np.array([0.8, 0, 0])).argmax(axis=1)
    logits = 3 * (normal(3) + np.eye(3)[classes])
    return Predictions(("a", "b", "c"), keys, logits.astype(np.float32), classes, owner)


def coverages(seed: int, simulations: int, patients: int, findings: int) -> list[dict[str, float]]:
    rng, found = np.random.default_rng(seed), []
    for _ in range(simulations):
        points = fit_operating_points(draw(rng, patients, findings))
        new = draw(rng, 60, findings)
        rows = set_coverage(new, points.set_rule(new.classes, new.task, None), 1, 0).rows
        found.append({row.name: row.coverage.value for row in rows})
    return found


@pytest.mark.slow
def test_sets_of_classes_hold_the_class_as_promised() -> None:
    found = [each["all classes"] for each in coverages(1, 400, 100, 0)]
    assert 0.895 < mean(found) < 0.915, mean(found)


@pytest.mark.slow
def test_sets_of_a_finding_hold_each_label_as_promised() -> None:
    found = coverages(2, 400, 200, 1)
    for name in ("a absent", "a present"):
        each = [row[name] for row in found]
        assert 0.895 < mean(each) < 0.92, (name, mean(each))


def test_patients_of_many_images_count_as_much_as_others() -> None:
    """One patient has 90 of 99 images, all of them hard, and is one of ten: each image by itself would set the bar at
    their scores."""
    scores = np.concatenate([np.full(90, -5.0), np.arange(1.0, 10.0)])
    patients = np.concatenate([np.zeros(90), np.arange(1, 10)]).astype(np.int64)
    found = thresholds_of(scores, patients)
    assert found.units == 10
    assert found.thresholds[LEVELS.index(0.8)] == 1  # 9 of 11 lie at or above it
    assert found.thresholds[LEVELS.index(0.9)] == -5
    alone = thresholds_of(scores, np.full(99, -1))
    assert (alone.units, alone.thresholds[LEVELS.index(0.8)]) == (99, -5)


def test_the_threshold_is_that_of_split_conformal_prediction() -> None:
    """With one image a patient: the ceil((n + 1) (1 - alpha))-th best of n scores, and nothing beyond n / (n + 1)."""
    scores = np.random.default_rng(3).normal(size=57)
    found = thresholds_of(scores, np.full(57, -1)).thresholds
    ordered = np.sort(scores)[::-1]
    expected = [ordered[math.ceil(58 * level - 1e-9) - 1] for level in LEVELS if math.ceil(58 * level - 1e-9) <= 57]
    assert found == expected
    assert len(found) == sum(level <= 57 / 58 for level in LEVELS)


def test_equal_scores_are_all_in_the_set() -> None:
    logits = np.tile(np.array([[2.0, 1.0]], dtype=np.float32), (20, 1))
    val = Predictions(("a", "b"), tuple(map(str, range(20))), logits, np.array([0] * 10 + [1] * 10), np.full(20, -1))
    rule = set_rule(calibrate(val, 1.0), "", val.classes, val.task, 1.0, 0.9)
    assert rule.members(val.logits).all()


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.995, 199)])
def test_a_coverage_needs_so_many_patients(coverage: float, needed: int) -> None:
    assert fewest_units(coverage) == needed
    enough, too_few = (thresholds_of(np.arange(float(n)), np.full(n, -1)).thresholds for n in (needed, needed - 1))
    place = LEVELS.index(coverage)
    assert (len(enough) > place, len(too_few) > place) == (True, False)
    assert most_covered(needed) == coverage


def test_a_val_that_is_too_small_is_refused_with_the_number() -> None:
    val = draw(np.random.default_rng(4), 12)
    points = fit_operating_points(val)
    assert not points.set_rule(val.classes, val.task, 0.9).missing
    with pytest.raises(InputError) as refused:
        points.set_rule(val.classes, val.task, 0.95)
    said = "val has 12 images, each patient counted once, and a coverage of 0.95 needs 19"
    assert said in str(refused.value)
    assert "take --coverage 0.92 or less" in str(refused.value)
    points.set_rule(val.classes, val.task, 0.92)
    small = fit_operating_points(draw(np.random.default_rng(4), 8)).set_rule(val.classes, val.task, None)
    assert "needs 9" in small.missing["a"]  # nobody asked for a coverage: there are no sets, and the reason
    assert not small.members(val.logits).any()
    (told,) = set_blocks(SetCoverage(small, None, []), assess(val, points, 20))
    assert "There are no prediction sets, because val has 8 images" in as_markdown([told])


def test_a_finding_with_few_positives_has_no_sets() -> None:
    val = draw(np.random.default_rng(5), 60, findings=2)
    labels = val.labels.copy()
    labels[:, 0] = 0
    labels[:3, 0], labels[3, 0] = 1, np.nan
    rule = fit_operating_points(replace(val, labels=labels)).set_rule(val.classes, val.task, 0.9)
    assert list(rule.missing) == ["a"]
    assert "with a, each patient counted once" in rule.missing["a"]
    members = rule.members(val.logits)
    assert not members[:, :2].any()
    assert members[:, 2:].any(axis=1).mean() > 0.7
    truth = true_labels(replace(val, labels=labels))
    assert truth[3].tolist()[:2] == [False, False]  # unlabelled: neither
    assert [row.name for row in set_coverage(val, rule, 100, 0).rows] == ["b absent", "b present"]


@pytest.mark.parametrize("coverage", [0.0, 0.4, 0.913, 0.999, 1.0, math.nan, -1.0])
def test_coverages_that_are_none_are_refused(coverage: float) -> None:
    with pytest.raises(InputError, match=r"multiple of 0\.005 from 0\.5 to 0\.995"):
        require_coverage(coverage)


def test_logits_that_are_not_finite_give_no_sets() -> None:
    val = draw(np.random.default_rng(6), 20)
    val.logits[0, 0] = np.nan
    points = fit_operating_points(val)
    assert points.sets == {}
    with pytest.raises(InputError, match="logits for val are not finite"):
        points.set_rule(val.classes, val.task, 0.9)


def test_sets_survive_the_checkpoint() -> None:
    val = draw(np.random.default_rng(7), 30, findings=2)
    points = fit_operating_points(val)
    again = OperatingPoints.from_dict(points.to_dict() | {"of_a_later_version": 1})
    assert again == points
    rules = [each.set_rule(val.classes, val.task, None) for each in (points, again)]
    assert np.array_equal(*(rule.members(val.logits) for rule in rules))


def test_the_likely_coverage_is_that_of_an_order_statistic() -> None:
    drawn = np.sort(np.random.default_rng(8).random((4000, 50)), axis=1)[:, math.ceil(51 * 0.9) - 1]
    assert likely_coverage(50, 0.9) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)


@pytest.mark.parametrize("findings", [0, 2])
def test_a_promise_that_is_not_kept_is_warned_of(findings: int) -> None:
    """Two shifts of the logits: none that is seen, and one towards wrong labels of the last finding."""
    rng = np.random.default_rng(9)
    val, new = draw(rng, 150, findings), draw(rng, 150, findings)
    rule = fit_operating_points(val).set_rule(val.classes, val.task, None)
    assert missed_promise(set_coverage(new, rule, 200, 0)) == []
    new.logits[:, -1] += 8
    covered = set_coverage(new, rule, 200, 0)
    (told,) = missed_promise(covered)
    assert [row.name for row in covered.missed] == (["b absent"] if findings else ["all classes"])
    assert covered.likely is not None
    low, high = covered.likely
    assert f"0.9 (with such a val, {low:.3f} to {high:.3f}): {covered.missed[0].name} 0." in told


def test_coverage_is_counted_by_patient_and_sizes_by_image() -> None:
    """Of finding a, log odds from -1 to 0 leave both labels, of b, those from -1 to 1 none."""
    limits = np.array([0.0, -1.0, 1.0, 1.0])
    rule = SetRule(0.9, "multi_label", 1.0, 10, labels_of(("a", "b"), "multi_label"), limits, {})
    logits = np.array([[-2, 0], [1, 2], [-0.5, 0], [3, -3]], dtype=np.float32)
    labels = np.array([[1, np.nan], [1, 1], [1, 0], [1, 0]], dtype=np.float32)
    test = Predictions(("a", "b"), tuple("0123"), logits, labels, np.array([0, 0, 0, 1]))
    rows = {row.name: row for row in set_coverage(test, rule, 10, 0).rows}
    assert rows["a absent"].images == 0
    assert rows["a absent"].coverage.reason == "no such images"
    expected = {
        "a present": (4, 2, (2 / 3 + 1) / 2, 1.25, 0, 0.75),
        "b absent": (2, 2, 0.5, 0.5, 0.5, 0.5),
        "b present": (1, 1, 1, 1, 0, 1),
    }
    for name, numbers in expected.items():
        row = rows[name]
        found = (row.images, row.patients, row.coverage.value, row.mean_size, row.empty, row.single)
        assert found == pytest.approx(numbers), name


def test_the_fewest_patients_of_any_label_decide() -> None:
    calibrated = {"a absent": Calibrated(50, [0.0] * 90), "a present": Calibrated(20, [0.0] * 90)}
    assert set_rule(calibrated, "", ("a",), "multi_label", 1.0, None).units == 20


def test_images_without_a_class_decide_on_nothing() -> None:
    val = draw(np.random.default_rng(9), 40)
    more = val.take(np.concatenate([np.arange(5), np.arange(len(val))]))
    more.labels[:5] = -1
    assert calibrate(more, 1.5) == calibrate(val, 1.5)
