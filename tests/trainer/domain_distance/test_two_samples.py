"""Kernel distance and classifier accuracy, against plain loops and known truth."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from benchmarks.proximity_coverage import Design, cover
from trainer.domain_distance.moments import Features
from trainer.domain_distance.two_samples import classifier_accuracy, drawn_order, kernel_distance


def gaussian(count: int, shift: float, seed: int, width: int = 4) -> Features:
    return (np.random.default_rng(seed).normal(size=(count, width)) + shift).astype(np.float32)


def plain_kernel_distance(one: Features, other: Features) -> float:
    """By loops over pairs."""

    def k(x: Features, y: Features) -> float:
        return float((np.dot(x.astype(float), y.astype(float)) / len(x) + 1) ** 3)

    same = [
        np.mean([k(x, y) for i, x in enumerate(each) for j, y in enumerate(each) if i != j]) for each in (one, other)
    ]
    return float(sum(same) - 2 * np.mean([k(x, y) for x in one for y in other]))


def test_kernel_distance_of_one_block_is_that_of_loops() -> None:
    one, other = gaussian(3, 0.0, 0), gaussian(11, 0.5, 1)
    found = kernel_distance(one, other)
    assert found.value == pytest.approx(plain_kernel_distance(one, other), rel=1e-5)
    assert (found.low, found.high) == (None, None)


def test_kernel_distance_is_the_mean_over_blocks() -> None:
    one, other = gaussian(55, 0.0, 0), gaussian(66, 0.5, 1)
    parts = [np.array_split(drawn_order(len(each), seed), 25) for seed, each in enumerate((one, other))]
    values = [plain_kernel_distance(one[rows], other[columns]) for rows, columns in zip(*parts, strict=True)]
    found = kernel_distance(one, other)
    assert found.value == pytest.approx(np.mean(values), rel=1e-5)
    assert found.high is not None
    assert found.high - found.value == pytest.approx(2.0639 * np.std(values, ddof=1) / np.sqrt(25), rel=1e-3)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_kernel_distance_is_unbiased_and_covered(shift: float) -> None:
    found = cover(Design(20, 60, shift), samples=300, seed=5)
    assert abs(found["mean"] - found["truth"]) < 3 * found["standard_error"]
    assert 0.91 < found["coverage"] < 0.985


def test_distances_grow_as_a_mixture_moves_apart() -> None:
    near = gaussian(400, 0.0, 0)
    kernel, accuracy = [], []
    for shift in (0.0, 0.6, 1.2, 2.4):
        mixed = np.concatenate([gaussian(200, 0.0, 1), gaussian(200, shift, 2)])
        kernel.append(kernel_distance(near, mixed).value)
        accuracy.append(classifier_accuracy(near, mixed))
    assert kernel == sorted(kernel)
    assert accuracy == sorted(accuracy)
    assert abs(accuracy[0] - 0.5) < 0.06


def test_classifier_is_as_good_as_the_best_one() -> None:
    one, other = gaussian(1500, 0.0, 0, width=1), gaussian(1500, 1.0, 1, width=1)
    assert classifier_accuracy(one, other) == pytest.approx(norm.cdf(0.5), abs=0.03)


def test_classifier_accuracy_is_that_of_a_plain_one() -> None:
    one, other = gaussian(60, 0.0, 0), gaussian(40, 0.7, 1)
    drawn = [each[drawn_order(len(each), seed)[:40]].astype(float) for seed, each in enumerate((one, other))]
    fold = np.repeat(np.arange(5), 8)  # of each set its rows in turn
    hits = 0
    for tested in range(5):
        train, test = (np.concatenate([each[keep] for each in drawn]) for keep in (fold != tested, fold == tested))
        mean, std = train.mean(axis=0), train.std(axis=0)
        inputs, sign = (train - mean) / std, np.repeat([-1.0, 1.0], 32)

        def loss(weights: np.ndarray, inputs: np.ndarray = inputs, sign: np.ndarray = sign) -> float:
            margins = sign * (inputs @ weights[1:] + weights[0])
            return float(np.logaddexp(0, -margins).sum() + np.square(weights[1:]).sum() / 2 / 0.1)

        weights = minimize(loss, np.zeros(5)).x
        predicted = (test - mean) / std @ weights[1:] + weights[0] > 0
        hits += int((predicted == np.repeat([False, True], 8)).sum())
    assert classifier_accuracy(one, other) == pytest.approx(hits / 80)


def test_draws_of_few_are_the_first_of_themselves() -> None:
    assert sorted(drawn_order(50, 3)) == list(range(50))
    assert list(drawn_order(50, 3)) != list(drawn_order(50, 4))
