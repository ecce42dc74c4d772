"""Reflection at the border of warps: where it lies, that both loaders have it, and that DALI has copies enough."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loading.batch import Batch
from data_pipelines.loading.loader import pick_loader
from data_pipelines.loading.sampler import BatchRequest, BatchSampler
from data_pipelines.loading.views import Augmentation, Ints, Views, affine_maps
from data_pipelines.shards.index import Index

LOADERS = ["dali", "torch"]
SIDE = 40
PICTURES = 6


@dataclass(frozen=True)
class GivenWarps(Augmentation):
    """Warps that are given instead of drawn."""

    warps: np.ndarray | None = None

    def views(self, positions: Ints, heights: Ints, widths: Ints) -> Views:
        return replace(super().views(positions, heights, widths), warp=self.warps)


def load(name: str, index: Index, requests: list[BatchRequest], augmentation: Augmentation) -> Iterator[Batch]:
    return pick_loader(name, on_gpu=False)[1](index, requests, augmentation, torch.device("cpu"), 2)


def warped(name: str, index: Index, warps: np.ndarray, translation: float) -> np.ndarray:
    """Picture i % PICTURES by warp i, uint8 [B, SIDE, SIDE, 3]."""
    augmentation = GivenWarps("squash", SIDE, SIDE, border="reflect", translation=translation, warps=warps)
    request = BatchRequest(np.arange(len(warps)) % PICTURES, np.arange(len(warps)))
    (batch,) = load(name, index, [request], augmentation)
    return batch.images.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def squares(write_set: Callable[..., Path], photo: Callable, encode: Callable) -> tuple[Index, np.ndarray]:
    """Lossless squares and their pixels, uint8 [PICTURES, SIDE, SIDE, 3]."""
    pixels = np.stack([photo(number, SIDE, SIDE) for number in range(PICTURES)])
    return Index.load(write_set([0] * PICTURES, ["a"], images=[encode(one) for one in pixels]), "train"), pixels


@pytest.mark.parametrize("loader", LOADERS)
def test_outermost_pixels_stand_once(loader: str, squares: tuple[Index, np.ndarray]) -> None:
    """...2 1 0 1 2..., as OpenCV's BORDER_REFLECT_101 and NumPy's "reflect", not ...1 0 0 1...."""
    index, pixels = squares
    shifts = np.array([(7, 0), (0, -9), (-11, 4), (SIDE, -SIDE), (2 * SIDE, 3), (-2 * SIDE, -2 * SIDE)])
    found = warped(loader, index, affine_maps(SIDE, np.zeros(6), np.ones(6), shifts), translation=1.5)
    for image, source, (right, down) in zip(found, pixels, shifts, strict=True):
        reach = 3 * SIDE
        padded = np.pad(source, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
        expected = padded[reach - down : reach - down + SIDE, reach - right : reach - right + SIDE]
        # A coordinate that is off by a float's last digits lets a neighbour in by as much.
        np.testing.assert_allclose(image.astype(int), expected, atol=1)


def bilinear(source: np.ndarray, warp: np.ndarray) -> np.ndarray:
    """float64 [SIDE, SIDE, 3], pixel by pixel from the definition of Views."""
    reach = 3 * SIDE
    padded = np.pad(source, ((reach, reach), (reach, reach), (0, 0)), mode="reflect").astype(float)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    place = np.stack([warp[row, 0] * x + warp[row, 1] * y + warp[row, 2] for row in (1, 0)]) - 0.5 + reach
    (top, left), (down, right) = np.floor(place).astype(int), (place % 1)[..., None]
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("translation", [0.0, 0.25, 0.9])
def test_reflected_warps_are_those_of_a_plain_computation(
    loader: str, translation: float, squares: tuple[Index, np.ndarray]
) -> None:
    index, pixels = squares
    drawing = Augmentation("xray_affine", SIDE, SIDE, seed=3, translation=translation)
    warps = drawing.views(np.arange(60), *np.full((2, 60), SIDE)).warp
    assert warps is not None
    for number, image in enumerate(warped(loader, index, warps, translation)):
        difference = np.abs(image - bilinear(pixels[number % PICTURES], warps[number].astype(float)))
        assert difference.max() < 1
        assert (difference > 0.51).mean() < 0.01


@pytest.mark.parametrize("translation", [0.15, 0.25, 0.8])
def test_dali_and_torch_agree_within_one_and_black_differs(
    translation: float, squares: tuple[Index, np.ndarray]
) -> None:
    index = squares[0]
    augmentation = Augmentation("xray_affine", 48, 48, seed=1, translation=translation, border="reflect")
    requests = list(islice(BatchSampler(PICTURES, 16, seed=0).micro_batches(0, 0, 1, 16), 3))
    ours, oracle = (
        torch.cat([batch.images for batch in load(name, index, requests, augmentation)]) for name in LOADERS
    )
    difference = (ours.int() - oracle.int()).abs()
    assert difference.max() <= 1
    for name, reflected in zip(LOADERS, (ours, oracle), strict=True):
        black = [batch.images for batch in load(name, index, requests, replace(augmentation, border="black"))]
        is_black = torch.cat(black).amax(1) == 0
        assert is_black.float().mean() > 0.1
        assert (reflected.amax(1)[is_black] == 0).float().mean() < 0.05


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(32, 512),
    translation=st.floats(0, 0.999),
    angle=st.sampled_from([-45.0, 45.0]) | st.floats(-45, 45),
    scale=st.sampled_from([0.9, 1.1]) | st.floats(0.9, 1.1),
    shift=st.tuples(st.sampled_from([-1.0, 1.0]) | st.floats(-1, 1), st.sampled_from([-1.0, 1.0]) | st.floats(-1, 1)),
)
def test_there_are_copies_enough_for_all_that_a_warp_shows(
    size: int, translation: float, angle: float, scale: float, shift: tuple[float, float]
) -> None:
    augmentation = Augmentation("xray_affine", size, size, translation=translation, border="reflect")
    moved = np.array([shift]) * translation * size
    (warp,) = affine_maps(size, np.array([angle]), np.array([scale]), moved).astype(float)
    corners = np.array([[x, y, 1] for x in (0.5, size - 0.5) for y in (0.5, size - 0.5)])
    seen = corners @ warp.T - 0.5  # in pixels from the centre of the first
    reach = augmentation.reflections * (size - 1)
    assert seen.min() >= -reach
    assert seen.max() <= size - 1 + reach


def test_the_papers_translations_need_one_copy_and_black_none() -> None:
    for translation in (0.15, 0.25):
        augmentation = Augmentation("xray_affine", 224, 224, translation=translation)
        assert augmentation.reflections == 0
        assert replace(augmentation, border="reflect").reflections == 1
