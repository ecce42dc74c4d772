"""What the defaults draw stays what it was: runs of earlier versions go on with the same views."""

import hashlib

import numpy as np
import pytest

from data_pipelines.loading.views import POLICIES, Augmentation, PolicyName, Views

POSITIONS = np.concatenate([np.arange(300), 2**40 + np.arange(100)])


def digest_of(views: Views) -> str:
    """Of all that is a whole number."""
    assert views.operations is not None
    parts = [views.window, views.resized, views.offset, views.flip, views.operations.op]
    rows = np.concatenate([part.reshape(len(POSITIONS), -1) for part in parts], axis=1)
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]


DIGESTS: dict[PolicyName, str] = {
    "random_resized_crop": "ba53bd0d22bb845a",
    "resize_random_crop": "62c2c5accae9196b",
    "shorter_side_random_crop": "3b3a5a6a29f39fac",
    "center_crop": "d1a0fc89db5ef17e",
    "squash": "db59befcc331e6ed",
    "xray_affine": "1d59f7edcc609765",
}


def test_the_draws_of_every_policy_are_known_here() -> None:
    assert DIGESTS.keys() == POLICIES.keys()


@pytest.mark.parametrize(("policy", "digest"), DIGESTS.items())
def test_draws_are_those_of_earlier_versions(policy: PolicyName, digest: str) -> None:
    heights, widths = np.random.default_rng(7).integers(1, 900, (2, 400))
    augmentation = Augmentation(policy, 224, 256, seed=5, randaugment_ops=2, mixup_alpha=1.0)
    views, weights = augmentation.views(POSITIONS, heights, widths), augmentation.mixup(POSITIONS)
    assert digest_of(views) == digest
    assert views.operations is not None
    assert weights is not None
    assert (views.operations.space, views.operations.on, views.border) == ("torchvision", "crop", "black")
    assert views.operations.magnitude.dtype == np.float32
    assert views.operations.magnitude.astype(float).sum() == pytest.approx(11918.928072601557, rel=1e-12)
    assert weights.astype(float).sum() == pytest.approx(187.418004, abs=1e-4)
    if views.warp is not None:
        expected = [[361.673, 9.747, 3085.543], [-9.747, 361.673, 5472.272]]
        np.testing.assert_allclose(views.warp.astype(float).sum(axis=0), expected, atol=0.02)


def test_new_settings_keep_the_cut_and_the_operations() -> None:
    sizes = np.full((2, len(POSITIONS)), 300)
    plain = Augmentation("xray_affine", 224, 256, seed=5, randaugment_ops=2).views(POSITIONS, *sizes)
    changed = Augmentation(
        "xray_affine", 224, 256, seed=5, randaugment_ops=2, border="reflect", mixup_group=64, randaugment_on="image"
    ).views(POSITIONS, *sizes)
    assert digest_of(changed) == digest_of(plain)
    np.testing.assert_array_equal(changed.warp, plain.warp)
