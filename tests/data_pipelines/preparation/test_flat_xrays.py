"""X-rays that come out nearly black or white, and enlarged ones, are told of."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.image_files.image_verification import FLAT
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from tests.data_pipelines.depth_files import SIDE, film, png


@pytest.fixture
def films(tmp_path: Path) -> RawSet:
    """Three PNG of 16 bits, of which two use 12."""
    for number, brightest in enumerate((4095, 4000, 65535)):
        path = tmp_path / "root" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(film(7 * number, brightest)))
    return image_folder(tmp_path / "root", 0, 0, split_by="image", xray_size=SIDE)


def test_nearly_black_films_are_warned_of(films: RawSet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = prepare(films, Output(tmp_path / "given", bits=16))
    assert given
    assert given["remarks"] == {FLAT: 2}
    warned = "\n".join(record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert "2 of 3 images are nearly black or white" in warned
    assert "--bits 16 holds for every file" in warned
    found = prepare(films, Output(tmp_path / "found"))
    assert found
    assert any("count as of 16" in note and "2 of 3 images" in note for note in found["notes"])


def test_films_that_use_their_bits_are_not_warned_of(films: RawSet, tmp_path: Path) -> None:
    right = replace(films, images=[image for image in films.images if "2" not in image.key], num_images=2)
    manifest = prepare(right, Output(tmp_path / "right"))
    assert manifest
    assert "remarks" not in manifest
    assert not any("nearly black" in note for note in manifest["notes"])


def test_enlarged_films_are_counted(films: RawSet, tmp_path: Path) -> None:
    larger = prepare(replace(films, xray_size=SIDE + 1), Output(tmp_path / "larger", bits=16))
    assert larger
    enlarged = f"enlarged to {SIDE + 1} pixels"
    assert larger["remarks"] == {f"{FLAT}; {enlarged}": 2, enlarged: 1}
    smaller = prepare(replace(films, xray_size=SIDE - 1), Output(tmp_path / "smaller", bits=16))
    assert smaller
    assert smaller["remarks"] == {FLAT: 2}
