"""What is fitted on val: the temperature, and a threshold per class or finding. Also calibration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from data_pipelines.common.message_parts import number
from data_pipelines.common.tasks import Task
from data_pipelines.shards.columns import Array
from trainer.evaluation.calibration.conformal import Calibrated, SetRule, calibrate, set_rule
from trainer.evaluation.statistics.bootstrap import Bools, Floats, Ints
from trainer.evaluation.statistics.predictions import Predictions, scores_of

BINS = 15  # of equal width, as in Guo et al.
KEY = "operating_points"  # where a checkpoint has them
HEADS_KEY = "operating_points_of_heads"  # and those of each head, by its name
YOUDEN = "chosen on val (largest sensitivity + specificity - 1)"
# Of a model of two classes whose temperature should be 1, 95% of simulated val splits of 50 images give 0.4 to 1.7, of
# 100 images 0.6 to 1.4, of 500 images 0.8 to 1.2.
_FEWEST_IMAGES = 100
_STRIDE = 2.0  # in the logarithm of the temperature, in which it is searched
_ROUNDING = 1e-12
_NOT_FINITE = "some logits for val are not finite"


@dataclass(frozen=True)
class OperatingPoints:
    """thresholds: by class or finding, in log odds before the temperature, or `after_temperature`; those that could not
    be fitted on val are 0, and `unfitted` says why. temperature: 1 if it could not be fitted, and
    `temperature_unfitted` says why. images: number in val; 0 if there is no val, and `no_val` says why. rules: by class
    or finding, how its threshold came about, where not as `YOUDEN` says. sets: what decides on prediction sets, by
    label; where it is empty, `no_sets` says why."""

    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    unfitted: dict[str, str] = field(default_factory=dict)
    images: int = 0
    temperature_unfitted: str = ""
    no_val: str = "there is no val split to choose it on"
    after_temperature: bool = False
    rules: dict[str, str] = field(default_factory=dict)
    sets: dict[str, Calibrated] = field(default_factory=dict)
    no_sets: str = ""

    def threshold(self, name: str) -> float:
        return self.thresholds.get(name, 0.0)

    def why_unfitted(self, name: str) -> str:
        """Why a class or finding has the default threshold; empty if it was fitted."""
        if name in self.thresholds:
            return ""
        return self.unfitted.get(name, self.no_val)

    def rule(self, name: str) -> str:
        """How its threshold came about, as it follows "the threshold was"."""
        return self.rules.get(name, YOUDEN)

    def why_temperature_unfitted(self) -> str:
        """Why the temperature is 1; empty where it was fitted."""
        return self.temperature_unfitted if self.images else self.no_val

    def temperature_doubt(self) -> str:
        """Why the temperature may be far off, as a clause; empty where it was fitted on many images, or not at all."""
        if self.why_temperature_unfitted() or self.images >= _FEWEST_IMAGES:
            return ""
        return (
            f"the temperature was fitted on {number(self.images, 'image')} of val; with fewer than {_FEWEST_IMAGES} it "
            "may be half or twice what it should be, so take probabilities as rough"
        )

    def set_rule(self, classes: Sequence[str], task: Task, coverage: float | None) -> SetRule:
        """The prediction sets of a coverage; None: 0.9. Raises InputError where one is asked for that val cannot
        promise."""
        why_none = self.no_sets or self.no_val
        return set_rule(self.sets, why_none, classes, task, self.temperature, coverage)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(saved: Mapping[str, Any]) -> "OperatingPoints":
        """Those of a checkpoint, also of an earlier version, which knew fewer, or a later one."""
        known = {entry.name for entry in fields(OperatingPoints)}
        points = OperatingPoints(**{name: value for name, value in saved.items() if name in known})
        return replace(points, sets={name: Calibrated(**each) for name, each in saved.get("sets", {}).items()})


UNFITTED = OperatingPoints(no_val="val was trained on")  # of runs on train+val


def fit_operating_points(val: Predictions) -> OperatingPoints:
    """Fit the temperature, and choose the thresholds of the largest sensitivity + specificity - 1 (Youden 1950). Of two
    classes, each is above its threshold where the other is not."""
    thresholds, unfitted = {}, {}
    for name, scores, (positive, negative) in zip(val.classes, val.scores(), val.known(), strict=True):
        known = positive | negative
        if not np.isfinite(scores[known]).all():
            unfitted[name] = _NOT_FINITE
        elif positive.any() and negative.any():
            thresholds[name] = youden(scores, positive, negative)
        else:
            missing = "positives" if negative.any() else "negatives" if positive.any() else "labels"
            unfitted[name] = f"val has no {missing} of it"
    if val.task == "single_label" and len(val.classes) == len(thresholds) == 2:  # a tie would be broken once for each
        first, second = val.classes
        thresholds[first] = -thresholds[second]
    temperature, why_none = fit_temperature(val)
    sets = calibrate(val, temperature)
    return OperatingPoints(
        temperature, thresholds, unfitted, len(val), why_none, no_val="", sets=sets, no_sets="" if sets else _NOT_FINITE
    )


def youden(scores: Floats, positive: Bools, negative: Bools) -> float:
    """The threshold, halfway between two scores, at or above which calling positive maximises sensitivity + specificity
    - 1; the highest in a tie."""
    known = positive | negative
    order = np.argsort(-scores[known], kind="stable")
    ordered, hit = scores[known][order], positive[known][order]
    gain = np.cumsum(hit) / hit.sum() - np.cumsum(~hit) / (~hit).sum()
    is_last = np.append(np.diff(ordered) != 0, True)
    best = int(np.flatnonzero(is_last)[np.argmax(gain[is_last])])
    following = ordered[best + 1] if best + 1 < len(ordered) else ordered[best] - 1
    return float((ordered[best] + following) / 2)


def fit_temperature(val: Predictions) -> tuple[float, str]:
    """The temperature, a divisor of the logits, that minimises the loss on val, whatever the scale of the logits; where
    no such temperature exists, 1 and the reason.

    One number for all classes or findings. The loss is convex in 1 / temperature, so its slope there has one root, or
    none: then a temperature of 0, or an infinite one, would be best. Source: Guo et al., arXiv:1706.04599, sec. 4.2.
    """
    from scipy.optimize import brentq  # half a CPU-second that a start of training need not take
    from scipy.special import softmax

    if not np.isfinite(val.logits).all():
        return 1.0, _NOT_FINITE
    margins = _margins(val)
    if not len(margins):
        return 1.0, "val has no labels"
    if np.ptp(val.logits) == 0 or not margins.any():
        return 1.0, "the logits for val are constant"
    if margins.max() <= 0:
        return 1.0, "every prediction for val is right, so the loss on val is least at a temperature of 0"

    def slope(log_inverse: float) -> float:
        return float((softmax(np.exp(log_inverse) * margins, axis=1) * margins).sum(axis=1).mean())

    if margins.mean() >= -_ROUNDING * np.abs(margins).mean():
        return 1.0, "val is predicted no better than by chance, so no finite temperature has the least loss"
    low = high = -float(np.log(np.sqrt(np.square(margins).mean())))  # where the logits have a spread of about 1
    while slope(high) < 0:
        high += _STRIDE
    while slope(low) > 0:
        low -= _STRIDE
    return float(np.exp(-brentq(slope, low, high))), ""


def _margins(val: Predictions) -> Floats:
    """Differences of the logits from that of the label, float64 [N, C]; for each labelled finding, with 0 as the logit
    of its absence, [M, 2]."""
    logits = np.asarray(val.logits, dtype=np.float64)
    if val.task == "single_label":
        margins: Floats = logits - logits[np.arange(len(val)), np.asarray(val.labels)][:, None]
        return margins
    known = ~np.isnan(val.labels)
    against = np.where(val.labels[known] == 1, -logits[known], logits[known])
    return np.stack([np.zeros_like(against), against], axis=1)


def probabilities(logits: Array, task: Task, temperature: float) -> Floats:
    """Calibrated probabilities, float64 [N, C]."""
    from scipy.special import expit, softmax

    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return np.asarray(softmax(scaled, axis=1) if task == "single_label" else expit(scaled))


def calibrated_thresholds(logits: Array, task: Task, points: OperatingPoints, classes: Sequence[str]) -> Floats:
    """The thresholds on the scale of `probabilities`, float64 [N, C]: a class or finding is above its threshold where
    its probability is at least this. Of three or more classes it depends on the image, as the temperature does not keep
    the order of images, unless they are for log odds after it; else it is the same for all."""
    from scipy.special import expit

    thresholds = _thresholds(points, classes)
    if points.after_temperature:
        return np.tile(expit(thresholds), (len(logits), 1))
    if task == "multi_label" or len(classes) <= 2:  # the only class has infinite log odds
        return np.tile(expit(thresholds / points.temperature), (len(logits), 1))
    scores = scores_of(logits, task)
    scaled = scores_of(np.asarray(logits, dtype=np.float64) / points.temperature, task)
    return np.asarray(expit(scaled - (scores - thresholds[:, None]) / points.temperature).T)


def above_thresholds(logits: Array, task: Task, points: OperatingPoints, classes: Sequence[str]) -> Bools:
    """Whether each image is called positive for each class or finding, bool [N, C]."""
    if points.after_temperature:
        logits = np.asarray(logits, dtype=np.float64) / points.temperature
    return np.asarray((scores_of(logits, task) >= _thresholds(points, classes)[:, None]).T)


def _thresholds(points: OperatingPoints, classes: Sequence[str]) -> Floats:
    return np.array([points.threshold(name) for name in classes])


def probability_text(value: float) -> str:
    """A probability with three decimals, or with more where they would be 0.000 or 1.000."""
    if 0.0005 <= value < 0.9995 or value in (0, 1) or math.isnan(value):
        return f"{value:.3f}"
    return f"{value:.2g}" if value < 0.5 else f"{value:.{min(15, 1 - math.floor(math.log10(1 - value)))}f}"


@dataclass(frozen=True, eq=False)
class Reliability:
    """For each bin of predicted probability: its mean, the fraction of positives, and the count."""

    predicted: Floats
    observed: Floats
    count: Ints

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap between the two, weighted by count; NaN without any."""
        if not self.count.sum():
            return float("nan")
        filled = self.count > 0
        gaps = np.abs(self.predicted[filled] - self.observed[filled])
        return float(np.average(gaps, weights=self.count[filled]))


def reliability(predicted: Floats, positive: Bools) -> Reliability:
    """Observed frequency by predicted probability, [N]."""
    place = np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, weights=predicted, minlength=BINS) / count
        share = np.bincount(place, weights=positive.astype(np.float64), minlength=BINS) / count
    return Reliability(mean, share, count)


def overall_reliability(predictions: Predictions, temperature: float) -> Reliability:
    """Of the predicted class of each image, as in Guo et al.; or of every labelled finding of each image."""
    predicted = probabilities(predictions.logits, predictions.task, temperature)
    if predictions.task == "single_label":
        return reliability(predicted.max(axis=1), predicted.argmax(axis=1) == predictions.labels)
    known = ~np.isnan(predictions.labels)
    return reliability(predicted[known], predictions.labels[known] == 1)
