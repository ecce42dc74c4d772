"""Fitting the network model's parameters to measured points, with the uncertainty of its predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are loaded when they are used, so that help comes sooner

from benchmarks.lib.network.model import Machine, Step, StepWork, Sync, simulate
from benchmarks.lib.network.profile import Profile
from data_pipelines.common.counter_rng import uniform
from data_pipelines.common.errors import InputError

FREE = ("step_sigma", "serial_us_per_rank")
"""What is fitted: how much a rank's steps differ, which makes the slowest of N slower; and what each rank adds to each
step, such as coordination by one rank and hops that nothing hides. All else is taken from the profile."""
_LEAST, _MOST = 0.05, 0.95  # of the interval
_DRAWS = 100
_REFINEMENTS = 2
_PURPOSE = 7001  # of these random numbers among all that are hashes of a seed
_RATE, _MISS = 1000, 1001
Floats = npt.NDArray[np.float64]
StepWorkOf = Callable[[int], StepWork]  # the work of one rank among so many
Points = Sequence[tuple[int, float]]  # ranks, efficiency in percent


@dataclass(frozen=True)
class Fit:
    """A profile with its free numbers fitted, `machines` that might be it as well, and the residuals: points of
    efficiency, model minus measured. `noise_points` is how far the model misses, or the points' own error."""

    profile: Profile
    machines: tuple[Machine, ...]
    residuals: dict[int, float]
    noise_points: float


@dataclass(frozen=True)
class Predicted:
    """Images per second of all ranks and efficiency in percent, each with the limits of a 90 % interval; `step`
    says where the time goes."""

    ranks: int
    images_per_s: float
    images_per_s_low: float
    images_per_s_high: float
    efficiency: float
    efficiency_low: float
    efficiency_high: float
    step: Step


def images_per_s(step_work: StepWork, machine: Machine, sync: Sync, ranks: int) -> float:
    """Of all ranks together."""
    return ranks * step_work.images / simulate(step_work, machine, sync, ranks).seconds


def efficiency(step_work_of: StepWorkOf, machine: Machine, sync: Sync, ranks: int, base: int = 1) -> float:
    """E(N) = 100 T(N) / (N T(1)) with T in images per second; against `base` ranks where that is not 1."""
    of_a_rank = [images_per_s(step_work_of(n), machine, sync, n) / n for n in (ranks, base)]
    return 100.0 * of_a_rank[0] / of_a_rank[1]


def calibrate(
    profile: Profile, step_work: StepWork, sync: Sync, points: Points, error: float, draws: int = _DRAWS
) -> Fit:
    """Fit FREE to measured points, each known to about `error` points of efficiency; `draws` is how many other machines
    that would have shown them are looked for.

    With fewer points than free numbers the profile's own values count as one more measurement of each. Raises
    InputError without a point of more than one rank.
    """
    points = [point for point in points if point[0] > 1]
    if not points:
        raise InputError("nothing to calibrate on: give measured points of more than one rank")
    prior = np.array([getattr(profile.machine, name) for name in FREE])
    enough = len(points) >= len(FREE)
    doubt = np.array([np.inf if enough else max(profile.errors[name], 1e-3) for name in FREE])

    def at(machine: Machine, scales: Floats) -> Machine:
        return replace(machine, **dict(zip(FREE, (prior * scales).tolist(), strict=True)))

    def misses(machine: Machine, scales: Floats) -> Floats:
        there = at(machine, scales)
        return np.array([efficiency(lambda _: step_work, there, sync, ranks) - measured for ranks, measured in points])

    def weighted(machine: Machine, scales: Floats, moved: Floats | float, pull: Floats) -> Floats:
        return np.concatenate([(misses(machine, scales) - moved) / error, (scales - pull) / doubt])

    ones = np.ones(len(FREE))
    solved = scipy.optimize.least_squares(
        lambda scales: weighted(profile.machine, scales, 0.0, ones), ones, bounds=(0.0, np.inf), diff_step=0.02
    )
    left = misses(profile.machine, solved.x)
    back = np.linalg.pinv(solved.jac)
    machines = []
    for draw, machine in enumerate(_drawn(profile)[:draws]):
        # Another machine that would have shown the same points, but for their error, has other free numbers.
        moved = error * np.array([_normals(_MISS + 1 + number)[draw] for number in range(len(points))])
        scales = solved.x
        for _ in range(_REFINEMENTS):
            scales = np.maximum(0.0, scales - back @ weighted(machine, scales, moved, ones))
        machines.append(at(machine, scales))
    return Fit(
        replace(profile, machine=at(profile.machine, solved.x)),
        tuple(machines),
        {ranks: float(miss) for (ranks, _), miss in zip(points, left, strict=True)},
        max(error, float(np.sqrt(np.mean(left**2)))),
    )


