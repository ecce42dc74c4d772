"""The command `prepare`: its options, messages, parts and verification."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared_folders import REPOSITORY, decoded, prepare_folder, run_command

from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.splits import Split
from data_pipelines.datasets.phantom import phantom
from data_pipelines.datasets.registry import DATASETS
from data_pipelines.image_files.png import encode_png
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.prepare import main
from data_pipelines.shards.index import Index

Call = Callable[..., tuple[int, str]]


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


@pytest.mark.slow
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
    assert "images, to" not in printed  # nothing was begun


@pytest.mark.slow
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
        (
            ["--root", "my photos", "--out", "x"],
            "error: no set is named before --root; for folders of images of your own: prepare image-folder --root "
            "'my photos' --out x",
        ),
        (["--lits"], "error: unknown flag '--lits'; did you mean '--list'?"),
        (
            ["..", "--out", "x"],
            "error: '..' is a folder, and the first word names the kind of set; for folders of images of your own: "
            "prepare image-folder --root .. --out x",
        ),
        (["image-folder", "photos", "--out", "x"], "error: --root must be given; did you mean --root photos?"),
        (["image-folder", "--root", "/nowhere", "--out", "x"], "error: --root /nowhere is not a folder"),
        (["fashion_mnist", "--out", "x"], "error: fashion_mnist ships with the package, prepared: use it by its name;"),
        (["digits", "--out", "x", "--part", "3/3"], "error: --part 3/3: write K/N with K from 0 to N-1"),
        (["digits", "--out", "x", "--part", "x/y"], "error: --part x/y: write K/N"),
        (["digits", "--out", "x", "--part", "-1/3"], "error: --part -1/3: write K/N"),
        (["digits", "--out", "x", "--part", "2"], "error: --part 2: write K/N"),
        (["digits", "--out", "x", "--max-bad", "200%"], "error: --max-bad 200%: write a share, such as 0.1% or 0.001"),
        (["digits", "--out", "x", "--max-bad", "1"], "error: --max-bad 1: write a share, such as 0.1% or 0.001; 100%"),
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


def test_grey_pictures_may_be_xrays_and_the_note_says_how(call: Call, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "0.png").write_bytes(encode_png(np.full((8, 8), 9, np.uint8)))
    options = ("--val-fraction", "0", "--test-fraction", "0")
    _, printed = call("image-folder", "--root", "raw", "--out", "out", *options)
    assert "note: all pictures are grey; if they are X-rays" in printed
