"""Rotation, scale and translation of X-rays: drawn evenly from their ranges, and applied as drawn."""

import numpy as np
import pytest
from drawn_views import MANY, views_of_size
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from data_pipelines.loading.views import AUTHORS_TRANSLATION, PAPER_TRANSLATION, Augmentation, affine_maps


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
