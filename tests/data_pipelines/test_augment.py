"""Views lie inside their pictures, depend on the position alone, and are distributed as they should be."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, chisquare, ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import Resize

from data_pipelines.augment import POLICIES, Augmentation, PolicyName, Views, mixup_weights

RANDOM_POLICIES: list[PolicyName] = ["random_resized_crop", "resize_random_crop"]
MANY = np.arange(20_000)


def views_of_size(policy: PolicyName, positions: np.ndarray, height: int, width: int, seed: int = 0) -> Views:
    heights, widths = np.full(len(positions), height), np.full(len(positions), width)
    return Augmentation(policy, 224, 256, seed).views(positions, heights, widths)


def table(views: Views) -> np.ndarray:
    """All that describes each view, [B, 9]."""
    return np.concatenate([views.window, views.resized, views.offset, views.flip[:, None]], axis=1)


def test_known_values() -> None:
    """A run that goes on from an old checkpoint relies on them."""
    first = np.arange(3)
    cropped = views_of_size("random_resized_crop", first, 480, 640)
    assert cropped.window.tolist() == [[102, 117, 355, 462], [48, 109, 254, 286], [131, 373, 236, 255]]
    assert cropped.flip.tolist() == [False, True, False]
    assert views_of_size("resize_random_crop", first, 480, 640).offset.tolist() == [[26, 21], [7, 10], [17, 31]]
    assert mixup_weights(0, np.arange(4), 1.0).round(6).tolist() == pytest.approx([0.977048] * 2 + [0.777752] * 2)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=20),
    seed=st.integers(0, 2**63 - 1),
    first=st.integers(0, 2**50),
)
def test_windows_lie_inside_for_all_sizes(
    policy: PolicyName, sizes: list[tuple[int, int]], seed: int, first: int
) -> None:
    extremes = [(1, 1), (1, 5000), (5000, 1), (1, 2), (2, 3), (10, 10_000)]
    heights, widths = np.array(sizes + extremes).T
    views = Augmentation(policy, 224, 256, seed).views(first + np.arange(len(heights)), heights, widths)
    top, left, height, width = views.window.T
    assert min(top.min(), left.min()) >= 0
    assert min(height.min(), width.min()) >= 1
    assert (top + height <= heights).all()
    assert (left + width <= widths).all()
    assert (views.offset >= 0).all()
    assert (views.offset + views.size <= views.resized).all()
    assert (views.window.dtype, views.resized.dtype, views.offset.dtype, views.flip.dtype) == (*[np.int64] * 3, bool)


@pytest.mark.parametrize("policy", POLICIES)
def test_views_are_a_function_of_the_position_alone(policy: PolicyName) -> None:
    rng = np.random.default_rng(0)
    positions, heights, widths = np.arange(500, 628), rng.integers(1, 600, 128), rng.integers(1, 600, 128)
    augmentation = Augmentation(policy, 64, 80, seed=4)
    whole = table(augmentation.views(positions, heights, widths))
    parts = [slice(0, 1), slice(1, 50), slice(50, 50), slice(50, 128)]
    split = [augmentation.views(positions[part], heights[part], widths[part]) for part in parts]
    assert np.array_equal(whole, np.concatenate([table(views) for views in split]))
    shuffled = rng.permutation(128)
    views = augmentation.views(positions[shuffled], heights[shuffled], widths[shuffled])
    assert np.array_equal(whole[shuffled], table(views))
    assert {field.name for field in fields(views)} == {"window", "resized", "offset", "flip", "size"}


@pytest.mark.parametrize("policy", RANDOM_POLICIES)
def test_repeats_of_an_image_and_other_seeds_get_other_views(policy: PolicyName) -> None:
    repeats = table(views_of_size(policy, MANY[:400], 300, 400))
    assert len(np.unique(repeats, axis=0)) > 300
    assert np.mean((repeats == table(views_of_size(policy, MANY[:400], 300, 400, seed=1))).all(1)) < 0.05


@pytest.mark.parametrize("policy", POLICIES)
def test_flips(policy: PolicyName) -> None:
    views = views_of_size(policy, MANY, 300, 400)
    draws = policy in RANDOM_POLICIES
    assert abs(views.flip.mean() - (0.5 if draws else 0)) < 0.015
    if draws:  # neither where the window lies nor the next image says anything about the flip
        place = views.window[:, 1] + views.offset[:, 1]
        assert abs(np.corrcoef(views.flip, place)[0, 1]) < 0.03
        assert abs(np.corrcoef(views.flip[1:], views.flip[:-1])[0, 1]) < 0.03
    heights, widths = np.full_like(MANY, 300), np.full_like(MANY, 400)
    unflipped = Augmentation(policy, 224, 256, flip=False).views(MANY, heights, widths)
    assert not unflipped.flip.any()
    assert np.array_equal(table(unflipped)[:, :-1], table(views)[:, :-1])


@pytest.mark.parametrize(("height", "width"), [(300, 400), (600, 150), (64, 64)])
def test_random_resized_crop_is_distributed_as_torchvisions(height: int, width: int) -> None:
    torch.manual_seed(0)
    picture = torch.empty(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(4000)])
    ours = views_of_size("random_resized_crop", MANY, height, width).window
    measures = {
        "area": lambda window: window[:, 2] * window[:, 3] / (height * width),
        "log ratio": lambda window: np.log(window[:, 3] / window[:, 2]),
        "top": lambda window: (window[:, 0] + 0.5) / (height - window[:, 2] + 1),
        "left": lambda window: (window[:, 1] + 0.5) / (width - window[:, 3] + 1),
    }
    for name, measure in measures.items():
        one, other = measure(ours), measure(theirs)
        assert abs(one.mean() - other.mean()) < 4 * (other.std() + 1e-9) * 4000**-0.5, name
        assert ks_2samp(one, other).pvalue > 1e-3, name


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [(10, 1000, [0, 493, 10, 13]), (1000, 10, [493, 0, 13, 10]), (1, 1, [0, 0, 1, 1]), (1, 900, [0, 449, 1, 1])],
)
def test_no_fitting_window_falls_back_to_the_centre(height: int, width: int, window: list[int]) -> None:
    views = views_of_size("random_resized_crop", np.arange(50), height, width)
    assert (views.window == window).all()
    assert (views.resized == 224).all()


def test_resize_random_crop_reaches_every_offset_evenly() -> None:
    offset = views_of_size("resize_random_crop", MANY, 31, 77).offset
    for column in offset.T:
        assert chisquare(np.bincount(column, minlength=33)).pvalue > 1e-4
        assert column.max() == 32
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("height", "width", "resized", "offset"),
    [
        (480, 640, (256, 341), (16, 58)),
        (640, 480, (341, 256), (58, 16)),
        (256, 256, (256, 256), (16, 16)),
        (1, 1, (256, 256), (16, 16)),
        (2, 3, (256, 384), (16, 80)),
        (100, 1001, (256, 2562), (16, 1169)),
    ],
)
def test_evaluation_views_on_known_numbers(
    height: int, width: int, resized: tuple[int, int], offset: tuple[int, int]
) -> None:
    whole = [0, 0, height, width]
    centre = views_of_size("center_crop", np.arange(1), height, width)
    assert table(centre).tolist() == [[*whole, *resized, *offset, 0]]
    assert tuple(Resize(256)(torch.empty(1, height, width)).shape[1:]) == resized
    squashed = views_of_size("squash", np.arange(1), height, width)
    assert table(squashed).tolist() == [[*whole, 224, 224, 0, 0, 0]]


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_mixup_weights_follow_beta_and_partners_share_them(alpha: float) -> None:
    positions = np.arange(40_000)
    weights = mixup_weights(3, positions, alpha)
    assert weights.dtype == np.float32
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert np.array_equal(weights, mixup_weights(3, positions ^ 1, alpha))
    one_each = weights[::2].astype(float)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(one_each.mean() - 0.5) < 4 * (variance / 20_000) ** 0.5
    assert abs(one_each.var() - variance) < 0.02 * variance
    shares = np.histogram(one_each, [0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1])[0] / len(one_each)
    expected = np.diff(beta(alpha, alpha).cdf([0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1]))
    np.testing.assert_allclose(shares, expected, atol=0.012)


def test_mixup_is_off_without_alpha() -> None:
    assert Augmentation("squash", 8, 8).mixup(np.arange(4)) is None
    on = Augmentation("squash", 8, 8, seed=3, mixup_alpha=0.1).mixup(np.arange(4))
    assert np.array_equal(on, mixup_weights(3, np.arange(4), 0.1))
