"""What a preparation is resumed with is what the files hold by then, whatever they are called: the set is that of a
preparation at once, and only what changed is read again."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data_pipelines
from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member, RawImage, RawSet, Repeatable
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation import part_writer as part_module
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare

Encode = Callable[[int], bytes]


class Stopped(BaseException):
    """As a kill: nothing is tidied up."""


@pytest.fixture(autouse=True)
def three_images_to_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.preparation.shard_records.SHARD_IMAGES", 3)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # only its time would be felt


@pytest.fixture
def picture(photo: Callable, encode: Callable) -> Encode:
    """Pictures of the same size in bytes and pixels, by number."""
    return lambda number: encode(np.full((8, 8), number, np.uint8), compress_level=0)


@pytest.fixture
def films(tmp_path: Path, picture: Encode) -> Path:
    """Ten pictures of two classes."""
    for number in range(10):
        path = tmp_path / "films" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return tmp_path / "films"


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that prepares and is stopped when all shards are finished."""

    def stopped(*_: Any, **__: Any) -> None:
        raise Stopped

    def prepare_and_stop(raw: RawSet, output: Output) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("data_pipelines.preparation.prepare_set.join_parts", stopped)
            with pytest.raises(Stopped):
                prepare(raw, output)

    return prepare_and_stop


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The names of the files that were read, and of those that were decoded."""
    done: dict[str, list[str]] = {"read": [], "decoded": []}
    read, blocks, verified = RawImage.read, RawImage.blocks, part_module._PartWriter._verify_one

    def noted_read(image: RawImage, most: int = -1) -> bytes:
        done["read"].append(Path(str(image.image)).name)
        return read(image, most)

    def noted_blocks(image: RawImage) -> Iterator[bytes]:
        done["read"].append(Path(str(image.image)).name)
        return blocks(image)

    def noted_decoding(writer: Any, image: RawImage) -> Any:
        done["decoded"].append(Path(str(image.image)).name)
        return verified(writer, image)

    monkeypatch.setattr(RawImage, "read", noted_read)
    monkeypatch.setattr(RawImage, "blocks", noted_blocks)
    monkeypatch.setattr(part_module._PartWriter, "_verify_one", noted_decoding)
    return done


def reader(root: Path, **options: Any) -> RawSet:
    return replace(image_folder(root, 0, 0, **options), is_user_set=True, source="none")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def require_as_at_once(raw: RawSet, out: Path, **options: Any) -> None:
    """The set is the one that a preparation at once gives, apart from where bad files are listed to lie."""
    at_once = out.with_name("at_once") / out.name
    prepare(raw, Output(at_once, **options))
    assert files_of(out) == files_of(at_once)
    shutil.rmtree(at_once.parent)


def rewrite(path: Path, content: bytes) -> None:
    """Other content, of the same date: as an archive brings it along."""
    found = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_all_pictures_replaced_after_a_refusal(
    films: Path, tmp_path: Path, picture: Encode, force: bool, moved: bool
) -> None:
    """Also by files of the same names, lengths and dates, and in a copy of the folder."""
    bad = films / "dog" / "9.png"
    sound = bad.read_bytes()
    rewrite(bad, sound[:-40])
    with pytest.raises(InputError, match="1 of 10 images cannot be used"):
        prepare(reader(films), Output(tmp_path / "out", max_bad=0))
    rewrite(bad, sound)
    root = shutil.copytree(films, tmp_path / "copy") if moved else films
    for path in sorted(root.rglob("*.png")):
        rewrite(path, picture(200 + int(path.stem)))
    prepare(reader(root), Output(tmp_path / "out", max_bad=0, force=force))
    require_as_at_once(reader(root), tmp_path / "out")


def test_only_changed_files_are_read_and_new_contents_decoded(
    films: Path, tmp_path: Path, picture: Encode, stop: Callable[..., None], work: dict[str, list[str]]
) -> None:
    raw = reader(films)
    stop(raw, Output(tmp_path / "out"))
    steps: list[tuple[Callable[[Path], None], Path, list[str], list[str]]] = [
        (lambda path: None, films / "cat" / "0.png", [], []),
        (os.utime, films / "cat" / "0.png", ["0.png"], []),
        (lambda path: path.chmod(0o600), films / "cat" / "0.png", ["0.png"], []),
        (lambda path: rewrite(path, picture(77)), films / "dog" / "1.png", ["1.png"], ["6.png", "8.png", "1.png"]),
    ]
    for change, path, read, decoded in steps:
        change(path)
        for expected in ({"read": read + decoded, "decoded": decoded}, {"read": [], "decoded": []}):
            work.update(read=[], decoded=[])
            stop(raw, Output(tmp_path / "out"))
            assert {name: sorted(files) for name, files in work.items()} == {
                name: sorted(files) for name, files in expected.items()
            }


def random_change(rng: np.random.Generator, files: Sequence[Path], picture: Encode) -> None:
    """A file is replaced by another picture or by an equal one, cut off, removed, brought back, or touched."""
    path = files[rng.integers(len(files))]
    kind = rng.integers(5)
    if not path.exists():
        path.write_bytes(picture(int(rng.integers(20))))
    elif kind == 0:
        rewrite(path, picture(int(rng.integers(20))))
    elif kind == 1:
        rewrite(path, path.read_bytes()[:40])
    elif kind == 2:
        path.unlink()
    elif kind == 3:
        os.utime(path)
    else:
        other = files[rng.integers(len(files))]
        if other.exists():
            path.write_bytes(other.read_bytes())


class StopAt:
    """Stops before the n-th change of files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, change: int) -> None:
        self._changes, self._change = count(), change
        for name in ("replace", "rename", "unlink"):
            monkeypatch.setattr(Path, name, self._counted(getattr(Path, name)))

    def _counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            if next(self._changes) >= self._change:
                raise Stopped
            return original(*arguments, **options)

        return changed


