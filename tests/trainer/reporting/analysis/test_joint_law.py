"""The joint law of gains, held to targets that it has not seen."""

import numpy as np
import pandas as pd
import pytest

from trainer.reporting.analysis.joint_law import LAW, MEAN, MEAN_AT, HeldOut, held_out, on_scale

SHOTS = {"1": 10, "5": 50, "10": 100, "full": 1100}


def cells(targets: int, slope: float, noise: float, seed: int = 0, sources: int = 4) -> pd.DataFrame:
    """Gains of `sources` on `targets`: 1 to 4 points by shots, and `slope` for each unit of proximity."""
    rng = np.random.default_rng(seed)
    rows = [
        (
            f"s{source}",
            f"t{target}",
            shots,
            images,
            1.0 + place + slope * proximity + noise * rng.normal(),
            noise,
            proximity,
        )
        for target in range(targets)
        for source in range(sources)
        for proximity in [rng.normal()]
        for place, (shots, images) in enumerate(SHOTS.items())
    ]
    return pd.DataFrame(rows, columns=["source", "target", "shots", "images", "gain", "se", "proximity"])


def test_gains_by_proximity_are_predicted_on_unseen_targets() -> None:
    found = held_out(cells(4, slope=-2.0, noise=0.0))
    assert found.overall(LAW) == pytest.approx(0, abs=1e-9)
    assert found.overall(MEAN) > found.overall(MEAN_AT) > 1
    assert found.num_better(LAW, MEAN) == 4
    assert (found.slopes[:, 0] < 0).all()


def test_proximity_without_effect_does_not_seem_to_help() -> None:
    better = sum(held_out(cells(5, 0.0, 1.0, seed)).difference(LAW, MEAN_AT)[2] < 0 for seed in range(20))
    assert better <= 3


def test_an_effect_among_noise_is_found_with_enough_targets() -> None:
    better = sum(held_out(cells(8, -2.0, 1.0, seed)).difference(LAW, MEAN_AT)[2] < 0 for seed in range(6))
    assert better >= 5


def test_predictions_are_those_of_a_plain_regression() -> None:
    table = cells(3, -1.0, 0.5)
    found = held_out(table).cells
    train, test = table[table["target"] != "t1"], table[table["target"] == "t1"]

    def design(part: pd.DataFrame) -> np.ndarray:
        dummies = np.array([[float(shots == name) for name in SHOTS] for shots in part["shots"]])
        interaction = part["proximity"] * np.log10(part["images"])  # spans the same space, however it is centred
        return np.column_stack([dummies, part["proximity"], np.log10(part["images"]), interaction])

    predicted = design(test) @ np.linalg.pinv(design(train)) @ train["gain"].to_numpy()
    np.testing.assert_allclose(found.loc[found["target"] == "t1", LAW], predicted, atol=1e-8)


def test_difference_has_the_t_interval_over_targets() -> None:
    table = pd.DataFrame(
        {"target": ["a", "b", "c"], "gain": 0.0, "se": 1.0, LAW: [1.0, 2.0, 3.0], MEAN: [2.0, 4.0, 6.0], MEAN_AT: 0.0}
    )
    mean, low, high = HeldOut(table, np.zeros((3, 2))).difference(LAW, MEAN)
    assert mean == pytest.approx(-2)
    assert (low, high) == pytest.approx((-2 - 4.302653 / 3**0.5, -2 + 4.302653 / 3**0.5))


def test_two_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="2 targets, of at least 3"):
        held_out(cells(2, 0.0, 1.0))


def test_shots_of_a_single_target_are_left_out() -> None:
    table = cells(3, 0.0, 1.0)
    table = pd.concat([table, table[:1].assign(shots="500", images=5000)])
    assert "500" not in set(held_out(table).cells["shots"])


def test_a_measure_over_decades_is_taken_by_its_logarithm() -> None:
    assert list(on_scale(pd.Series([1.0, 10.0, 100.0]))) == pytest.approx(list(np.log([1, 10, 100])))
    assert list(on_scale(pd.Series([1.0, 2.0, 3.0]))) == [1, 2, 3]
    assert list(on_scale(pd.Series([-1.0, 20.0]))) == [-1, 20]
