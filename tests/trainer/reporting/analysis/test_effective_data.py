"""How many images the baseline needs for the error of a pre-trained model."""

import math

import numpy as np
import pytest
from sklearn.isotonic import isotonic_regression

from trainer.reporting.analysis.effective_data import baseline_of, effective_images, falling
from trainer.reporting.analysis.learning_curve import LearningCurve, SeedResamples

IMAGES = np.array([10.0, 100.0, 1000.0])
POOLED = (0.3 / 0.3**2 + 0.32 / 0.32**2) / (1 / 0.3**2 + 1 / 0.32**2)  # weighted by relative precision
SEEDS = tuple(range(5))


def curve(errors: np.ndarray, noise: float = 0.0, seed: int = 0, seeds: tuple[int, ...] = SEEDS) -> LearningCurve:
    drawn = np.random.default_rng(seed).normal(size=(len(errors), len(seeds)))
    return LearningCurve(IMAGES, errors[:, None] * (1 + noise * drawn), seeds)


def effective(of: LearningCurve, baseline: LearningCurve) -> list[tuple[float, float, float]]:
    seeds = SeedResamples(SEEDS, 300)
    found = effective_images(of, baseline_of(baseline, seeds), seeds)
    return [(each.effective, each.low, each.high) for each in found]


def test_four_times_the_images_are_found() -> None:
    found = effective(curve((4 * IMAGES) ** -0.5), curve(IMAGES**-0.5))
    assert [value for value, _, _ in found[:2]] == pytest.approx([40, 400])
    assert math.isinf(found[2][0])  # 4,000 were not measured


def test_interval_covers_the_true_number() -> None:
    covered = 0
    for trial in range(60):
        of, baseline = curve((4 * IMAGES) ** -0.5, 0.1, 2 * trial), curve(IMAGES**-0.5, 0.1, 2 * trial + 1)
        _, low, high = effective(of, baseline)[1]
        covered += low <= 400 <= high
    assert 52 <= covered < 60


def test_an_error_above_the_baselines_first_is_below() -> None:
    assert effective(curve(np.array([0.9, 0.5, 0.2])), curve(np.array([0.8, 0.4, 0.1])))[0][0] == 0


def test_a_baseline_that_rises_by_chance_is_made_to_fall() -> None:
    found = effective(curve(np.array([0.5, 0.35, 0.2])), curve(np.array([0.4, 0.3, 0.32])))
    assert [value for value, _, _ in found] == pytest.approx([0, 10 * 10 ** fraction(0.35), math.inf])


def fraction(error: float) -> float:
    """Where an error lies between those of 10 and of 100 images, 0.4 and POOLED, by logarithms."""
    return math.log(0.4 / error) / math.log(0.4 / POOLED)


def test_falling_curves_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    curves, weights = rng.uniform(0.1, 0.5, size=(50, 6)), rng.uniform(0.5, 2, size=6)
    expected = [isotonic_regression(each, sample_weight=weights, increasing=False) for each in curves]
    np.testing.assert_allclose(falling(curves, weights), expected)


def test_one_seed_has_no_interval() -> None:
    found = effective(curve((4 * IMAGES) ** -0.5, seeds=(0,)), curve(IMAGES**-0.5, seeds=(0,)))
    assert found[0][0] == pytest.approx(40)
    assert math.isnan(found[0][1])
