"""A cell of a table: one setting over its seeds, and what the difference of two cells is worth."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Cell:
    """A metric over seeds, in percent. std: sample standard deviation, NaN below two seeds; n: the seeds of the mean;
    not_numbers: further seeds, whose metric is NaN. printed_std: what a publication prints, where `std` corrects it."""

    mean: float
    std: float
    n: int
    not_numbers: int = 0
    printed_std: float | None = None

    def text(self, plus_minus: str = " ± ") -> str:
        """Mean and spread as a table has them; says so where seeds are missing from the mean. A printed spread comes
        first, the corrected one in brackets."""
        if self.n == 0:
            return f"NaN ({self.not_numbers} of {self.not_numbers})" if self.not_numbers else ""
        spread = f"{plus_minus}{self.std:.2f}" if self.n > 1 else ""
        if self.printed_std is not None:
            spread = f"{plus_minus}{self.printed_std:.2f} [{self.std:.2f}]"
        missing = f" ({self.not_numbers} of {self.n + self.not_numbers} NaN)" if self.not_numbers else ""
        return f"{self.mean:.2f}{spread}{missing}"


def cell_of(runs: pd.DataFrame) -> Cell:
    """The cell of some runs that differ in their seeds alone; their test metrics are shares."""
    values = runs["test"].dropna().to_numpy(dtype=np.float64) * 100
    mean = float(values.mean()) if len(values) else math.nan
    std = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return Cell(mean, std, len(values), int(runs["not_a_number"].sum()))


def welch(one: Cell, other: Cell) -> float | None:
    """The p value of Welch's t-test that two cells have the same mean; None below two seeds.

    Two cells without any spread are equal (1) or not (0): the test has no value there.
    """
    if one.n < 2 or other.n < 2:
        return None
    if one.std == other.std == 0:
        return float(one.mean == other.mean)
    of_one, of_other = (one.mean, one.std, one.n), (other.mean, other.std, other.n)
    return float(stats.ttest_ind_from_stats(*of_one, *of_other, equal_var=False).pvalue)


def best(cells: Iterable[Cell]) -> float:
    """The highest mean as it is printed, so that what looks equal is best together; NaN without any."""
    means = [round(cell.mean, 2) for cell in cells if cell.n]
    return max(means, default=math.nan)


def interval(differences: npt.NDArray[np.float64]) -> str:
    """The mean of paired differences with its t interval; empty without any."""
    if len(differences) == 0:
        return ""
    mean = differences.mean()
    if len(differences) == 1:
        return f"{mean:+.2f} (one seed)"
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1) * stats.sem(differences)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def p_text(p: float) -> str:
    """A p value as the tables print it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
