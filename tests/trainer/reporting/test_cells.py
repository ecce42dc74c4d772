"""Means, spreads and tests of significance, computed again by other means."""

import math
import statistics

import numpy as np
import pytest
from made_results import frame, seeds
from scipy import stats

from trainer.document.blocks import Cell, p_text
from trainer.reporting.cells import best, cell_of, interval, welch

# Quantiles 0.975 of Student's t from a printed table, by degrees of freedom.
T_TABLE = {1: 12.706, 2: 4.303}
ONE, OTHER = (0.90, 0.93, 0.91), (0.94, 0.92, 0.97, 0.95)


def test_mean_and_sample_deviation_over_seeds_in_percent() -> None:
    cell = cell_of(frame(seeds("mine", ONE)))
    assert cell.mean == pytest.approx(100 * statistics.mean(ONE))
    assert cell.std == pytest.approx(100 * statistics.stdev(ONE))
    assert (cell.n, cell.not_numbers) == (3, 0)
    assert cell.text() == "91.33 ± 1.53"


def test_a_seed_that_is_not_a_number_is_counted_not_averaged() -> None:
    cell = cell_of(frame(seeds("mine", (0.2, math.nan, 0.3))))
    assert cell.text() == "25.00 ± 7.07 (1 of 3 NaN)"
    assert cell_of(frame(seeds("mine", (math.nan, math.nan)))).text() == "NaN (2 of 2)"


def test_a_run_without_a_test_split_is_no_failure() -> None:
    results = seeds("mine", (0.5, 0.7))
    del results[1]["test"]
    assert cell_of(frame(results)) == Cell(50.0, pytest.approx(math.nan, nan_ok=True), 1, 0)
    assert cell_of(frame(results)).text() == "50.00"


def test_welch_is_that_of_the_values_themselves() -> None:
    cells = [cell_of(frame(seeds("mine", values))) for values in (ONE, OTHER)]
    assert welch(*cells) == pytest.approx(stats.ttest_ind(ONE, OTHER, equal_var=False).pvalue)
    assert welch(*cells) != pytest.approx(stats.ttest_ind(ONE, OTHER).pvalue, rel=1e-3)


def test_welch_without_a_spread_or_a_second_seed() -> None:
    assert welch(Cell(50, 0, 3), Cell(50, 0, 3)) == 1
    assert welch(Cell(50, 0, 3), Cell(51, 0, 3)) == 0
    assert welch(Cell(50, math.nan, 1), Cell(51, 1, 3)) is None


def test_best_is_what_is_printed_as_best() -> None:
    assert best([Cell(50.004, 1, 2), Cell(49.996, 1, 2)]) == 50.0
    assert math.isnan(best([Cell(math.nan, math.nan, 0)]))


def test_interval_of_paired_differences() -> None:
    half = T_TABLE[2] * statistics.stdev([1, 2, 6]) / math.sqrt(3)
    assert interval(np.array([1.0, 2.0, 6.0])) == f"+3.00 [{3 - half:+.2f}, {3 + half:+.2f}]"
    assert interval(np.array([-1.5])) == "-1.50 (one seed)"
    assert interval(np.array([])) == ""


def test_p_values_as_printed() -> None:
    assert [p_text(p) for p in (0.0004, 0.0449, 0.5)] == ["p < 0.001", "p = 0.045", "p = 0.500"]
