"""The number: each class or finding of a test set with what resampling its patients says of it."""

import math
from dataclasses import dataclass, field

import numpy as np

from trainer.evaluation.bootstrap import RESAMPLES, Bools, Floats, Ints, Ranking, Resamples, clusters_of
from trainer.evaluation.intervals import (
    FEWEST,
    Estimate,
    auc_interval,
    difference_interval,
    percentile_interval,
    share_interval,
)
from trainer.evaluation.operating import OperatingPoints, Reliability, overall_reliability, probabilities, reliability
from trainer.evaluation.predictions import Predictions

MOST_INTERVALS = 50  # classes; of more, the curves alone would take minutes
SHARES = ("sensitivity", "specificity", "ppv", "npv")


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
        """AUC and average precision, averaged over the sound findings."""
        rows = self.sound
        if not len(rows):
            nothing = Estimate(math.nan, reason=f"nothing has {FEWEST} positives and {FEWEST} negatives")
            return nothing, nothing
        fewest = int(self.clusters[rows].min())
        auc, ap = (
            percentile_interval(float(values[rows].mean()), resampled[rows].mean(axis=0), fewest)
            for values, resampled in ((self.auc, self.aucs), (self.ap, self.aps))
        )
        return auc, ap


@dataclass(frozen=True, eq=False)
class Finding:
    """A class against the rest, or a finding. threshold: a probability before the temperature. tp, fp, fn, tn: images.
    ece: by the calibrated probability; raw_ece: before."""

    name: str
    images: int
    positives: int
    patients: int
    auc: Estimate
    ap: Estimate
    threshold: float
    why_unfitted: str
    counts: dict[str, int]
    shares: dict[str, Estimate]
    raw_ece: float
    ece: float
    roc: tuple[Floats, Floats]
    reliability: Reliability


@dataclass(frozen=True, eq=False)
class Subgroup:
    """The images with one value of a fact. auc: of each finding."""

    fact: str
    value: str
    images: int
    patients: int
    mean_auc: Estimate
    auc: list[Estimate]
    accuracy: Estimate


@dataclass(frozen=True, eq=False)
class Assessment:
    """All that is reported of one test set. averaged: how many findings the means are over. patients: how many are
    known. clusters: what was resampled."""

    predictions: Predictions
    points: OperatingPoints
    findings: list[Finding]
    mean_auc: Estimate
    mean_ap: Estimate
    accuracy: Estimate
    raw_reliability: Reliability
    reliability: Reliability
    subgroups: list[Subgroup] = field(default_factory=list)
    averaged: int = 0
    patients: int = 0
    clusters: int = 0
    resamples: int = RESAMPLES


def assess(predictions: Predictions, points: OperatingPoints, count: int = RESAMPLES, seed: int = 0) -> Assessment:
    """Everything that is reported of these predictions, from `count` resamples."""
    clusters = clusters_of(predictions.patients)
    resamples = Resamples(int(clusters.max(initial=-1)) + 1, count, seed)
    curves = resample_curves(predictions, clusters, resamples)
    shares = _resampled_counts(predictions, points, clusters, resamples)
    mean_auc, mean_ap = curves.means()
    return Assessment(
        predictions=predictions,
        points=points,
        findings=_findings(predictions, points, clusters, curves, shares),
        mean_auc=mean_auc,
        mean_ap=mean_ap,
        accuracy=_accuracy(predictions, clusters, resamples),
        raw_reliability=overall_reliability(predictions, 1.0),
        reliability=overall_reliability(predictions, points.temperature),
        subgroups=_subgroups(predictions, count, seed),
        averaged=len(curves.sound),
        patients=_num_patients(predictions.patients),
        clusters=resamples.clusters,
        resamples=count,
    )


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
            ranking = Ranking(scores[row], positive, negative, clusters)
            auc[row], ap[row] = ranking.observed()
            if not why_not[row]:
                rankings[row] = ranking
    aucs, aps = (np.full((number, resamples.count if rankings else 0), np.nan) for _ in range(2))
    if rankings:
        for block, weights in resamples.blocks(len(predictions)):
            for row, ranking in rankings.items():
                aucs[row, block], aps[row, block] = ranking.areas(weights)
    pairs = np.array([int(positive.sum()) * int(negative.sum()) for positive, negative in known], dtype=np.int64)
    return Curves(auc, ap, aucs, aps, smaller, pairs, why_not)


