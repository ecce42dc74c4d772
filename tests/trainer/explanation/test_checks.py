"""What is measured of maps tells good ones from bad ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_maps import CELL, SIDE, brightness, spot

from trainer.explanation import checks
from trainer.explanation.checks import ALIKE, Checks, Measured, Pointing, check, point
from trainer.explanation.faithfulness import areas, correlations, mean_correlation, others
from trainer.explanation.maps import Scored, all_maps
from trainer.explanation.phantoms import phantom_cases
from trainer.models.bit import build_model

pytest.importorskip("captum.attr")  # here, so that no test counts the seconds of its import
NAN = float("nan")


def test_deletion_and_insertion_tell_a_map_from_its_opposite() -> None:
    scored, classes = brightness(), torch.tensor([0])
    scored.network.head.weight.data *= 200
    images = spot(2, 2)
    good = all_maps(scored, images, classes)["gradcam"]
    deletion, insertion = areas(scored, images, classes, good)
    worse_deletion, worse_insertion = areas(scored, images, classes, good.max() - good)
    assert deletion[0] < worse_deletion[0]
    assert insertion[0] > worse_insertion[0]


def test_equal_pixels_are_not_taken_in_reading_order() -> None:
    scored, classes = brightness(), torch.tensor([0, 0])
    scored.network.head.weight.data *= 200
    flat = np.ones((2, SIDE, SIDE), dtype=np.float32)
    deletion, _ = areas(scored, torch.cat([spot(0, 0), spot(7, 7)]), classes, flat)
    assert deletion[0] == pytest.approx(deletion[1], abs=0.02)


def test_another_picture_shows_the_same_class_if_it_can() -> None:
    found = others([3, 1, 3, 1, 2, 3])
    assert found is not None
    assert found.tolist() == [2, 3, 5, 1, 5, 0]
    assert others([1]) is None


@pytest.mark.slow
def test_maps_change_as_weights_are_shuffled() -> None:
    torch.manual_seed(0)
    scored = Scored(build_model("r14x0.5", 3, "fan_in"), "multi_label")
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    classes = torch.tensor([0, 2])
    maps = all_maps(scored, images, classes)
    found = correlations(scored, images, classes, maps)
    assert found == correlations(scored, images, classes, maps)
    for method, levels in found.items():
        assert list(levels) == ["head", "head and last stage", "all weights"]
        assert mean_correlation(maps[method], maps[method]) == pytest.approx(1)
        assert all(value < 0.999 for value in levels.values())
    assert mean_correlation(np.zeros_like(maps["gradcam"]), maps["gradcam"]) == 0


def test_pointing_counts_maxima_inside_and_what_chance_gives() -> None:
    placed = [np.zeros((SIDE, SIDE), np.float32) for _ in range(4)]
    places = [np.zeros((SIDE, SIDE), bool) for _ in range(4)]
    for number in range(4):
        places[number][: 2 * CELL, : 2 * CELL] = number < 2
        places[number][-CELL:, -CELL:] = number >= 2
    placed[0][3, 3] = placed[1][2 * CELL + 1, 0] = 1  # the second: within the margin
    placed[2][0, 0] = 1
    found = {one.finding: one for one in point(placed, places, ["a", "a", "b", "b"])}
    assert (found["a"].inside, found["a"].maps, found["a"].other) == (2, 2, 1.0)
    assert (found["b"].inside, found["b"].maps, found["b"].other) == (0, 2, 0.0)
    assert (found["all"].inside, found["all"].maps) == (2, 4)
    assert (2 * CELL / SIDE) ** 2 < found["a"].area < (2.5 * CELL / SIDE) ** 2
    low, high = found["all"].interval()
    assert low < 0.5 < high
    assert not found["a"].beats_chance()
    assert Pointing("a", 20, 15, 0.1, 0.3).beats_chance()


def test_what_speaks_against_maps_is_said() -> None:
    sound = {"head": 0.1, "all weights": 0.2}
    inside = {"Nodule": 1, "Effusion": 19, "all": 20}
    places = [Pointing(name, 20, number, 0.1, 0.1) for name, number in inside.items()]
    good = Measured("gradcam", 0.2, 0.4, 0.8, 0.6, sound, 0.1, places)
    assert good.faults() == ["Grad-CAM: not shown to lie in these more often than by chance: Nodule."]
    bad = Measured("gradients", 0.4, 0.4, 0.8, 0.6, {"head": 0.1, "all weights": ALIKE + 0.1}, 0.1)
    faults = bad.faults()
    assert len(faults) == 2
    assert len(replace(good, insertion=0.6).faults()) == 2
    assert "Integrated gradients" in faults[0]
    assert "random weights (all weights)" in faults[1]
    absent = Measured("gradcam", NAN, NAN, NAN, NAN, sound, NAN)
    assert absent.faults() == []
    content = Checks("some pictures", 3, 3, "why", [absent, good]).to_json()
    assert json.loads(json.dumps(content, allow_nan=False))["measured"][0]["deletion"] is None


def test_the_maps_that_are_tested_keep_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MOST_TESTED", 2)
    scored, classes = brightness(), torch.tensor([0, 0, 1])
    images = torch.cat([spot(1, 1), spot(5, 2), 255 - spot(3, 6)])
    maps, rows = all_maps(scored, images, classes), [0, 2]
    alone = check(scored, images[rows], classes[rows], {name: each[rows] for name, each in maps.items()}, "two", "why")
    found = check(scored, images, classes, maps, "three", "why")
    assert (found.maps, found.tested, found.measured) == (3, 2, alone.measured)


def test_one_map_alone_has_no_other_to_compare_with() -> None:
    scored, images, classes = brightness(), spot(1, 1), torch.tensor([0])
    found = check(scored, images, classes, all_maps(scored, images, classes), "one picture", "why")
    assert all(np.isnan(one.other_deletion) and np.isnan(one.other_correlation) for one in found.measured)
    assert not any("another picture" in fault for fault in found.faults())


def test_phantoms_are_drawn_at_the_size_asked_for() -> None:
    first = next(phantom_cases(8))
    assert all(place.shape == (32, 32) for place in first.places.values())
    assert first.encoded == next(phantom_cases(32)).encoded
