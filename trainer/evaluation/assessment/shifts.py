"""Whether prevalence or calibration differ between groups of images, such as months: a permutation test.

Three measures of each finding, or class against the rest, are compared: prevalence (the labels), calibration (label
less probability) and slope (that, times the centred log odds). Each group is compared with the others together, and
groups that follow each other are tested for a trend. The statistic is that of a score test: how far the sum over a
group lies from what the mean of all images lets expect, divided by its standard error, which follows the case mix by
p (1 - p).

The groups are permuted over units, the images of one patient in one group. The largest statistic of each permutation
gives p values that hold for all comparisons at once (Westfall & Young, Resampling-Based Multiple Testing, 1993): of the
sets in which nothing moved, 5% have one below 0.05 anywhere, for any number of groups and findings.
`benchmarks/shift_errors.py` measures that, also for patients in several groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from data_pipelines.common.counter_rng import hash64
from trainer.evaluation.calibration.operating import OperatingPoints, probabilities
from trainer.evaluation.statistics.bootstrap import RESAMPLES, Bools, Floats, Ints, clusters_of
from trainer.evaluation.statistics.intervals import FEWEST
from trainer.evaluation.statistics.predictions import Predictions, scores_of

Measure = Literal["prevalence", "calibration", "slope"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
MOST_CLASSES = 50  # of more, each has few images in a group, and the permutations would take minutes
_LARGEST_ODDS = 30.0  # logarithms; further out p is 0 or 1 to thirteen digits
_BLOCK_ELEMENTS = 1 << 22  # of permuted groups at once: bounds the memory
_ROUNDING = 1e-9
_SLOPE = MEASURES.index("slope")
_FEWEST_GROUPS = 3  # of which a trend can be told


@dataclass(frozen=True)
class Comparison:
    """group: the one that is compared with the others together; None for the trend over all. value, others: the measure
    in it and in the others: a share, a mean of label less probability, or a calibration slope (one Newton step from 1);
    NaN for a trend. z: the statistic, positive where there is more, or a rise. p: corrected for all comparisons."""

    measure: Measure
    finding: str
    group: str | None
    value: float
    others: float
    z: float
    p: float


def compare(
    predictions: Predictions,
    points: OperatingPoints,
    labels: Ints,
    groups: Sequence[str],
    places: Sequence[int] | None = None,
    count: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Every comparison that has enough images, by `count` permutations. labels: int64 [N], the place in `groups` of
    each image. places: of the groups in time, where they have one, for the trend.

    Enough are ten patients in the group and in the others, and in all ten positives and ten negatives. There is none
    for more than 50 classes, nor for one group.
    """
    if len(groups) < 2 or len(predictions.classes) > MOST_CLASSES:
        return []
    units = _units_of(predictions, points, labels)
    which, weights = _contrasts(len(groups), places)
    enough = units.enough(which)
    if not enough.any():
        return []
    observed = _statistics(units.sums(units.group[None], len(groups)), weights)[0]
    largest = np.concatenate(
        [
            np.abs(_statistics(units.sums(permuted, len(groups)), weights)[:, enough]).max(axis=1)
            for permuted in _permutations(units.group, len(groups), count, seed)
        ]
    )
    inside, others = units.values(len(groups))
    found = []
    for row, measure, finding in np.argwhere(enough).tolist():
        z, group = float(observed[row, measure, finding]), which[row]
        p = (1 + int((largest >= abs(z) - _ROUNDING).sum())) / (1 + count)
        name, value, other = None, np.nan, np.nan
        if group is not None:
            name, value, other = groups[group], *(float(each[group, measure, finding]) for each in (inside, others))
        found.append(Comparison(MEASURES[measure], predictions.classes[finding], name, value, other, z, p))
    return found


@dataclass(frozen=True, eq=False)
class _Units:
    """The images of one patient in one group: U units. group: int64 [U]. number: of labelled images, float64 [U, C].
    raw: sums of each measure, [U, 3, C]. expected: sums of its variance for independent labels, likewise. scored:
    [U, 7, C], the numbers, what lies above the mean of all, and variances that fit how far it spreads."""

    group: Ints
    number: Floats
    raw: Floats
    expected: Floats
    scored: Floats

    def sums(self, groups: Ints, number: int) -> Floats:
        """Of `scored` over the units of each group, [b, G, 7, C]. groups: of the units, [b, U]."""
        of_group = (groups[:, None] == np.arange(number)[:, None]).astype(np.float64)
        flat = of_group @ self.scored.reshape(len(self.scored), -1)
        return np.asarray(flat.reshape(*of_group.shape[:2], *self.scored.shape[1:]))

    def enough(self, which: Sequence[int | None]) -> Bools:
        """Whether the groups have enough units, and all together enough of both labels, [K, 3, C]. which: of the
        contrasts."""
        labelled = self.number > 0
        positives, images = self.raw[:, 0].sum(axis=0), self.number.sum(axis=0)
        both = (positives >= FEWEST) & (images - positives >= FEWEST)
        rows = []
        for group in which:
            inside = labelled[self.group == group].sum(axis=0) if group is not None else 2 * FEWEST
            others = labelled.sum(axis=0) - inside
            rows.append(both & (inside >= FEWEST) & (others >= FEWEST))
        # A measure that all images have alike has no variance.
        return np.asarray(np.stack(rows)[:, None] & (self.scored[:, 4:].sum(axis=0) > 0))

    def values(self, groups: int) -> tuple[Floats, Floats]:
        """Each measure in each group, and in the others, [G, 3, C]; NaN where there is nothing."""
        of_group = (self.group == np.arange(groups)[:, None]).astype(np.float64)
        per = np.stack([self.number, self.number, self.expected[:, _SLOPE]], axis=1)
        total, weight = (
            (of_group @ each.reshape(len(each), -1)).reshape(groups, *each.shape[1:]) for each in (self.raw, per)
        )
        from_one = np.zeros(total.shape[1:])
        from_one[_SLOPE] = 1
        with np.errstate(invalid="ignore", divide="ignore"):
            inside = total / weight + from_one
            others = (total.sum(axis=0) - total) / (weight.sum(axis=0) - weight) + from_one
        return inside, others


