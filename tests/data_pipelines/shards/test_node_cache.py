"""A set is copied to the node's storage once, whole and checked, whoever comes first."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import data_pipelines
from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import sha256_of
from data_pipelines.shards.index import Index
from data_pipelines.shards.node_cache import stage


@pytest.fixture
def prepared(write_set: Callable[..., Path]) -> Path:
    return write_set([0, 1, 1, 0, 1], ("cat", "dog"), shard_images=2)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "shm"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def states_of(folder: Path) -> dict[Path, tuple[int, int]]:
    """Which files they are, and when they were written."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def whole_copies(storage: Path) -> list[Path]:
    return list(storage.rglob("manifest.json"))


def test_the_copy_is_the_same_set(prepared: Path, storage: Path) -> None:
    copy = stage(prepared, storage)
    assert copy.is_relative_to(storage)
    assert files_of(copy / "train") == files_of(prepared / "train")
    index, of_copy = Index.load(prepared, "train"), Index.load(copy, "train")
    assert of_copy.fingerprint == index.fingerprint
    assert of_copy.labels.tolist() == index.labels.tolist()
    assert [of_copy.encoded(row).tobytes() for row in range(5)] == [index.encoded(row).tobytes() for row in range(5)]
    assert all(str(shard).startswith(str(copy)) for shard in of_copy.shards)


def test_the_copy_is_made_once(prepared: Path, storage: Path) -> None:
    copy = stage(prepared, storage)
    before = states_of(copy)
    assert stage(prepared, storage) == copy
    assert states_of(copy) == before


def rewrite(path: Path) -> None:
    """Other bytes, of the same length and date."""
    found, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("name", ["000001.tar", "labels.npy"])
@pytest.mark.parametrize("change", [rewrite, Path.unlink, lambda path: os.truncate(path, 100)])
def test_a_copy_that_was_changed_since_is_made_again(
    prepared: Path, storage: Path, name: str, change: Callable[[Path], None]
) -> None:
    copy = stage(prepared, storage)
    change(copy / "train" / name)
    assert stage(prepared, storage) == copy
    assert files_of(copy / "train") == files_of(prepared / "train")


def test_files_of_another_date_are_looked_at_once(
    prepared: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, looked = stage(prepared, storage), []
    before = files_of(copy / "train")
    monkeypatch.setattr(
        "data_pipelines.shards.node_cache.sha256_of", lambda path: (looked.append(path), sha256_of(path))[1]
    )
    monkeypatch.setattr("data_pipelines.shards.node_cache._copy", lambda *_: pytest.fail("it was copied again"))
    os.utime(copy / "train" / "labels.npy")
    for _ in range(2):
        assert stage(prepared, storage) == copy
    assert looked == [copy / "train" / "labels.npy"]
    (copy / ".states.json").unlink()  # as an earlier version left it
    assert stage(prepared, storage) == copy
    assert len(looked) == 1 + len(before)


def test_columns_without_sums_are_part_of_what_a_set_is(prepared: Path, storage: Path) -> None:
    text = (prepared / "manifest.json").read_text()
    (prepared / "manifest.json").write_text(re.sub(r',\s*"columns": \{[^}]*\}', "", text))
    first = stage(prepared, storage)
    rewrite(prepared / "train" / "labels.npy")
    second = stage(prepared, storage)
    assert first != second
    assert files_of(second / "train") == files_of(prepared / "train")


def test_other_sets_and_other_users_have_copies_of_their_own(
    prepared: Path, write_set: Callable[..., Path], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_set([0, 1, 1, 0, 0], ("cat", "dog"), shard_images=2)  # of the same name
    first, second = stage(prepared, storage), stage(other, storage)
    assert first != second
    assert Index.load(second, "train").labels.tolist() == [0, 1, 1, 0, 0]
    assert first.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    assert stage(prepared, storage).parent.name == "bitscale-4321"


@pytest.mark.parametrize("name", ["000001.tar", "labels.npy"])
def test_a_damaged_source_is_refused_and_leaves_no_copy(prepared: Path, storage: Path, name: str) -> None:
    content = bytearray((prepared / "train" / name).read_bytes())
    content[-1] ^= 1
    (prepared / "train" / name).write_bytes(content)
    for _ in range(2):  # nor is what the first attempt left taken for a copy
        with pytest.raises(InputError, match=rf"{name} is not as it was prepared; check all: .* --verify {prepared}$"):
            stage(prepared, storage)
        assert not whole_copies(storage)
    content[-1] ^= 1
    (prepared / "train" / name).write_bytes(content)
    assert files_of(stage(prepared, storage) / "train") == files_of(prepared / "train")


def test_the_check_that_is_advised_can_be_typed(prepared: Path, storage: Path, tmp_path: Path) -> None:
    spaced = tmp_path / "my set"
    shutil.copytree(prepared, spaced)
    rewrite(spaced / "train" / "000001.tar")
    with pytest.raises(InputError) as refused:
        stage(spaced, storage)
    assert shlex.split(str(refused.value))[-2:] == ["--verify", str(spaced)]


def test_an_interrupted_copy_is_made_again(prepared: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []

    def interrupted(path: Path, target: Path) -> None:
        copies.append(path.parent)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stage(prepared, storage)
    (copy,) = copies
    assert not whole_copies(storage)
    (copy / "train" / "000000.tar").write_bytes(b"half")
    (copy / "train" / "left.npy").write_bytes(b"over")
    assert stage(prepared, storage) == copy
    assert files_of(copy / "train") == files_of(prepared / "train")


def test_what_does_not_fit_is_refused_before_it_is_copied(
    prepared: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(path.stat().st_size for path in (prepared / "train").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size - 1))
    with pytest.raises(InputError, match=re.escape(f"{prepared} needs 0.00 GB, {storage} has 0.00 GB free; remove")):
        stage(prepared, storage)
    assert not list(storage.rglob("*.tar"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))
    copy = stage(prepared, storage)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert stage(prepared, storage) == copy


def test_storage_that_is_none(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(InputError, match=r"cannot be staged to \S+/file/below \(.*\); choose another --cache-dir"):
        stage(prepared, tmp_path / "file" / "below")
    with pytest.raises(InputError, match="is not a prepared data set"):
        stage(tmp_path, tmp_path / "shm")


def test_sets_of_older_manifests_are_staged(prepared: Path, storage: Path) -> None:
    text = (prepared / "manifest.json").read_text()
    (prepared / "manifest.json").write_text(re.sub(r',\s*"columns": \{[^}]*\}', "", text))
    copy = stage(prepared, storage)
    assert files_of(copy / "train") == files_of(prepared / "train")
    assert Index.load(copy, "train").labels.tolist() == [0, 1, 1, 0, 1]


DRIVER = """
import sys, time
from pathlib import Path
import data_pipelines.shards.node_cache as module

copy = module._copy
def slow_copy(*arguments):
    print("copies")
    time.sleep(1)
    copy(*arguments)
module._copy = slow_copy
print(module.stage(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_of_two_processes_one_copies_and_the_other_waits(prepared: Path, storage: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(data_pipelines.__file__).parents[1])}
    command = [sys.executable, "-c", DRIVER, str(prepared), str(storage)]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = sorted((process.communicate(timeout=60)[0].split() for process in processes), key=len)
    assert [process.returncode for process in processes] == [0, 0]
    (copy,) = (path.parent for path in whole_copies(storage))
    assert printed == [[str(copy)], ["copies", str(copy)]]
    assert files_of(copy / "train") == files_of(prepared / "train")
