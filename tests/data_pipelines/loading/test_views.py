"""Views of every policy lie inside their pictures and depend on the position alone."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import numpy as np
import pytest
from augmentation_values import BEFORE, OTHER_VALUES
from drawn_views import MANY, table, views_of_size
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loading import views as views_module
from data_pipelines.loading.views import POLICIES, RESIZE_FIRST, Augmentation, PolicyName, Purpose

DRAW_NOTHING: set[PolicyName] = {"center_crop", "squash"}
RANDOM_POLICIES = [policy for policy in POLICIES if policy not in DRAW_NOTHING]


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


def test_every_setting_has_another_value() -> None:
    """Other tests switch every setting on, or see that it reaches every loader."""
    names = {field.name for field in fields(Augmentation)}
    assert OTHER_VALUES.keys() == names, "give it a value in OTHER_VALUES of augmentation_values.py"
    same = [name for name in names - {"policy", "size", "resize"} if OTHER_VALUES[name] == getattr(BEFORE, name)]
    assert same == [], "OTHER_VALUES has the defaults of these"


@pytest.mark.parametrize("more", [{}, {"randaugment_space": "torchvision", "randaugment_on": "crop"}], ids=["", "crop"])
@pytest.mark.parametrize("policy", POLICIES)
def test_views_are_a_function_of_the_position_alone(policy: PolicyName, more: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    positions, heights, widths = np.arange(500, 628), rng.integers(1, 600, 128), rng.integers(1, 600, 128)
    changed = OTHER_VALUES | {"policy": policy, "size": 64, "resize": 80, "flip": True, **more}
    augmentation = Augmentation(**changed)
    whole = table(augmentation.views(positions, heights, widths))
    parts = [slice(0, 1), slice(1, 50), slice(50, 50), slice(50, 128)]
    split = [augmentation.views(positions[part], heights[part], widths[part]) for part in parts]
    remedy = "draw by uniform() or integers() of common/counter_rng.py, from the position and a Purpose alone"
    assert np.array_equal(whole, np.concatenate([table(views) for views in split])), remedy
    shuffled = rng.permutation(128)
    views = augmentation.views(positions[shuffled], heights[shuffled], widths[shuffled])
    assert np.array_equal(whole[shuffled], table(views)), remedy
    described = {"window", "resized", "offset", "flip", "size", "warp", "operations", "border"}
    assert {field.name for field in fields(views)} == described, "put it into `table` (drawn_views.py) and `described`"


@pytest.mark.parametrize("policy", POLICIES)
def test_no_two_draws_of_a_view_share_a_purpose(policy: PolicyName, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be the same number: each brighter image mirrored, say."""
    purposes: list[Purpose] = []

    def noted(draw: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def drawn(*arguments: Any) -> np.ndarray:
            (purpose,) = [argument for argument in arguments if isinstance(argument, Purpose)]
            purposes.append(purpose)
            return draw(*arguments)

        return drawn

    for name in ("uniform", "integers"):
        monkeypatch.setattr(views_module, name, noted(getattr(views_module, name)))
    augmentation = Augmentation(**OTHER_VALUES | {"policy": policy, "size": 64, "resize": 80, "flip": True})
    augmentation.views(MANY[:8], *np.full((2, 8), 100))
    augmentation.mixup(MANY[:8])
    assert len(purposes) == len(set(purposes)) > 0, "give each draw a number of its own in Purpose"


@pytest.mark.parametrize("policy", RANDOM_POLICIES)
def test_repeats_of_an_image_and_other_seeds_get_other_views(policy: PolicyName) -> None:
    repeats = table(views_of_size(policy, MANY[:400], 300, 400))
    different = len(np.unique(repeats, axis=0))
    assert different > 300, f"400 repeats of an image have only {different} different views: draw from more of them"
    assert np.mean((repeats == table(views_of_size(policy, MANY[:400], 300, 400, seed=1))).all(1)) < 0.05


def test_every_policy_can_be_chosen_by_its_name() -> None:
    assert set(get_args(PolicyName)) == set(POLICIES)


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_that_use_resize_are_listed(policy: PolicyName) -> None:
    sizes = np.full(50, 300), np.full(50, 400)
    views = [Augmentation(policy, 224, resize).views(MANY[:50], *sizes) for resize in (256, 280)]
    is_used = not np.array_equal(table(views[0]), table(views[1]))
    assert is_used == (policy in RESIZE_FIRST)


@pytest.mark.parametrize("policy", POLICIES)
def test_flips(policy: PolicyName) -> None:
    views = views_of_size(policy, MANY, 300, 400)
    draws = policy in RANDOM_POLICIES
    assert abs(views.flip.mean() - (0.5 if draws else 0)) < 0.015
    if draws:  # neither where the window lies nor the next image says anything about the flip
        place = views.window[:, 1] + views.offset[:, 1] + (0 if views.warp is None else views.warp[:, 0, 2])
        assert abs(np.corrcoef(views.flip, place)[0, 1]) < 0.03
        assert abs(np.corrcoef(views.flip[1:], views.flip[:-1])[0, 1]) < 0.03
    heights, widths = np.full_like(MANY, 300), np.full_like(MANY, 400)
    unflipped = Augmentation(policy, 224, 256, flip=False).views(MANY, heights, widths)
    assert not unflipped.flip.any()
    assert np.array_equal(table(unflipped)[:, :-1], table(views)[:, :-1])


@pytest.mark.parametrize("policy", POLICIES)
def test_operations_go_with_every_policy_and_change_nothing_else(policy: PolicyName) -> None:
    sizes = np.full((2, 50), 300)
    without = Augmentation(policy, 32, 40, seed=2).views(MANY[:50], *sizes)
    views = Augmentation(policy, 32, 40, seed=2, randaugment_ops=2).views(MANY[:50], *sizes)
    drawn = Augmentation("squash", 32, 40, seed=2, randaugment_ops=2).operations(MANY[:50], *sizes)
    assert without.operations is None
    assert views.operations is not None
    assert drawn is not None
    assert np.array_equal(views.operations.op, drawn.op)
    assert np.array_equal(views.operations.magnitude, drawn.magnitude)
    for name in ("window", "resized", "offset", "flip", "warp"):
        np.testing.assert_array_equal(getattr(views, name), getattr(without, name))