def _units_of(predictions: Predictions, points: OperatingPoints, labels: Ints) -> _Units:
    """The sums over the images of each patient in each group."""
    from scipy.sparse import csr_array

    clusters = clusters_of(predictions.patients)
    pairs, unit = np.unique(np.stack([clusters, labels]), axis=1, return_inverse=True)
    images = measures_of(predictions, points)
    rows = (np.ones(len(images)), (unit.ravel(), np.arange(len(images))))
    summed = csr_array(rows, shape=(pairs.shape[1], len(images))) @ images.reshape(len(images), -1)
    summed = summed.reshape(-1, *images.shape[1:])
    number, raw, expected = summed[:, 0], summed[:, 1:4], summed[:, 4:]
    above = raw - number[:, None] * (raw.sum(axis=0) / np.maximum(number.sum(axis=0), 1))
    total = expected.sum(axis=0)
    ratio = np.divide(np.square(above).sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
    return _Units(
        np.asarray(pairs[1]), number, raw, expected, np.concatenate([number[:, None], above, expected * ratio], axis=1)
    )


def measures_of(predictions: Predictions, points: OperatingPoints) -> Floats:
    """For each image, [N, 7, C]: whether it is labelled, the three measures, and their variances for independent labels
    (of the prevalence up to a factor)."""
    positive, negative = (np.stack(each, axis=1) for each in zip(*predictions.known(), strict=True))
    predicted = probabilities(predictions.logits, predictions.task, points.temperature)
    scaled = np.asarray(predictions.logits, dtype=np.float64) / points.temperature
    odds = np.clip(scores_of(scaled, predictions.task).T, -_LARGEST_ODDS, _LARGEST_ODDS)
    known = (positive | negative) & np.isfinite(predicted) & np.isfinite(odds)
    odds = odds - np.where(known, odds, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    excess, variance, one = positive - predicted, predicted * (1 - predicted), np.ones_like(predicted)
    measured = [one, positive, excess, excess * odds, one, variance, variance * np.square(odds)]
    return np.stack([np.where(known, each, 0.0) for each in measured], axis=1)


def _contrasts(groups: int, places: Sequence[int] | None) -> tuple[list[int | None], Floats]:
    """What is compared: each of the groups (of two, one), and the trend, None, if they have places in time; with the
    weights of the groups in each, float64 [K, G], from 0 to 1."""
    which: list[int | None] = [*range(groups)] if groups > 2 else [0]
    weights = np.eye(groups)[: len(which)]
    if places is not None and groups >= _FEWEST_GROUPS:
        which.append(None)
        times = np.asarray(places, dtype=np.float64)
        weights = np.vstack([weights, (times - times.min()) / np.ptp(times)])
    return which, weights


def _statistics(sums: Floats, weights: Floats) -> Floats:
    """z of each contrast, measure and finding, [b, K, 3, C], from sums [b, G, 7, C] and weights [K, G]."""
    number, above, variance = sums[:, :, 0], sums[:, :, 1:4], sums[:, :, 4:]
    contrast, linear, squared = (
        (each @ of.reshape(*of.shape[:2], -1)).reshape(len(of), len(each), *of.shape[2:])
        for each, of in ((weights, above), (weights, variance), (np.square(weights), variance))
    )
    shared = (weights @ number / np.maximum(number.sum(axis=1), 1)[:, None])[:, :, None]
    total = variance.sum(axis=1)[:, None]
    spread = squared - 2 * shared * linear + np.square(shared) * total
    # Where all images of a finding are in one group, there is nothing to compare.
    is_some = spread > _ROUNDING * total
    return np.asarray(np.where(is_some, contrast / np.sqrt(np.where(is_some, spread, 1)), 0.0))


def _permutations(group: Ints, groups: int, count: int, seed: int) -> Iterator[Ints]:
    """`count` orders of the groups of the units, some at a time, int64 [b, U]; the same for the same seed."""
    size = max(1, _BLOCK_ELEMENTS // (groups * len(group)))
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))
        yield group[np.argsort(hash64(seed, rows[:, None], np.arange(len(group))), axis=1)]
