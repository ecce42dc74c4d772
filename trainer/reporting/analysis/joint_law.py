"""One law for the gain of a source on a target with n images, and how well it predicts targets that it has not seen.

gain(source, target, n) = m(n) + b d + c d log10(n / n0), by least squares: m(n) the mean gain at that number of shots,
d the proximity of source and target, standardised. Each target in turn is left out of the fit and predicted, by this
law, by the mean gain of the other targets, and by their mean gain at the same shots.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy

from trainer.reporting.analysis.learning_curve import Floats

FEWEST_TARGETS = 3
MEAN, MEAN_AT, LAW = PREDICTORS = "mean", "mean_at_shots", "law"
_LEAST_RATIO = 10.0  # from which on a positive measure is taken by its logarithm


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions of left-out targets. cells: a row per source, target and shots, with the gain and a column per
    predictor; slopes: of the proximity, [targets, 2], in the fits that each left one target out."""

    cells: pd.DataFrame
    slopes: Floats

    @property
    def targets(self) -> list[str]:
        """The targets, each left out once."""
        return list(dict.fromkeys(self.cells["target"]))

    def rmse(self, predictor: str) -> pd.Series:
        """Root mean square error of a predictor on each target, in points."""
        squares = (self.cells["gain"] - self.cells[predictor]) ** 2
        return np.sqrt(squares.groupby(self.cells["target"], sort=False).mean())

    def overall(self, predictor: str) -> float:
        """Root mean square error where each target counts the same."""
        return math.sqrt(float((self.rmse(predictor) ** 2).mean()))

    @property
    def noise(self) -> float:
        """Root mean square of the gains' standard errors: what no prediction gets below, on average. NaN with one
        seed."""
        squares = (self.cells["se"] ** 2).groupby(self.cells["target"], sort=False).mean()
        return math.sqrt(float(squares.mean())) if squares.notna().all() else math.nan

    def difference(self, predictor: str, other: str) -> tuple[float, float, float]:
        """The mean over targets of the difference of two predictors' errors, with its 95% t interval, in points."""
        differences = (self.rmse(predictor) - self.rmse(other)).to_numpy(dtype=np.float64)
        mean, num = float(differences.mean()), len(differences)
        half = float(scipy.stats.t.ppf(0.975, num - 1)) * float(differences.std(ddof=1)) / math.sqrt(num)
        return mean, mean - half, mean + half

    def num_better(self, predictor: str, other: str) -> int:
        """On how many targets a predictor's error is the smaller one."""
        return int((self.rmse(predictor) < self.rmse(other)).sum())


def held_out(cells: pd.DataFrame) -> HeldOut:
    """Leave each target out once. cells: columns source, target, shots, images, gain (points), se, proximity.

    Cells whose shots no other target has are left out. Raises ValueError for fewer than three targets.
    """
    if cells["target"].nunique() < FEWEST_TARGETS:
        raise ValueError(f"{cells['target'].nunique()} targets, of at least {FEWEST_TARGETS}")
    shared = cells.groupby("shots")["target"].transform("nunique") > 1
    known = cells[shared].assign(proximity=on_scale(cells.loc[shared, "proximity"]))
    parts, slopes = [], []
    for target in dict.fromkeys(known["target"]):
        train, test = known[known["target"] != target], known[known["target"] == target]
        by_shots = train.groupby("shots")["gain"].mean()
        predicted, slope = _by_law(train, test)
        means = {MEAN: train["gain"].mean(), MEAN_AT: test["shots"].map(by_shots)}
        parts.append(test.assign(**means, **{LAW: predicted}))
        slopes.append(slope)
    return HeldOut(pd.concat(parts), np.array(slopes))


def on_scale(values: pd.Series) -> pd.Series:
    """A measure as the law takes it: by its logarithm where it is positive and spans a factor of ten."""
    positive = bool((values > 0).all()) and values.max() >= _LEAST_RATIO * values.min()
    return pd.Series(np.log(values)) if positive else values


def _by_law(train: pd.DataFrame, test: pd.DataFrame) -> tuple[Floats, Floats]:
    """What the law fitted to `train` predicts for `test`, [N], and its two slopes."""
    shots = sorted(train["shots"].unique())
    centre, spread = train["proximity"].mean(), train["proximity"].std(ddof=0)
    middle = np.log10(train["images"]).mean()

    def design(cells: pd.DataFrame) -> Floats:
        distance = ((cells["proximity"] - centre) / (spread or 1.0)).to_numpy()
        further = np.log10(cells["images"]).to_numpy() - middle
        at_shots = [(cells["shots"] == name).to_numpy(dtype=np.float64) for name in shots]
        return np.column_stack([*at_shots, distance, distance * further])

    found = np.linalg.lstsq(design(train), train["gain"].to_numpy(dtype=np.float64), rcond=None)[0]
    return np.asarray(design(test) @ found), np.asarray(found[-2:])
