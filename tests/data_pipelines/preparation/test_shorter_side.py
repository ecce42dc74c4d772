"""Transfer training of the authors' program: shorter side to `resize` as torchvision's Resize, then a random crop."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torchvision.transforms.v2 import Resize

from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import BatchRequest
from data_pipelines.loading.views import Augmentation, Views
from data_pipelines.shards.index import Index

MANY = np.arange(20_000)


def views_of(positions: np.ndarray, height: int, width: int, size: int = 224, resize: int = 256) -> Views:
    heights, widths = np.full(len(positions), height), np.full(len(positions), width)
    return Augmentation("shorter_side_random_crop", size, resize).views(positions, heights, widths)


def test_known_values() -> None:
    views = views_of(np.arange(3), 480, 640)
    assert views.window.tolist() == [[0, 0, 480, 640]] * 3
    assert views.resized.tolist() == [[256, 341]] * 3
    assert views.offset.tolist() == [[26, 77], [7, 36], [17, 114]]
    assert views.flip.tolist() == [False, True, False]


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    size=st.integers(32, 200),
    margin=st.integers(0, 80),
    first=st.integers(0, 2**50),
)
def test_sizes_are_torchvisions_and_crops_lie_inside(
    height: int, width: int, size: int, margin: int, first: int
) -> None:
    views = views_of(first + np.arange(20), height, width, size, size + margin)
    theirs = Resize(size + margin)(torch.empty(1, height, width, device="meta")).shape[1:]
    assert (views.resized == theirs).all()
    assert (views.offset >= 0).all()
    assert (views.offset + size <= views.resized).all()


def test_crops_reach_every_offset_evenly() -> None:
    """Of both sides, as torchvision's RandomCrop."""
    offset = views_of(MANY, 300, 400).offset
    for column, count in zip(offset.T, (33, 341 - 224 + 1), strict=True):
        assert chisquare(np.bincount(column, minlength=count)).pvalue > 1e-4
        assert column.max() == count - 1
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.03


@pytest.mark.parametrize("loader", ["dali", "torch"])
def test_loaders_keep_the_aspect(loader: str, write_set: Callable[..., Path], encode: Callable) -> None:
    """A circle in a wide picture stays one, where resize_random_crop squashes it."""
    row, column = np.mgrid[:96, :288]
    pixels = np.where((row - 48) ** 2 + (column - 144) ** 2 < 40**2, 255, 0).astype(np.uint8)
    index = Index.load(write_set([0], ["a"], images=[encode(pixels)]), "train")
    request = BatchRequest(np.zeros(40, np.int64), np.arange(40))
    widths = {}
    for policy in ("shorter_side_random_crop", "resize_random_crop"):
        augmentation = Augmentation(policy, 48, 48)  # type: ignore[arg-type]
        (batch,) = pick_loader(loader, on_gpu=False)[1](index, [request], augmentation, torch.device("cpu"), 2)
        widths[policy] = (batch.images[:, 0, 24] > 127).sum(1).max().item()
    assert abs(widths["shorter_side_random_crop"] - 40) <= 1
    assert abs(widths["resize_random_crop"] - 40 / 3) <= 1
