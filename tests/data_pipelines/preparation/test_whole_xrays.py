"""X-rays that are kept whole, from `prepare` to the index, beside those of which the central square is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.image_files.png import encode_png
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.concat import concat
from data_pipelines.shards.index import Index

SHAPES = ((60, 48), (48, 60), (30, 20), (100, 100))


def films(**options: Any) -> RawSet:
    images = [
        RawImage(f"{row}", "train", encode_png(np.full(shape, row, np.uint8)), 0, group=row)
        for row, shape in enumerate(SHAPES)
    ]
    settings: dict[str, Any] = {"patients": "apart", "xray_size": 40, "xray_cut": "whole", **options}
    return RawSet("films", "single_label", ("a",), images, len(images), "drawn by a test", **settings)


def index_of(folder: Path, **options: Any) -> Index:
    prepare(films(**options), Output(folder))
    return Index.load(folder, "train")


def test_the_shorter_side_is_the_size(tmp_path: Path) -> None:
    index = index_of(tmp_path / "films")
    assert list(zip(index.height, index.width, strict=True)) == [(50, 40), (40, 50), (60, 40), (40, 40)]
    assert (index.xray_side, index.xray_cut) == (40, "whole")
    assert index.take(np.array([2])).xray_side == 40
    assert read_manifest(tmp_path / "films")["xray_cut"] == "whole"
    square = index_of(tmp_path / "squares", xray_cut="square")
    assert {*square.height, *square.width} == {40}
    assert (square.xray_side, square.xray_cut) == (40, "square")
    assert "xray_cut" not in read_manifest(
        tmp_path / "squares"
    )  # as earlier versions left it, and with its fingerprint


def test_of_other_sizes_there_is_no_side(tmp_path: Path) -> None:
    whole, square = index_of(tmp_path / "films"), index_of(tmp_path / "squares", xray_cut="square")
    assert concat([whole, whole]).xray_side == 40
    for joined in ([whole, square], [square, whole.take(np.array([3]))]):  # the last is a square by itself
        with pytest.raises(
            InputError, match=rf"{tmp_path}/films are whole, .* {tmp_path}/squares are .*; prepare these"
        ):
            concat(joined)
    assert concat([whole, index_of(tmp_path / "smaller", xray_size=36)]).xray_side is None
    photographs = index_of(tmp_path / "photographs", patients="none", xray_size=None, xray_cut="square")
    assert photographs.xray_side is None
    assert concat([square, photographs]).xray_side is None
    assert concat([whole, photographs]).xray_side is None


def test_what_was_kept_is_part_of_an_interrupted_preparation(
    tmp_path: Path, prepare_untidily: Callable[..., None]
) -> None:
    prepare(films(), Output(tmp_path / "films", part=(0, 2)))
    with pytest.raises(InputError, match="interrupted preparation with other xray cut; go on with its command"):
        prepare(films(xray_cut="square"), Output(tmp_path / "films"))
    prepare_untidily(films(), Output(tmp_path / "films"))
    for other in ({"xray_cut": "square"}, {"split": "another"}):
        with pytest.raises(InputError, match="exists; replace it with --force"):
            prepare(films(**other), Output(tmp_path / "films"))


def test_by_what_a_set_was_split_is_written_down(tmp_path: Path) -> None:
    assert "split_by" not in (prepare(films(), Output(tmp_path / "patients")) or {})  # as earlier versions left it
    prepare(films(split_by="image"), Output(tmp_path / "images", part=(0, 2)))
    with pytest.raises(InputError, match="interrupted preparation with other split by; go on with its command"):
        prepare(films(), Output(tmp_path / "images"))
    path = tmp_path / ".images.partial" / "plan.json"
    plan = json.loads(path.read_text())
    assert plan.pop("split by") == "image"
    path.write_text(json.dumps(plan))  # of a version that did not write it down, but split alike
    assert (prepare(films(split_by="image"), Output(tmp_path / "images")) or {})["split_by"] == "image"


def test_a_preparation_of_an_earlier_version_keeps_squares(tmp_path: Path) -> None:
    """It had no choice of what to keep, so that there is no command that goes on with it otherwise."""
    prepare(films(xray_cut="square"), Output(tmp_path / "films", part=(0, 2)))
    path = tmp_path / ".films.partial" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in plan.items() if name not in ("xray cut", "split")}))
    with pytest.raises(InputError, match=r"an earlier version .*other xray cut; remove it.*: rm -r \S+") as refused:
        prepare(films(), Output(tmp_path / "films"))
    assert "go on with its command" not in str(refused.value)
    assert prepare(films(xray_cut="square"), Output(tmp_path / "films"))


@pytest.mark.parametrize("value", ["round", 1, None, ["whole"]])
def test_a_manifest_with_another_cut_is_refused(tmp_path: Path, value: Any) -> None:
    index_of(tmp_path / "films")
    path = tmp_path / "films" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"xray_cut": value}))
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "films")
