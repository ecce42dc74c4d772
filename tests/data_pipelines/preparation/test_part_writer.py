"""However often and wherever `prepare` is stopped, and in whatever parts it is done, the same set comes out."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

import data_pipelines
from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawImage, RawSet, Repeatable
from data_pipelines.datasets.phantom import phantom
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index

MakeSet = Callable[..., RawSet]
Reads = list[str]
StopAt = Callable[..., bool]


class Stopped(BaseException):
    """As a kill: nothing is tidied up."""


@pytest.fixture(autouse=True)
def three_images_to_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.preparation.shard_records.SHARD_IMAGES", 3)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # only its time would be felt


@pytest.fixture(scope="session")
def pictures(photo: Callable, encode: Callable) -> list[bytes]:
    return [encode(photo(number, 6, 5 + number)) for number in range(20)]


@pytest.fixture
def make_set(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> MakeSet:
    """A function that makes a set of pictures, by number, with some of val after the fourth. The file of `~number` is
    missing; the key tells the row and the picture."""
    files = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(pictures):
        (files / f"{number}.png").write_bytes(picture)

    def make(numbers: Sequence[int], labels: Sequence[int] = (), num_val: int = 0, **options: Any) -> RawSet:
        rows = enumerate(zip(numbers, labels or [0, 1, 1] * 9, strict=False))
        images = [
            RawImage(f"{row:02d}-{max(number, ~number)}", "train", files / f"{number}.png", label)
            for row, (number, label) in rows
        ]
        images[4:4] = [RawImage(f"val-{row}", "val", pictures[row], row) for row in range(num_val)]
        about: dict[str, Any] = {"name": "small", "task": "single_label", "classes": ("cat", "dog"), "source": "drawn"}
        return RawSet(**about | {"images": images, "num_images": len(images)} | options)

    return make


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The keys of the images that were read so far."""
    keys: Reads = []
    for name in ("read", "blocks"):
        read = getattr(RawImage, name)
        monkeypatch.setattr(RawImage, name, lambda image, read=read: (keys.append(image.key), read(image))[1])
    return keys


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> StopAt:
    """A function that prepares and is stopped, and returns whether it was: before the n-th change of files (one appears
    under its name or goes away, or half of a folder went away), at an image, or when shards are to be joined."""
    processes = count(10**6)

    def stop(raw: RawSet, output: Output, change: int | None = None, key: str = "", joining: bool = False) -> bool:
        changes, process, read, remove_folder = count(), next(processes), RawImage.read, shutil.rmtree

        def stopped(*_: Any) -> Any:
            raise Stopped

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def changed(*arguments: Any, **options: Any) -> Any:
                is_one_of_many = ".npy" in str(arguments[0]) and "labels" not in str(arguments[0])
                if change is not None and not is_one_of_many and next(changes) >= change:
                    if original is remove_folder:
                        for path in sorted(path for path in Path(*arguments).rglob("*") if path.is_file())[:1]:
                            os.unlink(path)
                    raise Stopped
                return original(*arguments, **options)

            return changed

        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: process)  # every start is another process
            patched.setattr(RawImage, "read", lambda image: stopped() if image.key == key else read(image))
            for name in ("replace", "rename", "unlink"):
                patched.setattr(Path, name, counted(getattr(Path, name)))
            patched.setattr(shutil, "rmtree", counted(shutil.rmtree))
            if joining:
                patched.setattr("data_pipelines.preparation.join_parts.join_shards", stopped)
            try:
                prepare(raw, output)
            except Stopped:
                return True
        return False

    return stop


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def samples_of(folder: Path, split: Any = "train") -> list[tuple[str, Any, bytes]]:
    """Key, label and bytes of each row."""
    index = Index.load(folder, split)
    keys = index.keys(np.arange(len(index)))
    return [(key, index.labels[row].tolist(), index.encoded(row).tobytes()) for row, key in enumerate(keys)]


def stored_in(folder: Path) -> list[tuple[str, bytes]]:
    """Key and bytes of each sample in the shards of train, as webdataset reads them."""
    shards = sorted(map(str, (folder / "train").glob("*.tar")))
    return [(sample["__key__"], sample["png"]) for sample in wds.WebDataset(shards, shardshuffle=False)]


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
    assert (tmp_path / "out" / "quarantine.csv").read_text().count(",FileNotFoundError: ") == 4


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


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_parts_in_any_order_give_the_same_samples(
    make_set: MakeSet, tmp_path: Path, reads: Reads, order: tuple[int, ...]
) -> None:
    raw = make_set(range(20), num_val=2)
    prepare(raw, Output(tmp_path / "at once"))
    for part in order:
        reads.clear()
        assert prepare(raw, Output(tmp_path / "out", part=(part, 3))) is None
        assert sorted(reads) == sorted(image.key for image in islice(raw.images, part, None, 3))
        assert not (tmp_path / "out").exists()
    reads.clear()
    manifest = prepare(raw, Output(tmp_path / "out"))
    assert manifest
    assert not reads
    for split in ("train", "val"):
        assert sorted(samples_of(tmp_path / "out", split)) == sorted(samples_of(tmp_path / "at once", split))
    names = [shard["file"] for shard in manifest["splits"]["train"]["shards"]]
    assert names == sorted(path.name for path in (tmp_path / "out" / "train").glob("*.tar"))
    assert {name[:4] for name in names} == {"000-", "001-", "002-"}
    assert sorted(stored_in(tmp_path / "out")) == sorted(stored_in(tmp_path / "at once"))


