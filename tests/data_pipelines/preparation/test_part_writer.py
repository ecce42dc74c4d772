"""However often and wherever `prepare` is stopped, and in whatever parts it is done, the same set comes out."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from made_sets import MakeSet, Reads, StopAt, files_of, samples_of

import data_pipelines
from data_pipelines.common.errors import InputError
from data_pipelines.datasets.phantom import phantom
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index

pytestmark = pytest.mark.usefixtures("three_images_to_a_shard")


def test_interrupted_at_image_after_image_it_goes_on(
    make_set: MakeSet, tmp_path: Path, stop_at: StopAt, reads: Reads
) -> None:
    raw = make_set(range(11), num_val=2)
    prepare(raw, Output(tmp_path / "undisturbed"))
    assert len(list((tmp_path / "undisturbed" / "train").glob("*.tar"))) == 4
    for key in ["01-1", "04-4", "06-6", "10-10", "val-0"]:
        assert stop_at(raw, Output(tmp_path / "out"), key=key)
        assert not (tmp_path / "out").exists()
    reads.clear()
    prepare(raw, Output(tmp_path / "out"))
    assert sorted(reads) == ["val-0", "val-1"]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "undisturbed"]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == ["manifest.json"]


@pytest.mark.slow
@pytest.mark.parametrize("equal_images", ["stored each", "uniform"])
def test_stopped_between_any_two_changes_of_files(
    make_set: MakeSet, tmp_path: Path, stop_at: StopAt, equal_images: str
) -> None:
    raw = make_set([0, 1, ~2, 1, 0, 5, 0], num_val=2, equal_images=equal_images)
    prepare(raw, Output(tmp_path / "undisturbed", max_bad=0.5))
    expected = files_of(tmp_path / "undisturbed")
    for change in count():
        output = Output(tmp_path / f"out-{change}", max_bad=0.5)
        if not stop_at(raw, output, change):
            break
        if not output.out.exists():
            prepare(raw, output)
        assert files_of(output.out) == expected, change
    assert change > 15
    assert not list(tmp_path.glob(".*.partial/set"))


# What the images are at first, at the second start, and at the last.
CHANGES: dict[str, tuple[list[int], list[int], list[int]]] = {
    "mended": ([~0, 1, 2, 3, 1, 5, 6, 7], [0, 1, 2, 3, 1, 5, 6, 7], [0, 1, 2, 3, 1, 5, 6, 7]),
    "mended, equal to later ones": ([~0, 1, 2, 3, 0, 5, 0, 7], [0, 1, 2, 3, 0, 5, 0, 7], [0, 1, 2, 3, 0, 5, 0, 7]),
    "removed": ([0, 1, 2, 3, 1, 5, 6, 7], [0, 1, 2], [0, 1, 2]),
    "added": ([0, 1, 2, 3], [0, 1, 2, 3, 1, 5, 6, 7], [0, 1, 2, 3, 1, 5, 6, 7]),
    "replaced": ([0, 1, 2, 3, 1, 5, 6, 7], [0, 8, 2, 3, 1, 5, 6, 7], [0, 8, 2, 3, 1, 5, 6, 7]),
    "replaced and back": ([0, 1, 2, 3, 1, 5, 6, 7], [0, 8, 2, 3, 1, 5, 6, 7], [0, 1, 2, 3, 1, 5, 6, 7]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "equal_images"),
    [*((name, "pairs") for name in CHANGES), ("removed", "stored each"), ("replaced and back", "stored each")],
)
def test_images_that_change_and_a_second_stop_anywhere(
    make_set: MakeSet, tmp_path: Path, stop_at: StopAt, name: str, equal_images: str
) -> None:
    first, second, last = (make_set(numbers, equal_images=equal_images) for numbers in CHANGES[name])
    for raw, of_that in ((second, "second"), (last, "last")):
        prepare(raw, Output(tmp_path / of_that))
    for change in count():
        output = Output(tmp_path / f"out-{change}", max_bad=0.2)
        assert stop_at(first, output, joining=True)
        if not stop_at(second, output, change):
            break
        had_ended = output.out.exists()
        if not output.out.exists():
            prepare(last, output)
        assert files_of(output.out) == files_of(tmp_path / ("second" if had_ended else "last")), change
    assert change > 6


@pytest.mark.slow
def test_replacing_a_set_can_be_stopped_anywhere(make_set: MakeSet, tmp_path: Path, stop_at: StopAt) -> None:
    former, raw = make_set([7, 8]), make_set([1, 2])
    prepare(raw, Output(tmp_path / "undisturbed"))
    for change in count():
        output = Output(tmp_path / f"out-{change}", force=True)
        prepare(former, output)
        if not stop_at(raw, output, change):
            break
        prepare(raw, output)
        assert files_of(output.out) == files_of(tmp_path / "undisturbed"), change
    assert change > 6
    assert not list(tmp_path.glob(".*"))


def test_what_an_ended_preparation_left_is_no_hindrance(make_set: MakeSet, tmp_path: Path, stop_at: StopAt) -> None:
    for change in count():
        output = Output(tmp_path / str(change) / "out", force=True)
        assert stop_at(make_set([1, 2]), output, change)
        if output.out.exists():
            break
    prepare(make_set([7, 8, 9], name="other"), output)
    assert [key for key, *_ in samples_of(output.out)] == ["00-7", "01-8", "02-9"]
    assert list(output.out.parent.iterdir()) == [output.out]


DRIVER = """
import os, signal, sys
from pathlib import Path
import data_pipelines.preparation.shard_records
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.common.raw_set import RawImage
from data_pipelines.prepare import Output, prepare