@pytest.mark.parametrize("equal_images", ["stored each", "uniform"])
@pytest.mark.parametrize("drop_duplicates", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_changes_and_stops_anywhere(
    films: Path,
    tmp_path: Path,
    picture: Encode,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    equal_images: Any,
    drop_duplicates: bool,
) -> None:
    if drop_duplicates and equal_images != "stored each":
        pytest.skip("such sets have a rule of their own")
    rng, out = np.random.default_rng(seed), tmp_path / "out"
    listed = [
        replace(image, split=("train", "train", "val", "test")[number % 4])
        for number, image in enumerate(reader(films).images)
    ]
    raw = replace(reader(films), images=listed, num_images=len(listed), equal_images=equal_images)
    options: dict[str, Any] = {"max_bad": 0.9, "drop_duplicates": drop_duplicates}
    files = [Path(str(image.image)) for image in listed]
    for _ in range(8):
        with monkeypatch.context() as patched:
            StopAt(patched, int(rng.integers(2, 40)))
            try:
                prepare(raw, Output(out, **options))
            except (Stopped, InputError):
                assert not out.exists() or (out / "manifest.json").is_file()
        for _ in range(rng.integers(3)):
            random_change(rng, files, picture)
        if out.exists():
            with suppress(InputError):  # which says that there is a set
                prepare(raw, Output(out, **options))
                require_as_at_once(raw, out, **options)
            shutil.rmtree(out)
    prepare(raw, Output(out, **options))
    require_as_at_once(raw, out, **options)


def test_a_named_set_is_not_the_set_of_what_came_later(
    films: Path, tmp_path: Path, picture: Encode, prepare_untidily: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    prepare_untidily(reader(films), Output(out))
    former = films / "cat" / "4.png"
    before, content = files_of(out), former.read_bytes()
    rewrite(former, picture(99))
    with pytest.raises(InputError, match="exists; replace it with --force, or choose another --out"):
        prepare(reader(films), Output(out))
    rewrite(former, content)
    assert prepare(reader(films), Output(out))
    assert files_of(out) == before
    prepare_untidily(reader(films), Output(out, force=True))
    rewrite(former, picture(99))
    prepare(reader(films), Output(out, force=True))
    require_as_at_once(reader(films), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["films", "out"]


DRIVER = """
import os, shutil, signal, sys
from pathlib import Path
import data_pipelines.preparation.set_folder
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.prepare import Output, prepare

remove = shutil.rmtree
def killed(path, **options):
    if ".out" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    remove(path, **options)
data_pipelines.preparation.set_folder.shutil.rmtree = killed
prepare(image_folder(Path(sys.argv[1]), 0, 0), Output(Path(sys.argv[2])))
"""


def test_a_process_that_is_killed_while_it_tidies_up(films: Path, tmp_path: Path, picture: Encode) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": str(Path(data_pipelines.__file__).parents[1])}
    command = [sys.executable, "-c", DRIVER, str(films), str(out)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out / "manifest.json").is_file()
    rewrite(films / "cat" / "4.png", picture(99))
    with pytest.raises(InputError, match="exists; replace it with --force"):
        prepare(image_folder(films, 0, 0), Output(out))
    prepare(image_folder(films, 0, 0), Output(out, force=True))
    require_as_at_once(image_folder(films, 0, 0), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["films", "out"]


def test_what_lies_in_a_tar(tmp_path: Path, picture: Encode, stop: Callable[..., None]) -> None:
    def members(numbers: Sequence[int]) -> Sequence[RawImage]:
        tar = tmp_path / "a.tar"
        for number in numbers:
            (tmp_path / "member").write_bytes(picture(number))
            with tarfile.open(tar, "w" if number == numbers[0] else "a", format=tarfile.USTAR_FORMAT) as file:
                file.add(tmp_path / "member", f"{number % 10}.png")
        os.utime(tar, ns=(0, 0))
        with tarfile.open(tar) as file:
            places = [Member(tar, one.name, one.offset_data, one.size) for one in file]
        return [RawImage(f"image-{row}", "train", place, row % 2) for row, place in enumerate(places)]

    raw = RawSet("tars", "single_label", ("a", "b"), members(range(10)), 10, "none")
    stop(raw, Output(tmp_path / "out"))
    raw = replace(raw, images=members([*range(9), 59]))
    prepare(raw, Output(tmp_path / "out"))
    require_as_at_once(raw, tmp_path / "out")


def test_unfinished_work_of_an_earlier_version_is_done_again(
    films: Path, tmp_path: Path, picture: Encode, stop: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Which did not keep what it had made a shard of, and called sets as the folder of their images."""
    stop(replace(reader(films), is_user_set=False), Output(tmp_path / "out"))
    assert "earlier version" not in capsys.readouterr().err
    kept = [*(tmp_path / ".out.partial" / "rows").rglob("*.contents.npz")]
    for contents in kept:
        contents.unlink()
    rewrite(films / "cat" / "4.png", picture(99))
    manifest = prepare(reader(films), Output(tmp_path / "out"))
    assert f"note: {len(kept)} finished shards of an earlier version are made again, as " in capsys.readouterr().err
    assert manifest
    assert manifest["name"] == "out"
    require_as_at_once(reader(films), tmp_path / "out")


@pytest.mark.parametrize("parts", [1, 3])
def test_options_may_change_before_the_first_finished_shard(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    part = None if parts == 1 else (0, parts)

    def stopped(*_: Any, **__: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr("data_pipelines.preparation.part_writer.verify_image", stopped)
        with pytest.raises(Stopped):
            prepare(reader(films), Output(tmp_path / "out", part=part))
    raw = reader(films, shorter_side=32)
    prepare(raw, Output(tmp_path / "out"))
    require_as_at_once(raw, tmp_path / "out")


@pytest.mark.parametrize("begun_anew", [False, True])
def test_force_begins_anew_what_it_did_not_begin_itself(
    films: Path, tmp_path: Path, stop: Callable[..., None], work: dict[str, list[str]], begun_anew: bool
) -> None:
    stop(reader(films), Output(tmp_path / "out", force=begun_anew))
    work.update(read=[], decoded=[])
    stop(reader(films), Output(tmp_path / "out", force=True))
    assert len(work["decoded"]) == (0 if begun_anew else 10)
    other = reader(films, shorter_side=32)
    with pytest.raises(InputError, match="other shorter side; go on with its command, begin anew with --force"):
        prepare(other, Output(tmp_path / "out"))
    prepare(other, Output(tmp_path / "out", force=True))
    require_as_at_once(other, tmp_path / "out")


def test_array_tasks_begin_their_part_anew_the_last_keeps_all(
    films: Path, tmp_path: Path, work: dict[str, list[str]]
) -> None:
    raw = reader(films)
    for part in range(2):
        prepare(raw, Output(tmp_path / "out", part=(part, 2)))
    for part in (1, 0, 1, 0):
        work.update(read=[], decoded=[])
        prepare(raw, Output(tmp_path / "out", part=(part, 2), force=True))
        of_part = [Path(str(image.image)).name for image in [*raw.images][part::2]]
        assert sorted(work["decoded"]) in (sorted(of_part), [])
        assert (tmp_path / ".out.partial" / f"anew-{part}").exists()
    assert not work["decoded"]
    prepare(raw, Output(tmp_path / "out", force=True))
    assert not work["decoded"]


def test_the_last_command_keeps_parts_begun_without_force(
    films: Path, tmp_path: Path, work: dict[str, list[str]]
) -> None:
    for part in range(2):
        prepare(reader(films), Output(tmp_path / "out", part=(part, 2)))
    work.update(read=[], decoded=[])
    prepare(reader(films), Output(tmp_path / "out", force=True))
    assert not work["decoded"]


def test_a_task_of_other_options_removes_nothing(films: Path, tmp_path: Path) -> None:
    prepare(reader(films), Output(tmp_path / "a set", part=(0, 2)))
    other = reader(films, shorter_side=32)
    with pytest.raises(InputError, match="go on with its command, or remove it") as refused:
        prepare(other, Output(tmp_path / "a set", part=(1, 2), force=True))
    remedy = re.search("rm -r .*", str(refused.value))
    assert remedy
    subprocess.run(shlex.split(remedy[0]), check=True)
    prepare(other, Output(tmp_path / "a set", part=(1, 2), force=True))
    prepare(other, Output(tmp_path / "a set", force=True))


def test_images_that_are_not_held_in_memory(
    films: Path, tmp_path: Path, picture: Encode, stop: Callable[..., None]
) -> None:
    listed = [*reader(films).images]
    raw = replace(reader(films), images=Repeatable(lambda: iter(listed)), num_images=None)
    stop(raw, Output(tmp_path / "out"))
    rewrite(films / "cat" / "4.png", picture(99))
    prepare(raw, Output(tmp_path / "out"))
    require_as_at_once(raw, tmp_path / "out")