def test_without_a_part_what_is_missing_is_done(make_set: MakeSet, tmp_path: Path, reads: Reads) -> None:
    raw = make_set(range(11))
    prepare(raw, Output(tmp_path / "out", part=(1, 3)))
    reads.clear()
    prepare(raw, Output(tmp_path / "out"))
    assert sorted(reads) == [image.key for image in raw.images if int(image.key[:2]) % 3 != 1]
    assert len(samples_of(tmp_path / "out")) == 11


def test_another_number_of_parts_is_refused(make_set: MakeSet, tmp_path: Path, stop_at: StopAt) -> None:
    raw = make_set(range(6))
    prepare(raw, Output(tmp_path / "out", part=(1, 3)))
    with pytest.raises(InputError, match="interrupted preparation with other parts; go on with its command"):
        prepare(raw, Output(tmp_path / "out", part=(1, 4)))
    assert stop_at(raw, Output(tmp_path / "whole"), key="04-4")
    with pytest.raises(InputError, match="interrupted preparation with other parts"):
        prepare(raw, Output(tmp_path / "whole", part=(1, 3)))


def test_sets_can_bring_parts_of_their_own(make_set: MakeSet, tmp_path: Path) -> None:
    whole = make_set(range(10))

    def listed() -> Iterator[RawImage]:
        raise AssertionError("the whole listing is not needed for a part")

    def part(number: int, parts: int) -> Iterator[RawImage]:
        assert parts == 2
        yield from islice(whole.images, number * 5, number * 5 + 5)

    raw = replace(whole, images=Repeatable(listed), part=part)
    prepare(raw, Output(tmp_path / "out", part=(1, 2)))
    prepare(raw, Output(tmp_path / "out"))
    assert [key for key, *_ in samples_of(tmp_path / "out")] == [image.key for image in whole.images]


# Picture 0 is there as cat, cat, dog and dog, picture 1 as dog and dog.
EQUAL, EQUAL_LABELS = [0, 1, 2, 0, 3, 4, 1, 0, 5, 0], [0, 1, 0, 0, 1, 0, 1, 1, 0, 1]
PAIRS = [(0, 0), (0, 1), (1, 1), (2, 0), (3, 1), (4, 0), (5, 0)]


@pytest.mark.parametrize("equal_images", ["pairs", "uniform"])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_equal_images_are_stored_once_with_each_label(
    make_set: MakeSet,
    tmp_path: Path,
    stop_at: StopAt,
    pictures: list[bytes],
    parts: int,
    equal_images: str,
) -> None:
    raw, output = make_set(EQUAL, EQUAL_LABELS, equal_images=equal_images), Output(tmp_path / "out")
    for part in range(parts):
        # After the interruption come images that lie in shards from before it.
        *_, last = islice(raw.images, part, None, parts)
        assert stop_at(raw, replace(output, part=(part, parts) if parts > 1 else None), key=last.key)
    prepare(raw, output)
    rows = samples_of(tmp_path / "out")
    assert sorted((pictures.index(encoded), label) for _, label, encoded in rows) == PAIRS
    index = Index.load(tmp_path / "out", "train")
    places = [*zip(index.shard.tolist(), index.offset.tolist(), strict=True)]
    assert len(set(places)) == 6
    assert sorted(places, key=places.index) == places  # rows of one image are neighbours
    if parts == 1:
        assert sorted(pictures.index(encoded) for _, encoded in stored_in(tmp_path / "out")) == [0, 1, 2, 3, 4, 5]
    if equal_images == "pairs":
        assert index.weight is None
    else:
        assert index.weight is not None
        assert {place: float(index.weight[np.equal(places, place).all(1)].sum()) for place in places} == dict.fromkeys(
            places, 1.0
        )
        assert sorted(index.weight.tolist()) == [0.5, 0.5, 1, 1, 1, 1, 1]


def test_equal_images_may_be_stored_each(make_set: MakeSet, tmp_path: Path) -> None:
    raw = make_set(EQUAL, EQUAL_LABELS, equal_images="stored each")
    prepare(raw, Output(tmp_path / "out"))
    assert [(key, encoded) for key, _, encoded in samples_of(tmp_path / "out")] == stored_in(tmp_path / "out")
    assert stored_in(tmp_path / "out") == [(image.key, image.read()) for image in raw.images]
    assert Index.load(tmp_path / "out", "train").weight is None


def test_equal_images_of_two_splits_are_stored_in_both(make_set: MakeSet, tmp_path: Path) -> None:
    prepare(make_set([0, 1, 2, 1, 0], num_val=2, equal_images="pairs"), Output(tmp_path / "out"))
    train, val = (samples_of(tmp_path / "out", split) for split in ("train", "val"))
    assert [(key, label) for key, label, _ in train] == [
        ("00-0", 0),
        ("00-0", 1),
        ("01-1", 0),
        ("01-1", 1),
        ("02-2", 1),
    ]
    assert [(key, label) for key, label, _ in val] == [("val-0", 0), ("val-1", 1)]


@pytest.mark.parametrize("equal_images", ["stored each", "pairs"])
def test_a_split_may_lose_all_of_its_images(make_set: MakeSet, tmp_path: Path, equal_images: str) -> None:
    raw = make_set(range(4), num_val=1, equal_images=equal_images)
    images = [replace(image, image=b"") if image.split == "val" else image for image in raw.images]
    manifest = prepare(replace(raw, images=images), Output(tmp_path / "out", max_bad=0.3))
    assert manifest
    assert (manifest["quarantined"], manifest["splits"]["val"]["images"]) == (1, 0)
    assert len(Index.load(tmp_path / "out", "train")) == 4
