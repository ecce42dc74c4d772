"""`prepare` keeps what it can decode, says what it cannot, and never leaves half a set under the set's name."""

import csv
import errno
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.raw_set import RawImage, Repeatable
from data_pipelines.common.splits import Split
from data_pipelines.datasets.phantom import phantom
from data_pipelines.datasets.registry import DATASETS
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.prepare import main
from data_pipelines.shards.index import Index
from data_pipelines.shards.writer import ShardWriter

Call = Callable[..., tuple[int, str]]
REPOSITORY = Path(data_pipelines.__file__).parents[1]


def run_command(*arguments: Any, entry: tuple[str, ...] = ("-m", "data_pipelines.prepare")) -> tuple[int, str]:
    """The real command: its exit code, and all that it printed."""
    command = [sys.executable, *entry, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The same without a process of its own, in `tmp_path`."""

    def call_main(*arguments: Any) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call_main


def prepare_folder(root: Path, out: Path, **options: Any) -> dict[str, Any]:
    manifest = prepare(image_folder(root, 0, 0), Output(out, **options))
    assert manifest
    return manifest


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decoded(index: Index, key: str) -> np.ndarray:
    row = index.keys(np.arange(len(index))).index(key)
    with Image.open(io.BytesIO(index.encoded(row))) as image:
        return np.asarray(image)


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
        "cut.jpg": (encode(picture, "JPEG")[:-100], "ValueError: Premature end"),
        "deep.png": (encode(np.full((8, 8), 1000, np.uint16)), "ValueError: pixels of more than 8 bits"),
        "empty.jpg": (b"", "an empty file"),
        "gone.png": (b"", "FileNotFoundError"),
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


def test_existing_output_is_replaced_only_if_asked(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    out, old, new = tmp_path / "out", class_folders("old", count=2), class_folders("new", count=3)
    prepare_folder(old, out)
    before = files_of(out)
    with pytest.raises(InputError, match=r"out exists; .*--force"):
        prepare_folder(new, out)
    (new / "cat" / "bad.png").write_bytes(b"")
    with pytest.raises(InputError, match="--max-bad"):
        prepare_folder(new, out, force=True, max_bad=0)
    assert files_of(out) == before
    (new / "cat" / "bad.png").unlink()
    prepare_folder(new, out, force=True)
    assert len(Index.load(out, "train")) == 6
    (tmp_path / "empty").mkdir()
    prepare_folder(new, tmp_path / "empty", force=True)
    assert len(Index.load(tmp_path / "empty", "train")) == 6
    others = tmp_path / "others"
    others.mkdir()
    (others / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="others is something else than a prepared set; --force does not delete it"):
        prepare_folder(new, others, force=True)
    assert (others / "thesis.tex").read_text() == "years of work"


def test_output_that_is_a_link_keeps_the_link(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    old, new, link = class_folders("old", count=2), class_folders("new", count=3), tmp_path / "link"
    prepare_folder(old, tmp_path / "disk" / "out")
    link.symlink_to(tmp_path / "disk" / "out")
    with pytest.raises(InputError, match=r"out exists; .*--force"):
        prepare_folder(new, link)
    prepare_folder(new, link, force=True)
    assert link.is_symlink()
    assert len(Index.load(link, "train")) == len(Index.load(tmp_path / "disk" / "out", "train")) == 6
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_set_is_never_deleted(
    class_folders: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    root = class_folders()
    (tmp_path / "notes").write_text("years of work")
    before = files_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    # The last three are the folder that holds all this; there is no `new` in it.
    for out in (tmp_path / "notes", root, Path("."), Path("raw/.."), Path("new/..")):
        with pytest.raises(InputError, match="something else than a prepared set; --force does not delete it"):
            prepare_folder(root, out, force=force)
        assert files_of(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "raw"]


@pytest.mark.parametrize(
    ("force", "message"), [(False, "out exists; replace it"), (True, "out is something else than a prepared set")]
)
def test_output_that_comes_up_meanwhile_is_left_alone(
    class_folders: Callable[..., Path], tmp_path: Path, force: bool, message: str
) -> None:
    raw, out = image_folder(class_folders(), 0, 0), tmp_path / "out"
    prepare(raw, Output(tmp_path / "other"))

    def images() -> Iterator[RawImage]:
        yield from raw.images
        if force:
            out.mkdir()
            (out / "thesis.tex").write_text("years of work")
        else:
            (tmp_path / "other").rename(out)

    with pytest.raises(InputError, match=message):
        prepare(replace(raw, images=images()), Output(out, force=force))
    assert (out / ("thesis.tex" if force else "manifest.json")).is_file()


def test_full_disk_and_equal_keys_leave_no_set(
    class_folders: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = class_folders(), tmp_path / "out"
    picture = (root / "cat" / "0.png").read_bytes()
    (root / "cat" / "x.y.png").write_bytes(picture)
    (root / "cat" / "x_y.png").write_bytes(picture)
    with pytest.raises(InputError, match="two images have the key 'cat/x_y_png'; rename"):
        prepare_folder(root, out)
    (root / "cat" / "x_y.png").unlink()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "add", full)
        with pytest.raises(InputError, match=r"out cannot be written \(.*No space left.*free some space"):
            prepare_folder(root, out)
    assert not out.exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert prepare_folder(root, out)["splits"]["train"]["images"] == 13
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


@pytest.mark.parametrize("below", ["a file", "nothing may be written", "nothing may be read"])
def test_where_nothing_can_be_written(class_folders: Callable[..., Path], tmp_path: Path, below: str) -> None:
    folder = tmp_path / "folder"
    if below == "a file":
        folder.write_text("years of work")
    elif os.geteuid() == 0:
        pytest.skip("root may write and read everything")
    else:
        folder.mkdir(0o500 if below == "nothing may be written" else 0)
    with pytest.raises(InputError, match=r"out cannot be written \(.*folder.*choose another --out"):
        prepare_folder(class_folders(), folder / "out")


@pytest.fixture
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets what the file system says of itself."""
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_too_little_space_is_said_before_anything_is_written(
    class_folders: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: Callable
) -> None:
    raw = image_folder(class_folders(), 0, 0)
    (tmp_path / "raw" / "cat" / "0.png").unlink()
    monkeypatch.setattr(RawImage, "num_bytes", lambda image: image.read() and 416_000_000)
    sets = [
        replace(raw, num_bytes=5_000_000_000),
        replace(raw, images=Repeatable(lambda: iter(raw.images)), num_images=415_000, xray_size=100),
        raw,  # twelve files, of which one is missing
    ]
    free_bytes(3_000_000_000)
    for number, larger in enumerate(sets):
        with pytest.raises(InputError, match=r"has 3\.0 GB free, the prepared set needs about 5\.0 GB more; free some"):
            prepare(larger, Output(tmp_path / f"out-{number}"))
    assert not list(tmp_path.rglob("*.tar"))
    free_bytes(5_100_000_000)
    for number in (0, 2):
        assert prepare(sets[number], Output(tmp_path / f"out-{number}", max_bad=0.1))
    with pytest.raises(InputError, match="12 images were prepared where the set has 415,000"):  # all that it has
        prepare(sets[1], Output(tmp_path / "out-1", max_bad=0.1))
    free_bytes(0)
    unknown = replace(raw, images=Repeatable(lambda: iter(raw.images)), num_images=None)
    assert prepare(unknown, Output(tmp_path / "out", max_bad=0.1))


def test_what_was_written_before_needs_no_space(
    class_folders: Callable[..., Path], tmp_path: Path, free_bytes: Callable
) -> None:
    raw = replace(image_folder(class_folders(), 0, 0), num_bytes=20_000)
    prepare(raw, Output(tmp_path / "out", part=(0, 2)))
    free_bytes(40_000)
    with pytest.raises(InputError, match="GB free"):
        prepare(raw, Output(tmp_path / "other"))
    assert prepare(raw, Output(tmp_path / "out"))


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
    short = "12 images were found where the set has 1,300"
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


def test_split_folders_by_command(call: Call, class_folders: Callable[..., Path], tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        class_folders(f"raw/{split}", count=count)
    code, printed = run_command("image-folder", "--root", tmp_path / "raw", "--out", tmp_path / "out")
    assert code == 0
    assert "out, single_label, 2 classes, images: train 10, val 4, test 6; 0 quarantined" in printed
    counts: dict[Split, int] = {"train": 5, "val": 2, "test": 3}
    for split, count in counts.items():
        index = Index.load(tmp_path / "out", split)
        assert np.bincount(index.labels).tolist() == [count, count]
        assert all(key.startswith(f"{split}/") for key in index.keys(np.arange(len(index))))
    code, printed = call("image-folder", "--root", "raw", "--out", "out")
    assert code == 2
    assert "exists; replace it with --force, or choose another --out" in printed


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


def test_verification_by_command(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_folder(class_folders(), out)
    code, printed = run_command("--verify", out)
    assert code == 0
    assert f"{out}: all 8 files are as they were prepared" in printed
    shard = out / "train" / "000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    code, printed = run_command("--verify", out)
    assert code == 2
    assert f"error: not as prepared: {shard}; copy the set again, or prepare it again" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image-foldr", "--out", "x"], "error: unknown data set 'image-foldr'; did you mean 'image-folder'?"),
        (["image-folder", "--root", "/nowhere", "--out", "x"], "error: --root /nowhere is not a folder"),
        (["digits", "--out", "x", "--part", "3/3"], "error: --part 3/3: write K/N with K from 0 to N-1"),
        (["digits", "--out", "x", "--part", "x/y"], "error: --part x/y: write K/N"),
        (["digits", "--out", "x", "--part", "-1/3"], "error: --part -1/3: write K/N"),
        (["digits", "--out", "x", "--part", "2"], "error: --part 2: write K/N"),
        (["digits", "--out", "x", "--max-bad", "200%"], "error: --max-bad 200%: write a share, such as 0.1% or 0.001"),
        (["digits", "--out", "x", "--max-bad", "few"], "error: --max-bad few: write a share"),
        (["--verify"], "error: --verify takes one prepared folder"),
        (["--verify", "/nowhere"], "error: /nowhere is not a prepared data set"),
    ],
)
def test_wrong_commands_end_with_a_message(call: Call, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, printed = call(*arguments)
    assert code == 2
    assert message in printed
    assert not list(tmp_path.iterdir())


def test_parts_by_command(call: Call, class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders()
    command = ["image-folder", "--root", root, "--val-fraction", 0, "--test-fraction", 0, "--out", "out"]
    for part in (1, 0):
        code, printed = call(*command, "--part", f"{part}/2")
        assert code == 0
        assert f"part {part} of 2 is done; after the last, repeat without --part" in printed
    code, printed = call(*command, "--part", "1/3")
    assert code == 2
    assert "interrupted preparation with other parts" in printed
    code, printed = call(*command)
    assert code == 0
    assert "out: out, single_label, 2 classes, images: train 12, val 0, test 0; 0 quarantined" in printed
    assert len(Index.load(tmp_path / "out", "train")) == 12


def test_help_lists_the_sets(call: Call) -> None:
    code, printed = call("--help")
    assert code == 0
    assert all(name in printed for name in DATASETS)


@pytest.mark.slow
def test_digits_by_script(tmp_path: Path) -> None:
    script = str(REPOSITORY / "data_pipelines" / "prepare.py")
    code, printed = run_command("digits", "--out", tmp_path / "digits", entry=(script,))
    assert code == 0, printed
    assert "images: train 1100, val 200, test 497" in printed
    for split, per_class in (("train", 110), ("val", 20)):
        index = Index.load(tmp_path / "digits", split)
        assert np.bincount(index.labels).tolist() == [per_class] * 10
        assert (index.channels, index.flip, index.classes) == (1, False, tuple("0123456789"))
    assert set(index.height) == set(index.width) == {8}
    assert np.asarray(decoded(index, index.keys(0)[0])).max() == 255


def test_phantom(tmp_path: Path) -> None:
    manifest = prepare(phantom(images=90, size=32, seed=1), Output(tmp_path / "phantom"))
    assert manifest["synthetic"]
    splits = [Index.load(tmp_path / "phantom", split) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == 90
    raw = {image.key: image for image in phantom(images=90, size=32, seed=1).images}
    for index in splits:
        assert (index.task, index.channels, index.labels.shape[1]) == ("multi_label", 1, index.num_classes)
        for row, key in enumerate(index.keys(np.arange(len(index)))):
            assert index.encoded(row).tobytes() == raw[key].image
            assert index.group[row] == raw[key].group
            np.testing.assert_array_equal(index.labels[row], raw[key].label)
    groups = [set(index.group) for index in splits]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert read_manifest(tmp_path / "phantom")["source"].startswith("Generated by")