def _why_no_interval(positive: Bools, negative: Bools, clusters: Ints, number: int) -> str:
    for found, name in ((positive, "positives"), (negative, "negatives")):
        count = int(found.sum())
        if count < FEWEST:
            return f"{count or 'no'} {name}, fewer than {FEWEST}" if count else f"no {name}"
        patients = len(np.unique(clusters[found]))
        if patients < FEWEST:
            return f"{name} of {patients} patients, fewer than {FEWEST}"
    return f"more than {MOST_INTERVALS} classes" if number > MOST_INTERVALS else ""


def _outcomes(predictions: Predictions, points: OperatingPoints) -> Floats:
    """Whether each image is a true positive, false positive, false negative or true negative of each finding at its
    threshold, float64 [N, 4 C]."""
    columns = []
    names = zip(predictions.classes, predictions.scores(), predictions.known(), strict=True)
    for name, scores, (positive, negative) in names:
        called = scores >= points.threshold(name)
        columns += [positive & called, negative & called, positive & ~called, negative & ~called]
    return np.stack(columns, axis=1).astype(np.float64)


def _resampled_counts(
    predictions: Predictions, points: OperatingPoints, clusters: Ints, resamples: Resamples
) -> Floats:
    """The counts of `_outcomes` as observed, then in every resample, float64 [1 + B, C, 4]."""
    outcomes = _outcomes(predictions, points)
    counts = outcomes.sum(axis=0)[None]
    if len(predictions.classes) <= MOST_INTERVALS:
        counts = np.concatenate([counts, _resampled_sums(outcomes, clusters, resamples)])
    return counts.reshape(-1, len(predictions.classes), 4)


def _resampled_sums(values: Floats, clusters: Ints, resamples: Resamples) -> Floats:
    """The sums of values [N, K] over the images of every resample, float64 [B, K]."""
    of_cluster = np.zeros((resamples.clusters, values.shape[1]))
    np.add.at(of_cluster, clusters, values)
    sums = np.empty((resamples.count, values.shape[1]))
    for block, weights in resamples.blocks(len(values)):
        sums[block] = weights.astype(np.float64) @ of_cluster
    return sums


def _findings(
    predictions: Predictions, points: OperatingPoints, clusters: Ints, curves: Curves, counts: Floats
) -> list[Finding]:
    raw = probabilities(predictions.logits, predictions.task, 1.0)
    calibrated = probabilities(predictions.logits, predictions.task, points.temperature)
    scores, known = predictions.scores(), predictions.known()
    found = []
    for row, (name, (positive, negative)) in enumerate(zip(predictions.classes, known, strict=True)):
        labelled = positive | negative
        after = reliability(calibrated[labelled, row], positive[labelled])
        called = scores[row] >= points.threshold(name)
        found.append(
            Finding(
                name=name,
                images=int(labelled.sum()),
                positives=int(positive.sum()),
                patients=len(np.unique(clusters[labelled])),
                auc=curves.auc_of(row),
                ap=curves.ap_of(row),
                threshold=1 / (1 + math.exp(-max(-700.0, points.threshold(name)))),
                why_unfitted=points.why_unfitted(name),
                counts=dict(zip(("tp", "fp", "fn", "tn"), counts[0, row].astype(int).tolist(), strict=True)),
                shares=_shares(counts[:, row], positive, negative, called, clusters),
                raw_ece=reliability(raw[labelled, row], positive[labelled]).error,
                ece=after.error,
                roc=_roc(scores[row], positive, negative),
                reliability=after,
            )
        )
    return found


