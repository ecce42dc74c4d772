"""Metrics of a test set with confidence intervals: each class or finding, with resampled patients."""

import math
from dataclasses import dataclass, field

import numpy as np

from trainer.evaluation.calibration.operating import (
    OperatingPoints,
    Reliability,
    above_thresholds,
    calibrated_thresholds,
    overall_reliability,
    probabilities,
    reliability,
)
from trainer.evaluation.statistics.bootstrap import RESAMPLES, Bools, Floats, Ints, Resamples, clusters_of
from trainer.evaluation.statistics.curves import MOST_INTERVALS, Curves, resample_curves, roc
from trainer.evaluation.statistics.intervals import FEWEST, Estimate, share_interval
from trainer.evaluation.statistics.predictions import Predictions

SHARES = ("sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True, eq=False)
class Finding:
    """A class against the rest, or a finding. threshold: a calibrated probability, NaN where it depends on the image;
    raw_threshold: before the temperature, likewise; rule: how it came about. tp, fp, fn, tn: images. ece: by the
    calibrated probability; raw_ece: before.
    """

    name: str
    images: int
    positives: int
    patients: int
    auc: Estimate
    ap: Estimate
    threshold: float
    raw_threshold: float
    rule: str
    why_unfitted: str
    counts: dict[str, int]
    shares: dict[str, Estimate]
    raw_ece: float
    ece: float
    roc: tuple[Floats, Floats]
    reliability: Reliability


@dataclass(frozen=True, eq=False)
class Subgroup:
    """The images with one value of a fact. auc: by finding."""

    fact: str
    value: str
    images: int
    patients: int
    mean_auc: Estimate
    auc: list[Estimate]
    accuracy: Estimate


@dataclass(frozen=True, eq=False)
class Assessment:
    """Everything reported on one test set. averaged: number of findings in the means. patients: number of known ones.
    clusters: number of resampled units. of_patients: the images are of patients, known or not."""

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
    of_patients: bool = True


def assess(
    predictions: Predictions, points: OperatingPoints, count: int = RESAMPLES, seed: int = 0, of_patients: bool = True
) -> Assessment:
    """Everything that is reported on these predictions, from `count` resamples."""
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
        of_patients=of_patients,
    )


def _outcomes(predictions: Predictions, points: OperatingPoints) -> Floats:
    """Whether each image is a true positive, false positive, false negative or true negative for each finding at its
    threshold, float64 [N, 4 C]."""
    columns = []
    above = above_thresholds(predictions.logits, predictions.task, points, predictions.classes)
    for called, (positive, negative) in zip(above.T, predictions.known(), strict=True):
        columns += [positive & called, negative & called, positive & ~called, negative & ~called]
    return np.stack(columns, axis=1).astype(np.float64)


def _resampled_counts(
    predictions: Predictions, points: OperatingPoints, clusters: Ints, resamples: Resamples
) -> Floats:
    """The counts of `_outcomes` as observed, then in every resample, float64 [1 + B, C, 4]."""
    outcomes = _outcomes(predictions, points)
    counts: Floats = outcomes.sum(axis=0)[None]
    if len(predictions.classes) <= MOST_INTERVALS:
        counts = np.concatenate([counts, resamples.sums(outcomes, clusters)])
    return counts.reshape(-1, len(predictions.classes), 4)


def _findings(
    predictions: Predictions, points: OperatingPoints, clusters: Ints, curves: Curves, counts: Floats
) -> list[Finding]:
    raw = probabilities(predictions.logits, predictions.task, 1.0)
    calibrated = probabilities(predictions.logits, predictions.task, points.temperature)
    thresholds, raw_thresholds = _thresholds(predictions, points)
    scores, known = predictions.scores(), predictions.known()
    above = above_thresholds(predictions.logits, predictions.task, points, predictions.classes)
    found = []
    for row, (name, (positive, negative)) in enumerate(zip(predictions.classes, known, strict=True)):
        labelled = positive | negative
        after = reliability(calibrated[labelled, row], positive[labelled])
        found.append(
            Finding(
                name=name,
                images=int(labelled.sum()),
                positives=int(positive.sum()),
                patients=len(np.unique(clusters[labelled])),
                auc=curves.auc_of(row),
                ap=curves.ap_of(row),
                threshold=float(thresholds[row]),
                raw_threshold=float(raw_thresholds[row]),
                rule=points.rule(name),
                why_unfitted=points.why_unfitted(name),
                counts=dict(zip(("tp", "fp", "fn", "tn"), counts[0, row].astype(int).tolist(), strict=True)),
                shares=_shares(counts[:, row], positive, negative, above[:, row], clusters),
                raw_ece=reliability(raw[labelled, row], positive[labelled]).error,
                ece=after.error,
                roc=roc(scores[row], positive, negative),
                reliability=after,
            )
        )
    return found


def _thresholds(predictions: Predictions, points: OperatingPoints) -> tuple[Floats, Floats]:
    """As calibrated probabilities, and as those before the temperature, each float64 [C]; NaN where they depend on the
    image."""
    from scipy.special import expit

    number = len(predictions.classes)
    log_odds = np.array([points.threshold(name) for name in predictions.classes])
    before = expit(log_odds * points.temperature if points.after_temperature else log_odds)
    after = calibrated_thresholds(np.zeros((1, number)), predictions.task, points, predictions.classes)[0]
    if predictions.task == "single_label" and number > 2 and points.temperature != 1:
        varying = np.full(number, math.nan)
        return (after, varying) if points.after_temperature else (varying, before)
    return after, before


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
        name: share_of(right, wrong, len(np.unique(clusters[among]))) for name, (right, wrong, among) in parts.items()
    }


def share_of(right: Floats, wrong: Floats, clusters: int) -> Estimate:
    total = right + wrong
    with np.errstate(invalid="ignore"):
        values = right / total
    images = round(float(total[0]))
    if images < FEWEST or clusters < FEWEST:
        few = f"{images} image{'s' * (images != 1)}"
        few = few if images < FEWEST else f"images of {clusters} patient{'s' * (clusters != 1)}"
        return Estimate(float(values[0]), reason=f"a share of {few}, fewer than {FEWEST}")
    if len(values) == 1:
        return Estimate(float(values[0]), reason=f"more than {MOST_INTERVALS} classes")
    return share_interval(float(values[0]), values[1:], images, clusters)


def _accuracy(predictions: Predictions, clusters: Ints, resamples: Resamples) -> Estimate:
    if predictions.task == "multi_label":
        return Estimate(math.nan, reason="several findings per image")
    right = predictions.logits.argmax(axis=1) == predictions.labels
    both = np.stack([right, ~right], axis=1).astype(np.float64)
    counts = np.concatenate([both.sum(axis=0)[None], resamples.sums(both, clusters)])
    return share_of(counts[:, 0], counts[:, 1], resamples.clusters)


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
