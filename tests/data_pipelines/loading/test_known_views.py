"""Views on known numbers, which runs that go on from old checkpoints rely on."""

import numpy as np
import pytest
import torch
from drawn_views import table, views_of_size
from torchvision.transforms.v2 import Resize

from data_pipelines.loading.views import Augmentation, PolicyName, mixup_weights


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


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [(10, 1000, [0, 493, 10, 13]), (1000, 10, [493, 0, 13, 10]), (1, 1, [0, 0, 1, 1]), (1, 900, [0, 449, 1, 1])],
)
def test_no_fitting_window_falls_back_to_the_centre(height: int, width: int, window: list[int]) -> None:
    views = views_of_size("random_resized_crop", np.arange(50), height, width)
    assert (views.window == window).all()
    assert (views.resized == 224).all()


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