def _shares(counts: Floats, positive: Bools, negative: Bools, called: Bools, clusters: Ints) -> dict[str, Estimate]:
    """Sensitivity, specificity and predictive values, from counts [1 + B, 4]."""
    tp, fp, fn, tn = counts.T
    parts = {
        "sensitivity": (tp, fn, positive),
        "specificity": (tn, fp, negative),
        "ppv": (tp, fp, (positive | negative) & called),
        "npv": (tn, fn, (positive | negative) & ~called),
    }
    return {
        name: _share(right, wrong, len(np.unique(clusters[among]))) for name, (right, wrong, among) in parts.items()
    }


def _share(right: Floats, wrong: Floats, clusters: int) -> Estimate:
    total = right + wrong
    with np.errstate(invalid="ignore"):
        values = right / total
    images = int(total[0])
    if images < FEWEST or clusters < FEWEST:
        few = f"{images} images" if images < FEWEST else f"images of {clusters} patients"
        return Estimate(float(values[0]), reason=f"a share of {few}, fewer than {FEWEST}")
    if len(values) == 1:
        return Estimate(float(values[0]), reason=f"more than {MOST_INTERVALS} classes")
    return share_interval(float(values[0]), values[1:], images, clusters)


def _accuracy(predictions: Predictions, clusters: Ints, resamples: Resamples) -> Estimate:
    if predictions.task == "multi_label":
        return Estimate(math.nan, reason="several findings per image")
    right = predictions.logits.argmax(axis=1) == predictions.labels
    both = np.stack([right, ~right], axis=1).astype(np.float64)
    counts = np.concatenate([both.sum(axis=0)[None], _resampled_sums(both, clusters, resamples)])
    return _share(counts[:, 0], counts[:, 1], resamples.clusters)


def _roc(scores: Floats, positive: Bools, negative: Bools) -> tuple[Floats, Floats]:
    """Share of false alarms and of hits at each threshold, from (0, 0) to (1, 1); empty without either."""
    if not positive.any() or not negative.any():
        return np.empty(0), np.empty(0)
    known = positive | negative
    order = np.argsort(-scores[known], kind="stable")
    ordered, hit = scores[known][order], positive[known][order]
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    false, true = np.cumsum(~hit)[last] / (~hit).sum(), np.cumsum(hit)[last] / hit.sum()
    return np.append(0, false), np.append(0, true)


def _num_patients(patients: Ints) -> int:
    return len(np.unique(patients[patients >= 0]))


def _subgroups(predictions: Predictions, count: int, seed: int) -> list[Subgroup]:
    found = []
    for fact, groups in predictions.grouped().items():
        for value, rows in groups.items():
            part = predictions.take(rows)
            clusters = clusters_of(part.patients)
            resamples = Resamples(int(clusters.max()) + 1, count, seed)
            curves = resample_curves(part, clusters, resamples)
            found.append(
                Subgroup(
                    fact=fact,
                    value=value,
                    images=len(part),
                    patients=_num_patients(part.patients),
                    mean_auc=curves.means()[0],
                    auc=[curves.auc_of(row) for row in range(len(part.classes))],
                    accuracy=_accuracy(part, clusters, resamples),
                )
            )
    return found


@dataclass(frozen=True)
class Difference:
    """A metric of two runs on the same images: theirs, and the first less the second with its interval."""

    name: str
    one: float
    other: float
    difference: Estimate


def paired(one: Predictions, other: Predictions, count: int = RESAMPLES, seed: int = 0) -> list[Difference]:
    """The differences in AUC, each finding and their mean, and in accuracy: both runs in the same resamples."""
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
        sums = _resampled_sums(np.column_stack([right, np.ones(len(one))]), clusters, resamples)
        gaps = (sums[:, 0] - sums[:, 1]) / sums[:, 2]
        found.append(_difference("accuracy", right[:, 0].mean(), right[:, 1].mean(), gaps, resamples.clusters))
    return found


def _difference(name: str, one: float, other: float, gaps: Floats, clusters: int) -> Difference:
    one, other = float(one), float(other)
    return Difference(name, one, other, difference_interval(one - other, gaps, clusters))
