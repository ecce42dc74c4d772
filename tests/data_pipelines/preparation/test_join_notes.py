"""What is to be known of a set besides its images: what it is called, what was left out, turned and remarked."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.image_files.image_verification import verify_image
from data_pipelines.preparation.join_parts import left_out_note, set_summary
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index


@pytest.fixture(autouse=True)
def three_images_to_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.preparation.shard_records.SHARD_IMAGES", 3)


@pytest.fixture
def raw(class_folders: Callable[..., Path]) -> RawSet:
    return replace(image_folder(class_folders(), 0, 0), is_user_set=False, upright=False)


@pytest.mark.slow
def test_own_sets_are_called_as_their_folder(raw: RawSet, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "films").symlink_to(tmp_path / "disk" / "xyz17")
    for out in (tmp_path / "pets", tmp_path / "films", tmp_path / "link" / "zoo", tmp_path / "disk" / ".." / "y"):
        manifest = prepare(replace(raw, is_user_set=True), Output(out))
        assert manifest
        assert manifest["name"] == out.name
        assert Index.load(out, "train").origins[0] == out.name
    assert (tmp_path / "disk" / "xyz17" / "manifest.json").is_file()
    manifest = prepare(raw, Output(tmp_path / "known"))
    assert manifest
    assert manifest["name"] == "raw"


@pytest.mark.parametrize("parts", [1, 2])
def test_preparations_begun_under_the_name_of_the_root_go_on(
    raw: RawSet, tmp_path: Path, parts: int, monkeypatch: pytest.MonkeyPatch, remarkable: list[Any]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("data_pipelines.preparation.prepare_set.join_parts", stopped)
        if parts == 1:
            with pytest.raises(KeyboardInterrupt):
                prepare(raw, Output(tmp_path / "out"))
        else:
            prepare(raw, Output(tmp_path / "out", part=(0, 2)))
    remarkable.clear()
    manifest = prepare(replace(raw, is_user_set=True), Output(tmp_path / "out"))
    assert manifest
    assert manifest["name"] == "out"
    assert len(remarkable) == {1: 0, 2: 6}[parts]


def test_what_is_left_out_is_said_first_last_and_in_the_manifest(
    raw: RawSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out = {"hidden files": 2, ".mov": 1010}
    told = replace(raw, left_out=left_out)
    note = "left out, beside 12 images: .mov (1,010), hidden files (2)"
    assert left_out_note(told) == note
    assert left_out_note(replace(told, num_images=None)) == "left out: .mov (1,010), hidden files (2)"
    with monkeypatch.context() as patched:
        patched.setattr(
            "data_pipelines.preparation.prepare_set.write_part", lambda *_: pytest.fail(capsys.readouterr().err)
        )
        with pytest.raises(pytest.fail.Exception, match="note: left out, beside 12 images"):
            prepare(told, Output(tmp_path / "out"))
    manifest = prepare(told, Output(tmp_path / "out"))
    assert manifest
    assert manifest["left_out"] == read_manifest(tmp_path / "out")["left_out"] == left_out
    assert set_summary(manifest, tmp_path).endswith("; 0 quarantined; left out: .mov (1,010), hidden files (2)")
    manifest = prepare(raw, Output(tmp_path / "whole"))
    assert manifest
    assert "left_out" not in manifest
    assert set_summary(manifest, tmp_path).endswith("; 0 quarantined")


@pytest.fixture
def remarkable(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Pictures nine pixels high lay on their side, those of more than 11 are remarked on; the options that were asked
    for."""
    asked = []

    def verify(encoded: bytes, **options: Any) -> EncodedImage:
        asked.append(options)
        found = verify_image(encoded)
        return replace(found, is_turned=found.height == 9, remark="padding" if found.height > 11 else "")

    for name in ("verify_image", "verify_xray"):
        monkeypatch.setattr(f"data_pipelines.preparation.part_writer.{name}", verify)
    return asked


@pytest.mark.parametrize("parts", [1, 2])
def test_turned_and_remarked_pictures_are_counted(
    raw: RawSet, tmp_path: Path, remarkable: list[Any], parts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if parts == 2:
        prepare(raw, Output(tmp_path / "out", part=(1, 2)))
    manifest = prepare(raw, Output(tmp_path / "out"))
    assert manifest
    assert (manifest["turned"], manifest["remarks"]) == (2, {"padding": 4})
    assert manifest["notes"] == [
        "2 of 12 pictures were turned upright, as their files say",
        "remarks on images that were taken all the same: padding (4)",
    ]
    assert f"note: {manifest['notes'][1]}\n" in capsys.readouterr().err


def test_rare_remarks_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: RawSet) -> None:
    found = verify_image(next(iter(raw.images)).read())
    monkeypatch.setattr(
        "data_pipelines.preparation.part_writer.verify_image",
        lambda encoded, **_: replace(found, remark=encoded.decode()),
    )
    remarks = ["common"] * 3 + [f"{number} stray bytes" for number in range(24)]
    images = [RawImage(f"{row}", "train", remark.encode(), 0) for row, remark in enumerate(remarks)]
    manifest = prepare(replace(raw, images=images, num_images=len(images)), Output(tmp_path / "out"))
    assert manifest
    assert len(manifest["remarks"]) == 21
    assert (manifest["remarks"]["common"], manifest["remarks"]["others"]) == (3, 5)


@pytest.mark.parametrize("xray_size", [None, 8])
def test_turning_pictures_is_part_of_how_a_set_is_prepared(
    raw: RawSet, tmp_path: Path, remarkable: list[dict[str, Any]], xray_size: int | None
) -> None:
    raw = replace(raw, xray_size=xray_size, bits=8)
    prepare(raw, Output(tmp_path / "as stored", part=(0, 2)))
    assert not any(options.get("upright") for options in remarkable)
    upright = replace(raw, upright=True)
    with pytest.raises(InputError, match="interrupted preparation with other upright; go on"):
        prepare(upright, Output(tmp_path / "as stored"))
    assert "upright" not in (prepare(raw, Output(tmp_path / "as stored")) or {})
    remarkable.clear()
    manifest = prepare(upright, Output(tmp_path / "upright"))
    assert manifest
    assert manifest["upright"] is True
    assert all(options["upright"] for options in remarkable)


def test_a_plan_that_does_not_say_whether_pictures_are_turned(
    raw: RawSet, tmp_path: Path, remarkable: list[dict[str, Any]]
) -> None:
    """As earlier versions left it, which turned none: what they made is made again."""
    prepare(raw, Output(tmp_path / "out", part=(0, 2)))
    path = tmp_path / ".out.partial" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in plan.items() if name != "upright"}))
    remarkable.clear()
    manifest = prepare(replace(raw, upright=True), Output(tmp_path / "out"))
    assert manifest
    assert manifest["upright"] is True
    assert len(remarkable) == 12
