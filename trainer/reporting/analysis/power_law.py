"""The law error(n) = e_inf + a n^-alpha: weighted least squares, bands from resampled seeds, and whether the data can
tell its parameters at all.

Given alpha the law is linear in e_inf and a, which are not negative: the best pair is known in closed form, and only
alpha is searched, on a grid that is also the profile of the fit.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy

from trainer.reporting.analysis.learning_curve import Floats, LearningCurve, SeedResamples, quantiles, spread_is_known

LEAST_ALPHA, MOST_ALPHA = 0.02, 3.0
DECADE = 10.0
"""How far a law is drawn beyond the data, as a factor."""
_ALPHAS = np.geomspace(LEAST_ALPHA, MOST_ALPHA, 160)
_MOST_AT_BOUND = 0.05  # of the resamples
_WIDEST = 5.0  # upper limit of alpha over the lower one
_MISFIT = 0.01  # p value
_PARAMETERS = 3


class Parameters(NamedTuple):
    """Of one law, floats, or of each resample, [B]. a is per 1 image."""

    floor: Floats
    scale: Floats
    alpha: Floats

    def at(self, images: Floats) -> Floats:
        """Errors at images [M], [B, M] or [M]."""
        floor, scale, alpha = (np.asarray(value)[..., None] for value in self)
        return np.asarray(floor + scale * np.asarray(images) ** -alpha)


class Fitted(NamedTuple):
    """The best parameters, with the weighted sum of squares [B], and that of the best pair at each alpha [B, A]."""

    parameters: Parameters
    squares: Floats
    profile: Floats


class _Sums(NamedTuple):
    """Weighted sums of 1, x, x^2, y, x y and y^2, with x = n^-alpha and y the errors; they broadcast to [B, A]."""

    w: Floats
    x: Floats
    xx: Floats
    y: Floats
    xy: Floats
    yy: Floats

    def with_floor(self) -> tuple[Floats, Floats, Floats]:
        """floor, of any sign, and scale >= 0 with the least squares of y - floor - scale x, and these squares."""
        across, along = self.xy - self.x * self.y / self.w, self.xx - self.x * self.x / self.w
        scale = np.maximum(across / np.maximum(along, 1e-300), 0.0)
        floor = (self.y - scale * self.x) / self.w
        return floor, scale, self._squares(floor, scale)

    def without_floor(self) -> tuple[Floats, Floats, Floats]:
        """The same with floor 0."""
        scale = self.xy / self.xx
        return np.zeros_like(scale), scale, self._squares(np.zeros_like(scale), scale)

    def _squares(self, floor: Floats, scale: Floats) -> Floats:
        crossed = floor * self.y + scale * self.xy - floor * scale * self.x
        return np.maximum(self.yy - 2 * crossed + floor**2 * self.w + scale**2 * self.xx, 0.0)


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """A fitted law. untold: why its parameters are not to be printed, "" if they are. resampled: the parameters in each
    resample. p_misfit: of the lack-of-fit test, NaN without one. limits: 95% limits of each parameter."""

    curve: LearningCurve
    parameters: Parameters | None
    resampled: Parameters | None
    untold: str
    p_misfit: float = float("nan")
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_told(self) -> bool:
        return not self.untold

    @property
    def is_drawn(self) -> bool:
        """Whether the curve describes the errors within the data, with a band."""
        return self.resampled is not None and self.p_misfit >= _MISFIT

    def band(self, images: Floats) -> tuple[Floats, Floats] | None:
        """95% limits of the curve at images [M]; None with one seed."""
        if self.resampled is None or self.parameters is None:
            return None
        return _around(self.parameters.at(images), self.resampled.at(images))


def fit(images: Floats, errors: Floats, weights: Floats, signed: bool = False) -> Fitted:
    """Fit the law to errors [B, M] at images [M] with weights [M]. signed: the floor may be negative."""
    unit = images[0]  # keeps powers near 1

    def sums(alpha: Floats, each: bool) -> _Sums:
        powers = (images / unit) ** -alpha[:, None]
        weighted = errors * weights
        along = (slice(None),) if each else (slice(None), None)
        across = (weighted * powers).sum(-1) if each else weighted @ powers.T
        of_errors = (weighted.sum(-1)[along], across, (weighted * errors).sum(-1)[along])
        return _Sums(weights.sum(), (powers * weights).sum(-1), (powers**2 * weights).sum(-1), *of_errors)

    on_grid = sums(_ALPHAS, each=False)
    (floors, _, free), (_, _, through_zero) = on_grid.with_floor(), on_grid.without_floor()
    allowed = np.where((floors >= 0) | signed, free, np.inf)
    alphas = _vertex(free, allowed.argmin(axis=1)), _vertex(through_zero, through_zero.argmin(axis=1))
    with_floor, without = sums(alphas[0], each=True).with_floor(), sums(alphas[1], each=True).without_floor()
    takes_floor = ((with_floor[0] >= 0) | signed) & np.isfinite(allowed.min(axis=1)) & (with_floor[2] < without[2])
    floor, scale, squares = (np.where(takes_floor, one, other) for one, other in zip(with_floor, without, strict=True))
    alpha = np.where(takes_floor, *alphas)
    return Fitted(Parameters(floor, scale * unit**alpha, alpha), squares, np.minimum(allowed, through_zero))


def _vertex(profile: Floats, best: npt.NDArray[np.int64]) -> Floats:
    """Alpha at the vertex of the parabola through a place of the grid and its neighbours, [B]."""
    rows, middle = np.arange(len(best)), np.clip(best, 1, len(_ALPHAS) - 2)
    before, here, after = (profile[rows, middle + step] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = np.divide(before - after, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    ratio = np.log(_ALPHAS[1] / _ALPHAS[0])
    inside = (best > 0) & (best < len(_ALPHAS) - 1)
    return np.where(inside, _ALPHAS[middle] * np.exp(ratio * np.clip(shift, -1, 1)), _ALPHAS[best])


def fit_curve(curve: LearningCurve, seeds: SeedResamples) -> PowerLaw:
    """Fit the law to a curve, and find out what the data can tell of it."""
    num = len(curve.images)
    if num < _PARAMETERS:
        places = f"{num} point{'s' * (num > 1)}"
        return PowerLaw(curve, None, None, f"{places} for {_PARAMETERS} parameters")
    weights = 1 / curve.variances
    found = fit(curve.images, curve.means[None], weights)
    best = Parameters(*(value[0] for value in found.parameters))
    if num == _PARAMETERS:
        return PowerLaw(
            curve, best, None, f"{num} points for {_PARAMETERS} parameters leave nothing to check the law by"
        )
    if not spread_is_known(curve):
        return PowerLaw(curve, best, None, "no second seed tells how sure the errors are")
    # Limits from fits that keep the floor at or above zero miss a floor near zero, and what follows from it, too often.
    resampled = fit(curve.images, curve.resampled(seeds), weights, signed=True).parameters
    limits = {name: _limits(getattr(best, name), getattr(resampled, name)) for name in Parameters._fields}
    p_misfit = _p_misfit(found, num, curve.freedom)
    untold = _why_untold(curve, found, resampled, p_misfit)
    return PowerLaw(curve, best, resampled, untold, p_misfit, limits)


def _around(best: Floats, resampled: Floats) -> tuple[Floats, Floats]:
    """95% limits of what is not negative, which hold the best value also where a floor of zero keeps it apart."""
    low, high = quantiles(np.maximum(resampled, 0.0))
    return np.minimum(low, best), np.maximum(high, best)


def _limits(best: Floats, resampled: Floats) -> tuple[float, float]:
    low, high = _around(best, resampled)
    return float(low), float(high)


def _p_misfit(found: Fitted, num: int, freedom: int) -> float:
    """The p value of the mean errors lying off the law by chance, given the spread over seeds."""
    left = num - _PARAMETERS + int(found.parameters.floor[0] == 0)
    return float(scipy.stats.f.sf(found.squares[0] / left, left, freedom))


def _why_untold(curve: LearningCurve, found: Fitted, resampled: Parameters, p_misfit: float) -> str:
    """Why the parameters are not told by the data; "" if they are."""
    if found.parameters.scale[0] == 0:
        return "the error does not fall with more images"
    if p_misfit < _MISFIT:
        return f"the errors lie off every such curve by more than their seeds explain (p {_p_text(p_misfit)})"
    bound = scipy.stats.f.ppf(0.95, 1, curve.freedom)
    accepted = _ALPHAS[found.profile[0] <= found.squares[0] + bound]
    low, high = float(accepted.min(initial=MOST_ALPHA)), float(accepted.max(initial=LEAST_ALPHA))
    at_bound = np.isclose(resampled.alpha, LEAST_ALPHA) | np.isclose(resampled.alpha, MOST_ALPHA)
    if low <= LEAST_ALPHA or high >= MOST_ALPHA:
        return f"exponents from {low:.2g} to {high:.2g} fit equally well, up to a limit of the search"
    if at_bound.mean() > _MOST_AT_BOUND:
        return f"in more than {_MOST_AT_BOUND:.0%} of the resamples the exponent is at a limit of the search"
    low, high = _limits(found.parameters.alpha[0], resampled.alpha)
    if high > _WIDEST * low:
        return f"the exponent lies anywhere from {low:.2g} to {high:.2g}"
    return ""


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
