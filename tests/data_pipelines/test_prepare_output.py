"""`prepare` never leaves half a set under the set's name, and deletes nothing that is no set."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prepared_folders import files_of, prepare_folder

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawImage, Repeatable
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index
from data_pipelines.shards.writer import ShardWriter


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
