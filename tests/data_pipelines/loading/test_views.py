"""Views lie inside their pictures, depend on the position alone, and are distributed as they should be."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import numpy as np
import pytest
import torch
from augmentation_values import BEFORE, OTHER_VALUES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, chisquare, ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import Resize

from data_pipelines.loading import views as views_module
from data_pipelines.loading.randaugment import OPERATIONS
from data_pipelines.loading.views import (
    AUTHORS_TRANSLATION,
    PAPER_TRANSLATION,
    POLICIES,
    RESIZE_FIRST,
    Augmentation,
    PolicyName,
    Purpose,
    Views,
    affine_maps,
    mixup_weights,
)

DRAW_NOTHING: set[PolicyName] = {"center_crop", "squash"}
RANDOM_POLICIES = [policy for policy in POLICIES if policy not in DRAW_NOTHING]
MANY = np.arange(20_000)


def views_of_size(policy: PolicyName, positions: np.ndarray, height: int, width: int, seed: int = 0) -> Views:
    heights, widths = np.full(len(positions), height), np.full(len(positions), width)
    return Augmentation(policy, 224, 256, seed).views(positions, heights, widths)


def table(views: Views) -> np.ndarray:
    """All that describes each view, [B, columns]; the flip comes last."""
    columns = [views.window, views.resized, views.offset]
    if views.warp is not None:
        columns.append(views.warp.reshape(-1, 6))
    if views.operations is not None:
        columns += [views.operations.op, views.operations.magnitude]
        if views.operations.cutout is not None:
            columns.append(views.operations.cutout.reshape(-1, 2 * views.operations.op.shape[1]))
    return np.concatenate([*columns, views.flip[:, None]], axis=1)


def test_known_values() -> None:
    """A run that goes on from an old checkpoint relies on them."""
    first = np.arange(3)
    cropped = views_of_size("random_resized_crop", first, 480, 640)
    assert cropped.window.tolist() == [[102, 117, 355, 462], [48, 109, 254, 286], [131, 373, 236, 255]]
    assert cropped.flip.tolist() == [False, True, False]
    assert views_of_size("resize_random_crop", first, 480, 640).offset.tolist() == [[26, 21], [7, 10], [17, 31]]
    assert mixup_weights(0, np.arange(4), 1.0).round(6).tolist() == pytest.approx([0.977048] * 2 + [0.777752] * 2)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            "random_resized_crop",
            [
                [47, 151, 422, 397, 224, 224, 0, 0, 0],
                [0, 449, 1, 1, 224, 224, 0, 0, 1],
                [2, 189, 299, 293, 224, 224, 0, 0, 1],
                [13, 1, 51, 46, 224, 224, 0, 0, 0],
                [493, 0, 13, 10, 224, 224, 0, 0, 1],
            ],
        ),
        (
            "resize_random_crop",
            [
                [0, 0, 480, 640, 256, 256, 26, 20, 0],
                [0, 0, 1, 900, 256, 256, 10, 25, 1],
                [0, 0, 333, 500, 256, 256, 2, 29, 1],
                [0, 0, 64, 64, 256, 256, 32, 2, 0],
                [0, 0, 1000, 10, 256, 256, 15, 18, 1],
            ],
        ),
        (
            "center_crop",
            [
                [0, 0, 480, 640, 256, 341, 16, 58, 0],
                [0, 0, 1, 900, 256, 230400, 16, 115088, 0],
                [0, 0, 333, 500, 256, 384, 16, 80, 0],
                [0, 0, 64, 64, 256, 256, 16, 16, 0],
                [0, 0, 1000, 10, 25600, 256, 12688, 16, 0],
            ],
        ),
        (
            "squash",
            [
                [0, 0, 480, 640, 224, 224, 0, 0, 0],
                [0, 0, 1, 900, 224, 224, 0, 0, 0],
                [0, 0, 333, 500, 224, 224, 0, 0, 0],
                [0, 0, 64, 64, 224, 224, 0, 0, 0],
                [0, 0, 1000, 10, 224, 224, 0, 0, 0],
            ],
        ),
    ],
)
def test_known_views_of_every_older_policy(policy: PolicyName, expected: list[list[int]]) -> None:
    """Draws with new purposes left the old ones as they were."""
    positions = np.array([0, 1, 2, 977, 2**40])
    heights, widths = np.array([480, 1, 333, 64, 1000]), np.array([640, 900, 500, 64, 10])
    views = Augmentation(policy, 224, 256, seed=11).views(positions, heights, widths)
    assert table(views).tolist() == expected
    assert views.warp is views.operations is None


def test_known_warps_and_operations() -> None:
    augmentation = Augmentation("xray_affine", 224, 256, seed=11, randaugment_ops=2)
    views = augmentation.views(np.array([0, 977]), *np.full((2, 2), 224))
    assert views.warp is not None
    assert views.operations is not None
    warps = [
        [[0.9719, 0.0839, -5.4336], [-0.0839, 0.9719, 11.3816]],
        [[0.7685, 0.4864, -10.3986], [-0.4864, 0.7685, 61.523]],
    ]
    np.testing.assert_allclose(views.warp, warps, atol=1e-4)
    assert views.operations.op.tolist() == [[6, 8], [2, 8]]
    np.testing.assert_allclose(views.operations.magnitude, [[-0.27, -0.27], [-0.09, 0.27]], rtol=1e-6)


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
    assert {field.name for field in fields(views)} == described, "put it into `table` above, and into `described`"


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


def numbers_of(warp: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angle (degrees), scale and shift (pixels) of each warp."""
    scale = np.linalg.det(warp[:, :, :2].astype(float)) ** -0.5
    angle = np.rad2deg(np.arctan2(warp[:, 0, 1], warp[:, 0, 0]))
    # The centre of the picture comes out at the centre and the shift.
    forward = np.linalg.inv(warp[:, :, :2].astype(float))
    out = (forward @ (size / 2 - warp[:, :, 2:].astype(float)))[:, :, 0]
    return angle, scale, out - size / 2


