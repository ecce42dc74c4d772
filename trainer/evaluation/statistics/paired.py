"""Paired comparison of two runs on the same images: the difference and its confidence interval."""

from dataclasses import dataclass

import numpy as np

from trainer.evaluation.statistics.bootstrap import RESAMPLES, Floats, Resamples, clusters_of
from trainer.evaluation.statistics.curves import resample_curves
from trainer.evaluation.statistics.intervals import Estimate, difference_interval
from trainer.evaluation.statistics.predictions import Predictions


@dataclass(frozen=True)
class Difference:
    """A metric of two runs on the same images: both values, and the first minus the second with its interval."""

    name: str
    one: float
    other: float
    difference: Estimate


def paired(one: Predictions, other: Predictions, count: int = RESAMPLES, seed: int = 0) -> list[Difference]:
    """Differences in AUC, by finding and on average, and in accuracy: both runs in the same resamples."""
    clusters = clusters_of(one.patients)
    resamples = Resamples(int(clusters.max()) + 1, count, seed)
    mine, theirs = (resample_curves(part, clusters, resamples) for part in (one, other))
    found = []
    for row, name in enumerate(one.classes):
        values, gaps = (float(mine.auc[row]), float(theirs.auc[row])), mine.aucs[row] - theirs.aucs[row]
        if reason := mine.why_not[row]:
            gap = Estimate(values[0] - values[1], reason=reason)
            found.append(Difference(f"AUC, {name}", values[0], values[1], gap))
        else:
            found.append(_difference(f"AUC, {name}", values[0], values[1], gaps, int(mine.clusters[row])))
    rows = mine.sound
    if len(rows) > 1:
        gaps, fewest = (mine.aucs[rows] - theirs.aucs[rows]).mean(axis=0), int(mine.clusters[rows].min())
        found.append(_difference("mean AUC", mine.auc[rows].mean(), theirs.auc[rows].mean(), gaps, fewest))
    if one.task == "single_label":
        right = np.stack([part.logits.argmax(axis=1) == one.labels for part in (one, other)], axis=1)
        sums = resamples.sums(np.column_stack([right, np.ones(len(one))]), clusters)
        gaps = (sums[:, 0] - sums[:, 1]) / sums[:, 2]
        found.append(_difference("accuracy", right[:, 0].mean(), right[:, 1].mean(), gaps, resamples.clusters))
    return found


def _difference(name: str, one: float, other: float, gaps: Floats, clusters: int) -> Difference:
    one, other = float(one), float(other)
    return Difference(name, one, other, difference_interval(one - other, gaps, clusters))
