"""Photographs are shrunk once, as exact means of areas; what is small enough stays byte for byte, and both are said."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom_bytes
from PIL import Image

from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest
from data_pipelines.datasets.user_images import csv_table, image_folder
from data_pipelines.image_files.image_verification import verify_image
from data_pipelines.image_files.shrink import JPEG_QUALITY, gain, shrink, shrunk_size, size_note
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.prepare import main
from data_pipelines.shards.concat import concat
from data_pipelines.shards.index import Index


@pytest.mark.parametrize(("height", "width", "side"), [(7, 9, 5), (9, 7, 5), (12, 30, 4), (11, 11, 10), (13, 5, 3)])
def test_a_new_pixel_is_the_mean_of_its_area(height: int, width: int, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    new_height, new_width = shrunk_size(height, width, side)
    # Each pixel cut into so many that every new one covers whole ones.
    fine = pixels.repeat(new_height, 0).repeat(new_width, 1).astype(np.float64)
    means = fine.reshape(new_height, height, new_width, width, 3).mean((1, 3))
    found = shrink(pixels, side)
    assert found.shape == (new_height, new_width, 3)
    assert found.dtype == np.uint8
    assert np.abs(found - means).max() <= 0.501


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((3000, 4000), 512, (512, 683)),
        ((4000, 3000), 512, (683, 512)),
        ((600, 12000), 512, (512, 10240)),
        ((513, 513), 512, (512, 512)),
        ((1001, 999), 333, (334, 333)),
    ],
)
def test_the_shorter_side_is_the_one_that_is_asked_for(
    size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    assert shrunk_size(*size, side) == expected


def opened(image: EncodedImage) -> Image.Image:
    picture = Image.open(io.BytesIO(image.encoded))
    assert picture.format == {"jpg": "JPEG", "png": "PNG"}[image.suffix]
    assert picture.size == (image.width, image.height)
    assert len(picture.getbands()) == image.channels
    return picture


# Format, mode, options; then suffix and channels of what is stored.
KINDS: dict[str, tuple[str, str | None, dict[str, Any], str, int]] = {
    "jpeg": ("JPEG", None, {"quality": 95}, "jpg", 3),
    "grey jpeg": ("JPEG", "L", {"quality": 95}, "jpg", 1),
    "progressive": ("JPEG", None, {"quality": 95, "progressive": True}, "jpg", 3),
    "cmyk": ("JPEG", "CMYK", {"quality": 95}, "jpg", 3),
    "png": ("PNG", None, {}, "png", 3),
    "grey png": ("PNG", "L", {}, "png", 1),
    "palette": ("PNG", "P", {}, "png", 3),
    "alpha": ("PNG", "RGBA", {}, "png", 3),
    "grey alpha": ("PNG", "LA", {}, "png", 3),
    "webp": ("WEBP", None, {"lossless": True}, "png", 3),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file(name: str, photo: Callable, encode: Callable) -> None:
    kind, mode, options, suffix, channels = KINDS[name]
    encoded = encode(photo(1, 90, 120), kind, mode, **options)
    image = verify_image(encoded, 64)
    assert (image.height, image.width, image.channels, image.suffix) == (64, 85, channels, suffix)
    assert image.is_shrunk
    with Image.open(io.BytesIO(encoded)) as original:
        pixels = np.asarray(original.convert("L" if channels == 1 else "RGB"))
    expected = shrink(np.atleast_3d(pixels), 64).reshape(64, 85, channels).astype(int)
    found = np.asarray(opened(image)).reshape(64, 85, channels)
    difference = np.abs(found - expected)
    assert difference.max() == 0 if suffix == "png" else 0 < difference.mean() < 4


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("side", [90, 5000])
def test_what_is_small_enough_is_stored_as_without_the_option(
    name: str, side: int, photo: Callable, encode: Callable
) -> None:
    kind, mode, options, *_ = KINDS[name]
    encoded = encode(photo(1, 90, 120), kind, mode, **options)
    image = verify_image(encoded, side)
    assert image == verify_image(encoded)
    assert not image.is_shrunk


def test_a_line_a_panorama_and_a_note_to_rotate(photo: Callable, encode: Callable) -> None:
    for size in ((1, 900), (40, 1600)):  # their shorter side is short
        encoded = encode(photo(2, *size), "JPEG")
        assert verify_image(encoded, 64) == EncodedImage(encoded, "jpg", *size, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees"
    plain, turned = (encode(photo(3, 90, 120), "JPEG", **options) for options in ({}, {"exif": exif}))
    assert verify_image(turned, 64) == verify_image(plain, 64)
    assert 0x0112 not in opened(verify_image(turned, 64)).getexif()


def test_damage_and_deep_pixels_are_refused_as_before(photo: Callable, encode: Callable) -> None:
    encoded = encode(photo(4, 90, 120), "JPEG")
    with pytest.raises(ValueError, match=r"."):
        verify_image(encoded[:-200], 64)
    with pytest.raises(ValueError, match="more than 8 bits"):
        verify_image(encode(np.arange(10800, dtype=np.uint16).reshape(90, 120)), 64)


@pytest.fixture
def photos(tmp_path: Path, photo: Callable, encode: Callable) -> Path:
    """Two classes of a large JPEG, a large PNG and a small JPEG each."""
    for label, name in enumerate(("cat", "dog")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        (folder / "large.jpg").write_bytes(encode(photo(label, 90, 120), "JPEG", quality=92))
        (folder / "large.png").write_bytes(encode(photo(label, 100, 80)))
        (folder / "small.jpg").write_bytes(encode(photo(label, 40, 50), "JPEG", quality=92))
    return tmp_path / "photos"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr("sys.argv", ["prepare", *map(str, arguments), "--val-fraction", "0", "--test-fraction", "0"])
    main()


def test_prepare_shrinks_and_says_so(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    run(monkeypatch, "image-folder", "--root", photos, "--out", out, "--shorter-side", 64)
    error = capsys.readouterr().err
    index = Index.load(out, "train")
    sizes = dict(zip(index.keys(range(6)), zip(index.height.tolist(), index.width.tolist(), strict=True), strict=True))
    assert sizes == {
        f"{name}/{file}": size
        for name in ("cat", "dog")
        for file, size in (("large_jpg", (64, 85)), ("large_png", (80, 64)), ("small_jpg", (40, 50)))
    }
    small = index.keys(range(6)).index("dog/small_jpg")
    assert index.encoded(small).tobytes() == (photos / "dog" / "small.jpg").read_bytes()
    manifest = read_manifest(out)
    assert (manifest["shorter_side"], manifest["jpeg_quality"]) == (64, JPEG_QUALITY)
    (note,) = manifest["notes"]
    assert f"note: {note}" in error
    assert "4 of 6 photographs were shrunk to a shorter side of 64 pixels by an area filter" in note
    assert f"JPEG of quality {JPEG_QUALITY}" in note
    assert index.shorter_side == 64


def test_a_side_above_all_images_changes_nothing_and_says_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, side in (("plain", None), ("shrunk", 100)):
        prepare(image_folder(photos, 0, 0, shorter_side=side), Output(tmp_path / name))
    assert "--shorter-side 100 changed nothing: no image has a longer shorter side" in capsys.readouterr().err
    manifests = [read_manifest(tmp_path / name) for name in ("plain", "shrunk")]
    assert manifests[0]["splits"] == manifests[1]["splits"]  # with the sums of all files
    assert "shorter_side" not in manifests[0]


def test_an_interrupted_preparation_keeps_its_count_and_its_side(photos: Path, tmp_path: Path) -> None:
    raw = image_folder(photos, 0, 0, shorter_side=64)
    prepare(raw, Output(tmp_path / "set", part=(0, 2)))
    for side in (None, 63):
        with pytest.raises(InputError, match="interrupted preparation with other shorter side; go on with its command"):
            prepare(image_folder(photos, 0, 0, shorter_side=side), Output(tmp_path / "set"))
    manifest = prepare(raw, Output(tmp_path / "set"))
    assert manifest
    assert "4 of 6 photographs" in manifest["notes"][0]


def test_a_finished_set_of_another_side_is_not_taken_for_this(
    photos: Path, tmp_path: Path, prepare_untidily: Callable[..., None]
) -> None:
    prepare_untidily(image_folder(photos, 0, 0, shorter_side=64), Output(tmp_path / "set"))
    with pytest.raises(InputError, match="exists; replace it with --force"):
        prepare(image_folder(photos, 0, 0, shorter_side=48), Output(tmp_path / "set"))
    assert prepare(image_folder(photos, 0, 0, shorter_side=64), Output(tmp_path / "set"))


@pytest.mark.parametrize("side", [0, -5, 31])
def test_sides_that_cannot_be_trained_on_are_refused(photos: Path, side: int) -> None:
    remedy = f"--shorter-side is {side}, .* 32 pixels or more; give --shorter-side 512"
    with pytest.raises(InputError, match=remedy):
        image_folder(photos, shorter_side=side)
    image_folder(photos, shorter_side=32)


def test_xrays_have_a_size_of_their_own(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--xray-size 256 already shrinks .* leave out --shorter-side"):
        image_folder(photos, split_by="image", xray_size=256, shorter_side=64)
    (photos / "dog" / "film.dcm").write_bytes(dicom_bytes(PatientID="p"))
    with pytest.raises(InputError, match=r"DICOM files, which are taken for X-rays.* leave out --shorter-side"):
        image_folder(photos, split_by="image", shorter_side=64)


def test_a_table_shrinks_too(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path,label\ncat/large.jpg,a\ndog/small.jpg,b\n")
    raw = csv_table(photos, table, label_column="label", val_fraction=0, test_fraction=0, shorter_side=64)
    prepare(raw, Output(tmp_path / "set"))
    assert sorted(Index.load(tmp_path / "set", "train").height.tolist()) == [40, 64]


def test_joined_sets_have_a_side_only_if_all_have_the_same(photos: Path, tmp_path: Path) -> None:
    for name, side in (("a", 64), ("b", 64), ("c", 48)):
        prepare(image_folder(photos, 0, 0, shorter_side=side), Output(tmp_path / name))
    one, same, other = (Index.load(tmp_path / name, "train") for name in "abc")
    assert (concat([one, same]).shorter_side, concat([one, other]).shorter_side) == (64, None)
    assert one.take(np.array([0])).shorter_side == 64


@pytest.mark.parametrize("value", ["512", 0, True, None])
def test_a_manifest_with_another_side_is_refused(photos: Path, tmp_path: Path, value: Any) -> None:
    prepare(image_folder(photos, 0, 0, shorter_side=64), Output(tmp_path / "set"))
    path = tmp_path / "set" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shorter_side": value}))
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "set")


def test_the_gain_of_shrinking_is_said_only_where_it_matters() -> None:
    large, small = np.full(10, 3000), np.full(10, 375)
    note = size_note(large, large * 4 // 3)
    assert note is not None
    times = gain(large, large * 4 // 3, 512)
    assert "12.0 megapixels on average" in note
    assert f"--shorter-side 512, reading them would be about {times:.0f} times faster" in note
    assert 5 < times < (12e6 / (512 * 683))  # the rest of an image's cost stays
    assert size_note(small, small * 4 // 3) is None
    assert size_note(np.full(10, 300), np.full(10, 12000)) is None  # panoramas would not be shrunk
    assert size_note(large[:0], large[:0]) is None
    assert gain(small, small, 512) == 1


def test_prepare_says_it_once_for_photographs_that_can_be_shrunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], encode: Callable
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "a.jpg").write_bytes(encode(np.zeros((2000, 2500, 3), np.uint8), "JPEG"))
    place = ("--root", tmp_path / "raw", "--out")
    run(monkeypatch, "image-folder", *place, tmp_path / "set")
    assert capsys.readouterr().err.count("times faster") == 1
    run(monkeypatch, "image-folder", *place, tmp_path / "shrunk", "--shorter-side", 512)
    run(monkeypatch, "image-folder", *place, tmp_path / "films", "--xray-size", 64, "--split-by", "image")
    assert "times faster" not in capsys.readouterr().err


@pytest.mark.parametrize("reader", [image_folder, csv_table])
def test_help_states_the_quality(reader: Callable[..., Any]) -> None:
    assert f"JPEG of quality {JPEG_QUALITY}" in (reader.__doc__ or "")
