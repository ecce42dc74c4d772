"""Thresholds at a fixed sensitivity or specificity, and from a file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from test_operating import of

from data_pipelines.common.errors import InputError
from data_pipelines.common.tasks import Task
from trainer.evaluation.assessment.assess import assess
from trainer.evaluation.calibration.operating import (
    OperatingPoints,
    above_thresholds,
    calibrated_thresholds,
    probabilities,
)
from trainer.evaluation.calibration.threshold_settings import ThresholdChoice
from trainer.evaluation.chosen_thresholds import at_sensitivity, fixed, points_of, read_thresholds
from trainer.evaluation.runs import Run

CHOSEN = OperatingPoints(2.0, {"a": -1.0, "b": 0.5, "c": 1.0}, images=50)
RUN = Run(Path("run"), None, {"operating_points": CHOSEN.to_dict()}, {}, {})


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_highest_threshold_that_suffices(seed: int, share: float) -> None:
    draws = np.random.default_rng(seed)
    scores = np.round(draws.normal(size=80), 1)  # with ties
    kind = draws.integers(0, 3, 80)  # some are unlabelled
    positive, negative = kind == 1, kind == 0
    threshold = at_sensitivity(scores, positive, negative, share)
    assert (scores[positive] >= threshold).mean() >= share
    higher = np.unique(scores[positive])
    higher = higher[higher > threshold][1:]  # the next score that would be a threshold of its own
    assert all((scores[positive] >= score).mean() < share for score in higher)
    assert threshold not in scores[kind < 2]


def test_no_rounding_asks_for_one_positive_more() -> None:
    scores = np.arange(100.0)
    positive = np.ones(100, dtype=bool)
    assert at_sensitivity(scores, positive, ~positive, 0.07 * 10) == 29.5  # 0.7000000000000001


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
@pytest.mark.parametrize("kind", ["sensitivity", "specificity"])
def test_the_share_is_reached_on_val_and_by_probability(kind: str, task: Task) -> None:
    draws = np.random.default_rng(1)
    labels = draws.integers(0, 3, 300)
    hot = np.eye(3)[labels]
    logits = draws.normal(size=(300, 3)) + 2 * hot
    val = of(logits, labels if task == "single_label" else hot.astype(np.float32), "a", "b", "c")
    points = fixed(CHOSEN, val, kind, 0.9)
    above = above_thresholds(val.logits, task, points, val.classes)
    for column, (positive, negative) in enumerate(val.known()):
        of_right = positive if kind == "sensitivity" else negative
        called = above[:, column] if kind == "sensitivity" else ~above[:, column]
        assert 0.9 <= called[of_right].mean() < 0.92
    least = calibrated_thresholds(val.logits, task, points, val.classes)
    assert len(np.unique(least, axis=0)) == 1  # of classes, too, each image has the same
    np.testing.assert_array_equal(probabilities(val.logits, task, 2.0) >= least, above)
    found = assess(val, points, 20).findings[0]
    assert (found.threshold, found.rule) == (least[0, 0], f"chosen on val (a {kind} of at least 0.9)")
    assert found.shares[kind].value == pytest.approx(0.9, abs=0.02)
    assert np.isnan(found.raw_threshold) == (task == "single_label")


def test_what_val_cannot_choose_stays_one_half() -> None:
    labels = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    points = fixed(CHOSEN, of(np.array([[1.0, 2.0], [3.0, 4.0]]), labels, "a", "b"), "sensitivity", 0.5)
    assert points.why_unfitted("b") == "val has no positives of it"
    assert (points.threshold("a"), points.threshold("b")) == (1.0, 0.0)
    broken = of(np.array([[np.inf, 2.0], [3.0, 4.0]]), labels, "a", "b")
    assert "not finite" in fixed(CHOSEN, broken, "sensitivity", 0.5).why_unfitted("a")


def test_a_file_decides_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("name;threshold\nb;0.35\n")
    points = points_of(RUN, ThresholdChoice(thresholds=path), ("a", "b", "c"), "multi_label")
    least = calibrated_thresholds(np.zeros((1, 3)), "multi_label", points, ("a", "b", "c"))[0]
    np.testing.assert_allclose(least, [expit(-0.5), 0.35, expit(0.5)])
    assert points.rule("b") == "given in mine.csv"
    assert points.rule("a").startswith("chosen on val")
    with pytest.raises(InputError, match="does not name a, c; of classes, it must name all"):
        points_of(RUN, ThresholdChoice(thresholds=path), ("a", "b", "c"), "single_label")
    path.write_text("threshold,name\n0.2,a\n0.35,b\n0.5,c\n")
    points = points_of(RUN, ThresholdChoice(thresholds=path), ("a", "b", "c"), "single_label")
    assert points.thresholds == pytest.approx({"a": logit(0.2), "b": logit(0.35), "c": 0})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,threshold\nd,0.3\n", "line 2: 'd' is no label of the run; known: a, b, c"),
        ("name,threshold\na,0.3\na,0.3\n", "line 3: 'a' stands there twice"),
        ("name,threshold\na,35%\n", "the threshold is '35%'; write a number between 0 and 1"),
        ("name,threshold\na,\n", "the threshold is ''"),
        ("name,threshold\na,nan\n", "the threshold is 'nan'"),
        ("name,threshold\na,1\n", "the threshold is '1'"),
        ("name,threshold\n", "has no rows; write them below the names of its columns"),
        ("name,value\na,0.3\n", "has no column 'threshold'"),
        ("", "is empty"),
    ],
)
def test_files_that_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_thresholds(tmp_path / "t.csv", ("a", "b", "c"))
    assert words in str(caught.value)


def test_choices_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--at-sensitivity and --thresholds exclude each other"):
        ThresholdChoice(at_sensitivity=0.9, thresholds=tmp_path)
    for value in (0.0, 1.01, -1.0, 95.0):
        with pytest.raises(InputError, match="must lie above 0 and be at most 1"):
            ThresholdChoice(at_specificity=value)
    with pytest.raises(InputError, match="holds none; name the run folder"):
        points_of(replace(RUN, folder=tmp_path), ThresholdChoice(at_sensitivity=0.9), ("a",), "multi_label")
    on_val = replace(RUN, metadata={"trained_on": "train+val"})
    with pytest.raises(InputError, match="a val split that the run was not trained on"):
        points_of(on_val, ThresholdChoice(at_specificity=0.9), ("a",), "multi_label")
