"""Maps of networks whose answer is known, and their place on the picture."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipelines.common.errors import InputError
from data_pipelines.loading.views import Augmentation
from trainer.explanation.maps import METHODS, Scored, all_maps, maps_of, require_captum, smoothed, with_shuffled
from trainer.explanation.overlay import MOST_OPACITY, on_picture, overlay, peak
from trainer.metrics import log_odds
from trainer.models.bit import build_model

pytest.importorskip("captum.attr")  # here, so that no test counts the seconds of its import
SIDE, CELL = 64, 8


class Brightness(nn.Module):
    """Class 0: how bright it is, by cells of 8 x 8 pixels; class 1: how dark."""

    mean = (0.25, 0.25, 0.25)

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data[:, 0] = torch.tensor([1.0, -1.0])
        self.stages = nn.Sequential(nn.Identity())

    def activations(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images.mean(dim=1, keepdim=True), CELL) / 255


def spot(row: int, column: int) -> Tensor:
    """A bright cell on black, uint8 [1, 1, S, S]."""
    image = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)
    image[..., row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 250
    return image


def brightness() -> Scored:
    return Scored(Brightness(), "multi_label")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_the_maximum_lies_where_the_evidence_does(method: str) -> None:
    images, classes = torch.cat([spot(1, 6), spot(5, 2)]), torch.tensor([0, 0])
    maps = maps_of(brightness(), method, images, classes)  # type: ignore[arg-type]
    assert maps.shape == (2, SIDE, SIDE)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    for found, (row, column) in zip(maps, [(1, 6), (5, 2)], strict=True):
        place = peak(found)
        assert place is not None
        assert (place.y // CELL, place.x // CELL) == (row, column)


def test_what_speaks_against_a_class_is_not_drawn() -> None:
    maps = all_maps(brightness(), spot(1, 6), torch.tensor([1]))
    assert peak(maps["gradcam"][0]) is None
    assert min(found.min() for found in maps.values()) == 0
    assert maps["gradients"][0, CELL : 2 * CELL, 6 * CELL : 7 * CELL].max() < maps["gradients"][0].max()


def test_integrated_gradients_add_up_to_the_score() -> None:
    images, classes = torch.full((1, 1, SIDE, SIDE), 200, dtype=torch.uint8), torch.tensor([0])
    scored = brightness()
    grey = torch.full((1, 1, SIDE, SIDE), 255 * 0.25)
    difference = float(scored(images.float(), classes) - scored(grey, classes))
    assert maps_of(scored, "gradients", images, classes).sum() == pytest.approx(difference, rel=1e-3)


def test_smoothing_is_a_gaussian_of_a_share_of_the_side() -> None:
    point = torch.zeros(1, 1, SIDE, SIDE)
    point[..., SIDE // 2, SIDE // 2] = 1
    spread = smoothed(point, 1 / 16)[0, 0].sum(dim=0)
    assert float(spread.sum()) == pytest.approx(1, rel=1e-4)
    variance = (spread * (torch.arange(SIDE) - SIDE // 2) ** 2).sum()
    assert float(variance.sqrt()) == pytest.approx(SIDE / 16, rel=0.05)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_score_of_a_class_is_its_log_odds(classes: int) -> None:
    torch.manual_seed(0)
    network = build_model("r14x0.5", classes, "fan_in")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    logits = network(images).detach()
    for task, expected in (("single_label", log_odds(logits).T), ("multi_label", logits.double().numpy())):
        scored = Scored(network, task)  # type: ignore[arg-type]
        expected = logits.numpy() if classes == 1 else expected
        for number in range(classes):
            found = scored(images.float(), torch.full((2,), number)).detach()
            np.testing.assert_allclose(found, expected[:, number], atol=1e-4)


def test_a_last_stage_of_one_place_has_no_gradcam() -> None:
    network = build_model("r14x0.5", 1, "fan_in")
    images = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8)
    maps = all_maps(Scored(network, "multi_label"), images, torch.tensor([0]))
    assert np.isnan(maps["gradcam"]).all()
    assert np.isfinite(maps["gradients"]).all()


def test_the_network_itself_is_left_as_it_was() -> None:
    network = build_model("r14x0.5", 2, "fan_in")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shuffled = with_shuffled(Scored(network, "multi_label"), ("",))
    assert all(parameter.requires_grad for parameter in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
        changed = shuffled.network.state_dict()[name]
        assert torch.equal(changed.flatten().sort().values, tensor.flatten().sort().values)
    again = with_shuffled(Scored(network, "multi_label"), ("head.",)).network
    assert not torch.equal(again.head.weight, network.head.weight)
    assert torch.equal(again.stem["conv"].weight, network.stem["conv"].weight)  # type: ignore[index]


def test_captum_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[explain\]'"):
        require_captum()


@pytest.mark.parametrize(("policy", "box"), [("squash", (0, 0, 40, 60)), ("center_crop", (4, 14, 36, 46))])
def test_a_map_lies_where_its_view_was_cut(policy: str, box: tuple[int, int, int, int]) -> None:
    augmentation = Augmentation(policy, 32, 40, flip=False)  # type: ignore[arg-type]
    views = augmentation.views(np.arange(1), np.array([20]), np.array([30]))
    of_view = np.zeros((32, 32), dtype=np.float32)
    of_view[0, 0] = 1
    placed = on_picture(of_view, views, 0, (20, 30), (40, 60))
    top, left, bottom, right = box
    known = ~np.isnan(placed)
    assert known[top:bottom, left:right].all()
    assert known.sum() == (bottom - top) * (right - left)
    assert peak(placed) == (left, top)


def test_a_map_on_a_picture_that_is_smaller_than_it() -> None:
    views = Augmentation("squash", 32, 32, flip=False).views(np.arange(1), np.array([5]), np.array([1]))
    placed = on_picture(np.eye(32, dtype=np.float32), views, 0, (5, 1), (5, 1))
    assert placed.shape == (5, 1)
    assert np.isfinite(placed).all()


def test_grey_stays_under_the_map() -> None:
    picture = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    for nothing in (np.zeros((64, 64), np.float32), np.full((64, 64), np.nan, np.float32)):
        assert np.array_equal(overlay(picture, nothing), np.repeat(picture[..., None], 3, axis=2))
        assert peak(nothing) is None
    covered = overlay(picture, np.ones((64, 64), np.float32)).astype(int)
    assert (np.diff(covered[0, :, 1]) >= 0).all()
    assert np.ptp(covered[0, :, 1]) >= (1 - MOST_OPACITY) * 250
    assert (np.ptp(covered, axis=2) > 100).all()  # colour over black, grey and white
    ramp = np.linspace(0, 1, picture.size, dtype=np.float32).reshape(picture.shape)
    assert np.array_equal(overlay(picture, ramp / 8), overlay(picture, ramp))  # each map has its own maximum
