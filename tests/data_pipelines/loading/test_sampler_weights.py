"""With weights, every sample comes as often as it weighs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from data_pipelines.loading.sampler import BatchSampler

few = settings(max_examples=60, deadline=None)


def shown(num_samples: int, epochs: int, **options: Any) -> np.ndarray:
    """What the first epochs show, [epochs, images of an epoch]."""
    size = BatchSampler(num_samples, 1, **options).epoch_size
    return BatchSampler(num_samples, epochs * size, **options).request(0).samples.reshape(epochs, size)


def times_shown(num_samples: int, epochs: int, **options: Any) -> np.ndarray:
    """How often each epoch shows each sample, [epochs, num_samples]."""
    return np.stack([np.bincount(e, minlength=num_samples) for e in shown(num_samples, epochs, **options)])


@few
@given(
    weights=st.lists(st.just(0.0) | st.floats(0.01, 5), min_size=1, max_size=40).filter(any),
    seed=st.integers(0, 2**63 - 1),
    shuffle=st.sampled_from(["full", "blocks"]),
)
def test_weights_are_how_often_samples_are_shown(weights: list[float], seed: int, shuffle: Any) -> None:
    each = np.array(weights)
    size = max(1, round(np.cumsum(each)[-1]))
    assert BatchSampler(len(each), 8, seed, weights=each).epoch_size == size
    counts = times_shown(len(each), 5, seed=seed, shuffle=shuffle, weights=each)
    assert (counts.sum(axis=1) == size).all()
    assert not counts[:, each == 0].any()
    # A sample covers whole slots, and at most a part of one slot at either end.
    assert (np.abs(counts - each * size / each.sum()) < 2).all()


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_counts_over_many_epochs_are_proportional_to_the_weights(shuffle: Any) -> None:
    weights = np.random.default_rng(0).gamma(0.7, size=25)
    weights[[0, 7, 24]] = 0
    epochs = 2000
    means = times_shown(25, epochs, seed=4, shuffle=shuffle, weights=weights).mean(axis=0)
    expected = weights * round(weights.sum()) / weights.sum()
    # In an epoch a sample varies by two partly covered slots at most: a variance of 2 / 4.
    assert np.abs(means - expected).max() < 4 * (0.5 / epochs) ** 0.5
    assert chisquare(means[weights > 0] * epochs, expected[weights > 0] * epochs).pvalue > 1e-3


@few
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=60), seed=st.integers(0, 2**63 - 1))
def test_exactly_one_of_neighbours_with_weight_one_is_shown(sizes: list[int], seed: int) -> None:
    """An image with several labels is then shown once per epoch, with each of them in turn."""
    image = np.repeat(np.arange(len(sizes)), sizes)
    weights = 1 / np.array(sizes)[image]
    epochs = shown(len(image), 6, seed=seed, weights=weights)
    assert (np.sort(image[epochs], axis=1) == np.arange(len(sizes))).all()


def test_a_draw_on_the_border_of_two_samples_is_the_laters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.loading.sampler.uniform", lambda *counters: np.zeros(len(counters[-1])))
    weights = np.array([0, 1, 2, 0, 0.5, 0.5, 0])
    assert sorted(shown(7, 1, seed=0, weights=weights)[0]) == [1, 2, 2, 4]


def test_neighbours_that_weigh_one_together_take_turns() -> None:
    counts = times_shown(5, 3000, seed=2, weights=np.array([1 / 3, 1 / 3, 1 / 3, 0.25, 0.75])).sum(axis=0)
    assert chisquare(counts, [1000, 1000, 1000, 750, 2250]).pvalue > 1e-3


@few
@given(weights=st.lists(st.integers(0, 4), min_size=1, max_size=50).filter(any), seed=st.integers(0, 2**63 - 1))
def test_whole_weights_are_exact(weights: list[int], seed: int) -> None:
    each = np.array(weights, dtype=np.float64)
    assert (times_shown(len(each), 4, seed=seed, weights=each) == each).all()
    evenly = times_shown(len(each), 4, seed=seed, weights=np.ones(len(each)))
    assert (evenly == 1).all()


@pytest.mark.slow
def test_millions_of_thirds_do_not_drift() -> None:
    weights = np.full(3_000_000, 1 / 3)
    shown_rows = BatchSampler(len(weights), 1_000_000, 0, weights=weights).request(0).samples
    assert (np.bincount(shown_rows // 3) == 1).all()


def test_a_draw_never_leaves_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.loading.sampler.uniform", lambda *_: np.array([1 - 2**-53]))
    order = BatchSampler(4, 3, 0, weights=np.array([1.0, 1, 1, 0]))
    assert sorted(order.request(0).samples) == [0, 1, 2]
    thirds = BatchSampler(5, 1, 0, weights=np.array([0.3, 0.3, 0.3, 0, 0]))
    assert thirds.request(0).samples.tolist() == [2]