data_pipelines.preparation.shard_records.SHARD_IMAGES = 3
read = RawImage.read
RawImage.read = lambda image: os.kill(os.getpid(), signal.SIGKILL) if image.key == "dog/1_png" else read(image)
prepare(image_folder(Path(sys.argv[1]), 0, 0), Output(Path(sys.argv[2])))
"""


def test_killed_process(class_folders: Callable[..., Path], tmp_path: Path, reads: Reads) -> None:
    root = class_folders()
    prepare(image_folder(root, 0, 0), Output(tmp_path / "undisturbed" / "out"))
    environment = os.environ | {"PYTHONPATH": str(Path(data_pipelines.__file__).parents[1])}
    command = [sys.executable, "-c", DRIVER, str(root), str(tmp_path / "out")]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / ".out.partial" / "set" / "train").glob(".000002.*.tmp"))
    reads.clear()
    prepare(image_folder(root, 0, 0), Output(tmp_path / "out"))
    assert sorted(reads) == [f"dog/{number}_png" for number in range(6)]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed" / "out")


def test_only_shards_that_differ_are_done_again(
    make_set: MakeSet, tmp_path: Path, stop_at: StopAt, reads: Reads
) -> None:
    output = Output(tmp_path / "out", max_bad=0.2)
    assert stop_at(make_set([0, 1, 2, 3, ~4, 5, 6, 7, 8, 9]), output, joining=True)
    for numbers, read in (
        ([0, 1, 2, 3, ~4, 5, 6, 7, 8, 9], ["04-4"]),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], ["03-3", "04-4", "04-4", "05-5"]),  # once to see that it is there
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], []),
        ([0, 1, 2, 3, 4, 5, 10, 7, 8, 9], ["06-10", "07-7", "08-8"]),
        ([0, 1, 2, 3, 4, 5], []),
    ):
        reads.clear()
        assert stop_at(make_set(numbers), output, joining=True)
        assert sorted(reads) == read
    shards = (tmp_path / ".out.partial" / "set" / "train").iterdir()
    assert sorted(path.name for path in shards) == ["000000.tar", "000001.tar"]
    manifest = prepare(make_set(range(6)), output)
    assert manifest
    assert manifest["splits"]["train"]["images"] == 6


@pytest.mark.parametrize("change", [{"label": 1}, {"group": 5}], ids=["label", "group"])
def test_what_is_known_of_an_image_may_change_in_between(
    make_set: MakeSet, tmp_path: Path, stop_at: StopAt, reads: Reads, change: dict[str, Any]
) -> None:
    raw = make_set(range(9))
    assert stop_at(raw, Output(tmp_path / "out"), joining=True)
    reads.clear()
    corrected = replace(
        raw, images=[replace(image, **change) if image.key == "03-3" else image for image in raw.images]
    )
    prepare(corrected, Output(tmp_path / "out"))
    assert sorted(reads) == ["03-3", "04-4", "05-5"]
    prepare(corrected, Output(tmp_path / "undisturbed"))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", [lambda tar: tar.unlink(), lambda tar: os.truncate(tar, 512)], ids=["gone", "cut"])
def test_a_finished_shard_that_is_not_whole_is_done_again(
    make_set: MakeSet, tmp_path: Path, stop_at: StopAt, damage: Callable[[Path], None]
) -> None:
    """As after a power cut."""
    raw = make_set(range(7))
    prepare(raw, Output(tmp_path / "undisturbed"))
    assert stop_at(raw, Output(tmp_path / "out"), joining=True)
    damage(tmp_path / ".out.partial" / "set" / "train" / "000001.tar")
    prepare(raw, Output(tmp_path / "out"))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")


def test_generated_images_of_other_settings_are_not_mixed(tmp_path: Path, stop_at: StopAt) -> None:
    assert stop_at(phantom(images=9, size=32), Output(tmp_path / "out"), joining=True)
    prepare(phantom(images=9, size=40), Output(tmp_path / "out"))
    assert set(Index.load(tmp_path / "out", "train").height) == {40}


def test_bad_images_stay_listed_and_are_no_reason_to_begin_again(
    make_set: MakeSet, tmp_path: Path, reads: Reads
) -> None:
    raw = make_set([~0, 1, 2, 3, ~4, 5, 6, 7, ~8, ~9])
    for max_bad, listed, read in ((0, 1, 3), (0.1, 2, 4), (0.3, 4, 6)):
        reads.clear()
        with pytest.raises(InputError, match=f"{listed} of 10 images cannot be used, more than --max-bad {max_bad}"):
            prepare(raw, Output(tmp_path / "out", max_bad=max_bad))
        assert len(reads) == read  # of the shards that were not done yet, and those that were bad before
        assert len((tmp_path / "out.quarantine.csv").read_text().splitlines()) == 1 + listed
    reads.clear()
    manifest = prepare(raw, Output(tmp_path / "out", max_bad=0.4))
    assert manifest
    assert (manifest["quarantined"], manifest["splits"]["train"]["images"]) == (4, 6)
    assert sorted(reads) == ["00-0", "04-4", "08-8", "09-9"]
    assert (tmp_path / "out" / "quarantine.csv").read_text().count(",No such file or directory") == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("cat", "eel")}, "other classes;"),
        ({"name": "other"}, "other name;"),
        ({"xray_size": 32}, "other xray size;"),
        ({"xray_size": 32, "xray_cut": "whole"}, "other xray size, xray cut;"),
        ({"split": "authors"}, "other split;"),
        ({"shorter_side": 32}, "other shorter side;"),
        ({"equal_images": "pairs"}, "other equal images;"),
        ({"task": "multi_label"}, "other task;"),
    ],
)
def test_preparation_of_another_set_is_not_mixed_in(
    make_set: MakeSet, tmp_path: Path, stop_at: StopAt, options: dict[str, Any], message: str
) -> None:
    assert stop_at(make_set(range(6)), Output(tmp_path / "out"), key="04-4")
    before = files_of(tmp_path)
    advice = "go on with its command, begin anew with --force, or remove it: rm -r"
    with pytest.raises(InputError, match=f"interrupted preparation with {message} {advice}"):
        prepare(make_set(range(6), **options), Output(tmp_path / "out"))
    assert files_of(tmp_path) == before
