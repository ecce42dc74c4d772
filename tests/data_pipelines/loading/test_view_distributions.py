"""What is drawn for views, MixUp and RandAugment is distributed as it should be."""

import numpy as np
import pytest
import torch
from drawn_views import MANY, views_of_size
from scipy.stats import beta, chisquare, ks_2samp
from torchvision.transforms import RandomResizedCrop

from data_pipelines.loading.randaugment import OPERATIONS
from data_pipelines.loading.views import Augmentation, mixup_weights


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


def test_resize_random_crop_reaches_every_offset_evenly() -> None:
    offset = views_of_size("resize_random_crop", MANY, 31, 77).offset
    for column in offset.T:
        assert chisquare(np.bincount(column, minlength=33)).pvalue > 1e-4
        assert column.max() == 32
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.03


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
