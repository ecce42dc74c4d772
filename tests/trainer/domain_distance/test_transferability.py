"""LogME, LEEP, H-score, probe and k-NN, against plain implementations and known truth."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from trainer.domain_distance.labelled import Problem, fits, problems_of
from trainer.domain_distance.moments import Features
from trainer.domain_distance.transferability import h_score, knn, leep, linear_probe, logme
from trainer.domain_distance.two_samples import Ints


def classes(count: int, separation: float, seed: int = 0, width: int = 6, num: int = 3) -> tuple[Features, Ints]:
    """Gaussian classes whose means lie on the axes."""
    labels = np.arange(count) % num
    noise = np.random.default_rng(seed).normal(size=(count, width))
    return (noise + separation * np.eye(num, width)[labels]).astype(np.float32), labels


@pytest.mark.parametrize(("count", "width"), [(40, 6), (15, 30)])
def test_logme_is_the_largest_evidence(count: int, width: int) -> None:
    features, labels = classes(count, 1.0, width=width)
    products = features.astype(np.float64) @ features.T

    def evidence(column: np.ndarray, logs: np.ndarray) -> float:
        covariance = products / np.exp(logs[0]) + np.eye(count) / np.exp(logs[1])
        return float(multivariate_normal(np.zeros(count), covariance).logpdf(column)) / count

    best = []
    for one in range(3):
        column = (labels == one).astype(float)
        tried = [
            minimize(lambda logs, column=column: -evidence(column, logs), start, bounds=[(-5, 9)] * 2)
            for start in ([0.0, 1.0], [4.0, 2.0], [4.0, 6.0])
        ]
        best.append(-min(found.fun for found in tried))
    assert logme(features, labels, 3) == pytest.approx(np.mean(best), abs=1e-3)


def test_leep_is_that_of_loops() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(30, 4)) * 3, np.arange(30) % 3
    probabilities = softmax(logits, axis=1)
    total = 0.0
    for i in range(30):
        total += np.log(
            sum(
                probabilities[i, z]
                * sum(probabilities[j, z] for j in range(30) if labels[j] == labels[i])
                / probabilities[:, z].sum()
                for z in range(4)
            )
        )
    assert leep(logits, labels, 3) == pytest.approx(total / 30)


def test_h_score_is_the_printed_formula() -> None:
    features, labels = classes(25, 1.5, width=30)
    shrunk, weight = ledoit_wolf(features.astype(np.float64))
    means = np.stack([features[labels == one].mean(axis=0, dtype=np.float64) for one in labels])
    between = np.cov(means, rowvar=False, bias=True)
    truth = (1 - weight) * np.trace(np.linalg.inv(shrunk) @ between)
    assert h_score(features, labels, 3) == pytest.approx(truth, rel=1e-5)


def test_every_measure_grows_with_the_separation() -> None:
    found = []
    for separation in (0.0, 1.0, 3.0):
        features, labels = classes(300, separation)
        head = (np.eye(3, 6, dtype=np.float32), np.zeros(3, dtype=np.float32))
        problem = Problem(np.arange(300), labels, 3, is_finding=False)
        found.append(fits(features, [problem], head, seed=0))
    assert set(found[0]) == {"logme", "leep", "h-score", "linear-probe", "knn"}
    for name in found[0]:
        assert found[0][name] < found[1][name] < found[2][name], name


def test_probe_and_neighbours_are_near_the_known_accuracy() -> None:
    features, labels = classes(900, 2.0, width=3)
    draws = np.random.default_rng(1).normal(size=(100_000, 3)) + np.array([2, 0, 0])
    best = (draws.argmax(axis=1) == 0).mean()
    for judged in (linear_probe, knn):
        assert judged(features, labels, 3, False) == pytest.approx(best, abs=0.03)


def test_random_labels_are_told_by_chance_only() -> None:
    features, _ = classes(600, 1.0)
    labels = np.random.default_rng(2).integers(2, size=600)
    assert linear_probe(features, labels, 2, False) == pytest.approx(0.5, abs=0.07)
    assert linear_probe(features, labels, 2, True) == pytest.approx(0.5, abs=0.07)


class _Labelled:
    """What `problems_of` reads of an index."""

    def __init__(self, labels: list[object], num_classes: int) -> None:
        self.labels, self.num_classes = np.array(labels), num_classes


def test_classes_with_one_image_are_left_out() -> None:
    (problem,), left_out = problems_of(_Labelled([3, 0, 3, 1, 0, 3], 5))  # type: ignore[arg-type]
    assert (list(problem.rows), list(problem.labels), problem.num_classes) == ([0, 1, 2, 4, 5], [1, 0, 1, 0, 1], 2)
    assert left_out == 1
    assert problems_of(_Labelled([0, 1, 2], 3)) == ([], 3)  # type: ignore[arg-type]


def test_findings_are_problems_over_their_labelled_images() -> None:
    rows = [[1, np.nan], [0, 1], [1, np.nan], [0, 0], [np.nan, 1]]
    problems, left_out = problems_of(_Labelled(rows, 2))  # type: ignore[arg-type]
    assert [list(problem.rows) for problem in problems] == [[0, 1, 2, 3]]
    assert problems[0].is_finding
    assert left_out == 1
