"""Table cells: one setting over its seeds, and the significance of the difference of two cells."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from trainer.document.blocks import Cell

CONFIDENCE = 0.95


def cell_of(runs: pd.DataFrame) -> Cell:
    """The cell of some runs that differ only in their seeds; their test metrics are fractions."""
    values = runs["test"].dropna().to_numpy(dtype=np.float64) * 100
    mean = float(values.mean()) if len(values) else math.nan
    std = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return Cell(mean, std, len(values), int(runs["not_a_number"].sum()))


def welch(one: Cell, other: Cell) -> float | None:
    """The p value of Welch's t-test for equal means of two cells; None for fewer than two seeds.

    For two cells without any spread, where the test is undefined: 1 if they are equal, else 0.
    """
    if one.n < 2 or other.n < 2:
        return None
    if one.std == other.std == 0:
        return float(one.mean == other.mean)
    of_one, of_other = (one.mean, one.std, one.n), (other.mean, other.std, other.n)
    return float(stats.ttest_ind_from_stats(*of_one, *of_other, equal_var=False).pvalue)


def best(cells: Iterable[Cell]) -> float:
    """The highest mean, rounded as printed, so that equal-looking means are all best; NaN without any."""
    means = [round(cell.mean, 2) for cell in cells if cell.n]
    return max(means, default=math.nan)


def half_interval(std: float, n: int) -> float:
    """Half the width of the t interval of a mean. std: sample standard deviation; n: number of values, at least 2."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / math.sqrt(n)


def interval(differences: npt.NDArray[np.float64]) -> str:
    """The mean of paired differences with its t interval; empty without any."""
    if len(differences) == 0:
        return ""
    mean = differences.mean()
    if len(differences) == 1:
        return f"{mean:+.2f} (one seed)"
    half = half_interval(float(differences.std(ddof=1)), len(differences))
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