def uncalibrated(profile: Profile) -> Fit:
    """A profile as it is: its free numbers are as unsure as it says."""
    draws = [_factors(_MISS + 1 + number, profile.errors[name]) for number, name in enumerate(FREE)]
    machines = [
        replace(
            machine, **{name: getattr(machine, name) * float(of[draw]) for name, of in zip(FREE, draws, strict=True)}
        )
        for draw, machine in enumerate(_drawn(profile))
    ]
    return Fit(profile, tuple(machines), {}, 0.0)


def predict(
    fit: Fit, step_work_of: StepWorkOf, sync: Sync, counts: Sequence[int], rate_error: float = 0.0
) -> list[Predicted]:
    """Throughput and efficiency for counts of ranks; `rate_error` is that of one rank's rate, as a share.

    The interval: every number of the profile drawn from its error, the free ones fitted again for each draw, and the
    model's own misses.
    """
    base, rates = counts[0], _factors(_RATE, rate_error)
    predicted = []
    for ranks in counts:
        step = simulate(step_work_of(ranks), fit.profile.machine, sync, ranks)
        share = efficiency(step_work_of, fit.profile.machine, sync, ranks, base)
        shares = np.array([efficiency(step_work_of, machine, sync, ranks, base) for machine in fit.machines])
        shares += fit.noise_points * _normals(_MISS) * (ranks != base)
        speed = ranks * step_work_of(ranks).images / step.seconds
        low, high = np.quantile(shares, (_LEAST, _MOST))
        slow, fast = np.quantile(speed * shares / share * rates, (_LEAST, _MOST))
        limits = (
            min(speed, float(slow)),
            max(speed, float(fast)),
            share,
            min(share, float(low)),
            max(share, float(high)),
        )
        predicted.append(Predicted(ranks, speed, *limits, step=step))
    return predicted


def _drawn(profile: Profile) -> list[Machine]:
    """Machines whose numbers, but for the free ones, lie within their errors."""
    machine = profile.machine
    fixed = [name for name in vars(machine) if name not in FREE and profile.errors[name] > 0]
    factors = {name: _factors(number, profile.errors[name]) for number, name in enumerate(fixed)}
    for name in ("wire_efficiency", "tree_efficiency"):
        factors[name] = np.minimum(factors[name], 1.0 / getattr(machine, name))
    return [
        replace(machine, **{name: getattr(machine, name) * float(of[draw]) for name, of in factors.items()})
        for draw in range(_DRAWS)
    ]


def _factors(number: int, error: float) -> Floats:
    """Factors around 1 with this relative error; held to e**2 either way, or a few draws would rule the interval."""
    return np.exp(np.clip(error * _normals(number), -2.0, 2.0))


def _normals(number: int) -> Floats:
    """Standard normal draws, the same whenever they are asked for."""
    draws = uniform(0, _PURPOSE, number, np.arange(_DRAWS))
    return np.asarray(scipy.stats.norm.ppf(np.clip(draws, 1e-6, 1 - 1e-6)))
