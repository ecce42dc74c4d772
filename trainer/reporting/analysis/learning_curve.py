"""Errors over a number of images, for several seeds, and the same curve in resamples of the seeds."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy

from data_pipelines.common.counter_rng import uniform

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
CONFIDENCE = 0.95
_LEAST_ERROR = 1e-9
_PRIOR_FREEDOM = 2  # with how many degrees of freedom the spread of all places counts at each


def quantiles(values: Floats) -> tuple[Floats, Floats]:
    """The limits of the central 95% along the first axis."""
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(values, [tail, 100 - tail], axis=0, method="inverted_cdf")
    return low, high


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """images: float64 [M], ascending; errors: float64 [M, S], NaN where a seed was not run; seeds: the S seeds."""

    images: Floats
    errors: Floats
    seeds: tuple[int, ...]

    @cached_property
    def counts(self) -> Floats:
        """Number of seeds at each place, [M]."""
        return np.asarray(np.isfinite(self.errors).sum(axis=1), dtype=np.float64)

    @cached_property
    def means(self) -> Floats:
        """Mean error at each place, [M]."""
        return np.asarray(np.nanmean(self.errors, axis=1))

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the spread over seeds, all places together."""
        return int((self.counts - 1).sum())

    @cached_property
    def variances(self) -> Floats:
        """Variance of each mean, [M]. The spread of few seeds is a poor guess, and errors of 0.5 and of 0.01 have no
        common one: relative spreads are drawn towards their common value. All 1, relatively, for single seeds."""
        squares = (
            np.nansum((self.errors - self.means[:, None]) ** 2, axis=1) / np.maximum(self.means, _LEAST_ERROR) ** 2
        )
        if self.freedom == 0 or squares.sum() == 0:
            return np.maximum(self.means, _LEAST_ERROR) ** 2
        common = squares.sum() / self.freedom
        relative = (squares + _PRIOR_FREEDOM * common) / (self.counts - 1 + _PRIOR_FREEDOM)
        return np.asarray(relative * self.means**2 / self.counts)

    def resampled(self, seeds: "SeedResamples") -> Floats:
        """The mean errors in each resample, [B, M]; errors stay positive."""
        means = np.maximum(self.means, _LEAST_ERROR)
        deviations = np.nan_to_num(self.errors - self.means[:, None]) / means[:, None]
        shifts = seeds.multipliers_of(self.seeds) @ deviations.T
        return np.asarray(means * np.exp(_widening(self.counts) / self.counts * shifts))


def curve_of(runs: pd.DataFrame) -> LearningCurve:
    """The curve of a table with a row per run: images, seed, error; several runs of a seed at a place are averaged."""
    table = runs.pivot_table(index="images", columns="seed", values="error", aggfunc="mean").sort_index()
    images = table.index.to_numpy(dtype=np.float64)
    return LearningCurve(images, table.to_numpy(dtype=np.float64), tuple(int(seed) for seed in table.columns))


def _widening(counts: Floats) -> Floats:
    """What multiplied deviations of k values from their mean are widened by: their squares sum to k - 1 variances
    instead of k, and a normal quantile stands where Student's belongs. 1 for a single seed."""
    several = np.maximum(counts, 2)
    student = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, several - 1) / scipy.stats.norm.ppf((1 + CONFIDENCE) / 2)
    return np.asarray(np.where(counts > 1, np.sqrt(several / (several - 1)) * student, 1.0))


class SeedResamples:
    """Resamples of seeds, the same for every curve, as runs of a seed share images and initial weights: each resample
    gives each seed a normal multiplier, with which its deviations from the means are added to these.

    Of three seeds, drawing with replacement knows ten resamples; multipliers are as many as one likes (the multiplier,
    or wild, bootstrap).
    """

    def __init__(self, seeds: Iterable[int], count: int = RESAMPLES) -> None:
        names = sorted(set(seeds))
        self._place = {seed: place for place, seed in enumerate(names)}
        self.count = count
        draws = uniform(0, np.arange(count)[:, None], np.arange(len(names)))
        self._multipliers = np.asarray(scipy.stats.norm.ppf(np.clip(draws, 1e-12, 1 - 1e-12)))

    def multipliers_of(self, seeds: Iterable[int]) -> Floats:
        """The multipliers of these seeds in each resample, float64 [B, S]."""
        return self._multipliers[:, [self._place[seed] for seed in seeds]]


def spread_is_known(curve: LearningCurve) -> bool:
    """Whether any place has two seeds, and these differ."""
    return curve.freedom > 0 and bool(np.nanmax(np.nanstd(curve.errors, axis=1)) > math.ulp(1.0))
