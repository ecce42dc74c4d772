"""The place of a finding is what the picture would not show without it."""

import numpy as np
import pytest

from data_pipelines.datasets.phantom import FINDINGS, draw_phantom
from data_pipelines.datasets.phantom_places import finding_places

SEED, SIZE = 5, 64


def test_every_finding_of_a_picture_has_a_place() -> None:
    for image in range(12):
        pixels, labels = draw_phantom(SEED, image, SIZE)
        places = finding_places(SEED, image, SIZE)
        assert set(places) <= {name for name, label in zip(FINDINGS, labels, strict=True) if label}
        assert all(place.shape == pixels.shape and 0 < place.mean() < 0.15 for place in places.values())
        assert np.array_equal(draw_phantom(SEED, image, SIZE)[0], pixels)


def test_each_finding_has_a_place_of_its_own() -> None:
    for image in range(12):
        places = list(finding_places(SEED, image, SIZE).values())
        assert len({place.tobytes() for place in places}) == len(places)


def test_places_are_those_at_another_size() -> None:
    for image in range(6):
        small, large = finding_places(SEED, image, SIZE), finding_places(SEED, image, 2 * SIZE)
        for name in small.keys() & large.keys():
            centres = [np.argwhere(place).mean(axis=0) / len(place) for place in (small[name], large[name])]
            assert np.abs(centres[0] - centres[1]).max() < 0.05, name


def test_a_nodule_is_round_small_and_brighter() -> None:
    image = next(i for i in range(50) if "Nodule" in finding_places(SEED, i, SIZE))
    place, (pixels, _) = finding_places(SEED, image, SIZE)["Nodule"], draw_phantom(SEED, image, SIZE)
    height, width = (np.ptp(np.flatnonzero(place.any(axis=axis))) + 1 for axis in (1, 0))
    assert abs(int(height) - int(width)) <= 2
    assert max(height, width) < SIZE / 5
    top, left = (int(np.flatnonzero(place.any(axis=axis))[0]) for axis in (1, 0))
    around = pixels[top - 3 : top + height + 3, left - 3 : left + width + 3]
    assert pixels[place].mean() > around.mean()


def test_a_hidden_finding_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.datasets.phantom_places.render", lambda *_: draw_phantom(SEED, 0, SIZE)[0])
    assert draw_phantom(SEED, 0, SIZE)[1].any()
    assert finding_places(SEED, 0, SIZE) == {}
