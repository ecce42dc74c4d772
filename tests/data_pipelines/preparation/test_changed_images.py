"""What a preparation is resumed with is what the files hold by then, whatever they are called: the set is that of a
preparation at once, and only what changed is read again."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_films import Encode, Stopped, files_of, reader, require_as_at_once

import data_pipelines
from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member, RawImage, RawSet, Repeatable
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare

pytestmark = pytest.mark.usefixtures("three_images_to_a_shard")


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


def test_images_that_are_not_held_in_memory(
    films: Path, tmp_path: Path, picture: Encode, stop: Callable[..., None]
) -> None:
    listed = [*reader(films).images]
    raw = replace(reader(films), images=Repeatable(lambda: iter(listed)), num_images=None)
    stop(raw, Output(tmp_path / "out"))
    rewrite(films / "cat" / "4.png", picture(99))
    prepare(raw, Output(tmp_path / "out"))
    require_as_at_once(raw, tmp_path / "out")
