"""95% intervals from resampled values, or the reason why there is none.

Chosen by simulation of clustered sets: plain percentiles covered the true AUC in as few as 88% of them where it lay
near 1, or the positives were few.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy  # whose parts are loaded when they are used, so that help comes sooner

from trainer.evaluation.statistics.bootstrap import Floats

CONFIDENCE = 0.95
FEWEST = 10  # positives, or negatives, below which resampling says nothing reliable


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval; if there is none, `low` and `high` are NaN, and `reason` says why."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reason: str = ""

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    def text(self, digits: int = 3) -> str:
        """ "0.912 [0.870, 0.943]", or the value alone."""
        if math.isnan(self.value):
            return "–"
        interval = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]" if self.has_interval else ""
        return f"{self.value:.{digits}f}{interval}"


def _quantile(freedom: int) -> float:
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, max(1, freedom)))


def _spread(resampled: Floats) -> float:
    finite = resampled[np.isfinite(resampled)]
    return float(np.std(finite, ddof=1)) if len(finite) > 1 else 0.0


def auc_interval(value: float, resampled: Floats, clusters: int, pairs: int) -> Estimate:
    """The standard deviation of the resamples' log odds, which keeps the interval skewed and inside [0, 1] near either
    end, times Student's quantile for the smaller number of `clusters` with positives or with negatives.

    pairs: of a positive and a negative. Resamples without a fault count as having half a pair in the wrong order.
    """
    if value == 0:
        return Estimate(value, reason="every positive scores below every negative")
    if value == 1:
        return Estimate(value, reason="every positive scores above every negative")
    if _spread(resampled) == 0:
        return Estimate(value, reason="all resamples have the same value")
    centre = math.log(value / (1 - value))
    clipped = np.clip(resampled, 0.5 / pairs, 1 - 0.5 / pairs)
    half = _quantile(clusters - 1) * _spread(np.log(clipped / (1 - clipped)))
    low, high = (1 / (1 + math.exp(-end)) for end in (centre - half, centre + half))
    return Estimate(value, low, high)


def percentile_interval(value: float, resampled: Floats, clusters: int) -> Estimate:
    """Percentiles of the resamples, further out for few `clusters`: for average precision and means over findings.

    Source: the expanded percentile interval of Hesterberg, arXiv:1411.5279, sec. 5.3.
    """
    if _spread(resampled) == 0:
        return Estimate(value, reason="all resamples have the same value")
    clusters = max(2, clusters)
    tail = scipy.stats.norm.cdf(-math.sqrt(clusters / (clusters - 1)) * _quantile(clusters - 1))
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def share_interval(value: float, resampled: Floats, images: int, clusters: int) -> Estimate:
    """Wilson's interval of a share, such as a sensitivity, of `images` images of some `clusters`.

    In place of the images stands the number of independent ones whose share would spread as the resamples do; for a
    share of 0 or 1, which does not spread, the number of clusters.
    """
    variance = _spread(resampled) ** 2
    number = value * (1 - value) / variance if variance > 0 and 0 < value < 1 else clusters
    number = min(number, images)
    z = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2)
    centre = (value + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * math.sqrt(value * (1 - value) / number + z**2 / (4 * number**2))
    return Estimate(value, max(0.0, centre - half), min(1.0, centre + half))


def difference_interval(value: float, resampled: Floats, clusters: int) -> Estimate:
    """A paired difference, plus and minus Student's quantile times the standard deviation of its resamples."""
    spread = _spread(resampled)
    if spread == 0:
        return Estimate(value, reason="all resamples have the same difference")
    half = _quantile(clusters - 1) * spread
    return Estimate(value, value - half, value + half)
