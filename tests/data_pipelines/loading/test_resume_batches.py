"""What a step shows does not depend on where the run was started, nor on how many ranks share it: bit by bit."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipelines.loading.batch import Batch
from data_pipelines.loading.loader import pick_loader, read_ahead
from data_pipelines.loading.sampler import BatchSampler, Shuffle
from data_pipelines.loading.views import POLICIES, Augmentation, PolicyName
from data_pipelines.shards.index import Index

STEPS, RESUMED_AT, BATCH = 4, 1, 12


@pytest.fixture(scope="module")
def weighted(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> Index:
    """Eleven images of all shapes, of which an epoch shows ten on average; the last but one never."""
    kinds = [{"file_format": "JPEG", "quality": 90}, {"file_format": "PNG"}]
    images = [encode(photo(i, 30 + 7 * i, 65 - 5 * i), **kinds[i % 2]) for i in range(11)]
    index = Index.load(write_set([i % 3 for i in range(11)], ["a", "b", "c"], images=images, shard_images=4), "train")
    return replace(index, weight=np.array([0.5, 0.5, 1, 1, 2.5, 0.25, 0.25, 1, 1.7, 0, 1.3]))


def step_by_step(
    index: Index, order: BatchSampler, augmentation: Augmentation, loader: str, world_size: int, first_step: int
) -> list[list[Batch]]:
    """The batches of each step from the first, over all ranks, each of which starts a loader of its own."""
    steps: list[list[Batch]] = [[] for _ in range(first_step, STEPS)]
    for rank in range(world_size):
        each = order.num_micro_batches(world_size, 4)
        requests = read_ahead(index, order.micro_batches(first_step, rank, world_size, 4), world_size)
        batches = pick_loader(loader, on_gpu=False)[1](index, requests, augmentation, torch.device("cpu"), 2)
        for batches_of_step in steps:
            batches_of_step += [batch for batch in islice(batches, each) if not batch.is_padding]
    return steps


def contents(batches: list[Batch]) -> dict[str, torch.Tensor]:
    return {
        "images": torch.cat([batch.images for batch in batches]),
        "labels": torch.cat([batch.labels for batch in batches]),
        "mixup": torch.cat([batch.mixup for batch in batches if batch.mixup is not None]),
        "samples": torch.from_numpy(np.concatenate([batch.samples for batch in batches])),
    }


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", ["full", "blocks"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_a_step_is_the_same_on_any_start_and_any_ranks(
    loader: str, policy: PolicyName, shuffle: Shuffle, weighted: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipelines.loading.sampler.BLOCK", 2)
    monkeypatch.setattr("data_pipelines.loading.sampler.WINDOW", 6)
    order = BatchSampler(len(weighted), BATCH, seed=3, group_size=2, shuffle=shuffle, weights=weighted.weights("none"))
    augmentation = Augmentation(policy, size=32, resize=40, seed=3, mixup_alpha=0.1, randaugment_ops=1)
    settings: tuple[Any, ...] = (weighted, order, augmentation, loader)
    undisturbed = [contents(batches) for batches in step_by_step(*settings, world_size=1, first_step=0)]
    assert len({images.numpy().tobytes() for step in undisturbed for images in step["images"]}) > 20
    for world_size in (1, 2, 4):
        resumed = [contents(batches) for batches in step_by_step(*settings, world_size, first_step=RESUMED_AT)]
        for step, same in zip(undisturbed[RESUMED_AT:], resumed, strict=True):
            assert step["images"].shape == (BATCH, 3, 32, 32)
            for name, tensor in step.items():
                assert torch.equal(tensor, same[name]), (world_size, name)
