"""Estimates against SciPy's tests and against simulations whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from trainer.reporting.analysis.estimates import Estimate, estimate

ONE = np.array([71.0, 72.5, 70.2, 73.1, 71.9])
OTHER = np.array([69.0, 71.4, 69.9, 70.5, 70.0, 68.1])
TRIALS = 2000


def test_one_block_is_a_paired_t_test() -> None:
    found, theirs = estimate([ONE - OTHER[:5]]), stats.ttest_rel(ONE, OTHER[:5])
    assert found.p_difference == pytest.approx(theirs.pvalue)
    assert found.interval == pytest.approx(theirs.confidence_interval(0.95))


def test_two_blocks_are_welchs_test() -> None:
    found, theirs = estimate([ONE, -OTHER]), stats.ttest_ind(ONE, OTHER, equal_var=False)
    assert (found.p_difference, found.freedom) == pytest.approx((theirs.pvalue, theirs.df))
    assert found.interval == pytest.approx(theirs.confidence_interval(0.95))


def test_equivalence_is_two_one_sided_tests() -> None:
    found, margin = estimate([ONE, -OTHER]), 4.0
    ps = [
        stats.ttest_ind(ONE, OTHER - margin, equal_var=False, alternative="greater").pvalue,
        stats.ttest_ind(ONE, OTHER + margin, equal_var=False, alternative="less").pvalue,
    ]
    assert found.p_equivalence(margin) == pytest.approx(max(ps))
    assert found.p_above == pytest.approx(found.p_difference / 2)
    assert found.p_beyond(1.0) == pytest.approx(2 * stats.t.sf((found.effect - 1.0) / found.error, found.freedom))


def test_a_detectable_effect_is_found_in_80_percent() -> None:
    found = Estimate(0.0, 1.3, 4.0)
    size, critical = found.detectable(0.05) / 1.3, stats.t.isf(0.025, 4)
    power = stats.nct.sf(critical, 4, size) + stats.nct.cdf(-critical, 4, size)
    assert power == pytest.approx(0.8, abs=0.002)
    assert found.detectable(0.01) > found.detectable(0.05)


def test_a_detectable_margin_is_shown_in_80_percent() -> None:
    freedom, error = 8.0, 0.7
    margin = Estimate(0.0, error, freedom).detectable_margin(0.05)
    rng = np.random.default_rng(0)
    effects = rng.normal(0, error, 40_000)
    errors = error * np.sqrt(rng.chisquare(freedom, 40_000) / freedom)
    shown = np.abs(effects) + stats.t.isf(0.05, freedom) * errors < margin
    assert shown.mean() == pytest.approx(0.8, abs=0.01)


def test_one_seed_or_no_spread_gives_no_test() -> None:
    assert not estimate([np.array([1.0]), ONE]).is_testable
    assert not estimate([np.array([2.0, 2.0]), np.array([1.0, 1.0])]).is_testable
    assert estimate([np.array([2.0, 2.0]), -ONE]).is_testable


def simulated(effect: float, seed: int) -> list[Estimate]:
    """Two targets: one of four paired seeds, and one of two cells with unequal spreads."""
    rng = np.random.default_rng(seed)
    paired = rng.normal(effect / 2, 1.0, (TRIALS, 4))
    one, other = rng.normal(effect / 2, 0.4, (TRIALS, 5)), rng.normal(0, 1.5, (TRIALS, 5))
    return [estimate([a, b, -c]) for a, b, c in zip(paired, one, other, strict=True)]


def test_the_interval_holds_the_truth_in_95_percent() -> None:
    limits = np.array([one.interval for one in simulated(2.0, 1)])
    assert ((limits[:, 0] < 2) & (limits[:, 1] > 2)).mean() == pytest.approx(0.95, abs=0.015)


def test_no_effect_is_rejected_in_5_percent() -> None:
    assert np.mean([one.p_difference < 0.05 for one in simulated(0.0, 2)]) == pytest.approx(0.05, abs=0.015)


def test_equivalence_at_the_margin_is_shown_in_5_percent() -> None:
    shown = np.mean([one.p_equivalence(3.0) < 0.05 for one in simulated(3.0, 3)])
    assert shown == pytest.approx(0.05, abs=0.015)
