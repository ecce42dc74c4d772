"""Effective data transferred: with how many images the baseline makes the error that a pre-trained model makes with n.

Read from the baseline's own errors, made to fall and joined by lines on logarithmic axes; no law is assumed. The
difference to n is the "effective data transferred" of Hernandez et al. (arXiv:2102.01293).
"""

import math
from dataclasses import dataclass

import numpy as np

from trainer.reporting.analysis.learning_curve import Floats, LearningCurve, SeedResamples, quantiles, spread_is_known

_LEAST_ERROR = 1e-9


@dataclass(frozen=True)
class EffectiveImages:
    """Images of the baseline that match one place of another curve; inf: more than it was measured at, 0: fewer than
    that. low, high: 95% limits over resampled seeds, NaN with one seed."""

    images: float
    effective: float
    low: float
    high: float

    @property
    def is_beyond(self) -> bool:
        """Whether the baseline does not reach the error within what was measured."""
        return math.isinf(self.effective)


def falling(curves: Floats, weights: Floats) -> Floats:
    """The nearest curves that do not rise, [B, M], by weighted least squares: at each place the least, over beginnings
    before it, of the largest mean up to an end behind it."""
    zero = np.zeros((len(curves), 1))
    sums = np.concatenate([zero, np.cumsum(curves * weights, axis=1)], axis=1)
    total = np.concatenate([[0.0], np.cumsum(weights)])
    found = np.empty_like(curves)
    for place in range(curves.shape[1]):
        begins, ends = np.arange(place + 1), np.arange(place + 1, curves.shape[1] + 1)
        means = (sums[:, None, ends] - sums[:, begins, None]) / (total[ends] - total[begins][:, None])
        found[:, place] = means.max(axis=2).min(axis=1)
    return found


def images_for(errors: Floats, images: Floats, curves: Floats) -> Floats:
    """Images at which falling curves [B, M], measured at images [M], reach errors [B]: inf if they do not, 0 if their
    first place is below."""
    logs, targets = np.log(np.maximum(curves, _LEAST_ERROR)), np.log(np.maximum(errors, _LEAST_ERROR))
    above = (logs > targets[:, None]).sum(axis=1)  # places before the curve reaches the error
    rows, right = np.arange(len(errors)), np.clip(above, 1, len(images) - 1)
    before, after = logs[rows, right - 1], logs[rows, right]
    inside = (above > 0) & (above < len(images))
    share = np.divide(before - targets, before - after, out=np.zeros_like(before), where=inside)
    places = np.log(images)
    found = np.exp(places[right - 1] + share * (places[right] - places[right - 1]))
    found = np.where(above == len(images), np.inf, found)
    return np.where(targets > logs[:, 0], 0.0, np.where(above == 0, images[0], found))


@dataclass(frozen=True, eq=False)
class Baseline:
    """The falling curve of a baseline at images [M], as measured [1, M] and in each resample [B, M]; None with one
    seed."""

    images: Floats
    measured: Floats
    resampled: Floats | None


def baseline_of(curve: LearningCurve, seeds: SeedResamples) -> Baseline:
    """The baseline that a curve makes."""
    weights = 1 / curve.variances
    resampled = falling(curve.resampled(seeds), weights) if spread_is_known(curve) else None
    return Baseline(curve.images, falling(curve.means[None], weights), resampled)


def effective_images(curve: LearningCurve, baseline: Baseline, seeds: SeedResamples) -> list[EffectiveImages]:
    """For each place of a curve, the images with which the baseline makes the same error; [] if it has one place."""
    if len(baseline.images) < 2:
        return []
    drawn = curve.resampled(seeds) if spread_is_known(curve) else None
    found = []
    for place, (images, mean) in enumerate(zip(curve.images, curve.means, strict=True)):
        value = images_for(np.array([mean]), baseline.images, baseline.measured)[0]
        low, high = math.nan, math.nan
        if drawn is not None and baseline.resampled is not None:
            matched = images_for(drawn[:, place], baseline.images, baseline.resampled)
            low, high = (float(limit) for limit in quantiles(matched))
        found.append(EffectiveImages(float(images), float(value), low, high))
    return found
