"""An effect with its standard error, tests of it, and what they could have shown.

An effect is a sum over independent blocks, each a handful of numbers whose mean counts. One block is a paired t-test,
two are Welch's; more are averages over targets. Degrees of freedom by Welch and Satterthwaite (Biometrika 1947).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.8
_SAMPLES = 400


@dataclass(frozen=True)
class Estimate:
    """An effect, its standard error and degrees of freedom, all but the effect NaN where the seeds give no spread."""

    effect: float
    error: float = math.nan
    freedom: float = math.nan

    @property
    def is_testable(self) -> bool:
        """Whether there is a spread to test by."""
        return self.error > 0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% t interval."""
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * self.error
        return self.effect - half, self.effect + half

    @property
    def p_difference(self) -> float:
        """Two-sided p value of no effect."""
        return 2 * float(stats.t.sf(abs(self.effect) / self.error, self.freedom))

    @property
    def p_above(self) -> float:
        """One-sided p value of an effect of at most zero."""
        return float(stats.t.sf(self.effect / self.error, self.freedom))

    def p_equivalence(self, margin: float) -> float:
        """Two one-sided tests: the p value of an effect of at least `margin` either way (Schuirmann 1987)."""
        low = stats.t.sf((self.effect + margin) / self.error, self.freedom)
        high = stats.t.cdf((self.effect - margin) / self.error, self.freedom)
        return float(max(low, high))

    def p_beyond(self, margin: float) -> float:
        """Two-sided p value of an effect of at most `margin` either way."""
        return min(1.0, 2 * float(stats.t.sf((abs(self.effect) - margin) / self.error, self.freedom)))

    def detectable(self, level: float) -> float:
        """The effect that the two-sided test at this level finds with 80% power, if the spread is the true one."""
        limits = float(stats.t.isf(level / 2, self.freedom)) * _spreads(self.freedom)

        def power(size: float) -> float:
            return float((stats.norm.sf(limits - size) + stats.norm.cdf(-limits - size)).mean())

        return self.error * _smallest(power)

    def detectable_margin(self, level: float) -> float:
        """The margin within which two one-sided tests at this level show equivalence with 80% power, if the spread is
        the true one and there is no effect."""
        limits = float(stats.t.isf(level, self.freedom)) * _spreads(self.freedom)

        def power(size: float) -> float:
            return float(np.maximum(0, 1 - 2 * stats.norm.sf(size - limits)).mean())

        return self.error * _smallest(power)


def estimate(blocks: Sequence[npt.NDArray[np.float64]]) -> Estimate:
    """The sum of the means of independent blocks of at least one number each. A block of one number has no spread: the
    effect then has none."""
    effect = float(sum(block.mean() for block in blocks))
    if any(len(block) < 2 for block in blocks):
        return Estimate(effect)
    squares = np.array([block.var(ddof=1) / len(block) for block in blocks])
    if not squares.sum() > 0:
        return Estimate(effect)
    freedom = squares.sum() ** 2 / sum(
        square**2 / (len(block) - 1) for square, block in zip(squares, blocks, strict=True)
    )
    return Estimate(effect, math.sqrt(squares.sum()), float(freedom))


def _spreads(freedom: float) -> npt.NDArray[np.float64]:
    """Standard errors that samples could have shown, equally likely, as multiples of the true one."""
    places = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    return np.asarray(np.sqrt(stats.chi2.ppf(places, freedom) / freedom), dtype=np.float64)


def _smallest(power: Callable[[float], float]) -> float:
    """The effect in standard errors at which a power that rises with it is 80%."""
    high = 1.0
    while power(high) < POWER:
        high *= 2
    return float(optimize.brentq(lambda size: power(size) - POWER, 0, high))
