"""AUC and average precision of each finding of a test set, as observed and in every bootstrap resample."""

import math
from dataclasses import dataclass

import numpy as np

from trainer.evaluation.statistics.bootstrap import Bools, Floats, Ints, Ranking, Resamples
from trainer.evaluation.statistics.intervals import FEWEST, Estimate, auc_interval, percentile_interval
from trainer.evaluation.statistics.predictions import Predictions

# scikit-learn is imported where it is used: it takes two CPU-seconds, which training, that fits thresholds by other
# modules of this folder, need not spend. It is told not to refuse infinite logits, which have a rank like all others.
_INFINITE_SCORES = {"assume_finite": True}
MOST_INTERVALS = 50  # classes; of more, the curves alone would take minutes


@dataclass(frozen=True, eq=False)
class Curves:
    """Values of every finding and in every resample; NaN where there is none. auc, ap: float64 [C]; aucs, aps: [C, B].
    clusters, pairs: int64 [C], with positives or with negatives, whichever are fewer, and of a positive and a negative.
    why_not: by finding, why it has no interval."""

    auc: Floats
    ap: Floats
    aucs: Floats
    aps: Floats
    clusters: Ints
    pairs: Ints
    why_not: list[str]

    def auc_of(self, finding: int) -> Estimate:
        value, reason = float(self.auc[finding]), self.why_not[finding]
        if reason:
            return Estimate(value, reason=reason)
        return auc_interval(value, self.aucs[finding], int(self.clusters[finding]), int(self.pairs[finding]))

    def ap_of(self, finding: int) -> Estimate:
        value, reason = float(self.ap[finding]), self.why_not[finding]
        if reason:
            return Estimate(value, reason=reason)
        return percentile_interval(value, self.aps[finding], int(self.clusters[finding]))

    @property
    def sound(self) -> Ints:
        """The findings with enough positives and negatives."""
        return np.array([row for row, reason in enumerate(self.why_not) if not reason], dtype=np.int64)

    def means(self) -> tuple[Estimate, Estimate]:
        """AUC and average precision, averaged over the sound findings; of findings that are alike, as a single one is
        and the AUCs of two classes are, it is the one with its own interval."""
        rows = self.sound
        if not len(rows):
            why = f"no class or finding has {FEWEST} positive and {FEWEST} negative images"
            return Estimate(math.nan, reason=why), Estimate(math.nan, reason=why)
        fewest = int(self.clusters[rows].min())
        auc, ap = (
            of_one(rows[0])
            if np.allclose(resampled[rows], resampled[rows[0]], rtol=0, atol=1e-12, equal_nan=True)
            else percentile_interval(float(values[rows].mean()), resampled[rows].mean(axis=0), fewest)
            for values, resampled, of_one in ((self.auc, self.aucs, self.auc_of), (self.ap, self.aps, self.ap_of))
        )
        return auc, ap


def resample_curves(predictions: Predictions, clusters: Ints, resamples: Resamples) -> Curves:
    """AUC and average precision of every finding, as observed and in every resample."""
    scores, known = predictions.scores(), predictions.known()
    number = len(predictions.classes)
    why_not = [_why_no_interval(positive, negative, clusters, number) for positive, negative in known]
    auc, ap, smaller = np.full(number, np.nan), np.full(number, np.nan), np.zeros(number, dtype=np.int64)
    rankings = {}
    for row, (positive, negative) in enumerate(known):
        smaller[row] = min(len(np.unique(clusters[positive])), len(np.unique(clusters[negative])))
        if smaller[row]:
            auc[row], ap[row] = observed_areas(scores[row], positive, negative)
            if not why_not[row]:
                rankings[row] = Ranking(scores[row], positive, negative, clusters)
    aucs, aps = (np.full((number, resamples.count if rankings else 0), np.nan) for _ in range(2))
    if rankings:
        for block, weights in resamples.blocks(len(predictions)):
            for row, ranking in rankings.items():
                aucs[row, block], aps[row, block] = ranking.areas(weights)
    pairs = np.array([int(positive.sum()) * int(negative.sum()) for positive, negative in known], dtype=np.int64)
    return Curves(auc, ap, aucs, aps, smaller, pairs, why_not)


def observed_areas(scores: Floats, positive: Bools, negative: Bools) -> tuple[float, float]:
    """AUC and average precision of one finding; unlabelled images are left out. Needs positives and negatives."""
    from sklearn import config_context
    from sklearn.metrics import average_precision_score, roc_auc_score

    known = positive | negative
    with config_context(**_INFINITE_SCORES):
        areas = (metric(positive[known], scores[known]) for metric in (roc_auc_score, average_precision_score))
        auc, ap = map(float, areas)
    return auc, ap


def roc(scores: Floats, positive: Bools, negative: Bools) -> tuple[Floats, Floats]:
    """False positive rate and true positive rate at each threshold, from (0, 0) to (1, 1); empty without positives or
    without negatives."""
    from sklearn import config_context
    from sklearn.metrics import roc_curve

    if not positive.any() or not negative.any():
        return np.empty(0), np.empty(0)
    known = positive | negative
    with config_context(**_INFINITE_SCORES):
        false, true, _ = roc_curve(positive[known], scores[known], drop_intermediate=False)
    return false, true


def _why_no_interval(positive: Bools, negative: Bools, clusters: Ints, number: int) -> str:
    for found, name in ((positive, "positive"), (negative, "negative")):
        count = int(found.sum())
        if count < FEWEST:
            return f"{count} {name}{'s' * (count != 1)}, fewer than {FEWEST}" if count else f"no {name}s"
        patients = len(np.unique(clusters[found]))
        if patients < FEWEST:
            return f"{name}s of {patients} patient{'s' * (patients != 1)}, fewer than {FEWEST}"
    return f"more than {MOST_INTERVALS} classes" if number > MOST_INTERVALS else ""
