"""`prepare` keeps what it can decode, says what it cannot, and gives the same bytes for the same images."""

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prepared_folders import decoded, files_of, prepare_folder, run_command

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.raw_set import Repeatable
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index


def test_images_are_kept_byte_for_byte(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders()
    manifest = prepare_folder(root, tmp_path / "below" / "out")
    assert manifest["name"] == "out"
    assert manifest["quarantined"] == 0
    assert not (tmp_path / "below" / "out" / "quarantine.csv").exists()
    index = Index.load(tmp_path / "below" / "out", "train")
    assert index.classes == ("cat", "dog")
    assert np.bincount(index.labels).tolist() == [6, 6]
    for row, key in enumerate(index.keys(np.arange(12))):
        path = root / re.sub("_png$", ".png", key)
        assert index.encoded(row).tobytes() == path.read_bytes()
        assert index.classes[index.labels[row]] == path.parent.name
        with Image.open(path) as image:
            assert (index.width[row], index.height[row]) == image.size


def test_unreadable_files_are_quarantined_with_a_reason(
    class_folders: Callable[..., Path], photo: Callable, encode: Callable, tmp_path: Path
) -> None:
    root, picture = class_folders(), photo(0, 60, 70)
    bad = {
        "cut.jpg": (encode(picture, "JPEG")[:-100], "Premature end"),
        "deep.png": (encode(np.full((8, 8), 1000, np.uint16)), "pixels of more than 8 bits"),
        "empty.jpg": (b"", "an empty file"),
        "gone.png": (b"", "No such file or directory"),
        "text, with comma.jpg": (b"404 not found", "text, no picture"),
    }
    for name, (content, _) in bad.items():
        (root / "dog" / name).write_bytes(content)
    raw = image_folder(root, 0, 0)
    (root / "dog" / "gone.png").unlink()
    manifest = prepare(raw, Output(tmp_path / "out", max_bad=0.5))
    assert manifest
    assert manifest["quarantined"] == len(bad)
    assert manifest["splits"]["train"]["images"] == 12
    with (tmp_path / "out" / "quarantine.csv").open(newline="") as table:
        header, *rows = csv.reader(table)
    assert header == ["file", "reason"]
    assert [file for file, _ in rows] == [str(root / "dog" / name) for name in bad]
    for file, reason in rows:
        assert reason.startswith(bad[Path(file).name][1])
        assert "BytesIO" not in reason
    index = Index.load(tmp_path / "out", "train")
    assert {key.partition("/")[2] for key in index.keys(np.arange(len(index)))} == {f"{row}_png" for row in range(6)}


def test_xrays_are_shrunk(class_folders: Callable[..., Path], encode: Callable, tmp_path: Path) -> None:
    root = class_folders()
    (root / "cat" / "deep.png").write_bytes(encode(np.full((40, 50), 3000, np.uint16)))
    (root / "cat" / "ready.jpg").write_bytes(encode(np.full((16, 16), 90, np.uint8), "JPEG"))
    manifest = prepare(replace(image_folder(root, 0, 0), xray_size=16), Output(tmp_path / "out"))
    assert manifest
    assert (manifest["channels"], manifest["quarantined"]) == (1, 0)
    index = Index.load(tmp_path / "out", "train")
    assert len(index) == 14
    assert set(index.height) == set(index.width) == {16}
    assert all(decoded(index, key).shape == (16, 16) for key in index.keys(np.arange(14)))
    assert index.encoded(7).tobytes() == (root / "cat" / "ready.jpg").read_bytes()


@pytest.mark.parametrize(("colours", "channels"), [([1, 1], 1), ([1, 3], 3), ([3, 1], 3)])
def test_channels_are_those_of_the_richest_image(
    colours: list[int], channels: int, class_folders: Callable[..., Path], encode: Callable, tmp_path: Path
) -> None:
    root = tmp_path / "raw"
    for name, colour in zip(("cat", "dog"), colours, strict=True):
        class_folders(classes=[name], channels=colour)
        pixels = np.zeros((9, 9) if colour == 1 else (9, 9, 3), np.uint8)
        (root / name / "jpeg.jpeg").write_bytes(encode(pixels, "JPEG"))
    assert prepare_folder(root, tmp_path / "out")["channels"] == channels
    assert Index.load(tmp_path / "out", "train").channels == channels


@pytest.mark.slow
def test_too_many_bad_files_leave_no_set(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders()
    (root / "cat" / "bad.jpg").write_bytes(b"GIF89")
    (root / "dog" / "bad.jpg").write_bytes(b"")
    code, printed = run_command("image-folder", "--root", root, "--out", tmp_path / "out", "--max-bad", 0.05)
    assert code == 2
    assert "error: 2 of 14 images cannot be used, more than --max-bad 0.05 allows" in printed
    assert f"{root / 'cat' / 'bad.jpg'}: text, no picture" in printed
    assert f"{root / 'dog' / 'bad.jpg'}: an empty file" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()
    assert Path(re.search(r"listed in (\S+)", printed)[1]).is_file()
    assert prepare_folder(root, tmp_path / "out", max_bad=0.15)["quarantined"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_notes_and_what_is_said_of_the_set_are_kept(
    class_folders: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = image_folder(class_folders(), 0, 0)
    told = replace(
        plain,
        notes=("3 lateral views left out",),
        expected_images=1300,
        patients="may leak",
        metric="auc",
        source="there",
    )
    manifests = [prepare(raw, Output(tmp_path / str(number))) for number, raw in enumerate((plain, told))]
    assert manifests[0]
    assert manifests[1]
    assert (manifests[0]["notes"], manifests[0]["patients"]) == ([*plain.notes], "none")
    assert "metric" not in manifests[0]
    short = (
        "12 images were found where the set has 1,300; unless this is another release or a part of it on purpose, "
        "fetch it again from where it came, and prepare it again with --force"
    )
    assert {key: manifests[1][key] for key in ("notes", "patients", "metric", "source")} == {
        "notes": ["3 lateral views left out", short],
        "patients": "may leak",
        "metric": "auc",
        "source": "there",
    }
    printed = capsys.readouterr().err
    assert "note: 3 lateral views left out\n" in printed
    assert f"warning: {short}\n" in printed
    index = Index.load(tmp_path / "1", "train")
    assert (index.patients, index.metric) == ("may leak", "auc")
    prepare(replace(told, expected_images=12), Output(tmp_path / "whole"))
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("images", [[], Repeatable(lambda: iter(()))], ids=["listed", "not listed"])
def test_a_set_without_images_is_refused(class_folders: Callable[..., Path], tmp_path: Path, images: Any) -> None:
    raw = replace(image_folder(class_folders(), 0, 0), images=images, num_images=0)
    with pytest.raises(InputError, match="out has no images"):
        prepare(raw, Output(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_equal_keys_of_a_set_that_is_not_listed(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    raw = image_folder(class_folders(), 0, 0)
    images = [*raw.images]
    twice = [*images, replace(images[8], key=images[3].key)]
    with pytest.raises(InputError, match="two images have the key 'cat/3_png'; rename one of the files"):
        prepare(replace(raw, images=Repeatable(lambda: iter(twice)), num_images=None), Output(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_same_images_give_the_same_bytes(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders()
    (root / "cat" / "bad.jpg").write_bytes(b"no image, but jpg in name")
    for name in ("one", "two"):
        prepare(image_folder(root, 0.2, 0.2), Output(tmp_path / name / "set", max_bad=0.1))
        (tmp_path / name / "set" / "quarantine.csv").unlink()
        for path in root.rglob("*.png"):
            path.touch()
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert len(files_of(tmp_path / "one")) > 10


def test_a_preparation_killed_after_its_set_got_its_name_is_done(
    class_folders: Callable[..., Path], tmp_path: Path, prepare_untidily: Callable[..., None]
) -> None:
    """The same command says so, leaves the set as it is, and tidies up."""
    out = tmp_path / "out"
    prepare_untidily(image_folder(class_folders(), 0, 0), Output(out))
    before = files_of(out)
    shutil.copytree(out, tmp_path / ".out.replaced")
    other = class_folders("other", classes=("cat", "fox"))
    with pytest.raises(InputError, match="exists; replace it with --force"):
        prepare_folder(other, out)
    assert prepare_folder(tmp_path / "raw", out) == read_manifest(out)
    assert files_of(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "raw"]
