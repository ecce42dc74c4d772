"""The law error(n) = e_inf + a n^-alpha: fitted, with bands, and not told where the data do not tell it."""

import numpy as np
import pytest
from scipy import optimize

from trainer.reporting.analysis.learning_curve import LearningCurve, SeedResamples
from trainer.reporting.analysis.power_law import PowerLaw, fit, fit_curve

IMAGES = np.array([10.0, 50.0, 100.0, 500.0, 1100.0])
SPREADS = np.array([0.12, 0.10, 0.08, 0.06, 0.05])  # over seeds, relative
FEW = 200  # resamples


def law(floor: float, scale: float, alpha: float, images: np.ndarray = IMAGES) -> np.ndarray:
    return floor + scale * images**-alpha


def simulated(
    truth: np.ndarray, seeds: int, rng: np.random.Generator, images: np.ndarray = IMAGES, noise: float = 1.0
) -> LearningCurve:
    """Errors around a true curve; half of the variance is a seed's own at all places."""
    shared, own = rng.normal(size=(1, seeds)), rng.normal(size=(len(images), seeds))
    spread = noise * SPREADS[: len(images), None]
    return LearningCurve(images, truth[:, None] * (1 + spread * (shared + own) / 2**0.5), tuple(range(seeds)))


def fitted(curve: LearningCurve) -> PowerLaw:
    return fit_curve(curve, SeedResamples(curve.seeds, FEW))


@pytest.mark.parametrize("truth", [(0.05, 3.0, 0.8), (0.1, 0.8, 0.4), (0.0, 0.8, 0.3), (0.01, 40.0, 1.9)])
def test_an_exact_law_is_recovered(truth: tuple[float, float, float]) -> None:
    errors = law(*truth)
    found = fit(IMAGES, errors[None], 1 / errors**2).parameters
    assert found.alpha[0] == pytest.approx(truth[2], rel=2e-3)
    assert found.floor[0] == pytest.approx(truth[0], abs=2e-4)
    np.testing.assert_allclose(found.at(IMAGES)[0], errors, rtol=2e-3)


def test_no_other_fit_has_smaller_squares() -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        errors = law(rng.uniform(0, 0.1), 0.9, rng.uniform(0.2, 1.2)) * (1 + 0.1 * rng.normal(size=5))
        weights = 1 / errors**2
        mine = fit(IMAGES, errors[None], weights).squares[0]
        assert mine <= least_squares(errors, weights) * (1 + 1e-3) + 1e-9


def least_squares(errors: np.ndarray, weights: np.ndarray) -> float:
    """The same fit by a general optimiser, from several starts."""
    bounds = ([0.0, 0.0, 0.02], [1.0, np.inf, 3.0])
    found = [
        optimize.least_squares(
            lambda p: (errors - p[0] - p[1] * (IMAGES / 10) ** -p[2]) * weights**0.5,
            (floor, 0.3, alpha),
            bounds=bounds,
        )
        for floor in (0.001, 0.05)
        for alpha in (0.1, 0.5, 1.5)
    ]
    return float(2 * min(each.cost for each in found))


@pytest.mark.parametrize(("truth", "seeds"), [((0.05, 3.0, 0.8), 5), ((0.0, 0.8, 0.3), 5), ((0.1, 0.8, 0.4), 10)])
def test_intervals_cover_the_truth(truth: tuple[float, float, float], seeds: int) -> None:
    rng, covered, further = np.random.default_rng(1), [], np.array([50.0, 11_000.0])
    for _ in range(80):
        found = fitted(simulated(law(*truth), seeds, rng))
        low, high = found.band(further) or (np.nan, np.nan)
        inside = (low <= law(*truth, further)) & (law(*truth, further) <= high)
        lowest, highest = found.limits["alpha"]
        covered.append([*inside, lowest <= truth[2] <= highest])
    assert (np.mean(covered, axis=0) > 0.86).all()  # 0.95, with 80 trials
    assert np.mean(covered) < 0.995


def test_parameters_are_told_where_the_data_tell_them() -> None:
    found = fitted(simulated(law(0.05, 3.0, 0.8), 5, np.random.default_rng(2)))
    assert found.is_told
    assert found.is_drawn
    assert found.limits["floor"][0] < 0.05 < found.limits["floor"][1]


@pytest.mark.parametrize(
    ("places", "seeds", "why"),
    [
        (1, 5, "1 point for 3 parameters"),
        (2, 5, "2 points for 3 parameters"),
        (3, 5, "3 points for 3 parameters leave nothing to check the law by"),
        (5, 1, "no second seed tells how sure the errors are"),
    ],
)
def test_too_few_points_or_seeds_tell_nothing(places: int, seeds: int, why: str) -> None:
    truth = law(0.05, 3.0, 0.8)[:places]
    found = fitted(simulated(truth, seeds, np.random.default_rng(0), IMAGES[:places]))
    assert found.untold == why
    assert found.band(IMAGES) is None


def test_a_flat_profile_tells_no_exponent() -> None:
    near = np.array([100.0, 130.0, 170.0, 220.0, 300.0])
    found = fitted(simulated(law(0.1, 0.8, 0.4, near), 5, np.random.default_rng(0), near))
    assert "exponent" in found.untold
    assert found.is_drawn  # within the data the curve and its band stand


def test_errors_off_every_such_curve_are_no_law() -> None:
    humped = np.array([0.5, 0.49, 0.2, 0.19, 0.05])
    found = fitted(simulated(humped, 5, np.random.default_rng(0), noise=0.1))
    assert found.untold.startswith("the errors lie off every such curve")
    assert not found.is_drawn


def test_errors_that_do_not_fall_are_no_law() -> None:
    found = fitted(simulated(np.linspace(0.2, 0.3, 5), 5, np.random.default_rng(0)))
    assert found.untold == "the error does not fall with more images"


def test_seeds_that_are_missing_at_some_places_are_allowed() -> None:
    curve = simulated(law(0.05, 3.0, 0.8), 10, np.random.default_rng(3))
    curve.errors[3:, 5:] = np.nan
    found = fitted(curve)
    assert found.is_told
    assert list(curve.counts) == [10, 10, 10, 5, 5]