@pytest.mark.parametrize("translation", [PAPER_TRANSLATION, AUTHORS_TRANSLATION])
def test_xray_affine_draws_evenly_from_its_ranges(translation: float) -> None:
    assert (PAPER_TRANSLATION, AUTHORS_TRANSLATION) == (0.15, 0.25)
    augmentation = Augmentation("xray_affine", 224, 256, seed=3, translation=translation)
    views = augmentation.views(MANY, *np.full((2, len(MANY)), 300))
    assert views.warp is not None
    assert (views.warp.dtype, views.warp.shape) == (np.float32, (len(MANY), 2, 3))
    linear = views.warp[:, :, :2]
    np.testing.assert_allclose(linear[:, 0, 0], linear[:, 1, 1])
    np.testing.assert_allclose(linear[:, 0, 1], -linear[:, 1, 0])
    angle, scale, shift = numbers_of(views.warp, 224)
    reach = translation * 224
    drawn = [(angle, -45, 45), (scale, 0.9, 1.1), (shift[:, 0], -reach, reach), (shift[:, 1], -reach, reach)]
    for values, low, high in drawn:
        assert kstest(values, "uniform", (low, high - low)).pvalue > 1e-3
        assert low - 1e-3 < values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() < high + 1e-3
    correlation = np.corrcoef([values for values, _, _ in drawn] + [views.flip])
    assert np.abs(correlation - np.eye(5)).max() < 0.03


@pytest.mark.parametrize(
    ("height", "width", "window"), [(300, 300, [0, 0, 300, 300]), (50, 81, [0, 15, 50, 50]), (9, 4, [2, 0, 4, 4])]
)
def test_xray_affine_begins_with_the_central_square(height: int, width: int, window: list[int]) -> None:
    views = views_of_size("xray_affine", np.arange(20), height, width)
    assert (views.window == window).all()
    assert (views.resized == 224).all()
    assert (views.offset == 0).all()


@settings(deadline=None)
@given(size=st.integers(1, 4096))
def test_nothing_to_do_is_the_identity_map(size: int) -> None:
    maps = affine_maps(size, np.zeros(2), np.ones(2), np.zeros((2, 2)))
    assert maps.tolist() == [[[1, 0, 0], [0, 1, 0]]] * 2
    assert maps.dtype == np.float32


@settings(deadline=None)
@given(
    size=st.integers(8, 1024),
    angle=st.floats(-180, 180),
    scale=st.floats(0.5, 2),
    shift=st.tuples(st.floats(-100, 100), st.floats(-100, 100)),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_point_is_turned_enlarged_and_moved_as_drawn(
    size: int, angle: float, scale: float, shift: tuple[float, float], place: tuple[float, float]
) -> None:
    (warp,) = affine_maps(size, np.array([angle]), np.array([scale]), np.array([shift])).astype(float)
    seen = np.array(place) * size
    x, y = seen - size / 2
    turn = np.deg2rad(angle)  # clockwise, since y points down
    turned = np.array([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)])
    out = size / 2 + scale * turned + np.array(shift)
    np.testing.assert_allclose(warp[:, :2] @ out + warp[:, 2], seen, atol=2e-3)


def test_operations_are_drawn_evenly_and_independently() -> None:
    augmentation = Augmentation("squash", 224, 256, seed=2, randaugment_ops=3, randaugment_magnitude=20)
    drawn = augmentation.views(MANY, *np.full((2, len(MANY)), 300)).operations
    assert drawn is not None
    assert (drawn.op.dtype, drawn.op.shape) == (np.int64, (len(MANY), 3))
    assert (drawn.magnitude.dtype, drawn.magnitude.shape) == (np.float32, (len(MANY), 3))
    turned = drawn.op == OPERATIONS.index("Rotate")
    for turn in range(3):
        assert chisquare(np.bincount(drawn.op[:, turn], minlength=14)).pvalue > 1e-4
        signs = drawn.magnitude[turned[:, turn], turn]
        assert set(signs.tolist()) == {-20, 20}
        assert abs((signs > 0).mean() - 0.5) < 4 * 0.5 * len(signs) ** -0.5
    assert np.abs(np.corrcoef(drawn.op.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(drawn.op[1:, 0], drawn.op[:-1, 0])[0, 1]) < 0.03
    # Fewer operations are the first of more; the cut and the flip know nothing of them.
    one = Augmentation("squash", 224, 256, seed=2, randaugment_ops=1, randaugment_magnitude=20).operations(
        MANY, MANY, MANY
    )
    assert one is not None
    assert np.array_equal(one.op[:, 0], drawn.op[:, 0])
    assert np.array_equal(one.magnitude[:, 0], drawn.magnitude[:, 0])


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
