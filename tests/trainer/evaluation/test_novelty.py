"""Images that are unlike the training images are told, at the promised rate of false alarms."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from tiny_weights import SMALL
from torch import Tensor

from trainer.evaluation.calibration.novelty import KEY, PARTS, Normal, Novelty, fit_novelty, read_novelty
from trainer.evaluation.outputs import NUM_GREY, describe
from trainer.models.bit import build_model

WIDTH = 40


def descriptions(rng: np.random.Generator, count: int, shift: float = 0.0) -> Tensor:
    """Correlated numbers."""
    mixing = np.random.default_rng(0).normal(size=(12, WIDTH + NUM_GREY))
    values = rng.normal(size=(count, 12)) @ mixing + 0.5 * rng.normal(size=(count, WIDTH + NUM_GREY)) + shift
    return torch.from_numpy(values.astype(np.float32))


def fitted(saved: dict[str, Any]) -> Novelty:
    found = read_novelty(saved[KEY])
    assert isinstance(found, Novelty), found
    return found


def test_the_distance_is_mahalanobis_of_probabilistic_pca() -> None:
    """By the covariance written out; all directions of noise are alike."""
    values = descriptions(np.random.default_rng(1), 400)[:, :WIDTH].double().numpy()
    normal = Normal.fit(values)
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    kept = len(normal.variances)
    own, directions = np.linalg.eigh(np.cov(scaled.T))
    own[:-kept] = own[:-kept].mean()
    inverse = np.linalg.inv(directions * own @ directions.T)
    expected = [mahalanobis(row, np.zeros(WIDTH), inverse) for row in scaled[:20]]
    assert normal.distance(torch.from_numpy(values[:20].astype(np.float32))).numpy() == pytest.approx(
        expected, rel=2e-2
    )


def test_false_alarms_are_as_many_as_promised() -> None:
    rng, alarms = np.random.default_rng(2), []
    for _ in range(20):
        train, val, new = (descriptions(rng, count) for count in (150, 200, 400))
        novelty = fitted(fit_novelty(train, val, np.full(200, -1)))
        alarms.append(float((novelty.of(new).amax(dim=1) > 1).double().mean()))
    assert 0.035 < np.mean(alarms) < 0.065, np.mean(alarms)


def test_the_part_that_is_unlike_is_named() -> None:
    rng = np.random.default_rng(3)
    novelty = fitted(fit_novelty(descriptions(rng, 200), descriptions(rng, 200), np.full(200, -1)))
    usual = descriptions(rng, 200).mean(dim=0, keepdim=True)
    for place, columns in enumerate((slice(0, WIDTH), slice(WIDTH, WIDTH + 16), slice(WIDTH + 16, None))):
        unusual = usual.clone()
        unusual[:, columns] += 30
        assert (novelty.of(unusual)[0] > 1).tolist() == [at == place for at in range(len(PARTS))]


@pytest.mark.parametrize(
    ("train", "val", "reason"),
    [
        (19, 200, "there are 19 training images, and it needs 20"),
        (50, 18, "val has 18 images.* and it needs 19"),
        (50, 1, "val has 1 image,"),
    ],
)
def test_too_few_images_are_said(train: int, val: int, reason: str) -> None:
    rng = np.random.default_rng(4)
    found = read_novelty(fit_novelty(descriptions(rng, train), descriptions(rng, val), np.full(val, -1))[KEY])
    assert isinstance(found, str)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found)


def test_patients_count_once() -> None:
    rng = np.random.default_rng(5)
    few = fit_novelty(descriptions(rng, 50), descriptions(rng, 60), np.arange(60) // 4)
    assert "val has 15 images, each patient counted once" in str(read_novelty(few[KEY]))


def test_limits_are_as_rare_in_each_part() -> None:
    """As many standard deviations above the mean of val, of the logarithms of distances."""
    rng = np.random.default_rng(9)
    train, val = descriptions(rng, 200), descriptions(rng, 100)
    novelty = fitted(fit_novelty(train, val, np.full(100, -1)))
    logs = np.log(Novelty(novelty.normals, (1.0,) * len(PARTS)).of(val).double().numpy())
    above = (np.log(novelty.limits) - logs.mean(axis=0)) / logs.std(axis=0)
    assert above == pytest.approx(np.full(len(PARTS), above[0]), rel=1e-3)


def test_a_limit_is_one_of_vals_distances_once_read_again() -> None:
    """The ceil(101 * 0.95)-th smallest of 100, although a checkpoint rounds the directions."""
    rng = np.random.default_rng(10)
    train, val = descriptions(rng, 200), descriptions(rng, 100)
    novelty = fitted(fit_novelty(train, val, np.full(100, -1)))
    assert float(novelty.of(val).amax(dim=1).sort().values[95]) == pytest.approx(1, rel=2e-6)


def test_features_that_are_not_finite_are_said() -> None:
    train, val = (descriptions(np.random.default_rng(11), 30) for _ in range(2))
    for broken in (train, val):
        kept, broken[3, 0] = broken[3, 0].clone(), torch.nan
        assert read_novelty(fit_novelty(train, val, np.full(30, -1))[KEY]) == "some features are not finite"
        broken[3, 0] = kept


def test_constant_images_have_a_finite_novelty() -> None:
    rng = np.random.default_rng(6)
    train, val = descriptions(rng, 50), descriptions(rng, 50)
    for part in (train, val):
        part[:, WIDTH:] = 0
    novelty = fitted(fit_novelty(train, val, np.full(50, -1)))
    found = novelty.of(torch.cat([val, val + 1]))
    assert found.isfinite().all()
    assert (found[50:].amax(dim=1) > 1).all()


@pytest.mark.parametrize("damage", ["no part", "cut", "no limits", "no numbers", "other shape"])
def test_a_damaged_one_is_refused(damage: str) -> None:
    rng = np.random.default_rng(7)
    saved: Any = fit_novelty(descriptions(rng, 30), descriptions(rng, 30), np.full(30, -1))[KEY]
    part = saved["parts"]["layout"]
    if damage == "no part":
        del saved["parts"]["features"]
    elif damage == "cut":
        part["mean"] = part["mean"][:-3]
    elif damage == "no limits":
        saved["limits"] = saved["limits"][:1]
    elif damage == "no numbers":
        part["scale"] = "?!"
    else:
        part["directions"] = part["directions"][: len(part["directions"]) // 2]
    with pytest.raises(ValueError, match="its novelty is not whole"):
        read_novelty(saved)
    assert "did not fit it" in str(read_novelty(None))


def test_it_takes_little_room_in_a_checkpoint() -> None:
    rng = np.random.default_rng(8)
    wide = [torch.from_numpy(rng.normal(size=(200, 2048 + NUM_GREY)).astype(np.float32)) for _ in range(2)]
    saved: Any = fit_novelty(*wide, np.full(200, -1))[KEY]
    assert sum(len(text) for part in saved["parts"].values() for text in part.values()) < 300_000


@pytest.mark.parametrize("channels", [1, 3])
def test_descriptions_are_of_features_and_grey_levels(channels: int) -> None:
    model = build_model(SMALL, 2, "fan_in").eval()
    ramp = torch.arange(32, dtype=torch.uint8)[None, None, None].expand(1, channels, 32, 32).contiguous()
    images = torch.cat([ramp, 8 * ramp, torch.full_like(ramp, 77)])
    with torch.no_grad():
        logits, found = describe(model, images)
        assert torch.equal(logits, model(images))
        assert torch.equal(found[:, :-NUM_GREY], model.features(images))
    quantiles, layout = found[:, -NUM_GREY:-64], found[:, -64:].view(3, 8, 8)
    assert quantiles[0].tolist() == pytest.approx([2 * level + 1 for level in range(16)], abs=0.01)
    assert quantiles[1].tolist() == pytest.approx([8 * value for value in quantiles[0].tolist()], rel=1e-4)
    assert quantiles[2].tolist() == pytest.approx([77] * 16, rel=1e-4)
    assert (layout[1].diff(dim=1) > 0).all()
    assert layout.mean(dim=(1, 2)).abs().max() < 1e-4
    assert layout[2].abs().max() < 1e-4  # no contrast, no layout
