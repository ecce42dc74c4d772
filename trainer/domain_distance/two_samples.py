"""Distances between two samples of features: kernel distance with its interval, and accuracy of a classifier."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are loaded when they are used, so that help comes sooner
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipelines.common.counter_rng import hash64
from trainer.domain_distance.moments import Features, Floats

Ints = npt.NDArray[np.int64]
CONFIDENCE = 0.95
FOLDS = 5
# Ten blocks of two equal distributions are too skewed for a t interval: it held the truth in 92.5% of simulations.
_FEWEST_BLOCKS, _MOST_BLOCKS, _BLOCK_ROWS = 25, 100, 200
_MOST_CLASSIFIED = 2000  # images of each set: more take minutes and move the accuracy by less than its interval
_DEGREE = 3
_C = 0.1  # inverse of the penalty, for standardised features


class Value(NamedTuple):
    """A measure and its 95% interval; without one, `low` and `high` are None."""

    value: float
    low: float | None = None
    high: float | None = None


def drawn_order(count: int, seed: int) -> Ints:
    """The rows of a set in an order drawn by the seed: the first of few are the first of many."""
    return np.argsort(hash64(seed, np.arange(count)), kind="stable")


def kernel_distance(one: Features, other: Features, seed: int = 0) -> Value:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, of at least two rows each.

    Both sets are parted at random into blocks. The unbiased estimates of the blocks are independent, so that their mean
    has a t interval, also where both sets are of one distribution. No interval for fewer than four rows. Around 0 the
    value may be negative. Source: Binkowski et al., arXiv:1801.01401; blocks: Zaremba et al., arXiv:1307.1954.
    """
    fewest = min(len(one), len(other))
    blocks = min(max(fewest // _BLOCK_ROWS, _FEWEST_BLOCKS), _MOST_BLOCKS, fewest // 2)
    parts = (np.array_split(drawn_order(len(each), seed + place), blocks) for place, each in enumerate((one, other)))
    values = np.array([_unbiased(one[rows], other[columns]) for rows, columns in zip(*parts, strict=True)])
    mean = float(values.mean())
    if blocks < 2:
        return Value(mean)
    error = float(values.std(ddof=1)) / math.sqrt(blocks)
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, blocks - 1)) * error
    return Value(mean, mean - half, mean + half)


def _unbiased(one: Features, other: Features) -> float:
    first, second = one.astype(np.float64), other.astype(np.float64)
    return _mean_of_pairs(first) + _mean_of_pairs(second) - 2 * float(_kernel(first, second).mean())


def _mean_of_pairs(rows: Floats) -> float:
    """Mean of the kernel over pairs of different rows."""
    kernel = _kernel(rows, rows)
    return float(kernel.sum() - np.trace(kernel)) / (len(rows) * (len(rows) - 1))


def _kernel(one: Floats, other: Floats) -> Floats:
    return np.asarray((one @ other.T / one.shape[1] + 1) ** _DEGREE)


def classifier_accuracy(one: Features, other: Features, seed: int = 0) -> float:
    """Accuracy of a logistic regression that tells both sets apart, cross-validated over at most 2,000 rows of each and
    as many of one as of the other: 0.5 where it cannot.

    Without an interval: folds share most of their rows, and binomial ones held the truth in 87% of simulations. Source:
    Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", arXiv:1610.06545.
    """
    count = min(len(one), len(other), _MOST_CLASSIFIED)
    drawn = [each[drawn_order(len(each), seed + place)[:count]] for place, each in enumerate((one, other))]
    belongs = np.repeat([0, 1], count)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=_C, tol=1e-3, max_iter=500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near its optimum it classifies as at it
        predicted = cross_val_predict(model, np.concatenate(drawn), belongs, cv=StratifiedKFold(min(FOLDS, count)))
    return float((predicted == belongs).mean())
