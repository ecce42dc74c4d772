"""MixUp's weights of pairs and of whole steps, on any number of ranks and from any step on."""

from itertools import islice
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from data_pipelines.loading.sampler import BatchSampler
from data_pipelines.loading.views import Augmentation, mixup_weights


@settings(max_examples=30, deadline=None)
@given(
    half_batch=st.integers(1, 40),
    half_micro=st.integers(1, 12),
    world_size=st.integers(1, 16),
    first_step=st.integers(0, 2**40),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_step_has_one_weight_on_every_rank_and_after_a_resume(
    half_batch: int, half_micro: int, world_size: int, first_step: int, seed: int
) -> None:
    batch, world_size = 2 * half_batch, min(world_size, half_batch)
    order = BatchSampler(37, batch, seed, group_size=2)
    augmentation = Augmentation("squash", 32, 32, seed, mixup_alpha=0.4, mixup_group=batch)
    steps = [
        np.concatenate(
            [augmentation.mixup(order.request(step, rank, world_size).positions) for rank in range(world_size)]
        )
        for step in range(first_step, first_step + 3)
    ]
    for weights in steps:
        assert len(weights) == batch
        assert (weights == weights[0]).all()
    assert len({float(weights[0]) for weights in steps}) == 3
    # Going on from the second of them, in other micro-batches.
    for rank in range(world_size):
        ranks, micro_batch = (rank, world_size), 2 * half_micro
        count = order.num_micro_batches(world_size, micro_batch)
        requests = islice(order.micro_batches(first_step + 1, *ranks, micro_batch), count)
        for request in requests:
            assert (augmentation.mixup(request.positions) == steps[1][0]).all()


def test_weights_of_steps_are_drawn_from_the_same_distribution() -> None:
    batch, steps = 8, 20_000
    weights = mixup_weights(3, np.arange(batch * steps), 0.1, batch).reshape(steps, batch)
    one_each = weights[:, 0].astype(float)
    assert (weights == weights[:, :1]).all()
    edges = [0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1]
    shares = np.histogram(one_each, edges)[0] / steps
    np.testing.assert_allclose(shares, np.diff(beta(0.1, 0.1).cdf(edges)), atol=0.012)
    assert abs(np.corrcoef(one_each[1:], one_each[:-1])[0, 1]) < 0.03


@pytest.mark.parametrize("group", [2, 6, 128])
def test_means_agree_and_steps_of_one_weight_vary_more(group: int) -> None:
    per_step = mixup_weights(1, np.arange(128 * 4000), 0.1, group).reshape(4000, 128).mean(1)
    assert abs(per_step.mean() - 0.5) < 0.02
    variance = cast(float, beta(0.1, 0.1).var()) * group / 128
    assert abs(per_step.var() - variance) < 0.1 * variance


def test_pairs_are_the_default() -> None:
    positions = np.arange(40)
    pairs = Augmentation("squash", 8, 8, seed=2, mixup_alpha=0.3).mixup(positions)
    assert pairs is not None
    assert np.array_equal(pairs, mixup_weights(2, positions, 0.3))
    assert np.array_equal(pairs, mixup_weights(2, positions, 0.3, 2))
    assert len(np.unique(pairs)) == 20
